"""What acknowledged writes are lost with Redis, by `appendfsync` and `durability`.

    pytest -q -s tests/performance/durability.py

Threads write to rows of their own, until Redis gets a SIGKILL among it. It is started again, and
what it has not got of the acknowledged writes is lost. For a crash of the machine its files are cut
off first where the last fsync began that had ended by then: strace tells, where there is one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backdoor.entries import every_id
from tests.models import Item
from tests.outages import wait_for
from tests.servers import RedisServer
from writebehind_app.exceptions import BufferUnavailable, NotDurable, WriteUncertain

SECONDS, ROUNDS, THREADS = 2.0, 3, 8

CASES = [
    ("valkey", "always", "memory"),
    ("valkey", "everysec", "memory"),
    ("valkey", "no", "memory"),
    ("valkey", "always", "fsync"),
    ("valkey", "everysec", "fsync"),
    ("redis", "always", "memory"),
    ("redis", "everysec", "memory"),
    ("redis", "no", "memory"),
]


@pytest.fixture(scope="module", autouse=True)
def table():
    print("\n| server | appendfsync | durability | writes/s | lost by SIGKILL | by a crash |")
    print("|---|---|---|---|---|---|")


@pytest.mark.parametrize(("kind", "appendfsync", "durability"), CASES)
def test_what_is_lost(plain, configure, kind, appendfsync, durability):
    configure(DURABILITY=durability, WHEN_DOWN="raise", DURABILITY_TIMEOUT=3)
    told = []
    for cut in [None, _unsynced] if shutil.which("strace") else [None]:
        rounds = [_killed(configure, kind, appendfsync, cut) for _ in range(ROUNDS)]
        taken, lost = (sum(numbers) for numbers in zip(*rounds, strict=True))
        told.append(f"{lost} of {taken}")
        if not cut:
            told.insert(0, f"{taken / ROUNDS / SECONDS:.0f}")
        assert taken
        assert lost == 0 or (cut and appendfsync != "always")
    print(f"| {kind} | {appendfsync} | {durability} | {' | '.join(told)} |", flush=True)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("kind", RedisServer.KINDS)
@pytest.mark.parametrize("appendfsync", ["always", "everysec", "no"])
def test_what_a_slow_disk_loses(plain, configure, kind, appendfsync):
    """A server holds its writes back for two seconds at most, if an fsync takes so long."""
    with RedisServer(kind, appendfsync=appendfsync) as server:
        slow = "inject=fsync,fdatasync:delay_enter=1500000"
        command = ["strace", "-f", "-e", slow, "-o", "/dev/null", "-p", str(server.pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(1)  # until it traces
        configure(REDIS=server.url, WHEN_DOWN="raise", SOCKET_TIMEOUT=10)
        until = time.monotonic() + 2 * SECONDS
        number = 0
        while time.monotonic() < until:
            number += 1
            Item.buffered.set(number=number, a=1)
            time.sleep(0.005)
        _end_at_once(server)
        tracer.wait(10)
        server.start()
        configure(REDIS=server.url)
        with server.client(decode_responses=True) as client:
            entries = every_id(client)
        lost = sum(str(n) not in entries for n in range(1, number + 1))
        print(f"\n{kind}, {appendfsync}, a slow disk: {lost} of {number} lost by SIGKILL")
        assert lost == 0 or appendfsync == "everysec"


def _end_at_once(server: RedisServer) -> None:
    """Not by kill(), which has the server write everything first."""
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()


def _killed(
    configure: Callable[..., None],
    kind: str,
    appendfsync: str,
    cut: Callable[[Path, Path], None] | None,
) -> tuple[int, int]:
    """How many writes were acknowledged, and how many of them are lost."""
    with RedisServer(kind, appendfsync=appendfsync) as server:
        configure(REDIS=server.url)
        trace = server.directory / "trace"
        if cut:
            command = ["strace", "-f", "-y", "-e", "trace=write,fdatasync,fsync", "-o", str(trace)]
            tracer = subprocess.Popen([*command, "-p", str(server.pid)], stderr=subprocess.DEVNULL)
            with server.client() as client:

                def is_traced() -> bool:
                    client.set("x", 1)
                    return trace.exists() and "write(" in trace.read_text()

                wait_for(is_traced)
        written: list[int] = []
        end = threading.Event()
        threads = [threading.Thread(target=_write, args=(n, written, end)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        time.sleep(SECONDS)
        _end_at_once(server)
        end.set()
        for thread in threads:
            thread.join()
        if cut:
            tracer.wait(10)
            cut(trace, server.directory)
        server.start()
        configure(REDIS=server.url)  # which forgets the outage
        with server.client(decode_responses=True) as client:
            entries = every_id(client)
        return len(written), sum(str(n) not in entries for n in written)


def _write(thread: int, written: list[int], end: threading.Event) -> None:
    number = thread * 1_000_000
    while not end.is_set():
        number += 1
        try:
            Item.buffered.set(number=number, a=1)
        except (BufferUnavailable, WriteUncertain, NotDurable):
            continue
        written.append(number)


def _unsynced(trace: Path, directory: Path) -> None:
    """Cuts off of the AOF what no fsync had on disk."""
    size = synced = 0
    began: dict[str, int] = {}  # by thread, how long the file was when its fsync began
    writing: set[str] = set()
    (file,) = directory.glob("**/*.incr.aof")
    before = file.stat().st_size
    for line in trace.read_text(errors="replace").splitlines():
        thread, call = line.split(maxsplit=1)
        result = re.search(r"= (\d+)$", call)
        if ".incr.aof" in call and call.startswith("write("):
            writing.add(thread)
        elif ".incr.aof" in call and call.startswith(("fdatasync(", "fsync(")):
            began[thread] = size
        if result and thread in writing and "write" in call:
            size += int(result[1])
            writing.discard(thread)
        elif result and thread in began and "sync" in call:
            synced = max(synced, began.pop(thread))
    with file.open("r+b") as aof:
        aof.truncate(before - size + synced)
