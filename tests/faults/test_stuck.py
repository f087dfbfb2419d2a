"""No batch stands in the way of its shard for ever, and no session in the way of other shards."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connections, transaction

from tests.backdoor.limits import limit
from tests.models import Article, Counter, Item, Owner, Pair, Seat
from writebehind_app import Merge, checkpoints
from writebehind_app.database import deadletters
from writebehind_app.flush.engine import flush
from writebehind_app.models import DeadLetter

pytestmark = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

TRIGGERS = {
    "postgresql": [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.a = 13 THEN PERFORM no_function(); END IF; RETURN NEW; END $$",
        "CREATE TRIGGER refuses BEFORE INSERT ON tests_item FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
    "mysql": [
        "CREATE TRIGGER refuses BEFORE INSERT ON tests_item FOR EACH ROW"
        " IF NEW.a = 13 THEN SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 5999; END IF",
    ],
    "sqlite": [
        "CREATE TRIGGER refuses BEFORE INSERT ON tests_item WHEN NEW.a = 13"
        " BEGIN SELECT json_extract('{', '$'); END",
    ],
}


@contextmanager
def trigger(alias: str) -> Iterator[None]:
    """The database refuses a value, with an error that nobody knows."""
    vendor = connections[alias].vendor
    drop = ["DROP TRIGGER refuses" + " ON tests_item" * (vendor == "postgresql")]
    drop += ["DROP FUNCTION refuse"] * (vendor == "postgresql")
    with connections[alias].cursor() as cursor:
        for sql in TRIGGERS[vendor]:
            cursor.execute(sql)
    try:
        yield
    finally:
        with connections[alias].cursor() as cursor:
            for sql in drop:
                cursor.execute(sql)


def fill() -> None:
    """So many rows that MariaDB does not read, and lock, them all to find some."""
    Item.objects.bulk_create([Item(number=n) for n in range(4000)], batch_size=1000)


def flush_until_it_goes(buffer, most: int) -> int:
    """How many tries failed."""
    for tries in range(most + 1):
        if not flush(buffer, ignore_backoff=True).errors:
            return tries
    return most + 1


def test_an_unknown_error_waits_and_then_leaves_the_other_rows_alone(
    database, redis_server, configure, caplog
):
    configure(SHARDS=1, POISON_LIMIT=2)
    with trigger(database):
        Item.buffered.set_many({"number": n, "a": 13 if n == 2 else 1} for n in range(4))
        first = flush(Item.buffered)
        assert (first.errors, first.dead_letters, Item.objects.count()) == (1, 0, 0)
        assert "the error is not known" in caplog.text
        assert 5 <= flush_until_it_goes(Item.buffered, 20) <= 20
    assert sorted(Item.objects.values_list("number", flat=True)) == [0, 1, 3]
    assert DeadLetter.objects.count() == 1
    assert Item.buffered.count_pending() == 0


def test_a_log_whose_unique_values_were_taken_goes_on(database, redis_server, configure):
    configure(SHARDS=1, POISON_LIMIT=3)
    Seat.buffered.extend([{"number": n} for n in range(5)])
    at = Seat.buffered.window(None, None)[0].at
    Seat.objects.bulk_create([Seat(number=n, at=at) for n in range(5)])
    result = Seat.buffered.flush()
    assert (result.errors, result.dead_letters) == (0, 5)
    Seat.buffered.append(number=9)
    assert Seat.buffered.flush().rows == 1


def test_a_batch_that_is_refused_as_a_whole_does_not_wait_for_ever(
    database, redis_server, configure
):
    configure(SHARDS=1, POISON_LIMIT=3)
    Owner.objects.create(name="o")
    Pair.buffered.set_many({"owner": 404404, "name": str(n)} for n in range(4))
    assert flush(Pair.buffered).errors == 1
    assert 5 <= flush_until_it_goes(Pair.buffered, 20) <= 20
    assert DeadLetter.objects.count() == 4


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_row_that_is_larger_than_a_packet_keeps_nobody_waiting(database, redis_server, configure):
    """It is stored, as a server can make it of less; to write it again takes more."""
    configure(SHARDS=1)
    Counter.objects.create(name="large")
    with connections[database].cursor() as cursor:
        cursor.execute("SELECT @@max_allowed_packet")
        lines = cursor.fetchone()[0] * 2 // 5
        cursor.execute(
            "UPDATE tests_counter SET extra = CONCAT('{\"t\": \"', REPEAT('\\\\n', %s), '\"}')",
            [lines],
        )
    Counter.buffered.set(name="large", extra=Merge({"n": 1}))
    Counter.buffered.set(name="small", extra=Merge({"n": 1}))
    result = Counter.buffered.flush()
    assert (result.errors, result.dead_letters) == (0, 1)
    assert "max_allowed_packet" in DeadLetter.objects.get().reason
    assert Counter.objects.get(name="small").extra == {"n": 1}
    assert len(Counter.objects.get(name="large").extra["t"]) == lines


def large_and_refused(text: str) -> None:
    """Another row has the value of a large entry, and a small entry is in its batch."""
    owner = Owner.objects.create(name="o")
    Article.objects.create(number=1, slug="taken", owner=owner, low=10)
    Article.buffered.set(number=2, slug="taken", owner=owner, low=10, body=text, data=[text])
    Article.buffered.set(number=3, slug="small", owner=owner, low=10, body="")


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_dead_letter_takes_no_more_than_its_characters(database, redis_server, configure):
    """In ASCII, it would be larger than a packet. So is what a later flush leaves of it."""
    configure(SOCKET_TIMEOUT=10.0)
    text = "я" * 1_300_000
    large_and_refused(text)
    result = flush(Article.buffered)
    assert (result.errors, result.dead_letters, result.rows) == (0, 1, 1)
    Article.buffered.set(number=2, slug="free", owner=Owner.objects.get(), low=10, body="")
    assert flush(Article.buffered).errors == 0
    letter = DeadLetter.objects.get()
    assert letter.superseded == ["body", "low", "owner", "slug"]
    assert deadletters.retry(Article.buffered, [letter.pk]) == (1, 0)
    assert Article.objects.get(number=2).data == [text]


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_dead_letter_that_is_larger_than_a_packet(database, redis_server, configure, caplog):
    configure(SOCKET_TIMEOUT=10.0)
    large_and_refused("\\" * 1_100_000)
    assert flush(Article.buffered).errors == 1
    assert "The database refused the row '2' (IntegrityError), and its dead letter" in caplog.text
    assert "raise max_allowed_packet. The batch waits" in caplog.text
    assert Article.buffered.count_pending() == 2


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_session_that_holds_a_row_does_not_hold_up_other_shards(
    database, redis_server, configure
):
    configure(SHARDS=4, LEASE=1.0)
    fill()
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(using=database):
            Item.objects.filter(number=3900).update(b="mine")
            locked.set()
            done.wait(30)
        connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    assert locked.wait(10)
    Item.buffered.set_many({"number": n, "a": 1} for n in range(0, 4000, 100))
    begun = time.monotonic()
    result = flush(Item.buffered)
    took = time.monotonic() - begun
    done.set()
    holder.join()
    assert result.errors == 1
    assert 0 < result.remaining < 40
    assert Item.objects.filter(a=1).count() == 40 - result.remaining
    assert took < 6
    Item.buffered.flush()
    assert Item.objects.filter(a=1).count() == 40


def flush_and_freeze() -> None:
    """In a child: hang within a transaction, and renew no lease."""

    def hook(step: str) -> None:
        if step == "flush.inserted":
            print("frozen")
            os.kill(os.getpid(), signal.SIGSTOP)

    checkpoints.hook = hook
    flush(Item.buffered)


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_frozen_flusher_does_not_hold_up_other_shards(
    database, redis_server, configure, start_child
):
    configure(SHARDS=4, LEASE=1.0, MAX_AGE=0)
    fill()
    Item.buffered.set_many({"number": -n} for n in range(1, 41))
    frozen = start_child(flush_and_freeze)
    assert frozen.stdout.readline() == "frozen\n"
    begun = time.monotonic()
    result = flush(Item.buffered)
    assert time.monotonic() - begun < 6
    assert (result.errors, result.batches) == (1, 3)
    assert Item.objects.filter(number__lt=0).count() == 40 - result.remaining > 0


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_session_that_flushed_waits_as_long_as_before(
    database, redis_server, configure, monkeypatch
):
    def limits() -> tuple[int, int]:
        with connections[database].cursor() as cursor:
            cursor.execute("SELECT @@innodb_lock_wait_timeout, @@idle_transaction_timeout")
            return cursor.fetchone()

    before, during = limits(), []
    configure(SHARDS=1, LEASE=2.5)

    def hook(step: str) -> None:
        if step == "flush.token":
            during.append(limits())

    monkeypatch.setattr(checkpoints, "hook", hook)
    Pair.buffered.set(owner=404404, name="is refused")
    assert Pair.buffered.flush().dead_letters == 1
    assert during == [(3, 10)] * 2
    assert limits() == before


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_the_database_ends_a_transaction_whose_flusher_is_frozen(
    database, redis_server, configure, monkeypatch
):
    """What it locked is free again, and its batch is written once."""
    limit(monkeypatch, idle_transaction=0.3)  # a second, on MariaDB
    configure(SHARDS=1, LEASE=0.1, BACKOFF=0.001)
    Item.objects.create(number=1)
    Item.buffered.set(number=1, a=1)
    freed = []

    def hook(step: str) -> None:
        if step == "flush.updated" and not freed:
            freed.append(0.0)
            time.sleep(2.5)
            begun = time.monotonic()
            thread = threading.Thread(target=write_directly)
            thread.start()
            thread.join(10)
            freed[0] = time.monotonic() - begun

    def write_directly() -> None:
        Item.objects.filter(number=1).update(b="free")
        connections.close_all()

    monkeypatch.setattr(checkpoints, "hook", hook)
    assert flush(Item.buffered).errors == 1
    assert freed[0] < 5
    monkeypatch.setattr(checkpoints, "hook", None)
    flush(Item.buffered, ignore_backoff=True)
    row = Item.objects.get()
    assert (row.a, row.b) == (1, "free")
