"""A base that is wrong outlives `cache_seconds` in no story, although a process is cut off from
Redis, and saves past it all the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from tests.backdoor.batches import Claim, claim
from tests.backdoor.breaker import cut_off
from tests.models import Item
from writebehind_app import Add

SECONDS = 0.3
LATE = 0.02  # that the clocks of Redis and of this process tell apart


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
@pytest.mark.parametrize("seed", range(4))
def test_stories(seed, database, redis_server, configure, monkeypatch):
    configure(SHARDS=1, CACHE_SECONDS=SECONDS, LEASE=0.2)
    choose = random.Random(seed)
    Item.objects.create(number=1, b="0")
    saves = [(time.monotonic(), 0)]  # when each was committed
    total = 0
    asleep: list[Claim] = []

    def save(*, is_away: bool) -> None:
        row = Item.objects.get(number=1)
        row.b = str(saves[-1][1] + 1)
        if is_away:
            with cut_off(monkeypatch):
                row.save(update_fields=["b"])
        else:
            row.save(update_fields=["b"])
        saves.append((time.monotonic(), saves[-1][1] + 1))
        if not is_away:
            saves[:] = [(0.0, saves[-1][1])]  # seen at once

    def add() -> None:
        nonlocal total
        Item.buffered.set(number=1, a=Add(1))
        total += 1

    def wake() -> None:
        while asleep:
            asleep.pop().flush()

    acts: list[Callable[[], object]] = [
        lambda: save(is_away=True),
        lambda: save(is_away=True),
        lambda: save(is_away=False),
        add,
        add,
        Item.buffered.flush,
        lambda: asleep.extend(claim(Item.buffered, lease=0.01)),
        wake,
        lambda: time.sleep(choose.random() * 0.2),
    ]
    for _ in range(80):
        choose.choice(acts)()
        for _ in range(2):
            began = time.monotonic()
            row = Item.buffered.get(number=1)
            least = max((n for at, n in saves if at <= began - SECONDS - LATE), default=0)
            assert least <= int(row.b) <= saves[-1][1]
            assert row.a == total
    wake()
    Item.buffered.flush()
    time.sleep(SECONDS + LATE)
    row = Item.buffered.get(number=1)
    assert (row.a, int(row.b)) == (total, saves[-1][1])
