"""Measures how fast 1, 2 and 4 flusher processes drain a buffer with SHARDS=4, and how long the
shards of one that is killed wait for another.

WRITEBEHIND_TEST_DATABASES=postgresql python -m pytest -s tests/performance/flushers.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable

import pytest
from django.db import connections

from tests.models import Item
from writebehind_app.flush.engine import flush

ROWS = int(os.environ.get("WRITEBEHIND_ROWS", "100000"))
ROUNDS = int(os.environ.get("WRITEBEHIND_ROUNDS", "3"))

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.parametrize("redis_server", ["valkey"], indirect=True),
]
Start = Callable[..., "subprocess.Popen[str]"]


def drain() -> None:
    """Flush what is there, when it is told to begin."""
    Item.objects.exists()  # it is connected
    print("ready")
    input()
    flush(Item.buffered)
    connections.close_all()


def fill(first: int) -> None:
    for start in range(0, ROWS, 10_000):
        Item.buffered.set_many(
            {"number": n, "a": n + first, "b": "some text", "d": n / 2}
            for n in range(start, min(start + 10_000, ROWS))
        )


def flushed_by(count: int, start_child: Start) -> float:
    """How many seconds so many flushers take."""
    flushers = [start_child(drain) for _ in range(count)]
    for each in flushers:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    started = time.perf_counter()
    for each in flushers:
        assert each.stdin
        each.stdin.write("\n")
        each.stdin.flush()
    for each in flushers:
        assert each.wait(timeout=600) == 0
    took = time.perf_counter() - started
    assert Item.buffered.count_pending() == 0
    return took


def test_throughput(database, redis_server, configure, start_child):
    configure(SHARDS=4)
    fill(0)
    Item.buffered.flush()
    seconds: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for n in range(1, ROUNDS + 1):
        for count in seconds:
            fill(n)
            seconds[count].append(flushed_by(count, start_child))
    print(f"\n{database}, {ROWS} stored rows, four columns, SHARDS=4")
    for count, took in seconds.items():
        print(f"  {count} flushers: {ROWS / statistics.median(took):8,.0f} rows a second")
    assert Item.objects.count() == ROWS
