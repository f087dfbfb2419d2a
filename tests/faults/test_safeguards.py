"""Single safeguards that no larger test shows alone; tests/mutation breaks each of them."""

from __future__ import annotations

import random

import pytest
import redis
from django.db import IntegrityError, OperationalError, connections, transaction
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext

from tests.backdoor.batches import claim, lease_left
from tests.backdoor.entries import made
from tests.backdoor.keyspace import data
from tests.faults.injection import Fault
from tests.models import Item, Note, Owner, Pair, Seat
from writebehind_app import Add
from writebehind_app.database.bisect import isolate
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.flush.engine import flush
from writebehind_app.models import DeadLetter

on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


@on_valkey
def test_nothing_in_redis_has_a_time_to_live(database, redis_server, configure, monkeypatch):
    """G6: pending, in flight, given back and flushed."""
    configure(SHARDS=1)

    def assert_kept() -> None:
        with redis_server.client() as client:
            keys = data(client)
            assert keys
            assert [client.ttl(key) for key in keys] == [-1] * len(keys)

    def write(number: int) -> None:
        Item.buffered.set(number=1, a=Add(number))
        Item.buffered.delete(number=2)
        Note.buffered.of(page="p", owner=1).update(a=1)
        Seat.buffered.append(number=number)
        assert_kept()

    Owner.objects.create(pk=1)
    write(1)
    for buffer in (Item.buffered, Note.buffered, Seat.buffered):
        (batch,) = claim(buffer)
        assert_kept()
        batch.renew(60)
        batch.release(retry_in=60, error="x")
        assert_kept()
    write(2)
    for buffer in (Item.buffered, Note.buffered, Seat.buffered):
        buffer.flush()
        assert_kept()


@on_valkey
def test_a_lease_is_renewed_by_its_holder_alone(redis_server, configure):
    configure(SHARDS=1)
    Item.buffered.set(number=1)
    (first,) = claim(Item.buffered, lease=0.000_001)
    first.renew(60, token="b" * 32)
    # A lease of a minute would be nobody's for who has one of a moment.
    (second,) = claim(Item.buffered, lease=4)
    assert second.token == first.token
    second.renew(60)
    assert claim(Item.buffered, lease=4) == []
    assert lease_left(Item.buffered) > 50


def test_a_connection_is_tried_once(plain, monkeypatch):
    """Each try may take CONNECT_TIMEOUT, and a request waits for it."""
    connect, tried = redis.Connection._connect, []

    def count(connection):
        tried.append(connection)
        return connect(connection)

    plain.stop()
    monkeypatch.setattr(redis.Connection, "_connect", count)
    with pytest.raises(BufferUnavailable):
        Item.buffered.set(number=1)
    assert len(tried) == 1


def test_what_is_expected_is_there_once(database, redis_server, configure):
    """Committed, and in flight still, because its flusher died in between."""
    configure(SHARDS=1)
    Item.objects.create(number=1, a=1)
    Item.buffered.set(number=1, a=Add(9))
    with Fault("flush.committed", "dies") as fault:
        fault.go_on()
        fault.run(Item.buffered.flush)
    assert fault.met
    assert not Item.buffered.set_if({"a": 19}, number=1, b="wrong")
    assert Item.buffered.set_if({"a": 10}, number=1, b="right")


def test_rows_are_written_in_the_order_of_their_keys(database, redis_server, configure):
    """Two who write the same rows then never wait for each other."""
    configure(SHARDS=1)
    numbers = list(range(50))
    random.Random(1).shuffle(numbers)
    for number in numbers:
        Item.buffered.set(number=number, a=number)
    Item.buffered.flush()
    written = list(Item.objects.order_by("pk").values_list("number", flat=True))
    assert written == sorted(numbers, key=str)


@on_valkey
def test_rows_are_locked_in_one_order(database, redis_server, configure):
    configure(SHARDS=1)
    for number in (1, 2):
        Item.objects.create(number=number)
        Item.buffered.set(number=number, a=1)
    with CaptureQueriesContext(connections[database]) as queries:
        Item.buffered.flush()
    *keys, look = [
        q["sql"] for q in queries if q["sql"].startswith("SELECT") and "_item" in q["sql"]
    ]
    # MariaDB locks in the order of the index that it uses: so it has to be that of the primary key.
    assert len(keys) == (connections[database].vendor == "mysql")
    assert "ORDER BY" in look
    if connections[database].vendor != "sqlite":  # where there is one writer at a time
        assert look.endswith("FOR UPDATE")


@on_valkey
def test_what_is_refused_is_not_dropped_where_it_cannot_be_put_away(
    database, redis_server, configure, monkeypatch
):
    """Neither is the rest of its batch stored then: all of it comes again."""
    configure(SHARDS=1)
    owner = Owner.objects.create(name="anna")
    Pair.buffered.set(owner=owner, name="good", value=Add(1))
    Pair.buffered.set(owner=404404, name="bad")

    bulk_create = QuerySet.bulk_create

    def fail_for_letters(rows, *args, **kwargs):
        if rows.model is DeadLetter:
            raise OperationalError("the disk is full")
        return bulk_create(rows, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(QuerySet, "bulk_create", fail_for_letters)
        assert flush(Pair.buffered).errors == 1
    assert not Pair.objects.exists()
    assert Pair.buffered.get(owner=owner, name="good").value == 1

    Pair.buffered.flush()
    assert list(Pair.objects.values_list("name", "value")) == [("good", 1)]
    assert DeadLetter.objects.count() == 1


def test_of_a_part_that_is_refused_nothing_stays(database):
    """It may have written rows before it came to the one that is refused."""
    entries = [made(n) for n in range(8)]

    def write(part) -> None:
        for entry in part:
            if entry.since == 5:
                raise IntegrityError
            Item.objects.create(number=entry.since)

    with transaction.atomic(using=database):
        (refused,) = isolate(connections[database], entries, write)
    assert refused.entry.since == 5
    assert sorted(Item.objects.values_list("number", flat=True)) == [0, 1, 2, 3, 4, 6, 7]
