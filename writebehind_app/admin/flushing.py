"""Flushes from the admin: of chosen entries at once, or of whole buffers step by step."""

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
from writebehind_app.database.divided import renew
from writebehind_app.database.parents import parents_first
from writebehind_app.declaration import Declaration
from writebehind_app.english import counted
from writebehind_app.flush import engine
from writebehind_app.store import locks, state
from writebehind_app.store.connection import client
from writebehind_app.store.keys import shared_key

_STEP = 1.5  # seconds of a step
_PATIENCE = 15.0  # seconds for chosen entries: somebody waits for the page
_PAUSE = 0.2  # seconds between two looks while another flusher has the shard
_IDLE = 20  # steps in a row without progress, after which the flush ends
_LONGEST = 60  # seconds that a step may take if its last batch is slow
_KEY = "writebehind.flush"  # the key of the job in the session


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a flush."""

    rows: int
    refused: int
    left: int
    failed: bool
    paused: Sequence[str] = ()  # paused buffers that still hold entries

    def __str__(self) -> str:
        failed = ", a batch failed" if self.failed else ""
        paused = f", paused: {', '.join(self.paused)}" if self.paused else ""
        stored = counted(self.rows, "row")
        return f"{stored} stored, {self.refused} refused, {self.left} left{failed}{paused}."


def flush_ids(buffer: Declaration, ids: Sequence[str]) -> Outcome:
    """Flush entries by their ids."""
    # Ask this first: it fails at once if Redis is away. A flusher would wait long.
    renew([buffer])
    shards = state.overview(client(), buffer.shards())
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
    """A flush of whole buffers, step by step: of what they held when it began."""

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
        """How many entries are no longer pending, whoever flushed them."""
        return min(max(self.done, self.total - self.left), self.total)

    def step(self) -> None:
        """Flush for about `_STEP` seconds."""
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
        """Flush what no other flusher has; return whether unpaused buffers still hold entries."""
        self.left, self.paused, waiting = 0, [], 0
        buffers = self.buffers()
        renew(buffers)
        shards = state.overview(client(), [s for buffer in buffers for s in buffer.shards()])

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
    """A new job that flushes everything these buffers hold now."""
    total = sum(buffer.count_pending() for buffer in buffers)
    return Job(labels=[buffer.label for buffer in buffers], total=total, left=total, over=not total)


def of_session(session: SessionBase) -> Job | None:
    """The last job of the session, or None."""
    try:
        return Job(**session[_KEY])
    except (KeyError, TypeError):  # there is none, or it is of another release
        return None


@contextmanager
def alone(session: SessionBase) -> Iterator[bool]:
    """Hold a lock, so that a session does one step at a time; False if another request has it.

    With two steps at once, as in two tabs, each would overwrite the figures of the other.
    """
    token = secrets.token_hex(8)
    name = sha1(str(session.session_key).encode(), usedforsecurity=False).hexdigest()
    place = shared_key(conf.prefix(), f"step:{name}")
    is_alone = locks.hold(client(), place, token, _LONGEST)
    try:
        yield is_alone
    finally:
        if is_alone:
            locks.release(client(), place, token)


def latest(session: SessionBase) -> Job | None:
    """The last job of the session, read again: another request may have changed it."""
    return of_session(type(session)(session.session_key))
