"""What a Redis says of itself, and what it lets its user do."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from typing import Any

import redis

from writebehind_app import conf
from writebehind_app.store import lua
from writebehind_app.store.client import Client, options_of
from writebehind_app.store.keys import shard_key

_PINGS = 9
_QUICK = 1.0  # seconds for the answer of a server that may be away


@contextmanager
def sibling(client: redis.Redis, seconds: float) -> Iterator[Client]:
    """Another client for the server and the database of this one, which waits so long for an
    answer, whatever the settings say."""
    options = {
        **options_of(client.connection_pool),
        "socket_connect_timeout": seconds,
        "socket_timeout": seconds,
    }
    found = Client(redis.ConnectionPool(**options), timeout=seconds)
    try:
        yield found
    finally:
        found.end()


def address(client: redis.Redis) -> str:
    """Which server and database that is, without the password."""
    options = client.connection_pool.connection_kwargs
    where = options.get("path") or f"{options.get('host')}:{options.get('port')}"
    return f"{where}, database {options.get('db') or 0}"


def is_same_database(one: redis.Redis, other: redis.Redis) -> bool:
    """Whether what one client writes the other reads, as far as the servers tell."""
    numbers = {int(c.connection_pool.connection_kwargs.get("db") or 0) for c in (one, other)}
    if len(numbers) > 1:
        return False
    if address(one) == address(other):
        return True
    try:
        with sibling(one, _QUICK) as a, sibling(other, _QUICK) as b:
            return bool(a.info("server")["run_id"] == b.info("server")["run_id"])
    except (redis.RedisError, KeyError):
        return False


def info(client: redis.Redis) -> dict[str, Any]:
    """INFO; empty where the user may not ask."""
    try:
        found: dict[str, Any] = client.info()
    except redis.ResponseError:
        return {}
    return found


def config(client: redis.Redis, name: str) -> str | None:
    """A value of the configuration; None where the user may not ask, as at many hosters."""
    try:
        return client.config_get(name).get(name)
    except redis.ResponseError:
        return None


def connect(client: redis.Redis) -> None:
    """Raises what the server says to each connection of the client, as where it has no database of
    that number."""
    pool = client.connection_pool
    pool.release(pool.get_connection())


def ping(client: redis.Redis) -> None:
    """Wait for an answer, which may be an error: one that cannot save its data says so to PING."""
    with suppress(redis.ResponseError):
        client.ping()


def latency(client: redis.Redis) -> float:
    """Seconds from a question to its answer: the median of a few."""
    times = []
    for _ in range(_PINGS):
        started = time.perf_counter()
        ping(client)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def now(client: redis.Redis) -> float:
    """The time by the clock of Redis, in seconds since 1970."""
    seconds, micros = client.time()
    return float(seconds) + float(micros) / 1e6


@cache
def commands() -> tuple[str, ...]:
    """The commands that the scripts call."""
    scripts = files(__package__).joinpath("scripts").iterdir()
    texts = [script.read_text() for script in scripts if script.name.endswith(".lua")]
    return tuple(sorted({name for text in texts for name in _CALL.findall(text)}))


_SENT = ("eval", "evalsha", "script|load")  # by the client itself


def rights() -> tuple[str, ...]:
    """What an ACL has to allow a user of this package; see docs/redis.md. The option `durability`
    takes WAIT or WAITAOF too, and the doctor likes INFO and CONFIG GET."""
    names = (*_SENT, *map(str.lower, commands()))
    return (f"~{{{conf.prefix()}:*", *(f"+{name}" for name in names))


_CALL = re.compile(r"redis\.p?call\(['\"]([A-Z]+)['\"]")


def failures(client: Client) -> dict[str, str]:
    """The error of each command of the scripts that fails on a key of the package. Most fail for
    their arguments; see scripts/probe.lua. Raises what is refused as a whole."""
    client.eval("return 1", 0)  # it is what a script is sent by that Redis does not know
    client.script_load(lua.source("probe"))
    reply = lua.run(client, "probe", shard_key(conf.prefix(), "doctor", 0), *commands())
    return dict(zip(reply[::2], reply[1::2], strict=True))
