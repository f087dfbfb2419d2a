"""What tests of outages have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.backdoor.breaker import is_asked
from writebehind_app import signals


def wait_for(happened: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@contextmanager
def hearing() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What the signals of an outage tell, as (name, arguments)."""
    told: list[tuple[str, dict[str, Any]]] = []

    def start(**arguments: Any) -> None:
        told.append(("started", arguments))

    def end(**arguments: Any) -> None:
        told.append(("ended", arguments))

    signals.fallback_started.connect(start)
    signals.fallback_ended.connect(end)
    yield told
    signals.fallback_started.disconnect(start)
    signals.fallback_ended.disconnect(end)


def wait_for_redis() -> None:
    """Until this process asks Redis again."""
    wait_for(is_asked)
