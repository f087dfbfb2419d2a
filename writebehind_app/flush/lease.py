"""Keeps the lease of a batch while its transaction takes its time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.store.connection import is_told
from writebehind_app.store.shard import Shard

logger = logging.getLogger("writebehind")

_LONGEST = 20  # leases: whoever takes longer hangs, and another flusher may try


@contextmanager
def renewed(shard: Shard, token: str, lease: float) -> Iterator[None]:
    """Renew the lease in the background. Nothing is renewed any more when the block is left."""
    done = threading.Event()

    def renew() -> None:
        for _ in range(3 * _LONGEST):
            if done.wait(lease / 3):
                return
            try:
                shard.renew(token, lease=lease)
            except BufferUnavailable as error:
                if not is_told(error):
                    logger.warning("The lease of a batch could not be renewed: %s", error)

    thread = threading.Thread(target=renew, name="writebehind-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
