"""Connections to Redis."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import redis
from django.conf import settings as django_settings
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import models
from django.utils.module_loading import import_string
from django_redis import get_redis_connection
from redis.sentinel import SentinelConnectionPool

from writebehind_app import conf, registry
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.store import cluster, lua, sentinel, server
from writebehind_app.store.breaker import Breaker
from writebehind_app.store.client import Client
from writebehind_app.store.cluster_client import ClusterClient
from writebehind_app.store.failures import is_away, reason
from writebehind_app.store.keys import shared_key
from writebehind_app.store.master import Master
from writebehind_app.store.pools import another
from writebehind_app.store.servers import Servers
from writebehind_app.store.slots import Address, Slots

SCHEMES = ("redis", "rediss", "unix")
SETTING = "WRITEBEHIND['REDIS']"
EXPECTED = (
    "'redis://host:port/number', with a port from 1 to 65535 and, before the host, user and "
    "password percent-encoded, if any; or to the alias of a cache at such a URL whose backend is "
    "'django_redis.cache.RedisCache'; or, with Sentinel, to {'SENTINELS': [(host, port), …], "
    "'MASTER_NAME': name}; or, with a cluster, to {'CLUSTER': ['redis://host:port', …]}; or to "
    "the dotted path of a function that returns a redis.Redis or a redis.RedisCluster"
)
_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")  # of a function
_PORT = re.compile(r"(?:\[[^\]]*\]|[^:/?#]*):([^/?#']*)")  # after the host


def is_url(where: str) -> bool:
    return where.partition(":")[0].lower() in SCHEMES  # urlsplit() refuses some, and quotes them


def client(*, patient: bool = False) -> Client:
    """The client for the configured Redis. Where buffers name a Redis of their own, it sends each
    command to the one that has its key.

    The `patient` client is for flushers. It waits for an answer as long as a lease lasts, as a
    batch may be large, and it asks even while the breaker is open. The other client gives up after
    SOCKET_TIMEOUT, because a request waits for it.
    """
    global _clients
    if not _clients:
        with _lock:
            if not _clients:
                _clients = _all_made(conf.settings())
    return _clients[patient]


def breaker(key: str = "") -> Breaker:
    """The breaker of the Redis that has a key; without one, of the Redis in the settings."""
    found = client().server_of(key).breaker
    assert found is not None
    return found


def breakers() -> list[Breaker]:
    """The breakers of all Redis servers."""
    return [found.breaker for found in client().servers() if found.breaker is not None]


_clients: dict[bool, Client] = {}
_lock = threading.Lock()


def _begin_anew() -> None:
    global _lock
    _lock = threading.Lock()  # a thread of the parent may be making them


os.register_at_fork(after_in_child=_begin_anew)


def _all_made(settings: conf.Settings) -> dict[bool, Client]:
    """The clients, by whether they are patient. Buffers that name the same Redis share them."""
    first = _made(settings.REDIS, SETTING, settings)
    made = [(settings.REDIS, first)]
    by_label = {}
    for label, buffer in registry.buffers().items():
        where = buffer.option("REDIS")
        its = next((known for address, known in made if address == where), None)
        if its is None:
            its = _made(where, f"`redis` of {buffer}", settings)
            made.append((where, its))
        if its is not first:
            by_label[label] = its
    if not by_label:
        return first
    return {
        patient: Servers(first[patient], {label: by_label[label][patient] for label in by_label})
        for patient in first
    }


def _made(where: conf.Address, name: str, settings: conf.Settings) -> dict[bool, Client]:
    """The clients for one Redis, which `name` names."""
    given, seeds = _pool(where, name)
    options = given.connection_kwargs
    timeout = options.get("socket_timeout") or settings.SOCKET_TIMEOUT
    connecting = options.get("socket_connect_timeout", settings.CONNECT_TIMEOUT)
    pool, patient_pool = (
        another(given, socket_connect_timeout=connecting, socket_timeout=seconds)
        for seconds in (timeout, settings.LEASE)
    )
    make: Callable[..., Client]
    if seeds:
        make = partial(ClusterClient, slots=Slots(pool, seeds))
    else:
        make = partial(
            Client, master=Master() if isinstance(pool, SentinelConnectionPool) else None
        )
    probing = make(pool, timeout=timeout)
    made: dict[bool, Client] = {}
    breaker = Breaker(server.address(probing), lambda: _probe(probing, made.values()))
    made[False] = make(pool, timeout=timeout, breaker=breaker)
    made[True] = make(patient_pool, timeout=settings.LEASE, breaker=breaker, is_held_back=False)
    return made


def _probe(probing: Client, clients: Iterable[Client]) -> None:
    """Write something tiny, on each node of a cluster. If that works, let the clients make new
    connections: those that nobody used in the outage may be dead."""
    places = probing.places(shared_key(conf.prefix(), "probe"))
    lua.run_many(probing, "knock", [(place,) for place in places])
    for client in clients:
        client.hang_up()


def _pool(where: conf.Address, name: str) -> tuple[redis.ConnectionPool, list[Address]]:
    """A pool for an address; and nodes, if it is a cluster."""
    if message := problem(where, name):
        raise ImproperlyConfigured(message)
    seeds: list[Address] = []
    if isinstance(where, Mapping):
        if "CLUSTER" in where:
            pool, seeds = cluster.pool(where)
        else:
            pool = sentinel.pool(where)
    elif is_url(where):
        pool = redis.ConnectionPool.from_url(where)
    elif _is_factory(where):
        made = import_string(where)()
        if cluster.is_client(made):
            pool, seeds = cluster.pool_of(made)
        else:
            pool = made.connection_pool
    else:
        pool = get_redis_connection(where, write=True).connection_pool
    return pool, seeds


def problem(where: conf.Address, name: str = SETTING) -> str | None:
    """What is wrong with the address of a Redis, or None. `name` is the setting, or the option."""
    if isinstance(where, Mapping):
        of_kind = cluster.problem if "CLUSTER" in where else sentinel.problem
        return of_kind(where, name)
    if not isinstance(where, str) or not where:
        return f"{name} must be a non-empty string, not {conf.redacted(where)}."
    if is_url(where):
        try:
            redis.ConnectionPool.from_url(where)
        except ValueError as error:
            return f"{name} is {conf.redacted(where)}: {_wrong(where, error)}."
        return None
    if _is_factory(where):
        return _problem_of_factory(where, name)
    caches = django_settings.CACHES
    if where not in caches:
        return (
            f"{name} is {conf.redacted(where)}: neither a URL ({', '.join(SCHEMES)}) "
            f"nor the dotted path of a function, nor one of the caches in CACHES "
            f"({', '.join(sorted(caches))})."
        )
    options: Any = caches[where].get("OPTIONS", {})
    if wrong := "SENTINELS" in options and sentinel.addresses_problem(options["SENTINELS"]):
        return f"{name} is {where!r}, a cache whose OPTIONS['SENTINELS'] is {wrong}."
    try:
        get_redis_connection(where, write=True)
    except (ImproperlyConfigured, TypeError) as error:
        why = reason(error).rstrip(".")
        return f"{name} is {where!r}, a cache that cannot be used: {why}."
    except (NotImplementedError, InvalidCacheBackendError):
        return f"{name} is {where!r}, the cache of the backend {caches[where].get('BACKEND')!r}."
    except ValueError as error:
        location = caches[where].get("LOCATION", "")
        return (
            f"{name} is {where!r}, a cache whose LOCATION is "
            f"{conf.redacted(location)}: {_wrong(str(location), error)}."
        )
    return None


def _is_factory(where: str) -> bool:
    return bool(_PATH.fullmatch(where)) and where not in django_settings.CACHES


def _problem_of_factory(path: str, name: str) -> str | None:
    """What is wrong with a function that makes a client. What the function raises is not caught: it
    is an error of the project, with a traceback that says where."""
    setting = f"{name} is {path!r}"
    try:
        factory = import_string(path)
    except ImportError as error:
        return f"{setting}, which cannot be imported: {error}."
    if not callable(factory):
        return f"{setting}, which is no function but a {type(factory).__name__}."
    made = factory()
    if not isinstance(made, redis.Redis) and not cluster.is_client(made):
        kind = f"{type(made).__module__}.{type(made).__qualname__}"
        return (
            f"{setting}, which returns a {kind}. Expected is a redis.Redis or a redis.RedisCluster."
        )
    return None


def _wrong(url: str, error: ValueError) -> str:
    """Why a URL was refused. The error itself may quote a part of the password, as if it were the
    port."""
    found = _PORT.match(url.rpartition("@")[2].rpartition("://")[2])
    port = found[1] if found else ""
    if port and not (re.fullmatch("[0-9]{1,5}", port) and int(port) < 65536):
        return "its port is no number up to 65535"
    if "@" in url:
        return "a user and a password in it are percent-encoded"
    return str(error).rstrip(".")


def is_logged(error: BufferUnavailable) -> bool:
    """Whether the breaker logs this error, once for the whole outage."""
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


def _forget() -> None:
    """Make the clients anew when they are asked for."""
    global _clients
    for client in _clients.values():
        client.end()
    _clients = {}


def _reset(*, setting: str, **kwargs: Any) -> None:
    if setting in (conf.NAME, "CACHES"):
        _forget()


def _see(model: type[models.Model]) -> None:
    buffer = registry.buffer_of(model)
    if buffer is not None and "REDIS" in buffer.options:
        _forget()  # the clients do not know of its Redis


setting_changed.connect(_reset, dispatch_uid="writebehind.connection")
registry.watch(_see)
