"""The time by the clock of Redis. It has to be used for what is compared with times in Redis."""

from __future__ import annotations

import time
from typing import Any

from django.core.signals import setting_changed

from writebehind_app import conf

# By how many µs the clock of Redis is ahead of our monotonic clock, at least. None before the first
# answer of Redis.
ahead: int | None = None

# By shard: the number of the last write that Redis took from this process. It may be greater than
# the time that is known here, if the clock of Redis was put back or no answer has told its time.
numbers: dict[str, int] = {}


def ticks() -> int:
    """The µs of our monotonic clock, which nobody puts forward or back."""
    return time.monotonic_ns() // 1000


def saw(micros: int, asked: int) -> None:
    """Note the time in µs in an answer of Redis. `asked` is our clock when the question was sent.

    An answer may be on its way for long, or be read late. So the quickest of all answers counts.
    """
    global ahead
    least, most = micros - time.monotonic_ns() // 1000, micros - asked
    if ahead is None or not least <= ahead <= most:
        ahead = least if ahead is None or ahead < least else most  # or its clock was put back


def now() -> int:
    """The µs since 1970 by the clock of Redis, as far as its answers tell. It is late by the time
    that the quickest answer was on its way. Before the first answer it is this machine's time."""
    return time.time_ns() // 1000 if ahead is None else time.monotonic_ns() // 1000 + ahead


def number(shard: str) -> int:
    """The number of a write that goes past Redis. It is greater than all that Redis gave to this
    process."""
    return max(now(), numbers.get(shard, 0) + 1)


def _reset(*, setting: str, **kwargs: Any) -> None:
    global ahead
    if setting in (conf.NAME, "CACHES"):  # it may be another Redis
        ahead = None
        numbers.clear()


setting_changed.connect(_reset, dispatch_uid="writebehind.clock")
