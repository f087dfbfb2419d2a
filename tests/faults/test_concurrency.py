"""Several flushers, writers and readers at once, and flushers that stop and come back."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import OperationalError, connections

from tests.backdoor.batches import claim
from tests.backdoor.shards import counted, number_of
from tests.models import Item
from writebehind_app import checkpoints
from writebehind_app.flush.engine import flush
from writebehind_app.models import AppliedBatch

on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

KEYS = 40


# In children


def flush_until_closed() -> None:
    """Flushes all the time, until standard input ends."""
    print("ready")
    closed = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
    while not closed.is_set():
        flush(Item.buffered, ignore_backoff=True, stop=closed.is_set)


def write_field(field: str, seed: int, kind: str) -> None:
    print(json.dumps(write(field, seed, {"int": int, "str": str}[kind])))


def write(field: str, seed: int, convert: type) -> dict[int, Any]:
    """Writes one field of random rows; says what it wrote last, by key."""
    choose = random.Random(seed)
    last: dict[int, Any] = {}
    for n in range(500):
        if n % 20 == 0:
            rows = {number: convert(n + number) for number in choose.sample(range(KEYS), 5)}
            Item.buffered.set_many({"number": k, field: value} for k, value in rows.items())
            last |= rows
        else:
            number = choose.randrange(KEYS)
            Item.buffered.set(number=number, **{field: convert(n)})
            last[number] = convert(n)
    return last


def stop_self_at(step: str) -> None:
    """Flushes, and stops dead at a step until someone sends SIGCONT."""

    def hook(reached: str) -> None:
        if reached == step:
            checkpoints.hook = None
            print("stopping")
            os.kill(os.getpid(), signal.SIGSTOP)

    checkpoints.hook = hook
    print(Item.buffered.flush().rows)


def use_redis_on_both_sides_of_a_fork() -> None:
    Item.buffered.set(number=0, a=0)
    pid = os.fork()
    first = 1 if pid else 1001
    for n in range(first, first + 200):
        receipt = Item.buffered.set(number=n, a=n)
        assert receipt.id == str(n)
        assert Item.buffered.pending(limit=1)[0].key == {"number": 0}
    if not pid:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    print("done")


# Helpers


def wait_stopped(pid: int) -> None:
    while True:
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rpartition(") ")[2].startswith("T"):
                return
        time.sleep(0.005)


def stored() -> dict[int, tuple[int, str]]:
    return {row.number: (row.a, row.b) for row in Item.objects.all()}


# Tests


@pytest.mark.process
@on_valkey
def test_two_flushers_and_four_writers_on_the_same_rows(
    database, redis_server, configure, start_child
):
    """Each writer has a field of its own, so that each knows what has to come of it.

    Scenario 13.
    """
    configure(BATCH_SIZE=7, SHARDS=3)
    for number in range(0, KEYS, 2):
        Item.objects.create(number=number, a=-1, b="-1", c="-1", d=-1)
    flushers = [start_child(flush_until_closed) for _ in range(2)]
    for flusher in flushers:
        assert flusher.stdout.readline() == "ready\n"
    children = {
        "a": start_child(write_field, "a", 1, "int"),
        "b": start_child(write_field, "b", 2, "str"),
    }
    with ThreadPoolExecutor() as threads:
        c, d = threads.submit(write, "c", 3, str), threads.submit(write, "d", 4, float)
        last: dict[str, dict[int, Any]] = {"c": c.result(), "d": d.result()}
    for field, child in children.items():
        answer = json.loads(child.stdout.readline())
        last[field] = {int(k): v for k, v in answer.items()}
    for flusher in flushers:
        flusher.communicate(timeout=60)
        assert flusher.returncode == 0
    Item.buffered.flush()

    assert Item.buffered.count_pending() == 0
    rows = {row.number: row for row in Item.objects.all()}
    for field, values in last.items():
        assert len(values) > KEYS / 2
        assert {k: getattr(rows[k], field) for k in values} == values

    # The token is the ledger's primary key. What Redis counted is what the ledger says.
    ledger = list(AppliedBatch.objects.all())
    assert sum(batch.entries for batch in ledger) == counted(Item.buffered, "flushed")
    assert len(ledger) == counted(Item.buffered, "batches")
    assert all(batch.rows == batch.entries for batch in ledger)
    # A write of many counts each of its rows: 475 single ones and 25 times 5, four times.
    assert counted(Item.buffered, "accepted") == 4 * (475 + 125)
    assert len(ledger) > 20


@pytest.mark.process
@on_valkey
@pytest.mark.parametrize("step", ["flush.claimed", "flush.committed"])
def test_a_flusher_that_wakes_up_late_brings_nothing_back(
    step, database, redis_server, configure, start_child
):
    """While it stood still its lease ended, another one flushed its batch, and a newer one.

    Scenario 11.
    """
    configure(SHARDS=1, LEASE=0.3)
    Item.objects.create(number=1, a=1, b="stored")
    Item.buffered.set(number=1, a=2)
    Item.buffered.set(number=2, a=2)
    child = start_child(stop_self_at, step)
    assert child.stdout.readline() == "stopping\n"
    wait_stopped(child.pid)

    Item.buffered.set(number=1, a=3)
    Item.buffered.delete(number=2)
    assert Item.buffered.get(number=1).a == 3
    Item.buffered.flush()
    Item.buffered.set(number=1, b="newest")
    Item.buffered.flush()
    assert stored() == {1: (3, "newest")}
    # And a batch that is in flight at the moment at which it acknowledges its own.
    Item.buffered.set(number=1, a=4)
    (batch,) = claim(Item.buffered)

    child.send_signal(signal.SIGCONT)
    assert child.wait(60) == 0

    assert stored() == {1: (3, "newest")}
    assert Item.buffered.get(number=1).a == 4
    assert [e.state for e in Item.buffered.pending()] == ["in_flight"]
    batch.release()
    Item.buffered.flush()
    assert stored() == {1: (4, "newest")}
    entries = AppliedBatch.objects.values_list("entries", flat=True)
    assert sorted(entries) == [1, 1, 2, 2]


@pytest.mark.process
@on_valkey
@pytest.mark.parametrize("step", ["flush.token", "flush.inserted"])
def test_a_flusher_that_stops_within_its_transaction(
    step, database, redis_server, configure, start_child
):
    """The next one has the same batch, waits in the database for the first, and applies nothing.

    Scenario 8.
    """
    configure(SHARDS=1, LEASE=0.2)
    Item.objects.create(number=1, a=1, b="stored")
    Item.buffered.set(number=1, a=2)
    Item.buffered.set(number=2, a=2)
    first = start_child(stop_self_at, step)
    assert first.stdout.readline() == "stopping\n"
    wait_stopped(first.pid)
    Item.buffered.set(number=1, a=3)
    assert Item.buffered.get(number=1).a == 3

    second = start_child(flush_until_closed)
    assert second.stdout.readline() == "ready\n"
    time.sleep(0.5)
    assert Item.buffered.get(number=1).a == 3
    assert stored() == {1: (1, "stored")}
    first.send_signal(signal.SIGCONT)
    assert first.wait(60) == 0
    second.communicate(timeout=60)
    assert second.returncode == 0

    Item.buffered.flush()
    assert stored() == {1: (3, "stored"), 2: (2, "")}
    assert sorted(AppliedBatch.objects.values_list("entries", flat=True)) == [1, 2]


@on_valkey
def test_a_key_dirty_again_between_claim_and_acknowledgement(
    database, redis_server, configure, monkeypatch
):
    """Scenarios 10 and 12."""
    configure(SHARDS=1, ON_COMMIT=False)  # within the transaction of the flush, too
    at: dict[str, int] = {}

    def hook(step: str) -> None:
        if step.startswith("flush.") and step not in at:
            at[step] = len(at) + 1
            receipt = Item.buffered.set(number=1, a=at[step])
            Item.buffered.set(number=1, b=step)
            # The first step comes before the claim: that write is in the batch.
            assert (receipt.where == "pending") or step == "flush.claiming"
            if step not in ("flush.deleted", "flush.updated", "flush.inserted", "flush.token"):
                assert Item.buffered.get(number=1).a == at[step]

    Item.buffered.set(number=1, a=0)
    monkeypatch.setattr(checkpoints, "hook", hook)
    Item.buffered.flush()
    assert sorted(at) == sorted(s for s in checkpoints.NAMES if s.startswith("flush."))
    assert stored() == {1: (1, "flush.claiming")}
    assert Item.buffered.get(number=1).a == len(at)
    Item.buffered.flush()
    assert stored() == {1: (len(at), "flush.acked")}


@on_valkey
def test_flushers_and_direct_writers_on_overlapping_rows(database, redis_server, configure):
    """They may get in each other's way, and a batch may fail for it; nothing is lost.

    Scenario 13.
    """
    configure(BATCH_SIZE=10, SHARDS=2, BACKOFF=0.01)
    Item.objects.bulk_create(Item(number=n) for n in range(0, 30, 2))
    done = threading.Event()
    errors: list[BaseException] = []

    def repeat(act) -> threading.Thread:
        def run() -> None:
            try:
                while not done.is_set():
                    try:
                        act()
                    except OperationalError:  # a deadlock, or locked for too long
                        continue
                    finally:
                        time.sleep(0.002)
            except BaseException as error:  # noqa: BLE001
                errors.append(error)
            finally:
                connections.close_all()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    choose = random.Random(5)

    def direct() -> None:
        numbers = choose.sample(range(30), 6)
        Item.objects.filter(number__in=numbers).update(c=str(numbers[0]))

    threads = [repeat(Item.buffered.flush), repeat(Item.buffered.flush), repeat(direct)]
    last = {}
    for n in range(300):
        number = choose.randrange(30)
        Item.buffered.set(number=number, a=n)
        last[number] = n
        time.sleep(0.002)
    done.set()
    for thread in threads:
        thread.join()
    Item.buffered.flush()
    assert not errors
    assert {k: a for k, (a, _) in stored().items() if k in last} == last


def test_50_threads(plain, configure):
    """Scenario 42."""
    configure(SHARDS=4)
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for n in range(20):
                number = thread * 100 + n
                receipt = Item.buffered.set(number=number, a=number)
                Item.buffered.set(number=-1, a=n)
                assert receipt.id == str(number)
                if n % 10 == 5:
                    assert Item.buffered.get(number=number).a == number
                if n == 15 and thread % 10 == 0:
                    Item.buffered.flush()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=[n]) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    Item.buffered.flush()
    expected = {thread * 100 + n: thread * 100 + n for thread in range(50) for n in range(20)}
    assert {k: a for k, (a, _) in stored().items()} == {**expected, -1: 19}
    assert counted(Item.buffered, "accepted") == 2000


@pytest.mark.process
def test_the_client_is_used_on_both_sides_of_a_fork(plain, start_child):
    """Scenario 42."""
    child = start_child(use_redis_on_both_sides_of_a_fork)
    assert child.stdout.readline() == "done\n"
    Item.buffered.flush()
    assert {k: a for k, (a, _) in stored().items()} == {
        n: n for n in [*range(201), *range(1001, 1201)]
    }


@on_valkey
@pytest.mark.parametrize("quiet", [0, 0.2])
def test_a_hot_key_is_stored_in_time_and_seldom(database, redis_server, configure, quiet):
    """Scenario 14."""
    configure(MAX_AGE=0.25, QUIET=quiet, SHARDS=2)
    done = threading.Event()
    errors: list[BaseException] = []

    def flush_what_is_due() -> None:
        try:
            while not done.is_set():
                flush(Item.buffered, due_only=True)
                time.sleep(0.01)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connections.close_all()

    flusher = threading.Thread(target=flush_what_is_due)
    flusher.start()
    written_at = []
    lag = 0.0
    until = time.monotonic() + 1.5
    try:
        while time.monotonic() < until:
            Item.buffered.set(number=1, a=len(written_at))
            written_at.append(time.monotonic())
            if len(written_at) % 20 == 0:
                Item.buffered.set(number=len(written_at))  # a cold one beside it
            if len(written_at) % 10 == 0:
                now = time.monotonic()
                row = Item.objects.filter(number=1).first()
                first_missing = written_at[row.a + 1 if row else 0 :][:1]
                lag = max(lag, now - first_missing[0]) if first_missing else lag
            time.sleep(0.001)
    finally:
        done.set()
        flusher.join()
    assert not errors
    assert lag < 0.25 + 0.5  # and one flush, on a busy machine
    assert 2 <= AppliedBatch.objects.count() == counted(Item.buffered, "batches")
    hot = number_of(Item.buffered, "1")
    assert AppliedBatch.objects.filter(shard=hot).count() < len(written_at) / 10


@on_valkey
def test_a_lease_is_kept_while_a_long_transaction_runs(
    database, redis_server, configure, monkeypatch
):
    configure(SHARDS=1, LEASE=0.3)
    others: list[Any] = []

    def hook(step: str) -> None:
        if step == "flush.token":
            time.sleep(0.9)
            others.append(claim(Item.buffered, lease=1))

    monkeypatch.setattr(checkpoints, "hook", hook)
    Item.buffered.set(number=1)
    Item.buffered.flush()
    assert others == [[]]
    assert Item.objects.exists()


def test_a_lease_is_not_kept_after_a_failure(plain, configure, monkeypatch):
    configure(SHARDS=1, LEASE=0.1)

    def hook(step: str) -> None:
        if step == "flush.token":
            time.sleep(0.1)
            raise RuntimeError

    Item.buffered.set(number=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "hook", hook)
        with pytest.raises(RuntimeError):
            Item.buffered.flush()
    time.sleep(0.1)
    assert Item.buffered.flush().rows == 1
