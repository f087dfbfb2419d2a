"""What this process knows of Redis: whether it asks it at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from writebehind_app import sampling
from writebehind_app.buffers import fallback, urgency
from writebehind_app.store import breaker as module
from writebehind_app.store.connection import breaker

_LONG_AGO = -float("inf")


def is_asked() -> bool:
    """Whether this process sends calls to Redis, and does not wait for its return."""
    return not breaker().is_open


def failures() -> int:
    """How many calls Redis did not take, or was not asked to."""
    return breaker().failures


def stop_asking() -> None:
    """As after a call that got no answer in time."""
    breaker().note([], redis.TimeoutError())


def know_of_an_outage() -> None:
    """As a process that wrote past Redis a moment ago, and for ever."""
    fallback._away_at = float("inf")


def know_of_no_outage() -> None:
    """As a process that never wrote past Redis."""
    fallback._away_at = _LONG_AGO


def forget_outages() -> None:
    """The outage of a test is none of the next one's."""
    fallback._away_at = urgency._asked_again_at = sampling._next_at = _LONG_AGO


def forget_calls_past_redis() -> None:
    """Calls that went past Redis in another test are not to be counted in this one."""
    fallback.around.clear()


def forget_what_was_logged() -> None:
    """That a buffer is full is logged anew."""
    fallback._told.clear()


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
