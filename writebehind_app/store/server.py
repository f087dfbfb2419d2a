"""Ask a Redis server about itself, and about the rights of its user."""

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
from redis.sentinel import SentinelConnectionPool

from writebehind_app import conf
from writebehind_app.store import lua
from writebehind_app.store.client import Client
from writebehind_app.store.cluster_client import ClusterClient
from writebehind_app.store.keys import shared_key
from writebehind_app.store.pools import another
from writebehind_app.store.slots import Slots

_PINGS = 9
_QUICK = 1.0  # seconds for the answer of a server that may be away


@contextmanager
def sibling(client: redis.Redis, seconds: float) -> Iterator[Client]:
    """Another client for the same server and database. It waits so many seconds for an answer,
    whatever the settings say."""
    pool = another(client.connection_pool, socket_connect_timeout=seconds, socket_timeout=seconds)
    found: Client
    if isinstance(client, ClusterClient):
        found = ClusterClient(pool, slots=Slots(pool, client.slots.seeds), timeout=seconds)
    else:
        found = Client(pool, timeout=seconds)
    try:
        yield found
    finally:
        found.end()


def address(client: redis.Redis) -> str:
    """The server and its database as a text, without the password."""
    if isinstance(client, ClusterClient):
        return "cluster of " + ", ".join(f"{host}:{port}" for host, port in client.slots.seeds)
    pool = client.connection_pool
    options = pool.connection_kwargs
    if isinstance(pool, SentinelConnectionPool):
        asked = ", ".join(map(sentinel_address, pool.sentinel_manager.sentinels))
        where = f"{pool.service_name} (Sentinel at {asked})"
    else:
        where = options.get("path") or f"{options.get('host')}:{options.get('port')}"
    return f"{where}, database {options.get('db') or 0}"


def sentinel_address(sentinel: redis.Redis) -> str:
    options = sentinel.connection_pool.connection_kwargs
    return f"{options.get('host')}:{options.get('port')}"


def is_same_database(one: redis.Redis, other: redis.Redis) -> bool:
    """Whether two clients use the same database, as far as the servers tell."""
    numbers = {int(c.connection_pool.connection_kwargs.get("db") or 0) for c in (one, other)}
    if len(numbers) > 1:
        return False
    if address(one) == address(other):
        return True
    try:
        with sibling(one, _QUICK) as a, sibling(other, _QUICK) as b:
            theirs = b.info("server")["run_id"]
            return any(node.info("server")["run_id"] == theirs for node in a.nodes())
    except (redis.RedisError, KeyError):
        return False


def info(client: redis.Redis) -> dict[str, Any]:
    """The answer to INFO; empty if the user may not ask."""
    try:
        found: dict[str, Any] = client.info()
    except redis.ResponseError:
        return {}
    return found


def config(client: redis.Redis, name: str) -> str | None:
    """A value of the configuration; None if the user may not ask, as with many providers."""
    try:
        return client.config_get(name).get(name)
    except redis.ResponseError:
        return None


def connect(client: Client) -> None:
    """Connect to each server. Raises the error if one refuses, for example because it has no
    database of that number."""
    for node in client.nodes():
        pool = node.connection_pool
        pool.release(pool.get_connection())


def ping(client: redis.Redis) -> None:
    """Wait for any answer, even an error: a server that cannot save its data answers PING so."""
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
    also needs WAIT or WAITAOF, and the doctor finds more with INFO and CONFIG GET."""
    names = (*_SENT, *map(str.lower, commands()))
    return (f"~{{{conf.prefix()}:*", *(f"+{name}" for name in names))


_CALL = re.compile(r"\bp?call\(['\"]([A-Z]+)['\"]")


def failures(client: Client) -> dict[str, str]:
    """Run each command of the scripts on a key of the package, and return the errors, by command.
    Most are about missing arguments; see scripts/probe.lua. Raises an error if no script may
    run."""
    for node in client.nodes():
        node.eval("return 1", 0)  # it is what a script is sent by that Redis does not know
        node.script_load(lua.source("probe"))
    places = client.places(shared_key(conf.prefix(), "doctor"))
    found: dict[str, str] = {}
    for reply in lua.run_many(client, "probe", [(place, *commands()) for place in places]):
        found |= zip(reply[::2], reply[1::2], strict=True)
    return found
