"""The Lua scripts, by the name of their file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoScriptError

from writebehind_app.store.client import Client
from writebehind_app.store.dialogue import Ask, Dialogue, hold
from writebehind_app.store.link import Command

_DELIVERED = ("write", "append")  # these begin with delivery.lua
_READ_ONLY = ("count", "locate", "page", "pending", "read", "window")  # they may run twice


@cache
def source(name: str) -> str:
    text = files(__package__).joinpath("scripts", f"{name}.lua").read_text()
    return source("delivery") + text if name in _DELIVERED else text


@cache
def digest(name: str) -> str:
    return sha1(source(name).encode(), usedforsecurity=False).hexdigest()


def run(client: Client, name: str, key: str, *args: str | int) -> Any:
    """Run a script on one shard."""
    return hold(client, running(name, key, *args))


def run_many(client: Client, name: str, calls: Sequence[Command]) -> list[Any]:
    """Run a script for each `(key, *args)`, all in one round trip."""
    return hold(client, running_many(name, calls))


def running(name: str, key: str, *args: str | int) -> Dialogue[Any]:
    [reply] = yield from running_many(name, [(key, *args)])
    return reply


def running_many(name: str, calls: Sequence[Command]) -> Dialogue[list[Any]]:
    """Redis is sent the text of the script only where it does not know it yet.

    Calls that found it missing did not run and are sent again, after the others and a SCRIPT LOAD:
    they must not depend on each other's order. The first error is raised, after all were sent.
    """
    again, sha = name in _READ_ONLY, digest(name)
    load: list[Command] = []
    replies: dict[int, Any] = {}
    left: Sequence[int] = range(len(calls))
    while left:
        commands: list[Command] = [*load, *(("EVALSHA", sha, 1, *calls[i]) for i in left)]
        results, error = yield Ask(lambda commands=commands: commands, again=again)  # type: ignore[misc]
        if error:
            raise error
        if load and isinstance(results[0], redis.ResponseError):
            raise results[0]  # it never comes to know the script
        replies.update(zip(left, results[len(load) :], strict=True))
        left = [i for i in left if isinstance(replies[i], NoScriptError)]
        load = [("SCRIPT", "LOAD", source(name))]
    for i, call in enumerate(calls):
        if isinstance(replies[i], Exception):
            yield from mending(str(call[0]), replies[i])
            raise replies[i]
    return [replies[i] for i in range(len(calls))]


def run_commands(client: Client, commands: Sequence[Command], *, write: bool = False) -> list[Any]:
    """The replies to commands, or the first error; `write` as in `exchange()`."""
    replies, error = client.exchange(commands, write=write, again=not write)
    for problem in (error, *replies):
        if isinstance(problem, Exception):
            raise problem
    return replies


def mending(key: str, error: Exception) -> Dialogue[None]:
    """After a script failed at what it found: somebody else has written to the shard, and the
    next call shall not fail for the same reason."""
    if type(error) is redis.ResponseError and "user_script" in str(error):
        with suppress(redis.RedisError):
            yield Ask(lambda: [("EVAL", source("mend"), 1, key)])


def now(client: Client) -> int:
    """The time by the clock of Redis, in µs since 1970."""
    return hold(client, asking_time())


def asking_time() -> Dialogue[int]:
    seconds, micros = yield from calling("TIME", again=True)
    return int(seconds) * 1_000_000 + int(micros)


def call(client: Client, *args: str | int, again: bool = False) -> Any:
    """The reply to one command, which is raised if it is an error; `again` as in `exchange()`."""
    return hold(client, calling(*args, again=again))


def calling(*args: str | int, again: bool = False) -> Dialogue[Any]:
    replies, error = yield Ask(lambda: [args], again=again)
    for problem in (error, *replies):
        if isinstance(problem, Exception):
            raise problem
    return replies[0]
