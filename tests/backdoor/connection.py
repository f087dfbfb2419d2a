"""The connections to Redis that the package itself has, or would make."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from writebehind_app.buffers.base import Buffer
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


def problem_of(buffer: Buffer) -> str | None:
    """What is wrong with the address of the buffer's own Redis, or None."""
    return connection.problem(buffer.option("REDIS"))


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


@contextmanager
def in_the_making() -> Iterator[None]:
    """Another thread makes the clients of the process meanwhile, which has none yet."""
    began, end = threading.Event(), threading.Event()

    def make() -> None:
        with connection._lock:
            began.set()
            end.wait(10)

    thread = threading.Thread(target=make)
    thread.start()
    began.wait(10)
    try:
        yield
    finally:
        end.set()
        thread.join()


def clients() -> list[redis.Redis]:
    """Those that this process has, one for each Redis."""
    return [*connection.client().servers()]


def is_asked_at(buffer: Buffer) -> bool:
    """Whether this process sends calls to the Redis of a buffer."""
    return not connection.breaker(buffer.redis_key()).is_open
