"""Delete what has expired: rows of buffers with `expires`, dead letters, fences, names of calls
(`once`), and rows of the ledger."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from writebehind_app.database import deadletters, fences, once
from writebehind_app.flush import ledger

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration

_PAUSE = 60.0  # seconds
_next_at: dict[str, float] = {}  # by buffer, on the clock of time.monotonic()


def is_time(buffer: Declaration) -> bool:
    """Whether a flush loop should prune the buffer now. True once a minute in each process; the
    caller must do it then."""
    now = time.monotonic()
    if now < _next_at.get(buffer.label, now):
        return False
    _next_at[buffer.label] = now + _PAUSE
    return True


def prune(buffer: Declaration, size: int) -> int:
    """Delete what has expired.

    For rows of the buffer, deletes are written that the next flush carries out: at most `size`.
    Return how many.
    """
    expired = buffer.expire(size)
    deadletters.expire(buffer)
    fences.expire(buffer)
    once.expire(buffer)
    ledger.expire(buffer)
    return expired
