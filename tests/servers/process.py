"""What the servers have in common as processes."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.keeper import keeper

LOCALHOST = "127.0.0.1"


class Absent(Exception):
    """There is no such server, for the reason given."""


def start_process(directory: Path, command: list[str], **options: Any) -> subprocess.Popen[Any]:
    with (directory / "log").open("ab") as log:
        return keeper().start(
            command, cwd=directory, stdout=log, stderr=subprocess.STDOUT, **options
        )


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[Any], directory: Path) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            keeper().end(process)
            log = (directory / "log").read_text(errors="replace")
            raise Absent(f"{directory.name} did not start: {log[-1000:]}")
        time.sleep(0.02)


_ports: set[int] = set()  # of this process


def free_port() -> int:
    """A port that no other call of this function returns, in any process, until this one ends."""
    # Below the ports that systems hand out to outgoing connections: one of those could take the
    # port while a server is down, and a client that reconnects could even reach itself.
    while True:
        # Not of `random`, whose seed is the same in every run: of two runs at once, too.
        port = 20_000 + secrets.randbelow(12_000)
        if port in _ports or not _reserve(port):
            continue
        _ports.add(port)
        with socket.socket() as probe:
            try:
                probe.bind((LOCALHOST, port))
            except OSError:
                continue
            return port


def _reserve(port: int) -> bool:
    """Between the look for a port and the start of its server, others look for one, too."""
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:  # another process has it
        return False
    return True


@cache
def _reservations() -> IO[bytes]:
    """A file of which each byte stands for a port. Locks end with their process."""
    return Path(tempfile.gettempdir(), f"writebehind-ports-{os.getuid()}").open("ab")
