"""Calls on their way to Redis and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.backdoor.connection import raw
from writebehind_app.store import lua, shard
from writebehind_app.store.client import Client
from writebehind_app.store.link import Command, Link

_SCRIPTS = sorted(path.stem for path in Path(lua.__file__).parent.glob("scripts/*.lua"))


def round_trips(patch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets, for each round trip, how many commands go in it. Redis knows all
    scripts."""
    with raw() as client:
        for name in _SCRIPTS:
            with suppress(redis.ResponseError):  # some are parts of others
                client.script_load(lua.source(name))
    found: list[int] = []
    ask = Link.ask

    def counted(link: Link, commands: Sequence[Command], *args: Any) -> Any:
        found.append(len(commands))
        return ask(link, commands, *args)

    patch.setattr(Link, "ask", counted)
    return found


class NotSent(Exception):
    """Raised by who intercepts a call: the error is met before anything was sent."""


class Unanswered(Exception):
    """Raised by who intercepts a call: it may have been carried out, and the error is met instead
    of its reply."""


def intercept(patch: pytest.MonkeyPatch, around: Callable[[str, Callable[[], Any]], Any]) -> None:
    """Have `around(name, call)` make each call of this process. The name says what the call does:
    'write', 'append', 'claim', 'ack' and so on. `around` raises `NotSent(error)` or
    `Unanswered(error)` for what goes wrong."""
    exchange = Client.exchange

    def intercepted(client: Client, commands: Any, *args: Any, **options: Any) -> Any:
        call = partial(exchange, client, commands, *args, **options)
        try:
            return around(_script_of(commands), call)
        except NotSent as outage:
            raise outage.args[0] from None
        except Unanswered as outage:
            return [], outage.args[0]

    patch.setattr(Client, "exchange", intercepted)


def _script_of(commands: Sequence[Command]) -> str:
    """The script that is called first; '' for none."""
    for command in commands:
        if command[0] == "EVALSHA":
            return next(name for name in _SCRIPTS if lua.digest(name) == command[1])
    return ""


class Replies:
    """What becomes of the replies to writes, from now on: `replies.fate = "lost"`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.fate = "good"
        intercept(patch, self._around)

    def _around(self, name: str, call: Callable[[], Any]) -> Any:
        error = redis.ConnectionError("lost")
        if name not in ("write", "operate", "append", "again") or self.fate == "good":
            return call()
        if self.fate == "away":
            raise NotSent(error)
        if self.fate == "lost" and name != "again":  # the write is taken
            call()
        raise Unanswered(error)


def forget_scripts_amid(patch: pytest.MonkeyPatch, *, of: int) -> list[int]:
    """Have Redis forget the scripts in the middle of each round trip of so many commands; the list
    gets how many these were."""
    exchange, amid = Client.exchange, list[int]()

    def forget(client: Any, commands: Any, *args: Any, **options: Any) -> Any:
        if len(commands) != of:
            return exchange(client, commands, *args, **options)
        amid.append(len(commands))
        half = len(commands) // 2
        sent = [*commands[:half], ("SCRIPT", "FLUSH"), *commands[half:]]
        replies, error = exchange(client, sent, *args, **options)
        return replies[:half] + replies[half + 1 :], error

    patch.setattr(Client, "exchange", forget)
    return amid


def lose_hints(patch: pytest.MonkeyPatch, error: Exception) -> None:
    """Redis goes away after it took a write, and before it hears that the entry is due at once."""

    def fail(*args: Any, **options: Any) -> None:
        raise error

    patch.setattr(shard, "hasten", fail)


def memory_of_once() -> int:
    """Seconds for which Redis remembers the only call that has a name."""
    with raw() as client:
        (key,) = client.scan_iter("*:once:*")
        return client.ttl(key)
