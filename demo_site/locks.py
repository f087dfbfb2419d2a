"""A lock on a file, which the system takes back when the last process that holds it is gone."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path


class Lock:
    """Held from `acquire()` on. Child processes that get `fd` passed hold it too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1

    def acquire(self, timeout: float = 0) -> bool:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                os.close(fd)
                return False
            os.ftruncate(fd, 0)
            os.write(fd, b"%d\n" % os.getpid())
            self.fd = fd
            return True

    def owner(self) -> str:
        """The id of the process that acquired it, for people to read."""
        return self.path.read_text().strip() or "unknown"

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
