"""Pause Python's garbage collector while a batch is applied."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_depth = 0
_enabled = True


@contextmanager
def paused() -> Iterator[None]:
    """Pause the collector of cyclic garbage.

    A batch makes some ten thousand objects. None of them is in a cycle, so reference counts free
    them. But their number makes Python search the whole process for cycles again and again. That
    took a sixth of a flush. Several threads may flush at once: the last one to end turns the
    collector on again.
    """
    global _depth, _enabled
    with _lock:
        if _depth == 0:
            _enabled = gc.isenabled()
            gc.disable()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth = max(_depth - 1, 0)
            if _depth == 0 and _enabled:
                gc.enable()


def _collect_again() -> None:
    """End all pauses after a fork: the child has none of the threads that would end them."""
    global _lock, _depth
    _lock = threading.Lock()
    if _depth and _enabled:
        gc.enable()
    _depth = 0


os.register_at_fork(after_in_child=_collect_again)
