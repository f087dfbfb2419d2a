"""The servers of a test run: Redis and Valkey are its own, databases are found or started.

`start()` leaves what it found in the environment variable WRITEBEHIND_TEST_SERVERS, as JSON, where
tests/settings.py reads it, in this process and in those that tests start. A database server is
looked for in this order: the URL in WRITEBEHIND_TEST_POSTGRES or WRITEBEHIND_TEST_MARIADB (of which
the database name is ignored), a local one on the standard port that lets us in without a password,
and the binaries, started privately. WRITEBEHIND_TEST_DATABASES=sqlite,mariadb leaves the rest out,
and WRITEBEHIND_TEST_REDIS_KINDS=valkey the other kind of Redis.

With pytest-xdist each worker has a Redis, a Valkey and databases of its own. The servers of the
databases are shared: the process that starts the workers finds or starts them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from tests.keeper import keeper
from tests.servers import chromium
from tests.servers.cluster import ClusterGroup
from tests.servers.databases import ENGINES
from tests.servers.process import Absent
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer, lasting_keys
from tests.servers.sentinel import SentinelGroup

__all__ = ["DATABASES", "ClusterGroup", "Proxy", "RedisServer", "SentinelGroup", "lasting_keys"]

ENVIRONMENT = "WRITEBEHIND_TEST_SERVERS"
DATABASES_MADE = "WRITEBEHIND_TEST_DATABASES_MADE"
"""Set where a test run finds its databases made, and leaves them."""
WORKER = "PYTEST_XDIST_WORKER"  # is set in one
WANTED_DATABASES = "WRITEBEHIND_TEST_DATABASES"
WANTED_REDIS = "WRITEBEHIND_TEST_REDIS_KINDS"

redis_servers: dict[str, RedisServer] = {}
"""By kind, those of this run."""

DATABASES = ("sqlite", *(engine.alias for engine in ENGINES))

absent: dict[str, str] = {}
"""Why a database, a kind of Redis or the browser is not there."""


def start(*, for_workers: bool = False) -> None:
    """Finds or starts every server that this test run may use; `for_workers`, those that the
    workers share."""
    if redis_servers:
        return  # by the process of which this one is a fork
    for kind in wanted_redis():
        try:
            redis_servers[kind] = RedisServer(kind)
            if not for_workers:
                redis_servers[kind].start()
        except Absent as reason:
            absent[kind] = str(reason)

    databases = {}
    if WORKER in os.environ:
        shared = json.loads(os.environ[ENVIRONMENT])
        databases = shared["databases"]
        absent.update(shared["absent"])
    else:
        try:
            chromium.find()
        except Absent as reason:
            absent["chromium"] = str(reason)
        for engine in ENGINES:
            if engine.alias in wanted_databases():
                try:
                    databases[engine.alias] = engine.find()
                except Absent as reason:
                    absent[engine.alias] = str(reason)

    os.environ[ENVIRONMENT] = json.dumps(
        {
            "directory": str(keeper().directory),
            # Two test runs, or two workers of one, can share a database server.
            "database_name": f"writebehind_test_{os.getpid()}",
            "databases": databases,
            "redis": {kind: server.url for kind, server in redis_servers.items() if server.running},
            "absent": absent,
        }
    )


def inherit() -> None:
    """In a fork of the process that started them: they can be ended and started again, and stay up
    when the fork ends."""
    keeper.cache_clear()
    for server in redis_servers.values():
        server.inherit()


def wanted_databases() -> list[str]:
    return _wanted(WANTED_DATABASES, DATABASES)


def wanted_redis() -> list[str]:
    return _wanted(WANTED_REDIS, RedisServer.KINDS)


def _wanted(variable: str, every: Sequence[str]) -> list[str]:
    chosen = os.environ.get(variable)
    if not chosen:
        return [*every]
    names = [name.strip() for name in chosen.split(",")]
    for name in names:
        if name not in every:
            raise ValueError(f"{variable} names {name!r}; there are {', '.join(every)}.")
    return names


def services_required() -> bool:
    return os.environ.get("REQUIRE_SERVICES", "") not in ("", "0")
