"""Measures what an entry costs a flusher before the database is asked, and a write its caller
before Redis is asked: CPU time of this process.

python -m pytest tests/performance/fold.py -s
"""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db import models

from tests.backdoor.entries import of_reply
from writebehind_app import RowBuffer
from writebehind_app.database.planner import make_plan

ENTRIES = 1000
ROUNDS = 15
NUMBER = 1_700_000_000_000_000


class Texts(models.Model):
    """Ten fields of text, and one that no entry sets."""

    number = models.BigIntegerField(unique=True)
    a = models.CharField(max_length=100, default="")
    b = models.CharField(max_length=100, default="")
    c = models.CharField(max_length=100, default="")
    d = models.CharField(max_length=100, default="")
    e = models.CharField(max_length=100, default="")
    f = models.TextField(default="")
    g = models.TextField(default="")
    h = models.TextField(default="")
    i = models.TextField(default="")
    j = models.TextField(default="")
    other = models.CharField(max_length=100, default="")

    buffered = RowBuffer(key="number")

    class Meta:
        app_label = "tests"
        managed = False


class Mixed(models.Model):
    """Ten fields of several types, and one that no entry sets."""

    number = models.BigIntegerField(unique=True)
    a = models.IntegerField(default=0)
    b = models.CharField(max_length=100, default="")
    c = models.DateTimeField(null=True)
    d = models.BooleanField(default=False)
    e = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    f = models.TextField(default="")
    g = models.JSONField(default=dict)
    h = models.FloatField(default=0)
    i = models.BigIntegerField(null=True)
    j = models.DateField(null=True)
    other = models.CharField(max_length=100, default="")

    buffered = RowBuffer(key="number")

    class Meta:
        app_label = "tests"
        managed = False


def values_of(model: type[models.Model], n: int) -> dict[str, Any]:
    if model is Texts:
        return {name: f"the text {n} of the field {name}" for name in "abcdefghij"}
    at = datetime.datetime(2024, 1, 2, 3, 4, 5, n, tzinfo=datetime.UTC)
    return {
        "a": n,
        "b": f"the text {n} of the field b",
        "c": at,
        "d": n % 2 == 0,
        "e": Decimal(n).scaleb(-2),
        "f": f"the text {n} of the field f",
        "g": {"n": n, "tags": ["a", "b"]},
        "h": n / 3,
        "i": NUMBER + n,
        "j": at.date(),
    }


def cost(act: Callable[[], object]) -> float:
    """Microseconds of the processor."""
    took = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        act()
        took.append(time.process_time() - begun)
    return statistics.median(took) * 1e6


def of_a_write(layout: Any, values: dict[str, Any]) -> None:
    for n in range(ENTRIES):
        layout.split({"number": n, **values})


@pytest.mark.parametrize("model", [Texts, Mixed])
def test_fold(model):
    layout = model.buffered.layout()
    ids, stored, replies = [], {}, []
    for n in range(ENTRIES):
        id, texts = layout.split({"number": n, **values_of(model, n)})
        ids.append(id)
        stored[id] = {"id": n + 1, "number": n}
        reply = ["#", f"{NUMBER}", "@", f"{NUMBER + n}"]
        for name, text in texts.items():
            reply += [name, f"{NUMBER + n}{text}"]
        replies.append(reply)

    def plan(rows: dict[str, Any]) -> Any:
        return make_plan(layout, [*map(of_reply, ids, replies)], rows)

    over, new = plan(stored), plan({})
    assert (len(over.change), len(new.insert)) == (ENTRIES,) * 2
    assert over.change[7].values["b"] == new.insert[7].b == values_of(model, 7)["b"]
    three = {name: values_of(model, 7)[name] for name in "abc"}
    ways: dict[str, Callable[[], object]] = {
        "from the reply to a plan, over stored rows": lambda: plan(stored),
        "from the reply to a plan, new rows": lambda: plan({}),
        "Layout.split of the key and three fields": lambda: of_a_write(layout, three),
    }
    print(f"\n{model.__name__}, ten fields, µs of CPU for each of {ENTRIES} entries:")
    for name, way in ways.items():
        print(f"  {name:<45}{cost(way) / ENTRIES:6.1f}")
