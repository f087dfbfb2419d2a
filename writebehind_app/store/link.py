"""A connection to Redis that is kept, for one exchange at a time.

redis-py makes it: address, TLS, user, database, timeouts. From then on its socket is used with
hiredis directly: one pack, one send, one receive, one parse. A `Link` waits for the answer; a
`LoopLink` lets an event loop wait.

A connection that is cut leaves this:

before the send      `is_dead()` notices it: nothing was sent, and another link is made
during the send      Redis may have got a part of the commands, or all; it runs those that are whole
before the answer    Redis may have run all, some, or none of the commands
during the answers   the answers that came are known; the other commands may have run or not

A link is closed after any error, and never used again: an answer that was not read would be taken
for that of the next call.
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

PIECE = 65536  # bytes that are received at a time


Command = tuple[str | int, ...]

# The answers, which may be errors of Redis; and the error if not all of them came.
Answers = tuple[list[Any], Exception | None]


def replies_in(answers: Answers) -> list[Any]:
    """The replies in answers. Raises the first error, of Redis or of the exchange."""
    replies, error = answers
    for problem in (error, *replies):
        if isinstance(problem, Exception):
            raise problem
    return replies


def packed(commands: Sequence[Command]) -> bytes:
    """The bytes that send these commands."""
    return b"".join(map(hiredis.pack_command, commands))  # type: ignore[arg-type]


class Link:
    """A link whose calls wait for their answer."""

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
        """Raises the error of redis-py if it cannot connect. `patience` is how many seconds each
        step of an exchange may take."""
        self._connection = connection
        self.home: list[Link] = []  # the list that keeps the link while nobody uses it
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
            # Another program may have written bytes that are no text. The rest can still be read.
            errors="backslashreplace",
        )
        self.feed, self.gets = reader.feed, reader.gets
        self._send, self._receive = found.sendall, found.recv
        poll = select.poll()
        poll.register(found, select.POLLIN)
        self.poll = poll.poll  # a quick look: of most links, nothing came

    def be_patient(self, seconds: float) -> None:
        """From now on, wait so long for each step."""
        self.patience = seconds
        if not self._is_plain:
            self.socket.settimeout(seconds)
            return
        micros = max(round(seconds * 1e6), 1)  # 0 would be for ever
        limit = struct.pack("@ll", *divmod(micros, 1_000_000))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def is_dead(self) -> bool:
        """Whether the link was cut while nobody used it, or got an answer that nobody asked for."""
        return bool(self.poll(0)) and (self._is_plain or not self._is_quiet())

    def _is_quiet(self) -> bool:
        """Whether what came belongs to the TLS session, and is neither an end nor an answer."""
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

    def send(self, commands: Sequence[Command], patience: float) -> None:
        """Send commands. `ask()` gets their answers later. If the send fails, `ask()` says why."""
        with suppress(OSError):
            if self.patience != patience:
                self.be_patient(patience)
            self._send(packed(commands))

    def ask(
        self,
        commands: Sequence[Command],
        patience: float,
        extra: float = 0,
        is_sent: bool = False,
    ) -> Answers:
        """Send commands together and return their answers. The last answer may take `extra` seconds
        longer than the others. `is_sent` says that the commands were sent already."""
        answers: list[Any] = []
        gets, missing = self.gets, len(commands)
        try:
            if self.patience != patience:
                self.be_patient(patience)
            if not is_sent:
                self._send(b"".join(map(hiredis.pack_command, commands)))  # type: ignore[arg-type]
            while missing:
                if extra and missing == 1:
                    self.be_patient(patience + extra)
                while (answer := gets()) is False:
                    self.feed(self._receive(PIECE) or ended())
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
    """The error that redis-py raises for this one."""
    if isinstance(error, TimeoutError | BlockingIOError):
        return redis.TimeoutError("Timeout reading from socket")
    return redis.ConnectionError(f"Error while reading from the socket: {error}")
