"""What has happened since the demo began, over all buffers."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils import timezone

from writebehind_app.registry import buffers
from writebehind_app.store.connection import client, errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    accepted: int  # writes
    pending: int  # entries that the database does not have yet
    flushed: int  # entries, one for all writes that came to it in between
    oldest: float | None  # seconds that the oldest pending entry has waited


_before = (0, 0)


def begin() -> None:
    """Count from here on."""
    global _before
    _before = _counters()


def read() -> Figures:
    accepted, flushed = _counters()
    waiting = [entry.since for buffer in buffers().values() for entry in buffer.pending(limit=1)]
    return Figures(
        accepted=accepted - _before[0],
        pending=sum(buffer.count_pending() for buffer in buffers().values()),
        flushed=flushed - _before[1],
        oldest=max(0.0, (timezone.now() - min(waiting)).total_seconds()) if waiting else None,
    )


def _counters() -> tuple[int, int]:
    """Accepted writes and flushed entries, which Redis counts in each shard from its first day."""
    with errors:
        pipeline = client().pipeline(transaction=False)
        for buffer in buffers().values():
            for key in buffer.shard_keys():
                pipeline.hmget(key, "accepted", "flushed")
        counts = pipeline.execute()
    return sum(int(a or 0) for a, _ in counts), sum(int(f or 0) for _, f in counts)
