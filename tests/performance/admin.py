"""Measures what the pages of the admin cost where very much is pending, and was flushed.

python -m pytest tests/performance/admin.py -s      (WRITEBEHIND_TEST_DATABASES names the databases)
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import time
from datetime import timedelta

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.admin import DASHBOARD, HISTORY, LETTERS, client, entries
from tests.backdoor.calls import round_trips
from tests.backdoor.entries import made
from tests.models import Item
from writebehind_app.models import AppliedBatch, DeadLetter

PENDING = int(os.environ.get("WRITEBEHIND_PENDING", 1_000_000))
BATCHES, DEAD = 100_000, 10_000  # all of the last day
ITEMS = entries("tests.Item")
PAGES = {
    "dashboard": DASHBOARD,
    "dashboard, the day": f"{DASHBOARD}?span=day",
    "its live part": f"{DASHBOARD}status/",
    "entries": ITEMS,
    "entries, newest": f"{ITEMS}?order=newest",
    "entries, by age": f"{ITEMS}?age=10",
    "entries, 1 found": f"{ITEMS}?key-number=999999*",
    "entries, many found": f"{ITEMS}?key-number=9*",
    "entry": f"{ITEMS}entry/?id=500000",
    "discard all": f"{ITEMS}discard/",
    "dead letters": LETTERS,
    "history": HISTORY,
    "history of a buffer": f"{HISTORY}?buffer=tests.Item",
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
def test_pages(database, redis_server, configure, monkeypatch):
    configure(MAX_PENDING=10 * PENDING)
    for start in range(0, PENDING, 10_000):
        Item.buffered.set_many([{"number": n, "a": n} for n in range(start, start + 10_000)])
    fill_ledger()
    admin = client(superuser=True)
    trips = round_trips(monkeypatch)
    print(f"\n{PENDING} pending, {BATCHES} batches, {DEAD} dead letters, {database}")
    for name, path in PAGES.items():
        took = []
        for _ in range(5):
            trips.clear()
            with CaptureQueriesContext(connections[database]) as queries:
                started = time.perf_counter()
                if "discard" in name:
                    assert admin.post(path, {"all": "1"}).status_code == 200
                else:
                    assert admin.get(path).status_code == 200
                took.append(1000 * (time.perf_counter() - started))
        print(
            f"  {name:22} {statistics.median(took):4.0f} ms ({min(took):.0f} to {max(took):.0f}), "
            f"{sum(trips)} commands, {len(queries)} queries"
        )


def fill_ledger() -> None:
    now = timezone.now()
    AppliedBatch.objects.bulk_create(
        (
            AppliedBatch(
                token=secrets.token_hex(16),
                buffer=("tests.Item", "tests.Note")[n % 2],
                shard=n % 4,
                entries=100,
                rows=100,
                statements=9,
                oldest_at=now - timedelta(seconds=n * 86400 / BATCHES + 3),
                applied_at=now - timedelta(seconds=n * 86400 / BATCHES),
                duration=timedelta(milliseconds=20 + n % 30),
            )
            for n in range(BATCHES)
        ),
        batch_size=500,
    )
    DeadLetter.objects.bulk_create(
        (
            DeadLetter(
                buffer="tests.Item",
                shard=0,
                first=n,
                last=n,
                digest=secrets.token_hex(20),
                entry=json.dumps(made(n)),
                error="IntegrityError",
                reason=f"refused {n}",
                first_seen=now,
                last_seen=now,
            )
            for n in range(DEAD)
        ),
        batch_size=500,
    )
