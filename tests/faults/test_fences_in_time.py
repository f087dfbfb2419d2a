"""G4: a direct write that comes while a flusher is in its transaction, before or after the locks.

Fences are read once the rows are locked, and the batch is written in one pass.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Counted
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections, transaction

from tests.backdoor.flushes import isolate_at_once
from tests.models import Counter, Note, Owner
from writebehind_app import Add, checkpoints
from writebehind_app.flush.engine import flush
from writebehind_app.models import AppliedBatch

pytestmark = [
    pytest.mark.parametrize("redis_server", ["valkey"], indirect=True),
    # SQLite lets nobody write while a flusher does.
    pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True),
]


@pytest.fixture
def at(
    monkeypatch: pytest.MonkeyPatch, go: Callable[[str], None]
) -> Iterator[Callable[..., Counted[str]]]:
    """`at(step, act)`: write directly as a flusher comes to the step, once; how often it came to
    each. A write that has to wait for the flusher goes on after it."""
    threads: list[threading.Thread] = []
    reached: Counted[str] = Counted()

    def begin(step: str, act: Callable[[], object], wait: float = 0.7) -> Counted[str]:
        def hook(name: str) -> None:
            if threading.current_thread() in threads:
                return
            reached[name] += 1
            if name == step and not threads:
                go("direct")
                threads.append(threading.Thread(target=write))
                threads[0].start()
                threads[0].join(wait)
                go("buffered")

        def write() -> None:
            try:
                act()
            finally:
                connections.close_all()

        monkeypatch.setattr(checkpoints, "hook", hook)
        return reached

    yield begin
    for thread in threads:
        thread.join(20)
    monkeypatch.undo()  # before the settings of the test go


@contextmanager
def isolation(alias: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Transactions of the project see what there was when they began."""
    connection = connections[alias]
    options = dict(connection.settings_dict["OPTIONS"])
    if connection.vendor == "mysql":
        options["isolation_level"] = "repeatable read"
    elif connection.vendor == "postgresql":
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        options["isolation_level"] = IsolationLevel.REPEATABLE_READ
    connection.close()
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict, "OPTIONS", options)
        connection.__dict__.pop("isolation_level", None)
        yield
        connection.close()


def stored(*fields: str) -> dict[str, Any]:
    return Counter.objects.values(*fields).get(name="x")


def wait_for_writer() -> None:
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(20)


@pytest.mark.parametrize("is_repeatable", [False, True])
def test_one_before_the_locks_is_not_written_over(
    database, redis_server, monkeypatch, at, is_repeatable
):
    Counter.objects.create(name="x", small=1)
    Counter.buffered.set(name="x", small=2, big=Add(5))

    def act() -> None:
        Counter.buffered.set(name="x", small=50)

    def story() -> None:
        reached = at("flush.token", act)
        assert flush(Counter.buffered).rows == 1
        assert stored("small", "big") == {"small": 50, "big": 5}
        assert reached["flush.token"] == 1  # in one pass

    if is_repeatable:
        with isolation(database, monkeypatch):
            story()
    else:
        story()


def test_one_that_has_the_row_is_waited_for(database, redis_server, at):
    Counter.objects.create(name="x", small=1)
    Counter.buffered.set(name="x", small=2, big=7)

    def act() -> None:
        with transaction.atomic(using=database):
            Counter.buffered.set(name="x", small=50)
            time.sleep(0.8)

    reached = at("flush.token", act, wait=0.3)
    assert flush(Counter.buffered).rows == 1
    assert stored("small", "big") == {"small": 50, "big": 7}
    assert reached["flush.token"] == 1


def test_one_after_the_locks_waits_and_comes_after_the_batch(database, redis_server, at):
    Counter.objects.create(name="x", small=1)
    Counter.buffered.set(name="x", small=2, big=7)
    reached = at("flush.deleted", lambda: Counter.buffered.set(name="x", small=Add(50)))
    assert flush(Counter.buffered).rows == 1
    wait_for_writer()
    assert stored("small", "big") == {"small": 52, "big": 7}
    assert reached["flush.token"] == 1


def test_one_that_makes_the_row_meanwhile_is_not_written_over(database, redis_server, at):
    Counter.buffered.set(name="x", small=2, big=7)
    Counter.buffered.set(name="y", small=3)
    at("flush.updated", lambda: Counter.buffered.set(name="x", small=50))
    result = flush(Counter.buffered)
    assert (result.rows, result.dead_letters) == (2, 0)
    assert stored("small", "big") == {"small": 50, "big": 7}
    assert Counter.objects.get(name="y").small == 3


def test_one_that_makes_the_row_while_poison_is_looked_for(database, redis_server, at, monkeypatch):
    Counter.buffered.set(name="x", small=2, big=7)
    Counter.buffered.set(name="y", small=3)
    isolate_at_once(monkeypatch)
    at("flush.updated", lambda: Counter.buffered.set(name="x", small=50))
    result = flush(Counter.buffered)
    assert (result.rows, result.dead_letters) == (2, 0)
    assert stored("small", "big") == {"small": 50, "big": 7}


def test_all_that_is_pending_may_be_void(database, redis_server, at):
    Counter.objects.create(name="x", small=1)
    Counter.buffered.set(name="x", small=2)
    at("flush.token", lambda: Counter.buffered.delete(name="x"))
    result = flush(Counter.buffered)
    assert (result.rows, result.batches, result.dead_letters) == (0, 1, 0)
    assert not Counter.objects.exists()
    assert AppliedBatch.objects.get().rows == 0


def test_with_an_entry_that_is_refused(database, redis_server, at):
    owner = Owner.objects.create(name="o")
    Note.objects.create(page="p", owner=owner, key="k", value=1)
    Note.buffered.of(page="p", owner=404404).update(k=1)  # no such owner
    Note.buffered.of(page="p", owner=owner).update(k=2, other=3)
    at("flush.token", lambda: Note.buffered.of(page="p", owner=owner).update(k=50))
    assert flush(Note.buffered).dead_letters == 1
    found = Note.objects.filter(owner=owner).values_list("key", "value")
    assert dict(found) == {"k": 50, "other": 3}


def test_rows_that_change_in_other_columns_since(database, redis_server, at):
    """What is left of each is another part than what was to be written."""
    Counter.objects.bulk_create(Counter(name=n, small=1, big=1) for n in "xyz")
    Counter.buffered.set_many({"name": n, "small": 2, "big": 2} for n in "xyz")

    def act() -> None:
        Counter.buffered.set(name="x", small=50)
        Counter.buffered.set(name="y", big=60)

    reached = at("flush.token", act)
    assert flush(Counter.buffered).rows == 3
    assert reached["flush.token"] == 1
    found = Counter.objects.order_by("name").values_list("small", "big")
    assert list(found) == [(50, 2), (2, 60), (2, 2)]
