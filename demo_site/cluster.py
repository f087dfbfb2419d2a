"""The demo's cluster of Django-Q2, which carries out the schedules that `migrate` has made.

A process of its own, `manage.py qcluster`, that ends with the one that started it, as Valkey does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from django.conf import settings

from demo_site import keeper
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.registry import buffers
from writebehind_app.store import state
from writebehind_app.store.connection import client

_PATIENCE = 1.0  # seconds for the batches in flight


class Cluster:
    """`start()` and `end()`; between them what is due goes to the database."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._keeper is not None and self._keeper.poll() is None

    def start(self) -> None:
        manage = settings.BASE_DIR / "manage.py"
        with self.log.open("wb") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", keeper.__file__, sys.executable, str(manage), "qcluster"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal is for the demo
            )

    def end(self) -> None:
        """Let the batches in flight end, and kill it; does nothing where it does not run.

        Its own end takes as long as a tick. A kill loses nothing: a batch that was in flight stays
        in Valkey, and the next flusher takes it over.
        """
        if self._keeper is None:
            return
        _let_batches_end()
        os.killpg(self._keeper.pid, signal.SIGKILL)  # the keeper, the cluster and its workers
        self._keeper.wait()
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper = None


def _let_batches_end() -> None:
    """Pause all buffers, so that no other batch begins, and wait for those in flight."""
    shards = [shard for buffer in buffers().values() for shard in buffer.shards()]
    deadline = time.monotonic() + _PATIENCE
    with suppress(BufferUnavailable):
        state.pause(client(), [shard.key for shard in shards])
        while any(count.in_flight for count in state.count(client(), shards).values()):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
