"""Keeps a process from asking a Redis that is away, until it is back.

After one call that got no answer in time, or a few in a row that failed otherwise, nobody asks any
more: calls fail at once. A thread writes something tiny at growing intervals, and with the first
time that this works, all goes on. So a Redis that is frozen costs one call of the process its time.

A Redis that answers, and takes no writes, as one that is full or a replica, is asked by reads.
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
from writebehind_app.store.failures import is_answer, is_away, reason

logger = logging.getLogger("writebehind")

_TOLERATED = 3  # the call that fails as the third in a row is the last one
_FIRST, _LONGEST = 0.5, 1.0  # seconds until the next probe: doubled each time
_CALM = 30.0  # seconds: one who was back for less goes on with the interval it had

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
        # Nothing is held back, and no call failed since the last that worked: such a call has
        # nothing to check and nothing to note.
        self.is_calm = True
        self._where = where
        self._probe = probe
        self._held: Literal["nothing", "writes", "all"] = "nothing"
        self._reason = ""
        self._since = 0.0  # on the clock of time.monotonic(), as is the next
        self._back_at = -float("inf")
        self._pause = _FIRST
        self._silent = self._refused = 0  # in a row: calls without an answer, refused writes
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self._held != "nothing"

    def check(self, *, write: bool) -> None:
        """Raises `HeldBack` for a call that is not to be made."""
        if self._held == "all" or (write and self._held == "writes"):
            with _lock:
                self.failures += 1
                if self.is_open:
                    self._watch()
            raise HeldBack(f"it is not asked before it is back, after: {self._reason}")

    def note(
        self, replies: Sequence[Any], error: Exception | None = None, *, write: bool = False
    ) -> None:
        """What came of a call: the replies, and what kept the others from coming."""
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
        """Ends the thread, as nobody calls any more."""
        self._end.set()

    def _failed(self, error: Exception, *, write: bool) -> None:
        refused = write and is_answer(error)  # which says nothing of reads
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
                "Redis at %s is away: %s. Until it is back, calls do what WHEN_DOWN says; what "
                "is wrong with it, manage.py writebehind_doctor may tell.",
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
        """Have a thread that waits for Redis: a process that was forked has none."""
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
            except redis.RedisError:
                continue
            self._close()
            break
        connections.close_all()  # which receivers of the signal may have opened

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
