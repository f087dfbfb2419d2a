"""The time by Redis' clock: what is compared with the times in Redis must not be another's."""

from __future__ import annotations

import time
from typing import Any

from django.core.signals import setting_changed

from writebehind_app import conf

_ahead: int | None = None  # so many µs is Redis' clock ahead of our monotonic one, at least


def ticks() -> int:
    """µs of a clock of ours that nobody puts forward or back."""
    return time.monotonic_ns() // 1000


def saw(micros: int, asked: int) -> None:
    """Redis said so, when it was asked after so many ticks. The answer may have been on its way for
    long, or nobody there to read it; so the quickest of all answers tells best."""
    global _ahead
    least, most = micros - time.monotonic_ns() // 1000, micros - asked
    if _ahead is None or not least <= _ahead <= most:
        _ahead = least if _ahead is None or _ahead < least else most  # or its clock was put back


def is_known() -> bool:
    return _ahead is not None


def now() -> int:
    """µs since 1970 by Redis' clock, as far as its answers tell: late by the time that the quickest
    was on its way. Before the first answer it is this machine's."""
    return time.time_ns() // 1000 if _ahead is None else time.monotonic_ns() // 1000 + _ahead


def _reset(*, setting: str, **kwargs: Any) -> None:
    global _ahead
    if setting in (conf.NAME, "CACHES"):  # it may be another Redis
        _ahead = None


setting_changed.connect(_reset, dispatch_uid="writebehind.clock")
