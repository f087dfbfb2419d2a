"""What tests of outages have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from writebehind_app.store import connection


def wait_for(happened: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def wait_for_redis() -> None:
    """Until this process asks Redis again."""
    wait_for(lambda: not connection.breaker().is_open)
