"""Measures what a cascade over buffered children costs.

python -m pytest tests/performance/cascade.py -s    (WRITEBEHIND_TEST_DATABASES names the databases)
"""

from __future__ import annotations

import os
import statistics
import time

import pytest

from tests.backdoor.calls import round_trips
from tests.models import Owner, Pair

CHILDREN = int(os.environ.get("WRITEBEHIND_CHILDREN", 20_000))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
def test_cascade(database, redis_server, monkeypatch):
    trips = round_trips(monkeypatch)

    def cost(orm: str, pending: int) -> tuple[float, int]:
        monkeypatch.setitem(Pair.buffered.options, "ORM", orm)
        owner = Owner.objects.create(name="o")
        Pair.objects.bulk_create(Pair(owner=owner, name=str(n)) for n in range(CHILDREN))
        rows = [{"owner": owner, "name": str(n), "value": 1} for n in range(pending)]
        if rows:
            Pair.buffered.set_many(rows)
        trips.clear()
        started = time.perf_counter()
        owner.delete()
        took = time.perf_counter() - started, len(trips)
        Pair.buffered.discard()
        return took

    print(f"\n{CHILDREN} children, {database}")
    for orm, pending in [("ignore", 0), ("fence", 0), ("fence", 200), ("fence", CHILDREN)]:
        took, asked = zip(*(cost(orm, pending) for _ in range(3)), strict=True)
        print(f"  {orm}, {pending}: {statistics.median(took):.2f} s, {asked[0]} round trips")
