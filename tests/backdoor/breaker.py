"""What this process knows of Redis: whether it asks it at all."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from writebehind_app.buffers import fallback, flush_when
from writebehind_app.flush import report
from writebehind_app.store import breaker as module
from writebehind_app.store import overdue
from writebehind_app.store.client import Client
from writebehind_app.store.connection import breaker

_LONG_AGO = -float("inf")


def is_asked() -> bool:
    """Whether this process sends calls to Redis, and does not wait for its return."""
    return not breaker().is_open


def outages() -> int:
    """How many there were."""
    return breaker().outages


def failures() -> int:
    """How many calls Redis did not take, or was not asked to."""
    return breaker().failures


def stop_asking() -> None:
    """As after a call that got no answer in time."""
    breaker().note([], redis.TimeoutError())


@contextmanager
def cut_off(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """No call of this process reaches Redis meanwhile, as in one whose network is gone."""

    def refuse(*args: Any, **options: Any) -> Any:
        raise redis.ConnectionError("cut off")

    with patch.context() as within:
        within.setattr(Client, "exchange", refuse)
        yield


def forget_outages() -> None:
    """The outage of a test is none of the next one's."""
    flush_when._asked_again_at = _LONG_AGO
    overdue.next_at = math.inf  # a look is a round trip, which tests count
    overdue._logged.clear()
    report._without_tables.clear()


def look_at_what_is_overdue() -> None:
    """The next write does, as one does each minute."""
    overdue.next_at = 0


def forget_calls_past_redis() -> None:
    """Calls that went past Redis in another test are not to be counted in this one."""
    fallback.direct_calls.clear()


def forget_what_was_logged() -> None:
    """That a buffer is full is logged anew."""
    fallback._logged_at.clear()


@contextmanager
def busy() -> Iterator[None]:
    """Another thread is just noting what came of a call, with the lock held."""
    taken, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with module._lock:
            taken.set()
            go_on.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    yield
    go_on.set()
    thread.join()
