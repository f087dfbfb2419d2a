"""What Prometheus sees, by its own parser."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from io import StringIO
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connections
from django.test import Client
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.backdoor.batches import claim
from tests.backdoor.entries import make_older
from tests.backdoor.shards import COUNTERS
from tests.integration.test_doctor import without_table
from tests.models import Item, Visit
from writebehind_app import status
from writebehind_app.contrib.prometheus import WritebehindCollector
from writebehind_app.models import DeadLetter

on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
Metrics = dict[tuple[str, str], float]


def parsed(text: str) -> Metrics:
    """By the name of the metric and the buffer."""
    return {
        (sample.name.removeprefix("writebehind_"), sample.labels.get("buffer", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def scrape() -> Callable[[], Metrics]:
    def scrape() -> Metrics:
        response = Client().get("/metrics/")
        assert response.status_code == 200
        assert "no-store" in response["Cache-Control"]
        assert response["Content-Type"].startswith("text/plain; version=")
        return parsed(response.content.decode())

    return scrape


def of_item(found: Metrics) -> dict[str, float]:
    return {name: value for (name, buffer), value in found.items() if buffer == "tests.Item"}


@on_valkey
def test_says_how_the_buffers_are_doing(database, redis_server, configure, scrape):
    configure(SHARDS=1)
    Item.buffered.set(number=1)
    Item.buffered.flush()
    Item.buffered.set_many({"number": n} for n in range(5))
    make_older(Item.buffered, 100)
    claim(Item.buffered, size=1)
    call_command("writebehind_pause", "tests.Item", stdout=StringIO())
    Visit.buffered.append(event=1, email="a", owner=404404)
    Visit.buffered.flush()
    found = scrape()

    assert found["up", ""] == 1
    item = of_item(found)
    assert item.pop("buffer_up") == 1
    assert 100 <= item.pop("oldest_seconds") < 110
    assert 0 < item.pop("batch_seconds") < 10
    assert item == {
        "pending": 4,
        "in_flight": 1,
        "dead_letters": 0,
        "paused": 1,
        "failed_attempts": 0,
        "accepted_total": 6,
        "flushed_total": 1,
        "rows_total": 1,
        "batches_total": 1,
        "retries_total": 0,
        "buried_total": 0,
        "fallbacks_total": 0,
    }
    assert found["dead_letters", "tests.Visit"] == found["buried_total", "tests.Visit"] == 1
    assert found["paused", "tests.Visit"] == 0
    assert found["redis_used_memory_bytes", ""] > 100_000
    assert found["redis_maxmemory_bytes", ""] == 0


def test_has_each_counter(plain, scrape):
    assert {f"{name}_total" for name in COUNTERS} <= of_item(scrape()).keys()


def test_redis_is_away(plain, scrape):
    assert scrape()["breaker_open", ""] == 0
    plain.stop()
    for _ in range(3):
        found = scrape()
    assert found.pop(("breaker_failures_total", "")) == 3
    assert {found.pop(key) for key in [*found] if key[0] == "buffer_up"} == {0}
    assert found == {
        ("up", ""): 0,
        ("breaker_open", ""): 1,
        ("breaker_outages_total", ""): 1,
    }


def test_goes_away_between_two_questions(plain, scrape, monkeypatch):
    read = status.read

    def read_and_stop(*args: Any) -> Any:
        found = read(*args)
        plain.stop()
        return found

    monkeypatch.setattr(status, "read", read_and_stop)
    assert scrape()["up", ""] == 0


def test_the_database_is_away(plain, scrape):
    Item.buffered.set(number=1)
    with without_table("default", DeadLetter):
        found = of_item(scrape())
        assert found["pending"] == 1
        assert "dead_letters" not in found
    assert of_item(scrape())["dead_letters"] == 0


def test_the_collector_in_a_registry_of_the_project(plain, monkeypatch):
    def ask(*args: Any) -> Any:
        raise AssertionError("Whoever registers it asks no server.")

    registry = CollectorRegistry(auto_describe=True)
    with monkeypatch.context() as patch:
        patch.setattr(status, "read", ask)
        registry.register(WritebehindCollector())
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            registry.register(WritebehindCollector())
    Item.buffered.set(number=1)
    assert parsed(generate_latest(registry).decode())["pending", "tests.Item"] == 1


def test_a_thread_that_is_scraped_keeps_no_connection(plain):
    def scraped() -> bool:
        before = connections["default"].connection
        found = {family.name: family.samples for family in WritebehindCollector().collect()}
        assert found["writebehind_dead_letters"]
        return before is connections["default"].connection is None

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(scraped).result()


def test_tells_no_address_and_no_password(plain, configure):
    with plain.client() as redis:
        redis.config_set("requirepass", "secret-one")
    try:
        configure(REDIS=plain.url.replace("//", "//:secret-one@"))
        Item.buffered.set(number=1, b="of a row")
        text = Client().get("/metrics/").content.decode()
        assert 'writebehind_pending{buffer="tests.Item"} 1.0' in text
        name = str(connections["default"].settings_dict["NAME"])
        for secret in ("secret-one", str(plain.port), "127.0.0.1", "of a row", name):
            assert secret not in text
    finally:
        with plain.client(password="secret-one") as redis:
            redis.config_set("requirepass", "")


def test_is_only_read(plain):
    assert Client().post("/metrics/").status_code == 405


def test_as_openmetrics_for_who_asks_for_it(plain):
    response = Client().get("/metrics/", headers={"Accept": "application/openmetrics-text"})
    assert response["Content-Type"].startswith("application/openmetrics-text")
    assert response.content.endswith(b"# EOF\n")


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "writebehind_app.contrib.prometheus")
    with pytest.raises(ImproperlyConfigured, match="with its extra `prometheus`"):
        import_module("writebehind_app.contrib.prometheus")
