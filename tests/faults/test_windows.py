"""Somebody acts between two statements of one transaction: of a flush, or of a write past Redis.

Each test says which two. What was accepted before the act comes first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction

from tests.backdoor.flushes import isolate_at_once
from tests.elsewhere import elsewhere
from tests.models import Counter, Owner, Pair, Place, Setting, Venue
from tests.router import current
from writebehind_app import Add, checkpoints

pytestmark = [
    pytest.mark.parametrize("redis_server", ["valkey"], indirect=True),
    # SQLite lets nobody write while somebody else does.
    pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True),
]

FENCES = "SELECT digest, marks"
LATE = ["flush.inserted", "flush.buried"]  # new rows are in, and nobody sees them


class Meanwhile:
    """Somebody acts once, before or after a statement that has a text. One who has to wait for that
    transaction goes on after it."""

    def __init__(self, text: str, act: Callable[[], Any], *, after: bool = False) -> None:
        self._text, self._act, self._after = text, act, after
        self._thread: threading.Thread | None = None
        self.error: Exception | None = None

    def __enter__(self) -> Meanwhile:
        self._wrapper = connections[current()].execute_wrapper(self._notice)
        self._wrapper.__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        self._wrapper.__exit__(*args)
        assert self._thread is not None, "there was no such statement"
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _notice(self, execute: Any, sql: str, *args: Any) -> Any:
        is_it = self._thread is None and self._text in sql.replace("`", '"')
        if is_it and not self._after:
            self._begin()
        found = execute(sql, *args)
        if is_it and self._after:
            self._begin()
        return found

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._thread.join(0.7)

    def _run(self) -> None:
        try:
            self._act()
        except DatabaseError as error:
            self.error = error
        finally:
            connections.close_all()


@pytest.fixture
def late(monkeypatch, go):
    """`late(step, act)`: somebody writes around Redis as a flusher comes to the step, and waits for
    it if he has to."""
    threads: list[threading.Thread] = []

    def begin(step: str, act: Callable[[], Any]) -> None:
        def hook(name: str) -> None:
            if name == step and not threads:
                threads.append(threading.Thread(target=run))
                go("direct")
                threads[0].start()
                threads[0].join(0.7)
                go("buffered")

        def run() -> None:
            try:
                act()
            finally:
                connections.close_all()

        monkeypatch.setattr(checkpoints, "hook", hook)

    begin.wait = lambda: threads[0].join(20)  # type: ignore[attr-defined]
    yield begin
    monkeypatch.undo()


@pytest.mark.parametrize("is_isolating", [False, True])
def test_a_row_is_made_after_the_fences_were_read(
    database, redis_server, monkeypatch, is_isolating
):
    """Another row has a fence. So the rows are locked once more, and this one is among them."""
    if is_isolating:
        isolate_at_once(monkeypatch)
    Counter.buffered.set(name="fenced", small=1)
    Counter.objects.create(name="fenced", big=1)
    Counter.buffered.set(name="x", small=22, big=5)
    with Meanwhile(FENCES, lambda: Counter.objects.create(name="x", small=7), after=True):
        Counter.buffered.flush()
    assert Counter.objects.values("small", "big").get(name="x") == {"small": 7, "big": None}


def test_a_parent_goes_after_it_was_looked_for(database, redis_server, monkeypatch):
    isolate_at_once(monkeypatch)
    owner = Owner.objects.create(name="anna")
    Pair.buffered.set(owner=owner, name="x", value=22)
    with Meanwhile('INSERT INTO "tests_pair"', owner.delete):
        result = Pair.buffered.flush()
    assert (result.dead_letters, result.errors) == (0, 0)
    assert not Pair.objects.exists()


def test_a_child_is_moved_while_its_parent_is_deleted(database, redis_server):
    """Either it goes, and the save hears of it, or it stays."""
    Venue.objects.create(slug="old")
    Venue.objects.create(slug="new")
    place = Place.objects.create(number=1, venue_id="old")
    Venue.buffered.delete(slug="old")
    place.venue_id = "new"
    with Meanwhile('DELETE FROM "tests_place"', place.save) as other:
        Venue.buffered.flush()
    assert other.error or Place.objects.get().venue_id == "new"


def test_a_row_is_written_and_saved_while_it_is_deleted(database, redis_server):
    """Nothing was pending when the delete looked. The save of somebody else left a fence for one
    field alone."""
    row = Counter.objects.create(name="x")

    def act() -> None:
        Counter.buffered.set(name="x", small=5, big=5)
        other = Counter.objects.get(name="x")
        other.small = 7
        other.save(update_fields=["small"])

    with Meanwhile('DELETE FROM "tests_counter"', act) as other:
        row.delete()
    Counter.buffered.flush()
    found = list(Counter.objects.values_list("small", "big"))
    assert found in ([], [(5, 5)])  # the write came before the delete, or after it
    assert other.error or not found  # there was nothing to save


def test_a_deleted_row_had_another_key_by_then(database, redis_server):
    row = Counter.objects.create(name="a")
    other = Counter.objects.get(name="a")
    other.name = "b"
    other.save()
    Counter.buffered.set(name="b", small=5)
    row.delete()
    Counter.buffered.flush()
    assert not Counter.objects.exists()


def test_an_instance_got_another_key_and_was_not_saved(database, redis_server):
    row = Counter.objects.create(name="a")
    row.name = "b"
    Counter.buffered.set(name="a", small=5)
    Counter.buffered.set(name="b", small=6)
    row.delete()
    Counter.buffered.flush()
    assert list(Counter.objects.values_list("name", "small")) == [("b", 6)]


def test_a_pending_row_that_is_not_stored_is_deleted(database, redis_server):
    Venue.buffered.set(slug="v", name="new")
    Venue.buffered.get(slug="v").delete()
    elsewhere(Venue.buffered.flush)
    assert not Venue.objects.exists()


def test_a_meta_key_is_made_while_a_call_waits_for_another(database, redis_server, go):
    """It is looked at again. The call is not tried again: many who do that at once give up."""
    Setting.objects.create(site=1, key="other", value=1)
    go("direct")
    meta = Setting.buffered.of(site=1)
    is_locked, inserts = threading.Event(), []

    def make() -> None:
        with transaction.atomic(using=current()):
            Setting.objects.select_for_update().get(key="other")
            is_locked.set()
            time.sleep(0.5)
            Setting.objects.create(site=1, key="key", value=1)

    def notice(execute: Any, sql: str, *args: Any) -> Any:
        is_update = "ON DUPLICATE KEY UPDATE" in sql  # of MariaDB
        if sql.startswith("INSERT") and Setting._meta.db_table in sql and not is_update:
            inserts.append(sql)
        return execute(sql, *args)

    with ThreadPoolExecutor(1) as pool, connections[current()].execute_wrapper(notice):
        made = pool.submit(elsewhere, make)
        assert is_locked.wait(10)
        meta.update(key=Add(5))
        made.result()
    assert dict(meta) == {"other": 1, "key": 6}
    assert not inserts


def test_a_call_in_a_transaction_waits_for_a_row_that_was_made_meanwhile(
    database, redis_server, go
):
    """The package cannot try the transaction of the caller again."""
    go("direct")
    is_locked = threading.Event()

    def make() -> None:
        Counter.objects.create(name="x", small=1)
        with transaction.atomic(using=current()):
            Counter.objects.select_for_update().get(name="x")
            is_locked.set()
            time.sleep(0.5)

    def notice(execute: Any, sql: str, *args: Any) -> Any:
        if "writebehind_fence" in sql and not is_locked.is_set():
            made.append(pool.submit(elsewhere, make))
            assert is_locked.wait(10)
        return execute(sql, *args)

    made: list[Any] = []
    with ThreadPoolExecutor(1) as pool, connections[current()].execute_wrapper(notice):
        with transaction.atomic(using=current()):
            Counter.buffered.set(name="x", small=Add(5))
        made[0].result()
    assert Counter.objects.get(name="x").small == 6
