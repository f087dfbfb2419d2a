"""Measures what each call of a buffer costs its caller: statements, round trips to Redis, time.

python -m pytest tests/performance/calls.py -s      (WRITEBEHIND_TEST_DATABASES names the databases)
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from itertools import count

import pytest
from django.utils import timezone

from tests.backdoor.bench import counting
from tests.models import Item, Note, Owner, Seat
from writebehind_app import Add

CALLS = int(os.environ.get("WRITEBEHIND_CALLS", 300))
ROUNDS = 7


@pytest.mark.timeout(600)
@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
def test_calls(database, redis_server, configure):
    configure(MAX_PENDING=10_000_000)
    Item.objects.bulk_create(Item(number=n) for n in range(100))
    owner = Owner.objects.create(name="o")
    other = Owner.objects.create(name="p")
    Item.buffered.set(number=0, a=1)
    Note.buffered.of(page="p", owner=owner).update(a=1, b="two")
    Note.buffered.of(page="p", owner=other).update(a=1, b="two")
    Note.buffered.of(page="p", owner=other).flush()
    numbers, now = count(1000), timezone.now()
    ways: dict[str, Callable[[], object]] = {
        "objects.get()": lambda: Item.objects.get(number=1),
        "objects.update()": lambda: Item.objects.filter(number=99).update(a=1),
        "objects.create()": lambda: Item.objects.create(number=-next(numbers)),
        "set, new": lambda: Item.buffered.set(number=next(numbers), a=1, b="b"),
        "set, pending": lambda: Item.buffered.set(number=0, a=1, b="b"),
        "set with Add": lambda: Item.buffered.set(number=0, a=Add(1)),
        "set_if, pending": lambda: Item.buffered.set_if({"e": False}, number=0, b="b"),
        "set_if, stored": lambda: Item.buffered.set_if({"e": True}, number=1, b="b"),
        "create": lambda: Item.buffered.create(number=next(numbers), a=1),
        "append, unique": lambda: Seat.buffered.append(number=next(numbers), at=now),
        "get, pending": lambda: Item.buffered.get(number=0),
        "get, stored": lambda: Item.buffered.get(number=1),
        "meta update": lambda: Note.buffered.of(page="p", owner=owner).update(a=1, b="three"),
        "meta read, pending": lambda: dict(Note.buffered.of(page="p", owner=owner)),
        "meta read, stored": lambda: dict(Note.buffered.of(page="p", owner=other)),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    counted = {}
    for name, call in ways.items():
        call()
        with counting(database) as counts:
            call()
        counted[name] = counts
    for _ in range(ROUNDS):
        for name, call in ways.items():
            started, cpu = time.perf_counter(), time.thread_time()
            for _ in range(CALLS):
                call()
            took[name].append((time.perf_counter() - started, time.thread_time() - cpu))
    base = [a for a, _ in took["objects.get()"]]
    print(f"\n{'':22}SQL  Redis      µs  µs of CPU   / objects.get()")
    for name in ways:
        wall, cpu = (statistics.median(x) / CALLS * 1e6 for x in zip(*took[name], strict=True))
        ratio = statistics.median(a / b for (a, _), b in zip(took[name], base, strict=True))
        c = counted[name]
        print(f"{name:22}{c.statements:3}{c.trips:7}{wall:8.0f}{cpu:11.0f}{ratio:10.2f}")
