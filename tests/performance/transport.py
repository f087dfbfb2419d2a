"""Measures what a call costs its caller on the way to Redis, next to what redis-py takes for the
same: HSET, HINCRBY, and a pipeline of scripts.

pytest -q -s tests/performance/transport.py

Each way is measured in turn, in short rounds: what else the machine does meets all of them alike.
The ratios are medians over the rounds. CPU is that of this process.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
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
from writebehind_app import Add

CALLS = int(os.environ.get("WRITEBEHIND_CALLS", 1000))
ROUNDS = 11
FIELDS = {"a": 1, "b": "some text", "c": "more"}
TASKS = 10_000  # that call at the same time
ROWS = 20_000  # of one set_many()
KEEP = """
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('ZADD', KEYS[2], ARGV[1], ARGV[2])
"""


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
        "redis-py hincrby": lambda: plainly.hincrby(KEY, "a", 1),
        "set with Add": lambda: Item.buffered.set(number=2, a=Add(1)),
    }
    bases = dict.fromkeys(ways, "redis-py hset") | {"set with Add": "redis-py hincrby"}
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for call in ways.values():
        call()
    for _ in range(ROUNDS):
        for name, call in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(CALLS):
                call()
            took[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    print(f"\n{'':20}wall µs  CPU µs   wall ÷ redis-py  CPU ÷ redis-py  functions")
    for name, found in took.items():
        base = took[bases[name]]
        wall, cpu = (statistics.median(x) / CALLS * 1e6 for x in zip(*found, strict=True))
        ratios = [
            statistics.median(one[i] / other[i] for one, other in zip(found, base, strict=True))
            for i in (0, 1)
        ]
        functions = functions_of(ways[name])
        print(f"{name:20}{wall:7.1f}{cpu:8.1f}{ratios[0]:18.2f}{ratios[1]:16.2f}{functions:11}")


def test_many(database, redis_server, configure):
    """set_many() of many rows, next to a pipeline of redis-py in which each row is one script."""
    configure(MAX_PENDING=10_000_000, MAX_AGE=3600)
    plainly = redis.Redis.from_url(redis_server.url, decode_responses=True)
    digest = plainly.script_load(KEEP)
    rows = [{"number": n, "a": n, "b": f"the text {n}", "c": "more"} for n in range(ROWS)]

    def bare() -> None:
        pipe = plainly.pipeline(transaction=False)
        for row in rows:
            id = row["number"]
            flat = [part for pair in row.items() for part in pair]
            pipe.evalsha(digest, 2, f"{KEY}:{id}", KEY + ":ids", 1, id, *flat)
        pipe.execute()

    def pipelined() -> None:
        """The same, a few hundred at a time: no reply waits for the last command to be sent."""
        pipe = plainly.pipeline(transaction=False)
        for row in rows:
            id = row["number"]
            flat = [part for pair in row.items() for part in pair]
            pipe.evalsha(digest, 2, f"{KEY}:{id}", KEY + ":ids", 1, id, *flat)
            if len(pipe) == 200:
                pipe.execute()
        pipe.execute()

    ways = {
        "a pipeline": bare,
        "200 at a time": pipelined,
        "set_many": lambda: Item.buffered.set_many(rows),
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, call in ways.items():
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            took[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    print(f"\n{'':20}µs a row: wall   CPU   ÷ a pipeline: wall   CPU")
    for name, found in took.items():
        wall, cpu = (statistics.median(x) / ROWS * 1e6 for x in zip(*found, strict=True))
        ratios = [
            statistics.median(a[i] / b[i] for a, b in zip(found, took["a pipeline"], strict=True))
            for i in (0, 1)
        ]
        print(f"{name:20}{wall:14.1f}{cpu:6.1f}{ratios[0]:21.2f}{ratios[1]:6.2f}")


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


def test_what_redis_does(database, redis_server, configure):
    """Its CPU for each call and for each row of a flush, and the memory of a pending entry."""
    configure(MAX_PENDING=10_000_000, MAX_AGE=3600)
    server = redis_server.client()

    def micros(call: Callable[[], object], count: int) -> float:
        server.config_resetstat()
        call()
        stats = server.info("commandstats")
        return sum(each["usec"] for name, each in stats.items() if "evalsha" in name) / count

    def every(call: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [call(n) for n in range(ROWS)]

    rows = [{"number": n, **FIELDS} for n in range(ROWS)]
    Item.buffered.set(number=-1, a=1)  # the scripts are there
    before = server.info("memory")["used_memory"]
    found = {"set of a new entry": micros(every(lambda n: Item.buffered.set(**rows[n])), ROWS)}
    size = (server.info("memory")["used_memory"] - before) / ROWS
    found["set of an entry that is there"] = micros(
        every(lambda n: Item.buffered.set(**rows[n])), ROWS
    )
    found["set with Add"] = micros(every(lambda n: Item.buffered.set(number=n, a=Add(1))), ROWS)
    found["set_many, a row"] = micros(lambda: Item.buffered.set_many(rows), ROWS)
    found["flush, a row"] = micros(Item.buffered.flush, ROWS)
    print(f"\n{'of Redis':30}   CPU µs")
    for name, each in found.items():
        print(f"{name:30}{each:9.1f}")
    print(f"bytes of a pending entry of three fields: {size:.0f}")


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
