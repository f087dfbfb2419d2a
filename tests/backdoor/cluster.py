"""Where on a Redis Cluster the package keeps something, and which nodes it asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from writebehind_app import conf
from writebehind_app.buffers.base import Buffer
from writebehind_app.store import connection, lua
from writebehind_app.store.keys import shared_key
from writebehind_app.store.link import Link


def slot_of(buffer: Buffer, id: str) -> int:
    """The hash slot of the shard that an id belongs to."""
    return key_slot(buffer.shard_key_of(id).encode())


def slot_of_probe() -> int:
    """The hash slot of the key that a single Redis would be probed with."""
    return key_slot(shared_key(conf.prefix(), "probe").encode())


def key_of(buffer: Buffer, id: str) -> str:
    """The key of the state of the shard that an id belongs to."""
    return buffer.shard_key_of(id)


def asked(patch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """A list that gets, for each round trip, the port of the node and the first word sent."""
    found: list[tuple[int, str]] = []
    ask = Link.ask

    def noted(link: Link, commands: Any, *args: Any, **options: Any) -> Any:
        found.append((link.socket.getpeername()[1], str(commands[0][0])))
        return ask(link, commands, *args, **options)

    patch.setattr(Link, "ask", noted)
    return found


@contextmanager
def answers_lost(patch: pytest.MonkeyPatch, port: int) -> Iterator[None]:
    """The next call to this node is carried out, and its connection breaks before the answer."""
    ask = Link.ask
    lost: list[Any] = []

    def cut(link: Link, commands: Any, *args: Any, **options: Any) -> Any:
        answers = ask(link, commands, *args, **options)
        if lost or link.socket.getpeername()[1] != port:
            return answers
        lost.append(answers)
        return [], redis.ConnectionError("cut off")

    with patch.context() as within:
        within.setattr(Link, "ask", cut)
        yield
    assert lost


def read_plainly(*command: str | int) -> Any:
    """The answer to a command that is no script."""
    return lua.call(connection.client(), *command, again=True)


def write_plainly(*command: str | int) -> Any:
    [reply] = lua.run_commands(connection.client(), [command], write=True)
    return reply
