"""Starts processes that end with the test run, however it ends.

An atexit function does not run when the tests are killed. So this file is also run as a process of
its own beside them. Its standard input is a pipe from the tests, which closes when they are gone.
Until then they tell it of each process, a line each: "<pid> <signal to end it>", and "<pid> 0" once
it has ended.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


@functools.cache
def keeper() -> Keeper:
    """The one of this process."""
    return Keeper()


class Inherited:
    """A process that the parent of this one has started, and notices the end of."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        return None if _is_alive(self.pid) else 0

    def send_signal(self, how: signal.Signals) -> None:
        os.kill(self.pid, how)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 20) -> None:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.005)


Process = subprocess.Popen[Any] | Inherited


class Keeper:
    """Owns processes and a temporary directory for their files."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="writebehind-"))
        # A server under another user has to reach its own directory in this one.
        self.directory.chmod(0o711)
        self._owner = os.getpid()
        self._endings: dict[Process, signal.Signals] = {}
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", __file__, str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self.close)

    def start(
        self, command: list[str], *, ending: signal.Signals = signal.SIGKILL, **options: Any
    ) -> subprocess.Popen[Any]:
        # In a session of its own, a Ctrl-C at the terminal reaches the tests and not the servers,
        # which they need while they clean up.
        process = subprocess.Popen(command, start_new_session=True, **options)
        self._endings[process] = ending
        self._tell(process.pid, ending)
        return process

    def inherit(self, pid: int) -> Inherited:
        """One that only `end` ends: it outlives this process, which is a fork."""
        process = Inherited(pid)
        self._endings[process] = signal.SIGKILL
        return process

    def end(self, process: Process, how: signal.Signals | None = None, timeout: float = 20) -> None:
        """Returns when the process is gone; by default it ends as its start said."""
        ending = self._endings.pop(process, None)
        if ending is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)  # a stopped one would not see the next
            process.send_signal(how or ending)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._tell(process.pid, 0)

    def _tell(self, pid: int, ending: int) -> None:
        assert self._watcher.stdin is not None
        self._watcher.stdin.write(b"%d %d\n" % (pid, ending))
        self._watcher.stdin.flush()

    def close(self) -> None:
        """Ends all that it has started."""
        if os.getpid() != self._owner:
            return  # a fork of the tests exits: nothing in here is its own
        for process in list(self._endings):
            if not isinstance(process, Inherited):
                self.end(process)
        # Not left to the closing of the pipe: a fork may still hold it open.
        self._tell(self._watcher.pid, 0)
        self._watcher.communicate()


def _watch(directory: str) -> None:
    endings: dict[int, int] = {}
    for line in sys.stdin:
        pid, ending = map(int, line.split())
        if pid == os.getpid():
            break  # the tests say that they are done
        endings.pop(pid, None)
        if ending:
            endings[pid] = ending

    for pid, ending in endings.items():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, ending)
    deadline = time.monotonic() + 10
    while any(map(_is_alive, endings)) and time.monotonic() < deadline:
        time.sleep(0.02)
    shutil.rmtree(directory, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    _watch(sys.argv[1])
