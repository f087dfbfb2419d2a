from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import hypothesis
import pytest
from django.apps import apps
from django.conf import LazySettings
from django.db import connections, transaction
from pytest_django import DjangoDbBlocker

from tests import child, databases, router, servers
from tests.backdoor.breaker import forget_outages
from tests.servers import ClusterGroup, Proxy, RedisServer, SentinelGroup
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
    forget_outages()


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


@pytest.fixture(scope="module", params=RedisServer.KINDS)
def sentinel_group(request: pytest.FixtureRequest) -> Iterator[SentinelGroup]:
    _skip_if_absent(request.param)
    with SentinelGroup(request.param) as group:
        yield group


@pytest.fixture
def sentinels(
    sentinel_group: SentinelGroup,
    configure: Callable[..., None],
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[SentinelGroup]:
    """A master, two replicas and three Sentinels, of Valkey and of Redis in turn, empty, and those
    that the settings name; with SQLite."""
    with _database("default", django_db_blocker):
        configure(REDIS=sentinel_group.setting)
        yield sentinel_group
        sentinel_group.clear()
        forget_outages()


@pytest.fixture(scope="module", params=RedisServer.KINDS)
def cluster_group(request: pytest.FixtureRequest) -> Iterator[ClusterGroup]:
    _skip_if_absent(request.param)
    with ClusterGroup(request.param) as group:
        yield group


@pytest.fixture
def cluster(
    cluster_group: ClusterGroup,
    configure: Callable[..., None],
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[ClusterGroup]:
    """Three masters and three replicas, of Valkey and of Redis in turn, empty, and those that the
    settings name; with SQLite."""
    with _database("default", django_db_blocker):
        configure(REDIS=cluster_group.setting, SHARDS=8)
        yield cluster_group
        cluster_group.clear()
        forget_outages()


@pytest.fixture
def configure(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`configure(SHARDS=1)`: options of WRITEBEHIND, here and in processes started after it."""

    def change(**options: Any) -> None:
        given = json.loads(os.environ.get("WRITEBEHIND_TEST_OPTIONS", "{}"))
        monkeypatch.setenv("WRITEBEHIND_TEST_OPTIONS", json.dumps({**given, **options}))
        settings.WRITEBEHIND = {**settings.WRITEBEHIND, **options}

    return change


@pytest.fixture
def go(settings: LazySettings) -> Iterator[Callable[[str], None]]:
    """`go("direct")`, `go("buffered")`: MODE from here on. Settings that are changed hundreds of
    times, as `configure` does it, pile up."""
    modes = {mode: replace(conf.settings(), MODE=mode) for mode in ("direct", "buffered")}
    with pytest.MonkeyPatch.context() as patch:  # at an end before that of `settings`
        yield lambda mode: patch.setattr(conf, "settings", lambda: modes[mode])


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
        if alias != "default":  # the queue of Django-Q2 is there for all
            apps.get_model("django_q", "OrmQ").objects.using("default").all().delete()
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
