"""The time by Redis' clock: what is compared with the times in Redis must not be another's."""

from __future__ import annotations

import time
from typing import Any

from django.core.signals import setting_changed

from writebehind_app import conf

_ahead: int | None = None  # so many µs is Redis' clock ahead of our monotonic one


def saw(micros: int) -> None:
    """Redis said so just now."""
    global _ahead
    _ahead = micros - _monotonic()


def is_known() -> bool:
    return _ahead is not None


def now() -> int:
    """µs since 1970 by Redis' clock, as far as its last answer tells: late by the time which that
    was on its way. Before the first answer it is this machine's."""
    return time.time_ns() // 1000 if _ahead is None else _monotonic() + _ahead


def _monotonic() -> int:
    return time.monotonic_ns() // 1000


def _reset(*, setting: str, **kwargs: Any) -> None:
    global _ahead
    if setting in (conf.NAME, "CACHES"):  # it may be another Redis
        _ahead = None


setting_changed.connect(_reset, dispatch_uid="writebehind.clock")
