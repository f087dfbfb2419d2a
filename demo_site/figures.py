"""What has happened since the demo began, beside what the ORM would have taken."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from django.db.models import Sum
from django.utils import timezone

from demo_site.yardstick import Yardstick
from writebehind_app.models import AppliedBatch
from writebehind_app.registry import buffers
from writebehind_app.store.connection import client, errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    accepted: int  # writes
    pending: int  # entries that the database does not have yet
    rows: int  # written by flushes
    statements: int  # of SQL, of these flushes
    orm_rows: int  # that the ORM would have written
    orm_statements: int
    call_ms: float | None  # that a write takes, the median of the last ones
    orm_ms: float | None  # that a write through the ORM takes


_accepted_before: dict[str, int] = {}
_begun: datetime
_yardstick = Yardstick()
_calls: deque[float] = deque(maxlen=1000)  # seconds


def begin(yardstick: Yardstick | None = None) -> None:
    """Count from here on."""
    global _accepted_before, _begun, _yardstick
    _accepted_before, _begun = _accepted(), timezone.now()
    _yardstick = yardstick or Yardstick()
    _calls.clear()


def note(seconds: float) -> None:
    """Note how long a simulated write took."""
    _calls.append(seconds)


def read() -> Figures:
    counts = _accepted()
    accepted = {label: count - _accepted_before.get(label, 0) for label, count in counts.items()}
    batches = AppliedBatch.objects.filter(applied_at__gte=_begun)
    stored = batches.aggregate(rows=Sum("rows"), statements=Sum("statements"))
    calls = list(_calls)
    return Figures(
        accepted=sum(accepted.values()),
        pending=sum(buffer.count_pending() for buffer in buffers().values()),
        rows=stored["rows"] or 0,
        statements=stored["statements"] or 0,
        orm_rows=_yardstick.rows(accepted),
        orm_statements=_yardstick.statements(accepted),
        call_ms=1000 * median(calls) if calls else None,
        orm_ms=_yardstick.ms,
    )


def _accepted() -> dict[str, int]:
    """The accepted writes of each buffer, which Redis counts in each shard from its first day."""
    keys = {label: buffer.shard_keys() for label, buffer in buffers().items()}
    with errors:
        pipeline = client().pipeline(transaction=False)
        for own in keys.values():
            for key in own:
                pipeline.hget(key, "accepted")
        counts = iter(pipeline.execute())
    return {label: sum(int(next(counts) or 0) for _ in own) for label, own in keys.items()}
