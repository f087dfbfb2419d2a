"""A connection to Redis that is kept, for one exchange at a time.

redis-py makes it: address, TLS, user, database, timeouts. From then on its socket is used with
hiredis directly: one pack, one send, one receive, one parse. A `Link` waits for the answer; a
`LoopLink` lets an event loop wait.

What a cut leaves, wherever it comes:

before the send      `is_dead()` sees it: nothing was sent, and another link is made
amid the send        a part of a command may have arrived, which Redis does not run, or all of it
before the answer    Redis may have run all, some, or none of what was sent
amid the answers     those that came are known; of the others, as before

A link on which anything went wrong is closed, and never used again: an answer that was not read
would be taken for that of the next call.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import hiredis
import redis
from redis.connection import DefaultParser

_PIECE = 65536  # bytes that are received at a time


Command = tuple[str | int, ...]

# What was answered, errors of Redis among it; and what kept the rest from coming.
Answers = tuple[list[Any], Exception | None]


def packed(commands: Sequence[Command]) -> bytes:
    """The commands as they are sent."""
    return b"".join(map(hiredis.pack_command, commands))  # type: ignore[arg-type]


class Link:
    """One whose calls wait for their answer."""

    __slots__ = (
        "__weakref__",
        "_connection",
        "_is_plain",
        "_receive",
        "_send",
        "feed",
        "gets",
        "home",
        "patience",
        "poll",
        "socket",
    )

    def __init__(self, connection: Any, patience: float) -> None:
        """Raises what redis-py does where it cannot connect. `patience` is how many seconds an
        exchange may take at each step."""
        self._connection = connection
        self.home: list[Link] = []  # where it is kept while nobody uses it
        self.patience = 0.0
        connection.connect()
        found: socket.socket = connection._sock
        self.socket = found
        # The kernel's own timeouts save a system call for each send and each receive. TLS, and the
        # sockets of gevent, know only those of the socket object.
        self._is_plain = type(found).__module__ == "socket"
        if self._is_plain:
            found.settimeout(None)
        self.be_patient(patience)
        reader = hiredis.Reader(
            protocolError=redis.ConnectionError,
            replyError=DefaultParser.parse_error,
            encoding="utf-8",
            # What is no text was not written by this package; it must not keep the rest from being
            # read.
            errors="backslashreplace",
        )
        self.feed, self.gets = reader.feed, reader.gets
        self._send, self._receive = found.sendall, found.recv
        poll = select.poll()
        poll.register(found, select.POLLIN)
        self.poll = poll.poll  # says of most links that nothing came

    def be_patient(self, seconds: float) -> None:
        """Wait so long for each step from here on."""
        self.patience = seconds
        if not self._is_plain:
            self.socket.settimeout(seconds)
            return
        micros = max(round(seconds * 1e6), 1)  # 0 would be for ever
        limit = struct.pack("@ll", *divmod(micros, 1_000_000))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def is_dead(self) -> bool:
        """Whether it was cut while nobody used it, or has an answer that nobody asked for."""
        return bool(self.poll(0)) and (self._is_plain or not self._is_quiet())

    def _is_quiet(self) -> bool:
        """Whether what came belongs to the TLS session, and is no end and no answer."""
        self.socket.settimeout(0)
        try:
            self.socket.recv(1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        finally:
            with suppress(OSError):
                self.socket.settimeout(self.patience)
        return False

    def ask(self, commands: Sequence[Command], patience: float, extra: float = 0) -> Answers:
        """The answers to commands that are sent together. The last may take so much `extra` longer
        than the others."""
        answers: list[Any] = []
        gets, missing = self.gets, len(commands)
        try:
            if self.patience != patience:
                self.be_patient(patience)
            self._send(b"".join(map(hiredis.pack_command, commands)))  # type: ignore[arg-type]
            while missing:
                if extra and missing == 1:
                    self.be_patient(patience + extra)
                while (answer := gets()) is False:
                    self.feed(self._receive(_PIECE) or ended())
                answers.append(answer)
                missing -= 1
        except OSError as error:
            return answers, lost(error)
        except redis.RedisError as error:
            return answers, error
        return answers, None

    def close(self) -> None:
        self._connection.disconnect()


def ended() -> bytes:
    raise ConnectionResetError("Connection closed by server.")


def lost(error: OSError) -> redis.RedisError:
    """What redis-py calls it."""
    if isinstance(error, TimeoutError | BlockingIOError):
        return redis.TimeoutError("Timeout reading from socket")
    return redis.ConnectionError(f"Error while reading from the socket: {error}")
