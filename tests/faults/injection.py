"""Lets one thread go wrong at a named step, in one of the ways in which processes do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import redis
from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from tests.backdoor.calls import NotSent, Unanswered, intercept
from tests.router import current
from writebehind_app import checkpoints
from writebehind_app.exceptions import BufferUnavailable, WriteUncertain

# What the process does after a step, and a reply may be lost of: scripts by their names, a
# statement or the commit of the database; None where nothing follows.
NEXT: dict[str, set[str] | None] = {
    "write.sending": {"write", "operate", "append"},
    "write.accepted": None,
    "flush.claiming": {"claim", "claim_records"},
    "flush.claimed": {"statement"},
    "flush.token": {"statement"},
    "flush.deleted": {"statement"},
    "flush.updated": {"statement"},
    "flush.inserted": {"statement"},
    "flush.buried": {"commit"},
    "flush.committed": {"ack", "ack_records"},
    "flush.acked": None,
    "change.begun": {"count", "close"},
    "change.closed": {"claim", "count"},
    "change.drained": {"statement"},
    "change.made": {"end_change"},
    "change.in_force": {"division"},
}


class Killed(BaseException):
    """The process is dead: no code may run on as if nothing had happened."""


class Failed(Exception):
    """Something goes wrong after the last thing that the process does outside of itself."""


# What goes wrong, and what the caller sees of it.
FAULTS: dict[str, tuple[type[BaseException], ...]] = {
    "dies": (Killed,),
    "raises": (BufferUnavailable, OperationalError, Failed),  # what follows does not take place
    # it does, and nobody hears of it
    "reply lost": (WriteUncertain, BufferUnavailable, OperationalError, Failed),
}


class Fault:
    """Stops the thread that calls `run()` at a step; what it does from `go_on()` on, goes wrong."""

    def __init__(self, step: str, how: str) -> None:
        self.step, self.how = step, how
        self.reached, self.met = threading.Event(), False
        self.taken_over = threading.Event()  # another thread has claimed
        self.in_transaction = False
        self.session_ended = False
        self._going_on, self._armed = threading.Event(), False
        self._thread: int | None = None
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Fault:
        commit = BaseDatabaseWrapper._commit

        def commit_or_fail(connection: BaseDatabaseWrapper) -> None:
            self._do("commit", partial(commit, connection))

        self._patch.setattr(checkpoints, "hook", self._hook)
        intercept(self._patch, self._do)
        self._patch.setattr(BaseDatabaseWrapper, "_commit", commit_or_fail)
        return self

    def __exit__(self, *exception: object) -> None:
        self.go_on()
        self._patch.undo()

    def run(self, act: Callable[[], object]) -> BaseException | None:
        """What the thread ended with: an error, or None."""
        self._thread = threading.get_ident()
        try:
            with connections[current()].execute_wrapper(self._execute):
                act()
        except BaseException as error:  # noqa: BLE001 - a process may die, too
            return error
        finally:
            self._thread = None
            self.reached.set()
        return None

    def go_on(self) -> None:
        self._going_on.set()

    def end_session(self) -> None:
        """What a database does to a session that stands still within a transaction. SQLite has
        none: whoever holds its lock stands in the way until it dies or goes on."""
        self.session_ended = connections[current()].vendor != "sqlite"
        with connections[current()].cursor() as cursor:
            if connections[current()].vendor == "postgresql":
                cursor.execute("SELECT pg_terminate_backend(%s)", [self._session])
            elif connections[current()].vendor == "mysql":
                cursor.execute("KILL %s", [self._session])

    def _hook(self, step: str) -> None:
        if threading.get_ident() != self._thread:
            if step == "flush.claimed":
                self.taken_over.set()
            return
        if step != self.step or self.reached.is_set():
            return
        connection = connections[current()]
        self.in_transaction = connection.in_atomic_block
        if self.in_transaction and connection.vendor == "postgresql":
            self._session = connection.connection.info.backend_pid
        elif self.in_transaction and connection.vendor == "mysql":
            self._session = connection.connection.thread_id()
        self.reached.set()
        assert self._going_on.wait(60)
        if self.how == "dies":
            self.met = True
            raise Killed
        if NEXT[step] is None and self.how != "nothing":
            self.met = True
            raise Failed
        self._armed = self.how != "nothing"
        self.met = not self._armed

    def _execute(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        # SQLite's BEGIN is a statement to Django, and nothing that can go wrong halfway.
        name = "begin" if sql == "BEGIN" else "statement"
        return self._do(name, partial(execute, sql, params, many, context))

    def _do(self, name: str, act: Callable[[], Any]) -> Any:
        """Does it, unless it is what goes wrong."""
        here = self._armed and threading.get_ident() == self._thread
        if not here or name not in (NEXT[self.step] or ()):
            return act()
        self._armed, self.met = False, True
        if self.how == "reply lost":
            with suppress(Exception):  # whatever the reply is
                act()
        if name in ("statement", "commit"):
            raise OperationalError("the connection is gone")
        error = redis.TimeoutError("no answer")
        raise NotSent(error) if self.how == "raises" else Unanswered(error)
