"""What commands share: types of arguments, buffers by their names, an end by a signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from django.core.management.base import CommandError

from writebehind_app import registry
from writebehind_app.database.parents import parents_first
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferUnavailable

NO_BUFFERS = "No model declares a buffer."


def positive(kind: type) -> Callable[[str], Any]:
    """The type of an argument that has to be more than nothing."""

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


def unusable(error: BufferUnavailable) -> str:
    return f"Redis cannot be used: {str(error).removeprefix('Redis: ')}"


def entries_are(count: int) -> str:
    return "1 entry is" if count == 1 else f"{count} entries are"


class Stop(threading.Event):
    """Set by SIGTERM and SIGINT; `is_urgent` is set by a second one."""

    is_urgent = False

    def on_signal(self, *args: object) -> None:
        self.is_urgent = self.is_set()
        self.set()


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """An event that signals set, so that what is under way comes to its end."""
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
