"""Measures what a call costs its caller on the way to Redis, next to redis-py's HSET of the same.

pytest -q -s tests/performance/transport.py

Each way is measured in turn, in short rounds: what else the machine does meets all of them alike.
The ratios are medians over the rounds. CPU is that of this process.
"""

from __future__ import annotations

import asyncio
import cProfile
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

import writebehind_app
from tests.backdoor.links import KEY, client
from tests.models import Item

CALLS = int(os.environ.get("WRITEBEHIND_CALLS", 1000))
ROUNDS = 11
FIELDS = {"a": 1, "b": "some text", "c": "more"}
TASKS = 10_000  # that call at the same time


pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
    pytest.mark.parametrize("redis_server", ["valkey"], indirect=True),
]


def test_calls(database, redis_server, configure):
    configure(MAX_PENDING=10_000_000, MAX_AGE=3600)
    plainly = redis.Redis.from_url(redis_server.url, decode_responses=True)
    ours = client()
    flat = [part for pair in FIELDS.items() for part in pair]
    ways: dict[str, Callable[[], object]] = {
        "redis-py hset": lambda: plainly.hset(KEY, mapping=FIELDS),
        "hset over a link": lambda: ours.exchange([("HSET", KEY, *flat)], write=True),
        "set": lambda: Item.buffered.set(number=1, **FIELDS),
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for call in ways.values():
        call()
    for _ in range(ROUNDS):
        for name, call in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(CALLS):
                call()
            took[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    base = took["redis-py hset"]
    print(f"\n{'':20}wall µs  CPU µs   wall / hset  CPU / hset  functions")
    for name, found in took.items():
        wall, cpu = (statistics.median(x) / CALLS * 1e6 for x in zip(*found, strict=True))
        ratios = [
            statistics.median(one[i] / other[i] for one, other in zip(found, base, strict=True))
            for i in (0, 1)
        ]
        functions = functions_of(ways[name])
        print(f"{name:20}{wall:7.1f}{cpu:8.1f}{ratios[0]:14.2f}{ratios[1]:12.2f}{functions:11}")


def test_tasks(database, redis_server, configure):
    """So many calls at a time of one event loop, next to as many in turn of a thread."""
    configure(MAX_PENDING=10_000_000, MAX_AGE=3600)

    async def together() -> None:
        await asyncio.gather(*(Item.buffered.aset(number=1, **FIELDS) for _ in range(TASKS)))

    def in_turn() -> None:
        for _ in range(TASKS):
            Item.buffered.set(number=1, **FIELDS)

    took: list[tuple[float, float]] = []
    for _ in range(5):
        started = time.perf_counter()
        in_turn()
        between = time.perf_counter()
        asyncio.run(together())
        took.append((between - started, time.perf_counter() - between))
    thread, loop = (TASKS / statistics.median(x) for x in zip(*took, strict=True))
    ratio = statistics.median(a / b for a, b in took)
    print(f"\ncalls per second: {thread:.0f} of a thread, {loop:.0f} of a loop; ratio {ratio:.2f}")


def functions_of(call: Callable[[], object]) -> int:
    """How many functions of the package one call calls."""
    profile = cProfile.Profile()
    profile.runcall(call)
    home = str(Path(writebehind_app.__file__).parent)
    return sum(
        entry.callcount
        for entry in profile.getstats()
        if not isinstance(entry.code, str) and entry.code.co_filename.startswith(home)
    )
