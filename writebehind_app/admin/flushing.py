"""Flushes that somebody asked for: of chosen entries at once, of whole buffers step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from writebehind_app.buffers import registry
from writebehind_app.buffers.base import Buffer
from writebehind_app.flush import engine
from writebehind_app.flush.parents import parents_first
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client

_STEP = 1.5  # seconds of a step
_PATIENCE = 15.0  # seconds that chosen entries may take, as somebody waits for the page
_IDLE = 5  # steps in a row without anything done, as where another flusher is at it
_KEY = "writebehind.flush"  # in the session


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a flush came to."""

    rows: int
    refused: int
    left: int
    failed: bool

    def __str__(self) -> str:
        failed = ", a batch failed" if self.failed else ""
        return f"{self.rows} rows stored, {self.refused} refused, {self.left} left{failed}."


def flush_ids(buffer: Buffer, ids: Sequence[str]) -> Outcome:
    """Flush entries by their ids."""
    result = engine.flush(
        buffer, ids=ids, ignore_backoff=True, deadline=time.monotonic() + _PATIENCE
    )
    return Outcome(
        rows=result.rows,
        refused=result.dead_letters,
        left=result.remaining,
        failed=bool(result.errors),
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
    idle: int = 0
    over: bool = False
    told: bool = False

    def buffers(self) -> list[Buffer]:
        known = registry.buffers()
        return parents_first([known[label] for label in self.labels if label in known])

    def step(self) -> None:
        """Flush for a moment."""
        deadline = time.monotonic() + _STEP
        before, self.left = self.done, 0
        buffers = self.buffers()
        counts = store.count(client(), [key for buffer in buffers for key in buffer.shard_keys()])

        def note(entries: int) -> None:
            self.done += entries

        for buffer in buffers:
            own = [counts[key] for key in buffer.shard_keys()]
            if not any(count.pending or count.in_flight for count in own):
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
            self.left += result.remaining
            self.failed = self.failed or bool(result.errors)
        self.idle = 0 if self.done > before else self.idle + 1
        self.left = min(self.left, max(self.total - self.done, 0))
        self.over = self.left == 0 or self.failed or self.idle >= _IDLE

    def outcome(self) -> Outcome:
        return Outcome(rows=self.rows, refused=self.refused, left=self.left, failed=self.failed)

    def keep(self, session: Any) -> None:
        session[_KEY] = asdict(self)


def begin(buffers: Sequence[Buffer]) -> Job:
    """A flush that is to bring what these buffers hold to the database."""
    total = sum(buffer.count_pending() for buffer in buffers)
    return Job(labels=[buffer.label for buffer in buffers], total=total, left=total, over=not total)


def of_session(session: Any) -> Job | None:
    """The flush that was begun last."""
    found = session.get(_KEY)
    return Job(**found) if found else None
