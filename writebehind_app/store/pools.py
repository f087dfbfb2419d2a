"""Pools of redis-py. A pool says how to reach a server, and with which options."""

from __future__ import annotations

from copy import copy
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from writebehind_app import conf

# Options that a pool of redis-py 8 adds: they are for RESP 3, or belong to that pool alone.
_OF_A_POOL = ("maint_", "orig_", "himport_", "oss_", "event_", "connection_pool")


def options_of(pool: redis.ConnectionPool) -> dict[str, Any]:
    """The options to make another pool for the same database of the same server."""
    given = pool.connection_kwargs.items()
    options = {
        **{name: value for name, value in given if not name.startswith(_OF_A_POOL)},
        "connection_class": pool.connection_class,
        "max_connections": pool.max_connections,
        # After a lost answer, a retry of redis-py could run a command twice. Only the caller knows
        # whether that does harm.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # the answers look the same in every release of redis-py
        "decode_responses": True,
        # Another program may have written bytes that are no text. The rest can still be read.
        "encoding_errors": "backslashreplace",
    }
    if isinstance(pool, SentinelConnectionPool):
        options["service_name"] = pool.service_name
        options["sentinel_manager"] = _asking_once(pool.sentinel_manager)
    return options


def another(pool: redis.ConnectionPool, **changes: Any) -> redis.ConnectionPool:
    """A pool for the same database of the same server, with other options."""
    by_sentinel = isinstance(pool, SentinelConnectionPool)
    kind = SentinelConnectionPool if by_sentinel else redis.ConnectionPool
    return kind(**{**options_of(pool), **changes})


def node(
    pool: SentinelConnectionPool, host: str, port: int, **changes: Any
) -> redis.ConnectionPool:
    """A pool for one of the servers among which Sentinel chooses the master."""
    options = {**options_of(pool), **changes, "host": host, "port": port}
    for name in ("service_name", "sentinel_manager"):
        del options[name]
    is_ssl = issubclass(pool.connection_class, redis.SSLConnection)
    options["connection_class"] = redis.SSLConnection if is_ssl else redis.Connection
    return redis.ConnectionPool(**options)


def _asking_once(manager: Sentinel) -> Sentinel:
    """The same Sentinels. Each is asked once, and for no longer than CONNECT_TIMEOUT. redis-py
    would ask one that is away several times, with pauses of seconds in between."""
    given, patience = manager.sentinel_kwargs, conf.settings().CONNECT_TIMEOUT
    changes = {
        name: given.get(name) or patience for name in ("socket_connect_timeout", "socket_timeout")
    }
    found = copy(manager)
    found.sentinels = [
        redis.Redis(connection_pool=another(each.connection_pool, **changes))
        for each in manager.sentinels
    ]
    return found
