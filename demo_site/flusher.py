"""Flushing without a cluster: all the time for the comparison of `--once`, and at an end."""

from __future__ import annotations

import logging
import threading

from django.db import connections

from writebehind_app.database.divided import on_all_shards
from writebehind_app.exceptions import WritebehindError
from writebehind_app.flush.engine import FlushResult, flush
from writebehind_app.registry import buffers
from writebehind_app.store.state import resume

logger = logging.getLogger("demo_site")

_PAUSE = 0.2  # seconds between two looks at what is due


class Flusher(threading.Thread):
    """Flushes whatever there is until `end()`."""

    def __init__(self) -> None:
        super().__init__(name="flusher", daemon=True)
        self.result = FlushResult()
        self._ending = threading.Event()

    def run(self) -> None:
        try:
            while not self._ending.wait(_PAUSE):
                self._flush()
        finally:
            connections.close_all()

    def end(self) -> None:
        """Returns when the batch it is at is done."""
        self._ending.set()
        self.join()

    def _flush(self) -> None:
        for buffer in buffers().values():
            try:
                # Without waiting: a batch that a killed demo left in flight holds up its shard
                # until its lease ends, and no other.
                self.result.add(flush(buffer, wait=False, stop=self._ending.is_set))
            except WritebehindError as error:
                logger.error("The flusher goes on after: %s", error)
                self._ending.wait(1)


def drain() -> FlushResult:
    """Flush everything, also what somebody paused in the admin, and return when nothing is left. An
    error of the database is raised."""
    result = FlushResult()
    for buffer in buffers().values():
        on_all_shards(buffer, resume)
        while buffer.count_pending():
            result.add(buffer.flush())
    return result
