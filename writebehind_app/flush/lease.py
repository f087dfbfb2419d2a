"""Renew the lease of a batch as long as its transaction runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.store.connection import is_logged
from writebehind_app.store.shard import Shard

logger = logging.getLogger("writebehind")

_LONGEST = 20  # leases; a flusher that takes longer hangs, and another one may try


@contextmanager
def keep_lease(shard: Shard, token: Callable[[], str], lease: float) -> Iterator[None]:
    """Renew a lease in the background until the block is left.

    `token()` says which batch the flusher has: an extended batch has a new token.
    """
    done = threading.Event()

    def renew() -> None:
        for _ in range(3 * _LONGEST):
            if done.wait(lease / 3):
                return
            try:
                shard.renew(token(), lease=lease)
            except BufferUnavailable as error:
                if not is_logged(error):
                    logger.warning("The lease of a batch could not be renewed: %s", error)

    thread = threading.Thread(target=renew, name="writebehind-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
