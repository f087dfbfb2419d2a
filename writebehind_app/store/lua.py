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

from writebehind_app.store.breaker import Watched
from writebehind_app.store.failures import is_answer

Command = Sequence[str | int]
Exchanged = tuple[list[Any], Exception | None]

_DELIVERED = ("write", "append")  # these begin with delivery.lua
_READ_ONLY = ("count", "locate", "page", "pending", "read", "window")  # they may run twice


@cache
def source(name: str) -> str:
    text = files(__package__).joinpath("scripts", f"{name}.lua").read_text()
    return source("delivery") + text if name in _DELIVERED else text


@cache
def digest(name: str) -> str:
    return sha1(source(name).encode(), usedforsecurity=False).hexdigest()


def run(client: redis.Redis, name: str, key: str, *args: str | int) -> Any:
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


def run_many(client: redis.Redis, name: str, calls: Sequence[Command]) -> list[Any]:
    """Run a script for each `(key, *args)`, all in one round trip.

    Calls that found it missing did not run and are sent again, after the others and a SCRIPT LOAD:
    they must not depend on each other's order. The first error is raised, after all were sent.
    """
    load: list[Command] = []
    replies: dict[int, Any] = {}
    left = list(range(len(calls)))
    while left:
        commands = [*load, *(("EVALSHA", digest(name), 1, *calls[i]) for i in left)]
        results, error = exchange(client, commands, again=name in _READ_ONLY)
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


def run_commands(
    client: redis.Redis, commands: Sequence[Command], *, write: bool = False
) -> list[Any]:
    """The replies to commands, or the first error; `write` as in `exchange()`."""
    replies, error = exchange(client, commands, write=write, again=not write)
    for problem in (error, *replies):
        if isinstance(problem, Exception):
            raise problem
    return replies


def mend(client: redis.Redis, key: str, error: Exception) -> None:
    """After a script failed at what it found: somebody else has written to the shard, and the
    next call shall not fail for the same reason."""
    if type(error) is redis.ResponseError and "user_script" in str(error):
        with suppress(redis.RedisError):
            call(client, "EVAL", source("mend"), 1, key)


def now(client: redis.Redis) -> int:
    """The time by the clock of Redis, in µs since 1970."""
    seconds, micros = call(client, "TIME", again=True)
    return int(seconds) * 1_000_000 + int(micros)


def exchange(
    client: redis.Redis,
    commands: Sequence[Command],
    *,
    write: bool = False,
    again: bool = False,
    timeout: float | None = None,
    patience: float = 0,
) -> Exchanged:
    """The replies to commands that are sent together, errors among them; and what kept the rest
    from coming. Raises what kept all from being sent. `write` if Redis has to take writes for it;
    `again` if they change nothing, and are sent once more where their connection broke: that of a
    Redis that is there is no outage. After no answer in time the second wait would be as long.

    It is one round trip without what the client adds to it: retries, of which there must be none,
    and metrics. On the way of every write that takes a tenth of the time. Other than by the
    client's `timeout` an answer may take that long, and the last of them, so much longer.
    """
    if not isinstance(client, Watched):
        return _exchanged(client, commands, again, timeout, patience)
    client.breaker.check(write=write)
    try:
        replies, error = _exchanged(client, commands, again, timeout, patience)
    except redis.RedisError as unsent:
        client.breaker.note([], unsent, write=write)
        raise
    client.breaker.note(replies, error, write=write)
    return replies, error


def _exchanged(
    client: redis.Redis,
    commands: Sequence[Command],
    again: bool,
    timeout: float | None,
    patience: float,
) -> Exchanged:
    replies, error = _exchange(client, commands, timeout, patience)
    if again and isinstance(error, redis.ConnectionError):
        return _exchange(client, commands, timeout, patience)
    return replies, error


def _exchange(
    client: redis.Redis, commands: Sequence[Command], timeout: float | None, patience: float
) -> Exchanged:
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    replies: list[Any] = []
    try:
        usual = connection.socket_timeout
        if timeout is not None:
            connection._sock.settimeout(timeout)
        connection.send_packed_command(connection.pack_commands(commands))
        for left in range(len(commands), 0, -1):
            if patience and left == 1:
                connection._sock.settimeout((timeout or usual or 0) + patience)
            try:
                replies.append(connection.read_response(disconnect_on_error=False))
            except redis.RedisError as error:
                if not is_answer(error):
                    raise
                replies.append(error)
        if timeout is not None or patience:
            connection._sock.settimeout(usual)
    except redis.RedisError as error:
        connection.disconnect()
        return replies, error
    except BaseException:
        connection.disconnect()  # an answer may be on its way still
        raise
    finally:
        pool.release(connection)
    return replies, None


def call(client: redis.Redis, *args: str | int, again: bool = False) -> Any:
    """The reply to one command, which is raised if it is an error; `again` as in `exchange()`."""
    replies, error = exchange(client, [args], again=again)
    if error:
        raise error
    if isinstance(replies[0], Exception):
        raise replies[0]
    return replies[0]
