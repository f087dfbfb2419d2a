"""Measures a flush against a bare bulk_create of the same rows, as ratios within one run.

WRITEBEHIND_TEST_DATABASES=postgresql python -m pytest tests/performance/flush.py -s
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections, models, transaction
from django.utils import timezone

from writebehind_app import RowBuffer

ROWS = int(os.environ.get("WRITEBEHIND_ROWS", "20000"))
ROUNDS = int(os.environ.get("WRITEBEHIND_ROUNDS", "5"))
FIELDS = "abcdefghij"


class Ten(models.Model):
    """Ten columns beside the primary key and the key."""

    number = models.BigIntegerField(unique=True)
    a = models.IntegerField(default=0)
    b = models.CharField(max_length=100, default="")
    c = models.DateTimeField(null=True)
    d = models.BooleanField(default=False)
    e = models.FloatField(default=0)
    f = models.TextField(default="")
    g = models.CharField(max_length=100, default="")
    h = models.BigIntegerField(default=0)
    i = models.BigIntegerField(null=True)
    j = models.DateField(null=True)

    buffered = RowBuffer(key="number", batch_size=1000, shards=1, max_pending=10**6)

    class Meta:
        app_label = "tests"
        managed = False


def values_of(n: int, at: Any) -> dict[str, Any]:
    return {
        "a": n,
        "b": f"the text {n} of the field b",
        "c": at,
        "d": n % 2 == 0,
        "e": n / 3,
        "f": f"the text {n} of the field f",
        "g": f"the text {n} of the field g",
        "h": 10**12 + n,
        "i": n * n,
        "j": at.date(),
    }


@contextmanager
def table(alias: str) -> Iterator[None]:
    with connections[alias].schema_editor() as editor:
        editor.create_model(Ten)
    try:
        yield
    finally:
        with connections[alias].schema_editor() as editor:
            editor.delete_model(Ten)


def cost(act: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the processor in this process, and by the wall."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    act()
    return time.process_time() - cpu, time.perf_counter() - wall


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
def test_flush(database, redis_server):
    at, choose = timezone.now(), random.Random(1)
    rows = [values_of(n, at) for n in range(ROWS)]
    took: dict[str, list[tuple[float, float]]] = {}

    def insert() -> None:
        with transaction.atomic(using=database):
            Ten.objects.bulk_create(prebuilt, batch_size=1000)

    def clear() -> None:
        Ten.objects.all().delete()

    def measure(name: str, act: Callable[[], object]) -> None:
        took.setdefault(name, []).append(cost(act))

    def flush() -> None:
        assert Ten.buffered.flush().rows == ROWS

    with table(database):
        for _ in range(ROUNDS):
            clear()
            prebuilt = [Ten(number=n, **row) for n, row in enumerate(rows)]
            measure("bulk_create", insert)
            clear()
            Ten.buffered.set_many({"number": n, **row} for n, row in enumerate(rows))
            measure("new rows, all ten columns", flush)
            Ten.buffered.set_many({"number": n, **row} for n, row in enumerate(rows))
            measure("stored rows, all ten columns", flush)
            Ten.buffered.set_many(
                {"number": n, **{f: row[f] for f in "abcd"}} for n, row in enumerate(rows)
            )
            measure("stored rows, the same four columns", flush)
            Ten.buffered.set_many(
                {"number": n, **{f: row[f] for f in choose.sample(FIELDS, 4)}}
                for n, row in enumerate(rows)
            )
            measure("stored rows, any four columns", flush)
        clear()
    base = [statistics.median(each) for each in zip(*took["bulk_create"], strict=True)]
    print(f"\n{database}, {ROWS} rows:                      µs a row: CPU  wall; ÷ bulk_create")
    for name, rounds in took.items():
        cpu, wall = (statistics.median(each) for each in zip(*rounds, strict=True))
        us = f"{cpu / ROWS * 1e6:8.1f} {wall / ROWS * 1e6:8.1f}"
        print(f"  {name:<40}{us}   {cpu / base[0]:5.2f} {wall / base[1]:5.2f}")
