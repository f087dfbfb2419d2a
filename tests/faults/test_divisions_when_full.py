"""Shards raised and lowered while more is written than flushers flush: the buffer is full."""

from __future__ import annotations

import itertools
import json
import random
import sys
import threading
import time
from typing import Any

import pytest
from django.db import connections

from tests.backdoor.divisions import divide, shards_in_force
from tests.faults.writers import drained, flush_on
from tests.models import Counter, Item, Line
from tests.outages import wait_for
from writebehind_app import Add
from writebehind_app.exceptions import BufferFull

pytestmark = [pytest.mark.process, pytest.mark.slow]

BUFFERS = (Counter.buffered, Item.buffered, Line.buffered)
ROWS, CHANGES, LONGEST = 30, 4, 240.0  # of each writer; of each buffer; seconds
MOST = 10  # entries


def write_on(me: int) -> None:
    """Write until it is told to end, each write until it is taken; then tell what was written."""
    ending = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ending.set()), daemon=True).start()
    rng, deadline = random.Random(me), time.monotonic() + LONGEST
    last: dict[int, int] = {}
    sums: dict[int, int] = {}
    full = direct = n = 0

    def taken(write: Any) -> None:
        nonlocal full, direct
        while True:
            assert time.monotonic() < deadline, "a write was not taken for too long"
            try:
                direct += write().direct
            except BufferFull:
                full += 1
                time.sleep(0.01)
            else:
                return

    while not ending.is_set():
        n += 1
        row = 100 * me + rng.randrange(ROWS)
        taken(lambda row=row, n=n: Item.buffered.set(number=row, a=n, b=str(n)))
        last[row] = n
        assert Item.buffered.get(number=row).a == n
        taken(lambda row=row: Counter.buffered.set(name=str(row), small=Add(1)))
        sums[row] = sums.get(row, 0) + 1
        assert Counter.buffered.get(name=str(row)).small == sums[row]
        taken(lambda: Counter.buffered.set(name="shared", small=Add(1)))
        taken(lambda n=n: Line.buffered.append(text=f"{me}-{n}"))
    connections.close_all()
    print(json.dumps({"last": last, "sums": sums, "n": n, "full": full, "direct": direct}))


@pytest.mark.parametrize("when_full", ["direct", "raise"])
@pytest.mark.parametrize(
    ("database", "redis_server"),
    [("sqlite", "valkey"), ("postgresql", "redis"), ("mariadb", "valkey")],
    indirect=True,
)
def test_nothing_is_lost_or_comes_twice_or_too_early(
    when_full, database, redis_server, configure, start_child, monkeypatch
):
    configure(MAX_PENDING=MOST, WHEN_FULL=when_full, WHEN_DOWN="raise", SHARDS=2, BATCH_SIZE=5)
    writers = [start_child(write_on, me) for me in (1, 2, 3)]
    changes, deadline = dict.fromkeys(BUFFERS, 0), time.monotonic() + LONGEST - 60
    for shards in itertools.cycle([4, 1, 3, 2]):  # each of them flushes what is pending
        wait_for(lambda: any(each.count_pending() >= MOST for each in BUFFERS), LONGEST)
        time.sleep(0.2)  # for writes that find no room
        for buffer in BUFFERS:
            monkeypatch.setitem(buffer.options, "SHARDS", shards)
            if divide(buffer, seconds=10) == "":
                assert shards_in_force(buffer) == shards
                changes[buffer] += 1
        assert all(child.poll() is None for child in writers)
        if min(changes.values()) >= CHANGES or time.monotonic() > deadline:
            break
    assert min(changes.values()) > 0
    for child in writers:
        child.stdin.write("\n")
        child.stdin.flush()
    flusher = start_child(flush_on)  # the last write of each has to find room
    told = [json.loads(child.communicate(timeout=LONGEST)[0]) for child in writers]
    flusher.communicate("\n", timeout=LONGEST)
    drained()
    assert sum(one["direct" if when_full == "direct" else "full"] for one in told) > 0
    assert sum(one["full" if when_full == "direct" else "direct"] for one in told) == 0
    last = {int(row): n for one in told for row, n in one["last"].items()}
    assert dict(Item.objects.values_list("number", "a")) == last
    assert dict(Item.objects.values_list("number", "b")) == {row: str(n) for row, n in last.items()}
    sums = {row: sum for one in told for row, sum in one["sums"].items()}
    rounds = sum(one["n"] for one in told)
    assert dict(Counter.objects.values_list("name", "small")) == {**sums, "shared": rounds}
    lines = [f"{me}-{n}" for me, one in enumerate(told, 1) for n in range(1, one["n"] + 1)]
    assert sorted(Line.objects.values_list("text", flat=True)) == sorted(lines)
    print(f"{rounds} rounds, changes: {[*changes.values()]}")
