"""What happens between the look of a save and its lock: nothing is stored twice, or lost."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction
from django.db.models import F

from tests.backdoor.batches import claim
from tests.backdoor.breaker import is_asked, stop_asking
from tests.backdoor.saves import before_lock
from tests.demo import wait_until
from tests.elsewhere import elsewhere
from tests.faults.test_fences_in_time import isolation
from tests.models import Counter
from tests.router import current
from writebehind_app import Add, BufferedQuerySet

pytestmark = pytest.mark.usefixtures("database", "redis_server")


@pytest.fixture
def row() -> Counter:
    return Counter.objects.create(name="x", big=1)


def add(row: Counter, how: str) -> None:
    """By an expression on a field that may be NULL: what is pending of it is stored first."""
    if how == "update":
        BufferedQuerySet(Counter, using=current()).filter(name="x").update(big=F("big") + 100)
    else:
        row.big = F("big") + 100
        row.save(update_fields=["big"])


def big() -> Any:
    Counter.buffered.flush()
    return Counter.objects.get(name="x").big


@pytest.mark.parametrize("how", ["save", "update"])
@pytest.mark.parametrize("is_in_flight", [False, True])
def test_what_was_flushed_in_between(row, monkeypatch, how, is_in_flight):
    Counter.buffered.set(name="x", big=Add(10))
    found = claim(Counter.buffered) if is_in_flight else []

    def act() -> None:
        for each in found:
            each.flush()
        Counter.buffered.flush()

    before_lock(monkeypatch, lambda: elsewhere(act))
    add(row, how)
    assert big() == 111


def test_what_was_claimed_in_between_and_is_not_stored(row, monkeypatch):
    Counter.buffered.set(name="x", big=Add(10))
    found: list[Any] = []
    before_lock(monkeypatch, lambda: found.extend(claim(Counter.buffered)))
    add(row, "save")
    assert Counter.objects.get(name="x").big == 111
    for each in found:
        each.flush()
    assert big() == 111


def test_what_was_committed_in_between_and_not_acknowledged(row, monkeypatch):
    Counter.buffered.set(name="x", big=Add(10))

    def act() -> None:
        (found,) = claim(Counter.buffered, lease=0.01)
        elsewhere(found.commit)

    before_lock(monkeypatch, act)
    add(row, "save")
    assert big() == 111


@pytest.mark.parametrize("how", ["save", "update"])
@pytest.mark.parametrize("act", ["write", "write, and another saves"])
def test_what_was_written_in_between(row, monkeypatch, how, act):
    """The other save leaves a fence with a greater number than the look of this one had."""
    Counter.buffered.set(name="x", big=Add(10))
    before_lock(monkeypatch, lambda: elsewhere(write_more if act == "write" else write_and_save))
    add(row, how)
    assert Counter.objects.get(name="x").big == 116
    assert big() == 116


@pytest.mark.parametrize("saves", [False, True])
@pytest.mark.parametrize("how", ["save", "update"])
def test_what_a_repeatable_read_does_not_see(row, database, monkeypatch, how, saves):
    """The transaction began before a flusher stored what is in flight, and another save its sum.
    MariaDB shows what was there when it began, PostgreSQL refuses to write over what came since."""
    if connections[database].vendor == "sqlite":
        pytest.skip("It has one writing transaction at a time.")

    def act() -> None:
        Counter.buffered.set(name="x", big=Add(10))
        (found,) = claim(Counter.buffered, lease=0.01)
        found.commit()
        if saves:
            Counter.buffered.set(name="x", big=Add(20))
            other = Counter.objects.get(name="x")
            other.big = F("big") + 1000
            other.save(update_fields=["big"])

    def story() -> None:
        with transaction.atomic(using=database):
            assert Counter.objects.get(name="x").big == 1
            elsewhere(act)
            add(row, how)

    with isolation(database, monkeypatch):
        if connections[database].vendor == "postgresql":
            with pytest.raises(OperationalError):
                story()
        else:
            story()
    own = 0 if connections[database].vendor == "postgresql" else 100
    assert big() == 11 + own + (1020 if saves else 0)


@pytest.mark.parametrize("how", ["save", "delete"])
def test_the_caller_of_another_has_locked_the_row(row, database, how):
    """Rows are locked before fences. The other way round, the two would wait for each other."""
    if connections[database].vendor == "sqlite":
        pytest.skip("It has one writing transaction at a time.")
    Counter.buffered.set(name="x", big=Add(10))

    def other() -> None:
        found = Counter.objects.get(name="x")
        if how == "save":
            add(found, "save")
        else:
            found.delete()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic(using=database):
            mine = Counter.objects.select_for_update().get(name="x")
            waiting = pool.submit(elsewhere, other)
            time.sleep(0.5)  # until the other one waits
            add(mine, "save")
        waiting.result(timeout=20)
    Counter.buffered.flush()
    rows = [211] if how == "save" else []
    assert list(Counter.objects.values_list("big", flat=True)) == rows


def write_more() -> None:
    Counter.buffered.set(name="x", big=Add(5))


def write_and_save() -> None:
    write_more()
    other = Counter.objects.get(name="x")
    other.real = 1.5
    other.save(update_fields=["real"])


def test_redis_goes_in_between(row, monkeypatch):
    """What is pending cannot be stored first, and is added later."""
    Counter.buffered.set(name="x", big=Add(10))
    before_lock(monkeypatch, stop_asking)
    add(row, "save")
    assert Counter.objects.get(name="x").big == 101
    wait_until(is_asked)
    assert big() == 111


@pytest.mark.parametrize("how", ["save", "update"])
def test_redis_cannot_be_asked(row, go, how):
    Counter.buffered.set(name="x", big=Add(10))
    go("direct")
    add(row, how)
    go("buffered")
    assert big() == 111


def test_a_sum_with_null_is_null(row, go):
    Counter.objects.update(big=None)
    Counter.buffered.set(name="x", big=5)
    go("direct")
    add(row, "save")
    go("buffered")
    assert big() is None
