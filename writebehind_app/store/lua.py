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

from writebehind_app.store.client import Client, Command

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
    """Run a script on one shard; Redis is sent its text only where it does not know it yet."""
    again = name in _READ_ONLY
    try:
        try:
            return call(client, "EVALSHA", digest(name), 1, key, *args, again=again)
        except NoScriptError:
            return call(client, "EVAL", source(name), 1, key, *args, again=again)
    except redis.ResponseError as error:
        mend(client, key, error)
        raise


def run_many(client: Client, name: str, calls: Sequence[Command]) -> list[Any]:
    """Run a script for each `(key, *args)`, all in one round trip.

    Calls that found it missing did not run and are sent again, after the others and a SCRIPT LOAD:
    they must not depend on each other's order. The first error is raised, after all were sent.
    """
    load: list[Command] = []
    replies: dict[int, Any] = {}
    left = list(range(len(calls)))
    while left:
        commands = [*load, *(("EVALSHA", digest(name), 1, *calls[i]) for i in left)]
        results, error = client.exchange(commands, again=name in _READ_ONLY)
        if error:
            raise error
        if load and isinstance(
            results[0], redis.ResponseError
        ):  # it never comes to know the script
            raise results[0]
        replies.update(zip(left, results[len(load) :], strict=True))
        left = [i for i in left if isinstance(replies[i], NoScriptError)]
        load = [("SCRIPT", "LOAD", source(name))]
    for i, call in enumerate(calls):
        if isinstance(replies[i], Exception):
            mend(client, str(call[0]), replies[i])
            raise replies[i]
    return [replies[i] for i in range(len(calls))]


def run_commands(client: Client, commands: Sequence[Command], *, write: bool = False) -> list[Any]:
    """The replies to commands, or the first error; `write` as in `exchange()`."""
    replies, error = client.exchange(commands, write=write, again=not write)
    for problem in (error, *replies):
        if isinstance(problem, Exception):
            raise problem
    return replies


def mend(client: Client, key: str, error: Exception) -> None:
    """After a script failed at what it found: somebody else has written to the shard, and the
    next call shall not fail for the same reason."""
    if type(error) is redis.ResponseError and "user_script" in str(error):
        with suppress(redis.RedisError):
            call(client, "EVAL", source("mend"), 1, key)


def now(client: Client) -> int:
    """The time by the clock of Redis, in µs since 1970."""
    seconds, micros = call(client, "TIME", again=True)
    return int(seconds) * 1_000_000 + int(micros)


def call(client: Client, *args: str | int, again: bool = False) -> Any:
    """The reply to one command, which is raised if it is an error; `again` as in `exchange()`."""
    replies, error = client.exchange([args], again=again)
    if error:
        raise error
    if isinstance(replies[0], Exception):
        raise replies[0]
    return replies[0]
