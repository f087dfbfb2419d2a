"""Parts that commands share: types of arguments, buffers by name, servers that cannot be used, an
end by a signal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from django.core.management.base import CommandError
from django.db import InterfaceError, OperationalError, ProgrammingError

from writebehind_app import registry
from writebehind_app.database.failures import kind
from writebehind_app.database.own_tables import migrate_first
from writebehind_app.database.parents import parents_first
from writebehind_app.declaration import Declaration
from writebehind_app.english import be, counted
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.store import server
from writebehind_app.store.connection import client

NO_BUFFERS = "No model declares a buffer."


def positive(kind: type) -> Callable[[str], Any]:
    """The type of an argument that must be greater than 0."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"  # argparse says "invalid positive int value"
    return parse


def buffers_of(labels: Sequence[str]) -> list[Declaration]:
    """The buffers of these names, in upper or lower case, or all; parents first."""
    known = registry.buffers()
    by_name = {label.lower(): buffer for label, buffer in known.items()}
    for label in labels:
        if label.lower() not in by_name:
            near = get_close_matches(label.lower(), by_name, n=1)
            hint = f" Did you mean {by_name[near[0]].label}?" if near else ""
            names = ", ".join(known) or "none"
            raise CommandError(
                f"No buffer is called {label!r}.{hint} There are: {names}.", returncode=2
            )
    wanted = [by_name[label.lower()] for label in labels] if labels else list(known.values())
    return parents_first(wanted)


def unusable(error: BufferUnavailable, buffers: Sequence[Declaration] = ()) -> str:
    """A line about the Redis of these buffers. It says which one if there are several."""
    reason = str(error).removeprefix("Redis: ")
    if not buffers or len(client().servers()) == 1:
        return f"Redis cannot be used: {reason}"
    where = server.address(client().server_of(buffers[0].redis_key()))
    labels = ", ".join(buffer.label for buffer in buffers)
    return f"Redis at {where} cannot be used for {labels}: {reason}"


def unusable_database(using: str) -> str:
    return migrate_first(using) or f"The database {using!r} cannot be used."


@contextmanager
def databases_of(buffers: Iterable[Declaration]) -> Iterator[None]:
    """End the command with one line if a database of these buffers cannot be used, or was not
    migrated."""
    try:
        yield
    except (InterfaceError, OperationalError, ProgrammingError) as error:
        for using in sorted({buffer.layout().using for buffer in buffers}):
            if said := migrate_first(using):
                raise CommandError(said) from None
        hint = " Run manage.py migrate." if kind(error) == "schema" else ""
        raise CommandError(f"A database cannot be used: {error}.{hint}") from error


def entries_are(count: int) -> str:
    return f"{counted(count, 'entry', 'entries')} {be(count)}"


class Stop:
    """Set by SIGTERM and SIGINT; `is_urgent` is set by a second one.

    It has no lock. A signal may come while the main thread holds one: a `threading.Event` that is
    being waited for would hang for ever.
    """

    _TURN = 0.1  # seconds after which somebody who waits notices the signal

    def __init__(self) -> None:
        self.is_urgent = self._is_set = False

    def on_signal(self, *args: object) -> None:
        self.is_urgent = self._is_set
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Wait for so long, or until it is set. Return whether it is."""
        until = time.monotonic() + seconds
        while not self._is_set and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, self._TURN))
        return self._is_set


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """An event that signals set, so that the work under way can end."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {
        number: signal.signal(number, stop.on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
