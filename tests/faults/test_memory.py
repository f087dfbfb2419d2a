"""Scenario 45: no memory is kept. `WRITEBEHIND_TEST_WRITES=1000000` takes the full number."""

from __future__ import annotations

import os
import time

import pytest
from django.db.models import Sum

from tests.backdoor.keyspace import are_those_of_shards
from tests.models import Item
from tests.servers import lasting_keys
from writebehind_app import Add

WRITES = int(os.environ.get("WRITEBEHIND_TEST_WRITES", "10000"))
KEYS = max(WRITES // 10, 10_000)
CALL = 1000  # writes
FLUSHES = max(WRITES // 250_000, 1)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_redis_holds_in_the_end_what_it_held_at_the_start(database, redis_server, configure):
    configure(SOCKET_TIMEOUT=30)  # the machine may be busy
    with redis_server.client() as redis:
        Item.buffered.set_many({"number": n, "a": Add(1)} for n in range(CALL))
        Item.buffered.flush()  # and connections and scripts are there
        Item.objects.all().delete()
        start = used(redis)
        most = 0
        for first in range(0, WRITES, CALL):
            Item.buffered.set_many(
                {"number": n % KEYS, "a": Add(1), "b": "x" * 50} for n in range(first, first + CALL)
            )
            if (first + CALL) % (WRITES // FLUSHES) == 0:
                most = max(most, used(redis) - start)
                Item.buffered.flush()
        most = max(most, used(redis) - start)
        Item.buffered.flush()
        assert Item.objects.count() == KEYS
        assert Item.objects.aggregate(sum=Sum("a"))["sum"] == WRITES
        assert most > 2 * 2**20
        deadline = time.monotonic() + 20
        while used(redis) - start > 2**20 and time.monotonic() < deadline:
            time.sleep(0.2)  # what is unlinked is freed in the background
        print(f"{WRITES:,} writes, at most {most:,} bytes, {used(redis) - start:,} in the end")
        assert used(redis) - start < 2**20
        assert are_those_of_shards(lasting_keys(redis), Item.buffered)


def used(redis) -> int:
    return redis.info("memory")["used_memory"]
