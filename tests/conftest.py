from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import hypothesis
import pytest
from django.conf import LazySettings
from django.db import connections, transaction
from pytest_django import DjangoDbBlocker

from tests import child, databases, router, servers
from tests.backdoor.breaker import forget_outages, know_of_an_outage
from tests.servers import Proxy, RedisServer
from writebehind_app import conf


def pytest_configure(config: pytest.Config) -> None:
    seed = config.option.seed
    # Examples of one property share the fixtures of its test and are told apart by their keys.
    # A deadline would measure the machine.
    hypothesis.settings.register_profile(
        "suite",
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
        derandomize=not seed,
    )
    hypothesis.settings.load_profile("suite")
    if seed:
        hypothesis.core.global_force_seed = seed


@pytest.fixture(autouse=True)
def rng(request: pytest.FixtureRequest) -> random.Random:
    """The same numbers in every run of the test, but with --random. `random` has such ones, too."""
    seed = f"{request.config.option.seed} {request.node.path.name} {request.node.name}"
    random.seed(seed)
    return random.Random(seed)


@pytest.fixture(params=servers.DATABASES)
def database(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[str]:
    """The alias of each database in turn; all queries of the test go there, and are committed."""
    _skip_if_absent(request.param)
    with _database("default" if request.param == "sqlite" else request.param, django_db_blocker):
        yield router.current()


@pytest.fixture(params=RedisServer.KINDS)
def redis_server(request: pytest.FixtureRequest, settings: LazySettings) -> Iterator[RedisServer]:
    """A Valkey and a Redis in turn, empty, and the one that the settings name."""
    _skip_if_absent(request.param)
    with _redis(servers.redis_servers[request.param], settings) as server:
        yield server


@pytest.fixture
def plain(
    settings: LazySettings, django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[RedisServer]:
    """SQLite and Valkey, once: for what does not depend on either."""
    _skip_if_absent("valkey")
    with (
        _database("default", django_db_blocker),
        _redis(servers.redis_servers["valkey"], settings) as server,
    ):
        yield server


@pytest.fixture
def proxy(redis_server: RedisServer, configure: Callable[..., None]) -> Iterator[Proxy]:
    """A way to the server on which things go wrong, and the one that the settings name."""
    with Proxy(redis_server) as proxy:
        configure(REDIS=proxy.url)
        yield proxy


@pytest.fixture
def configure(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`configure(SHARDS=1)`: options of WRITEBEHIND, here and in processes started after it."""

    def change(**options: Any) -> None:
        given = json.loads(os.environ.get("WRITEBEHIND_TEST_OPTIONS", "{}"))
        monkeypatch.setenv("WRITEBEHIND_TEST_OPTIONS", json.dumps({**given, **options}))
        settings.WRITEBEHIND = {**settings.WRITEBEHIND, **options}

    return change


@pytest.fixture
def go() -> Iterator[Callable[[str], None]]:
    """`go("direct")`, `go("buffered")`: MODE from here on, in a process that knows of an outage.
    Settings that are changed hundreds of times, as `configure` does it, pile up."""
    know_of_an_outage()
    yield lambda mode: object.__setattr__(conf.settings(), "MODE", mode)
    conf.settings.cache_clear()
    forget_outages()


@pytest.fixture
def start_child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start_child(function, *args, **kwargs)`: see tests/child.py."""
    children = []

    def start(*args: Any, **kwargs: Any) -> subprocess.Popen[str]:
        children.append(child.start(*args, **kwargs))
        return children[-1]

    yield start
    for process in children:
        child.end(process)


@pytest.fixture(scope="session")
def django_db_setup(
    django_test_environment: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[None]:
    """All databases, where pytest-django's own makes those that its marks ask for."""
    if servers.DATABASES_MADE in os.environ:
        with django_db_blocker.unblock():
            for alias in connections:
                _empty(alias)  # of what a run left there that did not come to its end
        yield
        return
    with django_db_blocker.unblock():
        made = databases.make()
        _empty("default")  # of the schedules that migrate has made
    yield
    with django_db_blocker.unblock():
        databases.drop(made)


def _skip_if_absent(name: str) -> None:
    if name in servers.absent:
        pytest.skip(f"no {name}: {servers.absent[name]}")


@contextmanager
def _database(alias: str, blocker: DjangoDbBlocker) -> Generator[None]:
    router.use(alias)
    with blocker.unblock():
        yield
        _empty(alias)
    router.use("default")


@contextmanager
def _redis(server: RedisServer, settings: LazySettings) -> Generator[RedisServer]:
    os.environ["WRITEBEHIND_TEST_REDIS"] = server.url
    settings.WRITEBEHIND = {**settings.WRITEBEHIND, "REDIS": server.url}
    settings.CACHES = {
        **settings.CACHES,
        "writebehind": {**settings.CACHES["writebehind"], "LOCATION": server.url},
    }
    yield server
    server.clear()
    forget_outages()
    del os.environ["WRITEBEHIND_TEST_REDIS"]


def _empty(alias: str) -> None:
    """Deletes all rows but those that `migrate` made.

    A transaction around the test would be simpler, but the package's own are durable, and other
    processes have to see the rows.
    """
    connection = connections[alias]
    connection.close_if_unusable_or_obsolete()  # a fault test may have broken it
    with (
        transaction.atomic(using=alias),
        connection.constraint_checks_disabled(),
        connection.cursor() as cursor,
    ):
        cursor.execute(_rows_query(alias))
        for (table,) in cursor.fetchall():
            cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")


@cache
def _rows_query(alias: str) -> str:
    """The names of the tables that hold rows, in one query: most tests fill few of many tables."""
    connection = connections[alias]
    made_by_migrate = {"auth_permission", "django_content_type"}
    tables = set(connection.introspection.django_table_names()) - made_by_migrate
    return " UNION ALL ".join(
        f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {connection.ops.quote_name(table)})"
        for table in sorted(tables)
    )
