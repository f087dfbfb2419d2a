"""Measures what flushers ask of the database and of Redis: with nothing to do, and at 150 writes a
second to 300 rows, with the default settings.

WRITEBEHIND_TEST_DATABASES=postgresql python -m pytest tests/performance/rhythm.py -s
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from tests.models import Item
from writebehind_app import registry, tasks
from writebehind_app.models import AppliedBatch

SECONDS = float(os.environ.get("WRITEBEHIND_SECONDS", "20"))
KEYS, RATE = 300, 150


def loop() -> None:
    call_command("flush_writebehind", loop=True, max_time=SECONDS, verbosity=0)


def tick() -> None:
    """As a worker of Django-Q2, one tick after the other."""
    ends = time.monotonic() + SECONDS
    while (left := ends - time.monotonic()) > 0:
        tasks.flush_due(seconds=min(10, left), fan_out=True)


FLUSHERS = pytest.mark.parametrize("flusher", [loop, tick])


@contextmanager
def statements(alias: str, wanted: Callable[[str], bool] = bool) -> Iterator[list[str]]:
    """Those of this thread."""
    found: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if wanted(sql):
            found.append(sql)
        return execute(sql, params, many, context)

    with connections[alias].execute_wrapper(note):
        yield found


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the many buffers of the tests, as many as a site has."""
    labels = ["tests.Item", "tests.Visit", "tests.Stamp", "tests.Counter", "tests.Pair"]
    few = {label: registry.buffers()[label] for label in labels}
    monkeypatch.setattr(registry, "buffers", lambda: few)


@FLUSHERS
def test_idle(database, redis_server, flusher):
    client = redis_server.client()
    before = client.info("stats")["total_commands_processed"]
    sent = client.info("commandstats")
    with statements(database) as found:
        flusher()
    sql, in_redis = len(found) / SECONDS, client.info("stats")["total_commands_processed"] - before
    now = client.info("commandstats")
    calls = {n: s["calls"] - sent.get(n, {"calls": 0})["calls"] for n, s in now.items()}
    print(f"\n{flusher.__name__}, idle: {sql:.2f} statements and {in_redis / SECONDS:.1f} commands")
    print({n: round(c / SECONDS, 1) for n, c in calls.items() if c > SECONDS / 10})


@FLUSHERS
def test_a_few_writes(database, redis_server, flusher):
    ends, written = time.monotonic() + SECONDS, 0

    def write() -> None:
        nonlocal written
        began = time.monotonic()
        while time.monotonic() < ends:
            Item.buffered.set(number=random.randrange(KEYS), a=written, b="text")
            written += 1
            time.sleep(max(began + written / RATE - time.monotonic(), 0))

    writer = threading.Thread(target=write)
    writer.start()
    with statements(database, lambda sql: "django_q" not in sql) as found:
        flusher()
    writer.join()
    sizes = list(AppliedBatch.objects.values_list("entries", flat=True))
    print(
        f"\n{flusher.__name__}: {len(sizes)} batches of {sum(sizes) / len(sizes):.0f} rows, "
        f"{len(found) / written:.4f} statements for each of {written} writes"
    )
