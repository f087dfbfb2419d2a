"""Measures what writes cost Redis, which has one thread for all, and what it keeps of them.

CPU time of the server, which only Linux tells, for a call that comes in a pipeline; next to HSET
alone.

python -m pytest tests/unit/measure_scripts.py -s
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.backdoor.store import FOREVER, KEY, ROWS, Row, Store, store_on
from writebehind_app.store.link import Command

CALLS = 2000
ROUNDS = 12
IDS = 1000
THREE = {"status": '"open"', "title": '"hello world"', "views": "12"}
WRITES = 1_000_000


@pytest.fixture
def store(redis_server) -> Iterator[Store]:
    with store_on(redis_server) as store:
        store.client.config_set("appendonly", "no")
        yield store
        store.client.config_set("appendonly", "yes")


def test_calls(store, redis_server):
    schedule = Path(f"/proc/{redis_server.pid}/schedstat")
    flat = [part for pair in THREE.items() for part in pair]

    def writes(texts: dict[str, str], kind: str) -> Callable[[int], Command]:
        def call(n: int) -> Command:
            row = Row(f"{kind}{n % IDS}", texts)
            return store.call(row, room=10**6).command(store.sender.name, FOREVER)

        return call

    ways: dict[str, Callable[[int], Command]] = {
        "HSET of three fields": lambda n: ("HSET", f"plain{n % IDS}", *flat),
        "a write of three fields": writes(THREE, "set"),
        "an Add": writes({"views": "+i:1"}, "add"),
        "a Max": writes({"at": ">t:1800000000000000"}, "max"),
    }
    cost: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            store.exchange([way(0)])
            commands = [way(n) for n in range(CALLS)]
            before = int(schedule.read_text().split()[0])
            replies = store.exchange(commands)
            cost[name].append((int(schedule.read_text().split()[0]) - before) / CALLS / 1000)
            assert not any(
                isinstance(reply, Exception) or "late" in str(reply) for reply in replies
            )
    print(f"\n{redis_server.kind}, µs of CPU for each of {CALLS} calls:")
    for name, times in cost.items():
        print(f"  {name:<35}{statistics.median(times):6.1f}")


def test_room(store, redis_server):
    def used() -> int:
        return store.client.info("memory")["used_memory"]

    store.write("first")
    before, rows = used(), 100_000
    for n in range(0, rows, ROWS):
        store.send(*[Row(str(n + i), THREE) for i in range(ROWS)])
    print(
        f"\n{redis_server.kind}: {(used() - before) / rows:.0f} bytes a pending row of three fields"
    )
    kinds: list[Callable[[int], dict[str, str]]] = [
        lambda n: {"added": "+i:3"},
        lambda n: {"greatest": f">t:{1_800_000_000_000_000 + n}"},
        lambda n: {"merged": "&", f'&merged:"key{n % 100}"': "[1]"},
        lambda n: {"plain": f'"text {n}"'},
    ]
    for texts in kinds:
        for n in range(0, WRITES // len(kinds), ROWS):
            assert isinstance(store.send(*[Row("hot", texts(n + i)) for i in range(ROWS)]), int)
    kept = store.client.memory_usage(f"{KEY}:e:hot", samples=0)
    print(f"{redis_server.kind}: {kept} bytes after {WRITES} writes to one key")
    assert kept < 16_384
