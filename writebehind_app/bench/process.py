"""Begin a process of a measurement. Modules with models are imported after `setup()`."""

from __future__ import annotations

import signal
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import django
from django.conf import settings
from django.db import connections


@dataclass(frozen=True, slots=True)
class Place:
    """Where a measurement takes place."""

    using: str
    database: dict[str, Any]  # the connection of the process that started this one
    options: Any  # WRITEBEHIND
    prefix: str


@dataclass(frozen=True, slots=True)
class Failure:
    text: str


def begin(pipe: Connection, place: Place) -> None:
    """Run the function that comes through the pipe. Unpickling it imports its module."""
    # Ctrl-C reaches all processes. The one that started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        settings.DEBUG = False  # Django keeps each statement if it is True
        settings.WRITEBEHIND = place.options
        django.setup()
        connections[place.using].settings_dict.update(place.database)
        work = pipe.recv()
        work(pipe, place)
    except (EOFError, BrokenPipeError):
        pass  # the process that started it is gone
    except Exception:  # noqa: BLE001 - it is raised where it is seen
        pipe.send(Failure(traceback.format_exc()))
