"""The Lua scripts, by the name of their file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoScriptError


@cache
def source(name: str) -> str:
    return files(__package__).joinpath("scripts", f"{name}.lua").read_text()


@cache
def digest(name: str) -> str:
    return sha1(source(name).encode(), usedforsecurity=False).hexdigest()


def run(client: redis.Redis, name: str, key: str, *args: str | int) -> Any:
    """Run a script on one shard; Redis is sent its text only where it does not know it yet."""
    try:
        return _call(client, "EVALSHA", digest(name), 1, key, *args)
    except NoScriptError:
        return _call(client, "EVAL", source(name), 1, key, *args)


def run_many(
    client: redis.Redis,
    name: str,
    calls: Sequence[tuple[str | int, ...]],
    *,
    with_errors: bool = False,
) -> list[Any]:
    """Run a script for each `(key, *args)`, all in one round trip.

    SCRIPT LOAD goes ahead of them, so that Redis knows the script unless another client flushes
    it in that moment. Calls that found it missing did not run and are sent again, after the
    others: they must not depend on each other's order. Errors of single calls are among the
    replies if `with_errors`; otherwise the first is raised, after all were sent.
    """
    pipeline = client.pipeline(transaction=False)
    replies: dict[int, Any] = {}
    left = list(range(len(calls)))
    while left:
        _execute(pipeline, "SCRIPT LOAD", source(name))
        for i in left:
            _execute(pipeline, "EVALSHA", digest(name), 1, *calls[i])
        results = pipeline.execute(raise_on_error=False)
        replies.update(zip(left, results[1:], strict=True))
        left = [i for i in left if isinstance(replies[i], NoScriptError)]
    for i in range(len(calls)):
        if isinstance(replies[i], Exception) and not with_errors:
            raise replies[i]
    return [replies[i] for i in range(len(calls))]


def run_in_order(
    client: redis.Redis, name: str, calls: Sequence[tuple[str | int, ...]], *, size: int
) -> list[Any]:
    """As `run_many()` with errors, but calls with the same first two arguments run in the order
    given."""
    replies: list[Any] = []
    part: dict[tuple[str | int, ...], tuple[str | int, ...]] = {}
    for call in calls:
        if call[:2] in part or len(part) == size:
            replies += run_many(client, name, list(part.values()), with_errors=True)
            part = {}
        part[call[:2]] = call
    if part:
        replies += run_many(client, name, list(part.values()), with_errors=True)
    return replies


def _execute(client: redis.Redis, *args: str | int) -> Any:
    return client.execute_command(*args)  # type: ignore[no-untyped-call]


def _call(client: redis.Redis, *args: str | int) -> Any:
    """One command without what the client adds to it: retries, of which there must be none, and
    metrics. On the way of every write it takes a tenth of the time."""
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_command(*args)  # type: ignore[no-untyped-call]
        return connection.read_response()
    except redis.ResponseError:
        raise
    except BaseException:
        # An answer may be on its way still.
        connection.disconnect()  # type: ignore[no-untyped-call]
        raise
    finally:
        pool.release(connection)
