"""Whether a call goes through Redis or around it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from writebehind_app.conf import is_direct
from writebehind_app.exceptions import BufferFull, BufferUnavailable, WriteUncertain
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration

logger = logging.getLogger("writebehind")

_Result = TypeVar("_Result")
_CAUTIOUS = 60  # seconds: by then, what was pending before Redis was away is flushed
_away_at = -float("inf")  # on the clock of time.monotonic(), as are the next
_told: dict[str, float] = {}  # by the buffer, when it was last said that it is full
_SILENCE = 60  # seconds until that is said again
around: Counter[str] = Counter()  # by the buffer, calls that Redis does not know of yet


def goes_around(buffer: Declaration, error: Exception, *, again: bool = False) -> bool:
    """Whether a call that Redis did not take is to go around it; `again` if it may do so although
    Redis has perhaps taken it."""
    global _away_at
    is_full = isinstance(error, BufferFull)
    is_down = isinstance(error, BufferUnavailable) or (again and isinstance(error, WriteUncertain))
    if is_full:
        _tell(buffer, error)
    if (is_full or is_down) and buffer.option("WHEN_FULL" if is_full else "WHEN_DOWN") == "direct":
        _away_at = time.monotonic()
        around[buffer.label] += 1
        return True
    return False


def report(buffer: Declaration) -> None:
    """Count in Redis the calls that went around it, now that it is back."""
    if calls := around.pop(buffer.label, 0):
        try:
            store.count_up(client(), buffer.shard_keys()[0], "fallbacks", calls)
        except BufferUnavailable:
            around[buffer.label] += calls


def _tell(buffer: Declaration, error: Exception) -> None:
    """Log that it is full; not with each write."""
    now = time.monotonic()
    if now - _told.get(buffer.label, -float("inf")) > _SILENCE:
        _told[buffer.label] = now
        logger.warning("%s is full. %s", buffer, error)


def otherwise(
    buffer: Declaration, buffered: Callable[[], _Result], directly: Callable[[], _Result]
) -> _Result:
    """What a call comes to: through Redis, or directly where that is away or not to be asked."""
    if not is_direct():
        try:
            return buffered()
        except (BufferUnavailable, BufferFull) as error:
            if not goes_around(buffer, error):
                raise
    return directly()


def is_cautious() -> bool:
    """Whether Redis was away a moment ago, and may hold what was written directly since."""
    return time.monotonic() - _away_at < _CAUTIOUS


def if_there(buffered: Callable[[], _Result], nothing: _Result) -> _Result:
    """What a call comes to that is about what Redis holds: nothing, where there need be none."""
    try:
        return buffered()
    except BufferUnavailable:
        if not is_direct():
            raise
    return nothing
