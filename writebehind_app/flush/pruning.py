"""What is not kept for ever: rows whose time has passed, dead letters, fences, keys of
calls, the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from writebehind_app.database import deadletters, fences, once
from writebehind_app.flush import ledger

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration


def prune(buffer: Declaration, size: int) -> int:
    """Do away with what has expired, as the settings say. Of the rows of the buffer, at most so
    many are written to go with the next flush; says how many."""
    expired = buffer.expire(size)
    deadletters.expire(buffer)
    fences.expire(buffer)
    once.expire(buffer)
    ledger.expire(buffer)
    return expired
