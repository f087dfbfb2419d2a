"""Keep a process from asking a Redis that is away, until it is back.

The breaker opens after one call that got no answer in time, or after a few failed calls in a row.
Then calls fail at once. A thread writes something tiny at growing intervals. When a write succeeds,
the breaker closes. So if Redis is frozen, only one call of the process has to wait.

Redis may answer and take no writes, because it is full or a replica. Then only writes fail at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import redis
from django.db import connections

from writebehind_app import signals
from writebehind_app.store.failures import is_about_writes, is_answer, is_away, reason

logger = logging.getLogger("writebehind")

_TOLERATED = 3  # failed calls in a row; with the last of them the breaker opens
_FIRST, _LONGEST = 0.5, 1.0  # seconds until the next probe: doubled each time
_CALM = 30.0  # seconds; if Redis was back for less, the intervals go on growing

_lock = threading.Lock()  # of all breakers


def _forked() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_forked)


class HeldBack(redis.ConnectionError):
    """Redis was not asked."""


class Breaker:
    """What one process knows of one Redis."""

    def __init__(self, where: str, probe: Callable[[], object]) -> None:
        self.outages = 0  # how many there were
        self.failures = 0  # calls that Redis did not take, or was not asked to
        # Nothing is held back, and the last call did not fail. Then there is no need to call
        # `check()`, nor `note()` after a call that worked.
        self.is_calm = True
        self._where = where
        self._probe = probe
        self._held: Literal["nothing", "writes", "all"] = "nothing"
        self._reason = ""
        self._since = 0.0  # when the outage began, on the clock of time.monotonic()
        self._back_at = -float("inf")  # when the last outage ended, on the same clock
        self._pause = _FIRST
        self._silent = self._refused = 0  # in a row: calls without an answer, refused writes
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self._held != "nothing"

    def check(self, *, write: bool) -> None:
        """Raise `HeldBack` if the call must not be made now."""
        if self._held == "all" or (write and self._held == "writes"):
            with _lock:
                self.failures += 1
                if self.is_open:
                    self._watch()
            raise HeldBack(f"it is not asked until it is back, after: {self._reason}")

    def note(
        self, replies: Sequence[Any], error: Exception | None = None, *, write: bool = False
    ) -> None:
        """Note the outcome of a call: its replies, and the error if not all of them came."""
        if isinstance(error, HeldBack):
            return  # Redis was not asked
        found = error
        for reply in replies:
            if isinstance(reply, Exception) and is_away(reply):
                found = found or reply
        if found is not None:
            self._failed(found, write=write)
        elif self._silent or (write and self._refused):
            with _lock:
                self._silent = 0
                self._refused = 0 if write else self._refused
                self.is_calm = not (self._refused or self.is_open)

    def end(self) -> None:
        """End the thread: the breaker is not used any more."""
        self._end.set()

    def _failed(self, error: Exception, *, write: bool) -> None:
        # This says nothing about reads. A script that only reads mostly may write, too.
        refused = is_about_writes(error) or (write and is_answer(error))
        with _lock:
            self.failures += 1
            self.is_calm = False
            if refused:
                self._silent, self._refused = 0, self._refused + 1
            else:
                self._silent += 1
            in_a_row = self._refused if refused else self._silent
            if in_a_row < _TOLERATED and not isinstance(error, redis.TimeoutError):
                return
            is_new = not self.is_open
            if self._held != "all":
                self._held = "writes" if refused else "all"
                self._reason = reason(error).rstrip(".")
            if is_new:
                self._opened()
        if is_new:
            logger.warning(
                "Redis at %s is away: %s. Until it is back, calls do what WHEN_DOWN says. "
                "manage.py writebehind_doctor may know what is wrong.",
                self._where,
                self._reason,
            )
            signals.fallback_started.send_robust(type(self), redis=self._where, reason=self._reason)

    def _opened(self) -> None:
        self.outages += 1
        self._since = time.monotonic()
        if self._since - self._back_at > _CALM:
            self._pause = _FIRST
        self._watch()

    def _watch(self) -> None:
        """Start the thread that waits for Redis, if none runs: a forked process has none."""
        if self._thread is None or not self._thread.is_alive():
            self._end = threading.Event()
            self._thread = threading.Thread(
                target=self._wait, args=[self._end], name="writebehind-breaker", daemon=True
            )
            self._thread.start()

    def _wait(self, end: threading.Event) -> None:
        while not end.wait(self._pause):
            self._pause = min(self._pause * 2, _LONGEST)
            try:
                self._probe()
            except redis.RedisError as error:
                if is_about_writes(error):
                    self._let_reads_through(error)
                continue
            self._close()
            break
        connections.close_all()  # receivers of the signal may have opened some

    def _let_reads_through(self, error: redis.RedisError) -> None:
        with _lock:
            if self._held != "all":
                return
            self._held, self._silent = "writes", 0
            self._reason = reason(error).rstrip(".")
        logger.warning(
            "Redis at %s can be read again, but not written: %s.", self._where, self._reason
        )

    def _close(self) -> None:
        with _lock:
            self._held = "nothing"
            self._silent = self._refused = 0
            self.is_calm = True
            self._back_at = time.monotonic()
            seconds = self._back_at - self._since
            self._thread = None
        logger.warning("Redis at %s is back, after %.1f s.", self._where, seconds)
        signals.fallback_ended.send_robust(
            type(self), redis=self._where, reason=self._reason, seconds=seconds
        )
