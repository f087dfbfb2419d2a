"""People at work on all systems at once, at a steady rate."""

from __future__ import annotations

import logging
import random
import threading
import time

from django.db import connections

from demo_site import figures
from demo_site.systems import SYSTEMS
from demo_site.systems.base import System
from writebehind_app.exceptions import WritebehindError

logger = logging.getLogger("demo_site")


class Load:
    """A thread for each system that writes to it until `end()`."""

    def __init__(self) -> None:
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(system,), name=system.view, daemon=True)
            for system in SYSTEMS
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self, system: System) -> None:
        due = time.monotonic()
        try:
            for key, values in system.changes(random.Random(), system.busy()):
                # No burst after a hold-up.
                due = max(due + 1 / system.rate, time.monotonic() - 1)
                if self._ending.wait(max(0.0, due - time.monotonic())):
                    return
                started = time.perf_counter()
                try:
                    system.write(key, values)
                    figures.note(time.perf_counter() - started)
                except WritebehindError as error:
                    logger.error("A write was not accepted: %s", error)
                    self._ending.wait(1)
        finally:
            connections.close_all()
