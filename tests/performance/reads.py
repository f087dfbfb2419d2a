"""Measures what a read of one row costs, next to HGETALL of its entry and to `objects.get()`.

python -m pytest tests/performance/reads.py -s      (WRITEBEHIND_TEST_DATABASES names the databases)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import redis

from tests.backdoor.entries import place
from tests.models import Item
from writebehind_app import Add

CALLS = 300
ROUNDS = 11


@pytest.mark.timeout(600)
@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
def test_reads(database, redis_server, configure):
    Item.objects.bulk_create(Item(number=n) for n in range(100))
    configure(SHARDS=1, CACHE_SECONDS=0)
    Item.buffered.set(number=0, a=Add(1), b="b")
    configure(SHARDS=1, CACHE_SECONDS=600)
    Item.buffered.get(number=0)
    raw = redis.Redis.from_url(redis_server.url, decode_responses=True)
    entry = place(Item.buffered, "0")
    assert raw.hgetall(entry)

    def get() -> object:
        return Item.buffered.get(number=0)

    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "hgetall": (0, lambda: raw.hgetall(entry)),
        "hgetall + objects.get": (
            0,
            lambda: (raw.hgetall(entry), Item.objects.get(number=0)),
        ),
        "get, base": (600, get),
        "get, no base": (0, get),
        "get, no base, nothing pending": (0, lambda: Item.buffered.get(number=1)),
        "objects.get": (0, lambda: Item.objects.get(number=1)),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (seconds, call) in ways.items():
            configure(SHARDS=1, CACHE_SECONDS=seconds)
            call()
            started = time.perf_counter()
            for _ in range(CALLS):
                call()
            took[name].append((time.perf_counter() - started) / CALLS * 1e6)
    found = {name: statistics.median(times) for name, times in took.items()}
    print(f"\n{database}")
    for name, micros in found.items():
        print(f"{name:35}{micros:8.0f} µs")
    print(f"get with a base ÷ hgetall: {found['get, base'] / found['hgetall']:.2f}")
    without = found["get, no base"] / found["hgetall + objects.get"]
    print(f"get without one ÷ (hgetall + objects.get): {without:.2f}")
