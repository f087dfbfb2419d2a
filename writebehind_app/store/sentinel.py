"""The setting REDIS as a dict: the Sentinels, and the name that they know the master by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import redis
from redis.sentinel import Sentinel, SentinelConnectionPool

from writebehind_app import conf
from writebehind_app.store.failures import reason

_MANAGER: Any = Sentinel  # redis-py has no types for these two
_POOL: Any = SentinelConnectionPool

# The keys of the dict, and what is expected of each.
_ADDRESSES = "a list of (host, port), as [('10.0.0.1', 26379), ('10.0.0.2', 26379)]"
_KEYS = {
    "SENTINELS": _ADDRESSES,
    "MASTER_NAME": "the name of the master in sentinel.conf, as 'mymaster'",
    "SENTINEL_KWARGS": (
        "a dict of what redis-py connects to the Sentinels with, as {'password': '…'}"
    ),
    "MASTER_KWARGS": (
        "a dict of what redis-py connects to the master with, as {'db': 1, 'password': '…'}"
    ),
}


def problem(given: Mapping[str, Any], where: str) -> str | None:
    """What is wrong with the dict, or None. `where` names the setting, or the option, that it is
    the value of. The text shows no value that may hold a password."""
    if unknown := sorted(map(repr, given.keys() - _KEYS.keys())):
        return f"{where} has the key {unknown[0]}, which is none of {', '.join(_KEYS)}."
    for key in ("SENTINELS", "MASTER_NAME"):
        if key not in given:
            return f"{where} has no {key!r}. Expected is {_KEYS[key]}."
    if wrong := addresses_problem(given["SENTINELS"]):
        return f"{where}['SENTINELS'] is {wrong}."
    name = given["MASTER_NAME"]
    if not isinstance(name, str) or not name:
        return f"{where}['MASTER_NAME'] is {name!r}. Expected is {_KEYS['MASTER_NAME']}."
    for key in ("SENTINEL_KWARGS", "MASTER_KWARGS"):
        if wrong := _kwargs_problem(given.get(key, {}), _KEYS[key]):
            return f"{where}[{key!r}]{wrong}"
    pools: dict[str, Callable[[], redis.ConnectionPool]] = {
        "SENTINEL_KWARGS": lambda: _manager(given).sentinels[0].connection_pool,
        "MASTER_KWARGS": lambda: pool(given),
    }
    for key, make in pools.items():
        try:
            made = make()
            made.connection_class(**made.connection_kwargs)  # which does not connect yet
        except (TypeError, ValueError, redis.RedisError) as error:
            why = reason(error).rstrip(".")
            return f"{where}[{key!r}] is refused by redis-py: {why}. Expected is {_KEYS[key]}."
    return None


def _kwargs_problem(given: Any, expected: str) -> str:
    """The end of a text that says what is wrong with arguments of redis-py; "" if nothing is."""
    if not isinstance(given, Mapping):
        return f" is of the type {type(given).__name__}. Expected is {expected}."
    for name in ("host", "port"):
        if name in given:
            return f" has the key {name!r}, which Sentinel says. Expected is {expected}."
    for name in ("db", "socket_timeout", "socket_connect_timeout", "max_connections"):
        value = given.get(name)
        if value is not None and not isinstance(value, int | float):
            return f"[{name!r}] is {value!r}. Expected is a number."
    return ""


def addresses_problem(given: Any) -> str:
    """The end of a text that says what is wrong with the addresses; "" if nothing is."""
    is_list = isinstance(given, list | tuple) and len(given) > 0
    for each in given if is_list else ():
        if not isinstance(each, list | tuple) or len(each) != 2:
            return f"a list with {conf.redacted(each)} in it. Expected is {_ADDRESSES}"
        host, port = each
        if not isinstance(host, str) or not host:
            return f"a list with the host {host!r} in it. Expected is {_ADDRESSES}"
        if not isinstance(port, int) or not 0 < port < 65536:
            return f"a list with the port {port!r} in it. Expected is {_ADDRESSES}"
    return "" if is_list else f"{conf.redacted(given)}. Expected is {_ADDRESSES}"


def pool(given: Mapping[str, Any]) -> SentinelConnectionPool:
    """A pool of connections to the master."""
    options = given.get("MASTER_KWARGS", {})
    made: SentinelConnectionPool = _POOL(given["MASTER_NAME"], _manager(given), **options)
    return made


def _manager(given: Mapping[str, Any]) -> Sentinel:
    addresses = [(host, port) for host, port in given["SENTINELS"]]
    made: Sentinel = _MANAGER(addresses, sentinel_kwargs=dict(given.get("SENTINEL_KWARGS", {})))
    return made
