"""Flushes that somebody asked for: of chosen entries at once, of whole buffers step by step."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha1

from django.contrib.sessions.backends.base import SessionBase

from writebehind_app import conf, registry
from writebehind_app.buffers.base import Buffer
from writebehind_app.database.parents import parents_first
from writebehind_app.declaration import Declaration
from writebehind_app.flush import engine
from writebehind_app.store import places
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client
from writebehind_app.store.keys import place_key

_STEP = 1.5  # seconds of a step
_PATIENCE = 15.0  # seconds that chosen entries may take, as somebody waits for the page
_PAUSE = 0.2  # seconds between two looks at what another flusher is at
_IDLE = 20  # steps in a row without anything done, as where another flusher is at it
_LONGEST = 60  # seconds of a step, which may be at a batch still
_KEY = "writebehind.flush"  # in the session


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a flush came to."""

    rows: int
    refused: int
    left: int
    failed: bool
    paused: Sequence[str] = ()  # buffers with something left

    def __str__(self) -> str:
        failed = ", a batch failed" if self.failed else ""
        paused = f", paused: {', '.join(self.paused)}" if self.paused else ""
        return f"{self.rows} rows stored, {self.refused} refused, {self.left} left{failed}{paused}."


def flush_ids(buffer: Declaration, ids: Sequence[str]) -> Outcome:
    """Flush entries by their ids."""
    # Asked first, as a flusher would wait long for a Redis that is away.
    shards = store.overview(client(), buffer.shard_keys())
    result = engine.flush(
        buffer, ids=ids, ignore_backoff=True, deadline=time.monotonic() + _PATIENCE
    )
    return Outcome(
        rows=result.rows,
        refused=result.dead_letters,
        left=result.remaining,
        failed=bool(result.errors),
        paused=[buffer.label] if any(shard.paused for shard in shards.values()) else (),
    )


@dataclass(slots=True, kw_only=True)
class Job:
    """A flush of whole buffers: of what they held when it began."""

    labels: list[str]
    total: int
    done: int = 0
    rows: int = 0
    refused: int = 0
    left: int = 0
    failed: bool = False
    paused: list[str] = field(default_factory=list)
    idle: int = 0
    over: bool = False

    def buffers(self) -> list[Declaration]:
        known = registry.buffers()
        return parents_first([known[label] for label in self.labels if label in known])

    @property
    def progress(self) -> int:
        """How many of them are not pending any more, whoever flushed them."""
        return min(max(self.done, self.total - self.left), self.total)

    def step(self) -> None:
        """Flush for a moment."""
        deadline = time.monotonic() + _STEP
        before = self.progress
        while True:
            is_waiting = self._pass(deadline)
            is_late = time.monotonic() + _PAUSE > deadline
            if is_late or not is_waiting or self.failed or self.progress > before:
                break
            time.sleep(_PAUSE)
        self.idle = 0 if self.progress > before else self.idle + 1
        self.over = not is_waiting or self.failed or self.idle >= _IDLE

    def _pass(self, deadline: float) -> bool:
        """Flush what can be at once; says whether anything is left that is not paused."""
        self.left, self.paused, waiting = 0, [], 0
        buffers = self.buffers()
        shards = store.overview(client(), [k for buffer in buffers for k in buffer.shard_keys()])

        def note(entries: int) -> None:
            self.done += entries

        for buffer in buffers:
            own = [shards[key] for key in buffer.shard_keys()]
            held = sum(shard.pending + shard.in_flight for shard in own)
            if not held:
                continue
            if all(shard.paused for shard in own):
                self.paused.append(buffer.label)
                self.left += held
                continue
            result = engine.flush(
                buffer,
                ignore_backoff=True,
                wait=False,
                deadline=deadline,
                limit=max(self.total - self.done, 0),
                progress=note,
            )
            self.rows += result.rows
            self.refused += result.dead_letters
            waiting += result.remaining
            self.failed = self.failed or bool(result.errors)
        most = max(self.total - self.done, 0)
        self.left = min(self.left + waiting, most)
        return waiting > 0 and most > 0

    def outcome(self) -> Outcome:
        return Outcome(
            rows=self.rows,
            refused=self.refused,
            left=self.left,
            failed=self.failed,
            paused=self.paused,
        )

    def keep(self, session: SessionBase) -> None:
        session[_KEY] = asdict(self)
        session.save()


def begin(buffers: Sequence[Buffer]) -> Job:
    """A flush that is to bring what these buffers hold to the database."""
    total = sum(buffer.count_pending() for buffer in buffers)
    return Job(labels=[buffer.label for buffer in buffers], total=total, left=total, over=not total)


def of_session(session: SessionBase) -> Job | None:
    """The flush that was begun last."""
    try:
        return Job(**session[_KEY])
    except (KeyError, TypeError):  # there is none, or one of another release
        return None


@contextmanager
def alone(session: SessionBase) -> Iterator[bool]:
    """Says whether this is the only step of the session: of two, as in two tabs, each would count
    what it did to the figures from before the other one."""
    token = secrets.token_hex(8)
    name = sha1(str(session.session_key).encode(), usedforsecurity=False).hexdigest()
    place = place_key(conf.prefix(), f"step:{name}")
    is_alone = places.hold(client(), place, token, _LONGEST)
    try:
        yield is_alone
    finally:
        if is_alone:
            places.leave(client(), place, token)


def latest(session: SessionBase) -> Job | None:
    """The flush as another request may have left it since this one began."""
    return of_session(type(session)(session.session_key))
