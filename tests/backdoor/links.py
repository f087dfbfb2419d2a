"""The connections that a process keeps for its calls, and calls that go over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.outages import wait_for
from writebehind_app.store import breaker, connection, lua
from writebehind_app.store.client import Client
from writebehind_app.store.dialogue import arun_dialogue

KEY = "{wb:test:transport:0}"
HeldBack = breaker.HeldBack  # what a call gets that is not sent


def client() -> Client:
    """The one for the Redis of the settings."""
    return connection.client()


def count_up(client: Client) -> Any:
    """How often it was counted, or what kept that from being known."""
    replies, error = client.exchange([("HINCRBY", KEY, "n", 1)], write=True)
    return error or replies[0]


async def acount_up(client: Client) -> Any:
    replies, error = await client.aexchange(lambda: [("HINCRBY", KEY, "n", 1)], write=True)
    return error or replies[0]


def counted(client: Client) -> int:
    """How often it was counted in truth."""
    return int(lua.call(client, "HGET", KEY, "n", again=True) or 0)


def echo(client: Client, text: str) -> Any:
    """The text, or whatever else came."""
    replies, error = client.exchange([("ECHO", text)])
    return error or replies[0]


async def aecho(client: Client, text: str) -> Any:
    replies, error = await client.aexchange(lambda: [("ECHO", text)])
    return error or replies[0]


async def arun_script(client: Client) -> Any:
    """Run a script of the package from an event loop."""
    return await arun_dialogue(client, lua.running("count", KEY))


@contextmanager
def in_use(client: Client) -> Iterator[None]:
    """A connection of this thread is under way."""
    link = client.links.take()
    yield
    link.home.append(link)


def leave_an_answer_behind(client: Client) -> None:
    """Somebody asks something over the connection of this thread, and does not read the answer."""
    link = client.links.take()
    link.socket.sendall(b"*1\r\n$4\r\nPING\r\n")
    wait_for(link.is_dead)
    link.home.append(link)


def held(client: Client) -> AbstractContextManager[object]:
    """The lock of the connections is held: by another thread, for all that a fork knows."""
    return client.links._lock


def never_stop_asking(patch: pytest.MonkeyPatch) -> None:
    """However often calls fail."""
    patch.setattr(breaker, "_TOLERATED", 10**9)
