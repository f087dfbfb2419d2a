"""The setting REDIS as a dict: nodes of a Redis Cluster, which tell of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis

from writebehind_app import conf
from writebehind_app.store.failures import reason
from writebehind_app.store.pools import options_of
from writebehind_app.store.slots import Address

# The keys of the dict, and what is expected of each.
_KEYS = {
    "CLUSTER": (
        "a list of URLs of nodes, as ['redis://10.0.0.1:6379', 'redis://10.0.0.2:6379'], which are "
        "alike but for host and port"
    ),
    "NODE_KWARGS": "a dict of what redis-py connects to each node with, as {'password': '…'}",
}
_SCHEMES = ("redis", "rediss")
_OWN = ("host", "port")  # of each node


def problem(given: Mapping[str, Any], where: str) -> str | None:
    """What is wrong with the dict, or None. `where` names the setting, or the option, that it is
    the value of. The text shows no value that may hold a password."""
    if unknown := sorted(map(repr, given.keys() - _KEYS.keys())):
        return f"{where} has the key {unknown[0]}, which is none of {', '.join(_KEYS)}."
    if wrong := _urls_problem(given["CLUSTER"]):
        return f"{where}['CLUSTER'] {wrong}. Expected is {_KEYS['CLUSTER']}."
    kwargs = given.get("NODE_KWARGS", {})
    expected = f"Expected is {_KEYS['NODE_KWARGS']}."
    if not isinstance(kwargs, Mapping):
        return f"{where}['NODE_KWARGS'] is of the type {type(kwargs).__name__}. {expected}"
    for name in _OWN:
        if name in kwargs:
            return f"{where}['NODE_KWARGS'] has the key {name!r}, which CLUSTER says. {expected}"
    if kwargs.get("db"):
        return f"{where}['NODE_KWARGS'] has the key 'db', and a cluster has no database but 0."
    try:
        made, _ = pool(given)
        made.connection_class(**made.connection_kwargs)  # which does not connect yet
    except (TypeError, ValueError, redis.RedisError) as error:
        why = reason(error).rstrip(".")
        return f"{where}['NODE_KWARGS'] is refused by redis-py: {why}. {expected}"
    return None


def _urls_problem(given: Any) -> str:
    """How a text goes on that says what is wrong with the URLs; "" if nothing is."""
    if not isinstance(given, list | tuple) or not given:
        return f"is {conf.redacted(given)}"
    found = []
    for url in given:
        shown = conf.redacted(url)
        if not isinstance(url, str) or url.partition("://")[0].lower() not in _SCHEMES:
            return f"is a list with {shown} in it"
        try:
            found.append(redis.ConnectionPool.from_url(url))
        except ValueError:  # it may quote a part of the password
            return f"has the URL {shown}, which redis-py does not understand"
        if found[-1].connection_kwargs.get("db"):
            return f"has the URL {shown}, and a cluster has no database but 0"
    shared = [{**options_of(each), **dict.fromkeys((*_OWN, "db", "retry"))} for each in found]
    if any(each != shared[0] for each in shared):
        return "has URLs that differ in more than host and port"
    return ""


def pool(given: Mapping[str, Any]) -> tuple[redis.ConnectionPool, list[Address]]:
    """A pool of connections to the first of the nodes, and the addresses of all."""
    pools = [redis.ConnectionPool.from_url(url) for url in given["CLUSTER"]]
    first = redis.ConnectionPool(
        **{**options_of(pools[0]), **given.get("NODE_KWARGS", {})},
    )
    kwargs = [each.connection_kwargs for each in pools]
    return first, [(k.get("host", "localhost"), int(k.get("port", 6379))) for k in kwargs]


def is_client(made: Any) -> bool:
    """Whether what a factory returned does what a RedisCluster does."""
    return all(
        callable(getattr(made, name, None)) for name in ("get_primaries", "get_redis_connection")
    )


def pool_of(made: Any) -> tuple[redis.ConnectionPool, list[Address]]:
    """The same as `pool()`, of a RedisCluster."""
    found: redis.ConnectionPool = made.get_redis_connection(made.get_primaries()[0]).connection_pool
    # It would put the connection at the disposal of the RedisCluster.
    options = {**options_of(found), "redis_connect_func": None}
    return redis.ConnectionPool(**options), [(n.host, int(n.port)) for n in made.get_nodes()]
