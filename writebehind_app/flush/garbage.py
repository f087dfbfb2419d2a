"""A pause for the collector of cyclic garbage."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_depth = 0
_enabled = True


@contextmanager
def paused() -> Iterator[None]:
    """No collection while a batch is applied.

    A batch makes some ten thousand objects, of which none is in a cycle: they go by themselves.
    Their number alone makes Python search all the process holds for cycles again and again, which
    took a sixth of a flush. Threads may flush at once; the last to end lets it go on.
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
            _depth -= 1
            if _depth == 0 and _enabled:
                gc.enable()
