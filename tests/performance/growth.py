"""Measures whether what is pending makes calls slower: a thousand entries next to a million.

WRITEBEHIND_TEST_DATABASES=postgresql python -m pytest -s tests/performance/growth.py
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections, models

from writebehind_app import RowBuffer

PENDING = int(os.environ.get("WRITEBEHIND_PENDING", "1000000"))
FLUSHED, CALLS, ROUNDS = 1000, 300, 11


class Numbered(models.Model):
    number = models.BigIntegerField(unique=True)
    a = models.IntegerField(default=0)
    b = models.CharField(max_length=100, default="")

    buffered = RowBuffer(key="number", max_age=3600, shards=1, max_pending=10 * PENDING)

    class Meta:
        abstract = True
        app_label = "tests"
        managed = False


class Few(Numbered):
    pass


class Many(Numbered):
    pass


@contextmanager
def table(alias: str) -> Iterator[None]:
    with connections[alias].schema_editor() as editor:
        editor.create_model(Few)
        editor.create_model(Many)
    try:
        yield
    finally:
        with connections[alias].schema_editor() as editor:
            editor.delete_model(Few)
            editor.delete_model(Many)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
def test_growth(database, redis_server):
    choose = random.Random(1)
    first = {Few: 0, Many: 0}  # the oldest that is pending
    last = {Few: FLUSHED, Many: PENDING}

    def write(model: Any, start: int, end: int) -> None:
        for at in range(start, end, 10_000):
            model.buffered.set_many(
                {"number": n, "a": n, "b": f"the text {n}"}
                for n in range(at, min(at + 10_000, end))
            )

    def some(model: Any) -> list[int]:
        return [choose.randrange(first[model], last[model]) for _ in range(CALLS)]

    def set_pending(model: Any) -> float:
        return timed(lambda n: model.buffered.set(number=n, a=1, b="b"), some(model))

    def get(model: Any) -> float:
        return timed(lambda n: model.buffered.get(number=n), some(model))

    def flush(model: Any) -> float:
        def act(limit: int) -> None:
            with suppress(SystemExit):  # which says that something is left
                command = ("flush_writebehind", model._meta.label)
                call_command(*command, all=True, limit=limit, verbosity=0)

        before = model.buffered.count_pending()
        took = timed(act, [FLUSHED])
        assert model.buffered.count_pending() == before - FLUSHED
        first[model] += FLUSHED
        write(model, last[model], last[model] + FLUSHED)
        last[model] += FLUSHED
        return took

    ways: dict[str, Callable[[Any], float]] = {
        "set, pending": set_pending,
        "get, pending": get,
        f"flush of {FLUSHED}": flush,
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with table(database):
        write(Few, 0, FLUSHED)
        write(Many, 0, PENDING)
        for round in range(ROUNDS + 1):
            for name, way in ways.items():
                pair = (way(Few), way(Many)) if round % 2 else (way(Many), way(Few))[::-1]
                if round:  # the first one warms up
                    took[name].append(pair)
        assert Many.buffered.count_pending() >= PENDING
        Few.buffered.discard()
        Many.buffered.discard()
    print(f"\n{database}: µs with {FLUSHED} pending, with {PENDING:,}; ratio")
    for name, pairs in took.items():
        few, many = (statistics.median(x) * 1e6 for x in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"  {name:16}{few:12.1f}{many:12.1f}{ratio:8.2f}")


def timed(act: Callable[[int], object], numbers: Any) -> float:
    """Seconds of a call: the median."""
    found = []
    for n in [*numbers]:
        started = time.perf_counter()
        act(n)
        found.append(time.perf_counter() - started)
    return statistics.median(found)
