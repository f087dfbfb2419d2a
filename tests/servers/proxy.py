"""A way to a Redis on which things go wrong when a test says so."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.servers.process import LOCALHOST
from tests.servers.redis import RedisServer

Fault = Literal["lose the reply", "cut", "keep", "hold", "none"]
# A sender and a number after it, which calls that write have, and who asks after one; see the head
# of scripts/call.lua and of scripts/again.lua.
_WRITE = re.compile(rb"\$12\r\n[\w-]{12}\r\n\$\d+\r\n\d+\r\n")


class Proxy:
    """Passes everything on between a port of its own and a server, until it is told otherwise.

    A fault happens to the next piece with a write that a client sends, or with the question what
    became of one, or with what `afflicted` finds in it:

    lose the reply  the server gets it, and when it answers, both connections are cut
    cut             both are cut instead of sending it on
    keep            the client's connection is cut; `deliver()` sends on what was kept
    hold            likewise, and the client's connection stays
    none            this piece is passed on
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = (LOCALHOST, server.port)
        self.faults: list[Fault] = []  # to happen, one after the other
        self.afflicted = _WRITE
        self.met = 0  # how many did
        self.passed = 0  # bytes of a lost reply that the client gets still
        self.connections = 0  # how many were made
        self._kept: list[tuple[_Way, bytes]] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._ways: list[_Way] = []
        self._listener = socket.create_server((LOCALHOST, 0))
        self._port = self._listener.getsockname()[1]
        self.url = f"redis://{LOCALHOST}:{self._port}/0"
        self._listen()

    def freeze(self) -> None:
        """Leaves connections open, and what comes on them undelivered, until `thaw()`."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def refuse(self) -> None:
        """Cuts all connections and takes no new ones, until `accept()`."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for way in self._ways:
            _cut(way.client)
            _cut(way.upstream)

    def accept(self) -> None:
        self._listener = socket.create_server((LOCALHOST, self._port))
        self._listen()

    def strand(self) -> None:
        """Loses all that comes on the connections that there are now, as a NAT does that has
        forgotten them. New ones work."""
        for way in self._ways:
            way.is_stranded = True

    def deliver(self) -> int:
        """Sends on what was kept, and returns when the server has answered; how many pieces."""
        kept, self._kept = self._kept, []
        for way, piece in kept:
            way.upstream.sendall(piece)
            assert way.answered.wait(10)
        return len(kept)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.refuse()
        self.thaw()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = listener.accept()
                way = _Way(client, socket.create_connection(self._server))
                self.connections += 1
                self._ways.append(way)
                for run in (self._commands, self._replies):
                    threading.Thread(target=run, args=[way], daemon=True).start()

    def _commands(self, way: _Way) -> None:
        with suppress(OSError):
            while piece := way.client.recv(65536):
                self._flowing.wait()
                if way.is_stranded:
                    continue
                if self.faults and self.afflicted.search(piece):
                    self.met += 1
                    fault = self.faults.pop(0)
                    way.fault = None if fault == "none" else fault
                if way.fault == "cut":
                    break
                if way.fault in ("keep", "hold"):
                    self._kept.append((way, piece))
                    if way.fault == "keep":
                        _cut(way.client)
                    return
                way.upstream.sendall(piece)
        _cut(way.client)
        _cut(way.upstream)

    def _replies(self, way: _Way) -> None:
        with suppress(OSError):
            while piece := way.upstream.recv(65536):
                self._flowing.wait()
                way.answered.set()
                if way.fault:
                    way.client.sendall(piece[: self.passed])
                    break
                way.client.sendall(piece)
        _cut(way.client)
        _cut(way.upstream)


@dataclass
class _Way:
    """From one client to the server."""

    client: socket.socket
    upstream: socket.socket
    fault: Fault | None = None  # what happens to the piece that is on the way
    is_stranded: bool = False
    answered: threading.Event = field(default_factory=threading.Event)


def _cut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
