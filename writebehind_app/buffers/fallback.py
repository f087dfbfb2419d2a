"""Whether a call goes through Redis or around it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from writebehind_app.conf import is_direct
from writebehind_app.exceptions import BufferFull, BufferUnavailable, WriteUncertain
from writebehind_app.store import clock, state
from writebehind_app.store.connection import client

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration

logger = logging.getLogger("writebehind")

_Result = TypeVar("_Result")
_logged_at: dict[str, float] = {}  # by the buffer: when it was last logged that it is full
_SILENCE = 60  # seconds until that is logged again
direct_calls: Counter[str] = Counter()  # by the buffer: calls around Redis, not counted there yet


def goes_around(buffer: Declaration, error: Exception, *, again: bool = False) -> bool:
    """Return whether a call that Redis did not take goes straight to the database.

    With `again` it may do so even if Redis has perhaps taken it. Then this waits for the deadline
    of the call: later, Redis takes no copy of it, so the database has the newer value.
    """
    is_full = isinstance(error, BufferFull)
    is_down = isinstance(error, BufferUnavailable) or (again and isinstance(error, WriteUncertain))
    if is_full:
        _log_full(buffer, error)
    if (is_full or is_down) and buffer.option("WHEN_FULL" if is_full else "WHEN_DOWN") == "direct":
        direct_calls[buffer.label] += 1
        if isinstance(error, WriteUncertain):
            time.sleep(max(error.until - clock.now(), 0) / 1e6)
        return True
    return False


def report(buffer: Declaration) -> None:
    """Add the calls that went around Redis to the counter there, now that it is back."""
    if calls := direct_calls.pop(buffer.label, 0):
        try:
            state.count_up(client(), buffer.shard_keys()[0], "fallbacks", calls)
        except BufferUnavailable:
            direct_calls[buffer.label] += calls


def _log_full(buffer: Declaration, error: Exception) -> None:
    """Log that a buffer is full, but not with each write."""
    now = time.monotonic()
    if now - _logged_at.get(buffer.label, -float("inf")) > _SILENCE:
        _logged_at[buffer.label] = now
        logger.warning("%s is full. %s", buffer, error)


def with_fallback(
    buffer: Declaration, buffered: Callable[[], _Result], directly: Callable[[], _Result]
) -> _Result:
    """Run a call through Redis; or directly, if Redis is away or the mode is direct.

    A full Redis is no reason to run it directly: such a call may depend on pending values, and a
    full Redis still takes writes to entries that it has.
    """
    if not is_direct():
        try:
            return buffered()
        except BufferUnavailable as error:
            if not goes_around(buffer, error):
                raise
    return directly()


def ask_redis(buffered: Callable[[], _Result], default: _Result) -> _Result:
    """Run a call that only Redis can answer; return `default` if Redis is away in direct mode."""
    try:
        return buffered()
    except BufferUnavailable:
        if not is_direct():
            raise
    return default
