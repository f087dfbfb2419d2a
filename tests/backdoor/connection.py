"""The connections to Redis that the package itself has, or would make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from writebehind_app.store import connection, server

RIGHTS = server.rights
"""What an ACL has to allow the user of the package, as it is documented."""


@contextmanager
def raw() -> Iterator[redis.Redis]:
    """A client of the test for the Redis of the settings, that reads bytes."""
    known = connection.client().connection_pool
    options = {**known.connection_kwargs, "decode_responses": False}
    with redis.Redis(
        connection_pool=redis.ConnectionPool(connection_class=known.connection_class, **options)
    ) as client:
        yield client
        client.connection_pool.disconnect()


@contextmanager
def sibling(seconds: float) -> Iterator[redis.Redis]:
    """A client as the doctor has it: for the Redis of the settings, with a patience of its own."""
    with server.sibling(connection.client(), seconds) as client:
        yield client


def ping() -> bool:
    """Ask Redis over a connection of the package; a `redis.RedisError` where it is away."""
    return bool(connection.client().ping())


def hang_up() -> None:
    """Close the connections of this process; the next call makes new ones."""
    connection.client().connection_pool.disconnect()
    connection.client().links.close()


def shown() -> list[str]:
    """All that a log or a page for debugging may show of the connections."""
    return [
        repr(connection.client()),
        repr(connection.client(patient=True)),
        repr(connection.breaker()),
    ]
