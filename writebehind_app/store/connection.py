"""Connections to Redis."""

from __future__ import annotations

import re
import threading
from typing import Any

import redis
from django.conf import settings as django_settings
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django_redis import get_redis_connection

from writebehind_app import conf
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.store import lua, server
from writebehind_app.store.breaker import Breaker
from writebehind_app.store.client import Client, options_of
from writebehind_app.store.failures import is_away, reason
from writebehind_app.store.keys import shard_key

SCHEMES = ("redis", "rediss", "unix")
_PORT = re.compile(r"(?:\[[^\]]*\]|[^:/?#]*):([^/?#']*)")  # after the host


def is_url(where: str) -> bool:
    return where.partition(":")[0].lower() in SCHEMES  # urlsplit() refuses some, and quotes them


def client(*, patient: bool = False) -> Client:
    """The client for the configured Redis.

    A `patient` one waits for an answer as long as a lease lasts, for flushers, whose batches may
    be large, and asks also while the breaker holds others back. The other gives up after
    SOCKET_TIMEOUT, because a request waits for it.
    """
    global _clients
    if not _clients:
        with _lock:
            if not _clients:
                _clients = _made(conf.settings())
    return _clients[patient]


def breaker() -> Breaker:
    """What this process knows of the configured Redis."""
    found = client().breaker
    assert found is not None
    return found


_clients: dict[bool, Client] = {}
_lock = threading.Lock()


def _made(settings: conf.Settings) -> dict[bool, Client]:
    """The clients, by whether they are patient."""
    pool_class, options = _pool(settings.REDIS)
    options.setdefault("socket_connect_timeout", settings.CONNECT_TIMEOUT)
    timeout = options.get("socket_timeout") or settings.SOCKET_TIMEOUT
    pool = pool_class(**{**options, "socket_timeout": timeout})
    patient_pool = pool_class(**{**options, "socket_timeout": settings.LEASE})
    probing = Client(pool, timeout=timeout)
    key = shard_key(conf.prefix(), "probe", 0)
    breaker = Breaker(server.address(probing), lambda: lua.run(probing, "knock", key))
    return {
        False: Client(pool, timeout=timeout, breaker=breaker),
        True: Client(patient_pool, timeout=settings.LEASE, breaker=breaker, is_held_back=False),
    }


def _pool(where: str) -> tuple[type[redis.ConnectionPool], dict[str, Any]]:
    """The class and the options of a pool for a URL or the alias of a django-redis cache."""
    if message := problem(where):
        raise ImproperlyConfigured(message)
    if is_url(where):
        pool = redis.ConnectionPool.from_url(where)
    else:
        pool = get_redis_connection(where, write=True).connection_pool
    return type(pool), options_of(pool)


def problem(where: str) -> str | None:
    """What is wrong with the setting REDIS, or None."""
    if is_url(where):
        try:
            redis.ConnectionPool.from_url(where)
        except ValueError as error:
            return f"WRITEBEHIND['REDIS'] is {conf.shown(where)}: {_wrong(where, error)}."
        return None
    caches = django_settings.CACHES
    if where not in caches:
        return (
            f"WRITEBEHIND['REDIS'] is {conf.shown(where)}: neither a URL ({', '.join(SCHEMES)}) "
            f"nor one of the caches in CACHES ({', '.join(sorted(caches))})."
        )
    try:
        get_redis_connection(where, write=True)
    except (NotImplementedError, InvalidCacheBackendError):
        return (
            f"WRITEBEHIND['REDIS'] is {where!r}, the cache of the backend "
            f"{caches[where].get('BACKEND')!r}."
        )
    except ValueError as error:
        location = caches[where].get("LOCATION", "")
        return (
            f"WRITEBEHIND['REDIS'] is {where!r}, a cache whose LOCATION is {conf.shown(location)}: "
            f"{_wrong(str(location), error)}."
        )
    return None


def _wrong(url: str, error: ValueError) -> str:
    """Why a URL was refused. The error itself may quote a part of a password that is taken for the
    port."""
    found = _PORT.match(url.rpartition("@")[2].rpartition("://")[2])
    port = found[1] if found else ""
    if port and not (re.fullmatch("[0-9]{1,5}", port) and int(port) < 65536):
        return "its port is no number up to 65535"
    if "@" in url:
        return "a user and a password in it are percent-encoded"
    return str(error).rstrip(".")


def is_told(error: BufferUnavailable) -> bool:
    """Whether the breaker tells of it, once for the whole outage."""
    cause = error.__cause__
    return isinstance(cause, redis.RedisError) and is_away(cause)


class Errors:
    """Turns what Redis and the socket raise into BufferUnavailable, in a `with`."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, redis.RedisError):
            raise BufferUnavailable(f"Redis: {reason(error)}") from error


errors = Errors()


def _reset(*, setting: str, **kwargs: Any) -> None:
    global _clients
    if setting in (conf.NAME, "CACHES"):
        for client in _clients.values():
            client.end()
        _clients = {}


setting_changed.connect(_reset, dispatch_uid="writebehind.connection")
