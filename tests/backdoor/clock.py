"""The time by Redis' clock, as this process knows it."""

from __future__ import annotations

from tests.servers import RedisServer
from writebehind_app.buffers.base import Buffer
from writebehind_app.store import clock

now = clock.now
"""µs since 1970."""


def be_wrong_by(seconds: float) -> None:
    """Take Redis' clock to be that much ahead of what it is."""
    clock.saw(clock.now() + round(seconds * 1_000_000), clock.ticks())


def was_ahead(server: RedisServer, buffer: Buffer) -> None:
    """Redis' clock was a minute ahead when the buffer was last written to, and is no more."""
    with server.client() as client:
        for key in buffer.shard_keys():
            client.hincrby(key, "last", 60_000_000)
