"""`expires`: stored rows whose time has passed are removed by a flush, pending ones never."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import OperationalError, connections
from django.db.models import ProtectedError
from django.db.models.signals import pre_delete
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.backdoor.batches import claim
from tests.backdoor.keyspace import data
from tests.backdoor.reads import act_after_look, act_once
from writebehind_app import RowBuffer
from writebehind_app.flush.engine import flush
from writebehind_app.meta.models import AppointmentMeta
from writebehind_app.models import DeadLetter

buffered = AppointmentMeta.buffered

ONLY_VALKEY = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


def later(**span: float) -> object:
    return timezone.now() + timedelta(**span)


def store(**ends: object) -> None:
    """Rows that are stored: `n5=…` says when number 5 expires."""
    AppointmentMeta.objects.bulk_create(
        AppointmentMeta(appointment_id=int(name[1:]), expires_at=at) for name, at in ends.items()
    )


def stored() -> list[int]:
    return list(AppointmentMeta.objects.values_list("appointment_id", flat=True))


@pytest.mark.parametrize("due_only", [False, True])
def test_rows_whose_time_has_passed_are_removed(database, redis_server, due_only):
    store(n1=later(seconds=-1), n2=later(days=1), n3=None, n4=later(days=-900))
    result = flush(buffered, due_only=due_only)
    assert (result.rows, result.remaining) == (2, 0)
    assert stored() == [2, 3]
    assert buffered.count_pending() == 0


def test_a_row_that_is_false_is_removed(plain, monkeypatch):
    monkeypatch.setattr(AppointmentMeta, "__bool__", lambda row: False, raising=False)
    store(n1=later(seconds=-1), n2=later(days=1))
    assert flush(buffered).rows == 1
    assert stored() == [2]


def test_the_command_removes_them(plain):
    store(n1=later(seconds=-1))
    call_command("flush_writebehind", "writebehind_meta.AppointmentMeta", verbosity=0)
    assert stored() == []


@ONLY_VALKEY
def test_a_flush_of_single_rows_removes_no_others(database, redis_server):
    store(n1=later(seconds=-1))
    buffered.set(appointment_id=2)
    buffered.flush(appointment_id=2)
    assert stored() == [1, 2]


def test_a_pending_write_that_moves_the_time_counts(database, redis_server):
    store(n1=later(seconds=-1), n2=later(seconds=-1))
    moved = later(days=1)
    buffered.set(appointment_id=1, expires_at=moved)
    buffered.set(appointment_id=2, status="held")  # moves nothing
    flush(buffered)
    assert list(AppointmentMeta.objects.values_list("appointment_id", "expires_at")) == [(1, moved)]


@ONLY_VALKEY
def test_a_write_in_flight_that_moves_the_time_counts(database, redis_server, configure):
    configure(SHARDS=1, LEASE=0.05)
    store(n1=later(seconds=-1))
    buffered.set(appointment_id=1, expires_at=None)
    claim(buffered, lease=0.05)
    flush(buffered)
    assert stored() == [1]


@ONLY_VALKEY
def test_a_write_that_comes_after_the_look_wins(database, redis_server, monkeypatch):
    store(n1=later(seconds=-1), n2=later(seconds=-1))
    act_after_look(monkeypatch, lambda: buffered.set(appointment_id=1, expires_at=None))
    assert buffered.expire(100) == 1
    flush(buffered, ids=["1", "2"])
    assert stored() == [1]


def test_what_is_pending_is_stored_before_it_is_removed(plain):
    buffered.set(appointment_id=1, expires_at=later(days=-1))
    client = plain.client(decode_responses=True)
    assert {client.ttl(key) for key in data(client)} == {-1}  # none
    assert buffered.get(appointment_id=1).status == "scheduled"
    flush(buffered)
    assert stored() == [1]
    flush(buffered)
    assert stored() == []


def test_one_flush_removes_a_batch_at_most_and_asks_once(plain, configure):
    configure(BATCH_SIZE=2, SHARDS=1)
    store(**{f"n{n}": later(seconds=-n) for n in range(1, 6)})
    for left in ([1, 2, 3], [1], []):  # those that ended first go first
        flush(buffered)
        assert stored() == left
    with CaptureQueriesContext(connections["default"]) as queries:
        flush(buffered)
    table = AppointmentMeta._meta.db_table
    assert [table in query["sql"] for query in queries].count(True) == 1
    plan = AppointmentMeta.objects.filter(expires_at__lte=timezone.now()).explain()
    assert "INDEX" in plan


def test_a_flush_that_has_no_time_left_does_not_begin(plain):
    store(n1=later(seconds=-1))
    flush(buffered, stop=lambda: True)
    assert (stored(), buffered.count_pending()) == ([1], 0)


@pytest.fixture
def protected():
    """The database deletes none of these rows."""
    numbers: set[int] = set()

    def refuse(instance, **kwargs):
        if instance.appointment_id in numbers:
            raise ProtectedError("It has invoices.", {instance})

    pre_delete.connect(refuse, sender=AppointmentMeta)
    yield numbers
    pre_delete.disconnect(refuse, sender=AppointmentMeta)


def test_a_row_that_cannot_go_is_refused_once_and_keeps_no_other(
    database, redis_server, configure, protected
):
    configure(BATCH_SIZE=2, SHARDS=1)
    protected |= {1, 2, 3}
    store(**{f"n{n}": later(seconds=n - 10) for n in range(1, 6)})
    for _ in range(4):
        flush(buffered)
    assert stored() == [1, 2, 3]
    assert DeadLetter.objects.count() == 3
    # A later write makes the letter void: the row expires anew.
    buffered.set(appointment_id=1, expires_at=later(seconds=-1))
    flush(buffered)
    protected.clear()
    flush(buffered)
    assert stored() == [2, 3]
    DeadLetter.objects.all().delete()
    flush(buffered)
    assert stored() == []


@ONLY_VALKEY
def test_flushers_in_parallel(database, redis_server):
    store(**{f"n{n}": later(seconds=-n) for n in range(1, 200)})
    results = []

    def work() -> None:
        try:
            results.extend(flush(buffered, due_only=True) for _ in range(3))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flush(buffered)
    assert stored() == []
    assert [result.errors for result in results] == [0] * 9


class TestInDirectMode:
    """Rows go at once: Redis need not be there, and is asked what it still holds."""

    @pytest.fixture(autouse=True)
    def direct(self, database, redis_server, configure):
        configure(MODE="direct")

    def test_rows_whose_time_has_passed_are_removed(self):
        store(n1=later(seconds=-1), n2=later(days=1), n3=None, n4=later(days=-900))
        flush(buffered)
        assert stored() == [2, 3]

    @ONLY_VALKEY
    def test_without_redis(self, redis_server):
        store(n1=later(seconds=-1))
        redis_server.stop()
        assert buffered.expire(100) == 1
        assert stored() == []

    @ONLY_VALKEY
    def test_at_most_so_many_go_with_one_flush(self):
        store(**{f"n{n}": later(seconds=-n) for n in range(1, 6)})
        assert [buffered.expire(2) for _ in range(4)] == [2, 2, 1, 0]

    @ONLY_VALKEY
    def test_a_row_that_cannot_go_keeps_no_other(self, protected, caplog):
        protected.add(1)
        store(n1=later(seconds=-2), n2=later(seconds=-1))
        assert buffered.expire(100) == 1
        assert stored() == [1]
        assert "an expired row cannot be deleted" in caplog.text

    @ONLY_VALKEY
    def test_what_is_pending_since_before_counts(self, configure):
        store(n1=later(seconds=-1), n2=later(seconds=-1), n3=later(seconds=-1))
        moved = later(days=1)
        configure(MODE="buffered")
        buffered.set(appointment_id=1, expires_at=moved)
        buffered.set(appointment_id=2, status="held")  # moves nothing
        buffered.delete(appointment_id=3)
        configure(MODE="direct")
        flush(buffered)
        left = AppointmentMeta.objects.values_list("appointment_id", "expires_at")
        assert list(left) == [(1, moved)]

    @ONLY_VALKEY
    def test_a_write_that_comes_after_the_look_wins(self, monkeypatch):
        store(n1=later(seconds=-1), n2=later(seconds=-1))
        first = AppointmentMeta.objects.filter(appointment_id=1)
        act_once(monkeypatch, "after the read", lambda: first.update(expires_at=None))
        assert buffered.expire(100) == 1
        assert stored() == [1]


def test_a_database_that_is_away_at_the_look_is_an_error_of_the_flush(plain, monkeypatch):
    def away(self, size):
        raise OperationalError("away")

    monkeypatch.setattr(RowBuffer, "expire", away)
    buffered.set(appointment_id=1)
    assert flush(buffered).errors == 1
    assert stored() == [1]
    with pytest.raises(OperationalError, match="away"):
        buffered.flush()
