"""The time by Redis' clock: what is compared with the times in Redis must not be another's."""

from __future__ import annotations

import time
from typing import Any

from django.core.signals import setting_changed

from writebehind_app import conf

# So many µs is Redis' clock ahead of our monotonic one, at least; None before its first answer.
ahead: int | None = None


def ticks() -> int:
    """µs of a clock of ours that nobody puts forward or back."""
    return time.monotonic_ns() // 1000


def saw(micros: int, asked: int) -> None:
    """Redis said so, when it was asked after so many ticks. The answer may have been on its way for
    long, or nobody there to read it; so the quickest of all answers tells best."""
    global ahead
    least, most = micros - time.monotonic_ns() // 1000, micros - asked
    if ahead is None or not least <= ahead <= most:
        ahead = least if ahead is None or ahead < least else most  # or its clock was put back


def now() -> int:
    """µs since 1970 by Redis' clock, as far as its answers tell: late by the time that the quickest
    was on its way. Before the first answer it is this machine's."""
    return time.time_ns() // 1000 if ahead is None else time.monotonic_ns() // 1000 + ahead


def _reset(*, setting: str, **kwargs: Any) -> None:
    global ahead
    if setting in (conf.NAME, "CACHES"):  # it may be another Redis
        ahead = None


setting_changed.connect(_reset, dispatch_uid="writebehind.clock")
