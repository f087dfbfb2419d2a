"""Measures what a `set()` costs its caller by a cluster and by Sentinels, next to one server.

The master of the Sentinels is also used by its URL: what that takes longer, its replicas cost.

pytest -q -s -k valkey tests/performance/ways.py

Each way is measured in turn, in short rounds. The ratios are medians over the rounds.
"""

from __future__ import annotations

import statistics
import time

import pytest

from tests.models import Item
from tests.performance.transport import FIELDS

CALLS, ROUNDS, WARM = 2000, 11, 200

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
    pytest.mark.parametrize("redis_server", ["valkey"], indirect=True),
]


def test_ways(database, redis_server, sentinel_group, cluster_group, configure):
    addresses = {
        "one server": redis_server.url,
        "the master by its URL": sentinel_group.nodes[0].url,
        "Sentinels": sentinel_group.setting,
        "a cluster": cluster_group.setting,
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in addresses}
    for _ in range(ROUNDS):
        for name, where in addresses.items():
            configure(REDIS=where, MAX_PENDING=10_000_000, MAX_AGE=3600)
            for number in range(WARM):
                Item.buffered.set(number=number, **FIELDS)
            wall, cpu = time.perf_counter(), time.process_time()
            for number in range(CALLS):
                Item.buffered.set(number=number % 100, **FIELDS)
            took[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    one = took.pop("one server")
    for name, rounds in took.items():
        pairs = [*zip(rounds, one, strict=True)]
        wall, cpu = (statistics.median(by[i] / plain[i] for by, plain in pairs) for i in (0, 1))
        print(f"set() by {name} ÷ one server: wall {wall:.2f}, CPU {cpu:.2f}")
