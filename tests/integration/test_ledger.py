"""The ledger is kept for as long as the settings say, and what is needed of it for ever."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.admin import HISTORY, client, page
from tests.backdoor.batches import claim
from tests.models import Item, Line, Pair
from writebehind_app import Add
from writebehind_app.flush import ledger
from writebehind_app.models import AppliedBatch


def tokens() -> set[str]:
    return set(AppliedBatch.objects.values_list("token", flat=True))


def grow_old(days: float) -> None:
    then = timezone.now() - timedelta(days=days)
    AppliedBatch.objects.update(applied_at=then)


def flush(number: int) -> str:
    """The token of a batch of its own."""
    before = tokens()
    Item.buffered.set(number=number, a=number)
    Item.buffered.flush()
    (token,) = tokens() - before
    return token


def test_rows_go_after_so_many_days(database, redis_server, configure):
    first = flush(1)
    grow_old(3)
    second = flush(2)
    configure(LEDGER_DAYS=4)
    third = flush(3)
    assert tokens() == {first, second, third}
    configure(LEDGER_DAYS=2)
    fourth = flush(4)
    assert tokens() == {second, third, fourth}


def test_by_default_they_go_after_a_week(plain):
    first = flush(1)
    grow_old(6.9)
    second = flush(2)
    assert tokens() == {first, second}
    third = flush(3)
    grow_old(7.1)
    fourth = flush(4)
    assert tokens() == {third, fourth}  # the last one of the shard is asked for


def test_zero_keeps_them(plain, configure):
    configure(LEDGER_DAYS=0)
    first = flush(1)
    grow_old(1000)
    second = flush(2)
    assert tokens() == {first, second}


def test_many_go_at_once(plain):
    """Rows that pass the limit one after the other are not deleted one by one."""
    first = flush(1)
    grow_old(7 + 0.5 / 24)
    second = flush(2)
    assert tokens() == {first, second}
    third = flush(3)
    AppliedBatch.objects.filter(token=first).update(
        applied_at=timezone.now() - timedelta(days=7, hours=2)
    )
    AppliedBatch.objects.filter(token=second).update(
        applied_at=timezone.now() - timedelta(days=7, minutes=1)
    )
    fourth = flush(4)
    assert tokens() == {third, fourth}


@pytest.mark.parametrize("buffer", [Item.buffered, Line.buffered])
def test_where_none_goes_it_is_one_statement(database, redis_server, buffer):
    """The greatest `upto` of a log that is idle is old, and is not asked for again and again."""
    for n in range(3):
        Line.buffered.append(text=str(n))
        Line.buffered.flush()
    grow_old(30)
    Line.buffered.flush()
    Item.buffered.set(number=1)
    Item.buffered.flush()
    assert len(tokens()) == 2
    with CaptureQueriesContext(connections[database]) as queries:
        ledger.expire(buffer)
    assert len(queries) == 1


def test_none_younger_than_a_day_goes(plain, configure):
    configure(LEDGER_DAYS=0.001)
    first = flush(1)
    grow_old(0.9)
    flush(2)
    assert first in tokens()
    grow_old(1.1)
    flush(3)
    assert first not in tokens()


def test_another_buffer_keeps_its_own(plain, configure):
    configure(LEDGER_DAYS=2)
    first = flush(1)
    grow_old(3)
    Pair.buffered.flush()
    assert tokens() == {first}


def test_a_batch_in_flight_keeps_its_token(database, redis_server, configure):
    """A flusher died between commit and acknowledgement, and the next one came days later."""
    configure(LEDGER_DAYS=2, SHARDS=1)
    Item.objects.create(number=1, a=1)
    Item.buffered.set(number=1, a=Add(1))
    (batch,) = claim(Item.buffered, lease=0.01)
    batch.commit()
    greater = leave_greater_number()
    grow_old(30)
    time.sleep(0.02)
    Item.buffered.flush()
    assert Item.objects.get().a == 2
    assert Item.buffered.count_pending() == 0
    assert tokens() == {batch.token, greater}
    flush(2)
    Item.buffered.flush()
    assert batch.token not in tokens()


def test_the_last_batch_keeps_its_token(plain, configure):
    """A read in a transaction takes its snapshot for too old without."""
    configure(LEDGER_DAYS=2, SHARDS=1)
    last = flush(1)
    greater = leave_greater_number()
    grow_old(30)
    Item.buffered.flush()
    assert tokens() == {last, greater}


def leave_greater_number() -> str:
    """The ledger has a batch of an earlier Redis, whose clock was ahead."""
    batch = AppliedBatch.objects.latest("upto")
    batch.token, batch.upto = "greater", batch.upto + 10**12
    batch.save(force_insert=True)
    return batch.token


@pytest.mark.parametrize("flushed_since", [False, True])
def test_up_to_which_record_all_are_stored_is_known_still(
    database, redis_server, configure, flushed_since
):
    configure(LEDGER_DAYS=2)
    for n in range(3):
        Line.buffered.append(text=str(n))
        Line.buffered.flush()
    last = AppliedBatch.objects.latest("upto").token
    grow_old(3)
    if flushed_since:
        Line.buffered.append(text="3")
        Line.buffered.flush()
        last_two = {last, AppliedBatch.objects.latest("upto").token}
        assert tokens() == last_two
        grow_old(3)
        last = (last_two - {last}).pop()
    with redis_server.client() as client:
        client.flushdb()  # otherwise Redis names the last one, and that alone lets it stay
    Line.buffered.flush()
    assert tokens() == {last}
    assert len(Line.buffered.window()) == Line.buffered.count() == Line.objects.count()


def test_many_rows_that_are_old_go_with_one_flush(plain):
    """A flusher looks once a minute, and there may have been thousands of batches since then."""
    then = timezone.now() - timedelta(days=8)
    row = {"buffer": Item.buffered.label, "shard": 0, "entries": 1}
    AppliedBatch.objects.bulk_create(
        AppliedBatch(token=f"{n:032x}", oldest_at=then, applied_at=then, **row) for n in range(5000)
    )
    last = flush(1)
    assert tokens() == {last}


# Batches of a week: half of them of a log. A tenth of them is older than LEDGER_DAYS.
GROWN = """
    INSERT INTO writebehind_appliedbatch (token, buffer, shard, upto, entries, rows, dead_letters,
        statements, attempts, error, oldest_at, applied_at, duration)
    SELECT md5(n::text), CASE WHEN n % 2 = 0 THEN 'tests.Line' ELSE 'tests.Item' END, 0,
        CASE WHEN n % 2 = 0 THEN 1700000000000000 - n END, 10, 10, 0, 3, 0, '',
        now() - interval '13 s' * n, now() - interval '13 s' * n, interval '0.01 s'
    FROM generate_series(1, 50000) AS n
"""


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
class TestIndexes:
    def test_what_is_asked_often_reads_little_of_it(self, database, redis_server):
        connection = connections[database]
        with connection.cursor() as cursor:
            cursor.execute(GROWN)
            cursor.execute("ANALYZE writebehind_appliedbatch")
        with CaptureQueriesContext(connection) as queries:
            flush(1)
            Line.buffered.append(text="a")
            Line.buffered.flush()
            Line.buffered.window()
            for query in ("", "?buffer=tests.Item", "?database=postgresql"):
                page(client(superuser=True), f"{HISTORY}{query}")
        asked = [q["sql"] for q in queries if "writebehind_appliedbatch" in q["sql"]]
        asked = [sql for sql in asked if sql.startswith("SELECT") and "WHERE" in sql]
        assert len(asked) > 8
        with connection.cursor() as cursor:
            for sql in asked:
                cursor.execute(f"EXPLAIN {sql}")
                plan = "\n".join(line for (line,) in cursor.fetchall())
                assert "Seq Scan on writebehind_appliedbatch" not in plan, f"{sql}\n{plan}"

    def test_there_are_three(self, database, redis_server):
        with connections[database].cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_indexes WHERE tablename = 'writebehind_appliedbatch'"
            )
            assert cursor.fetchone() == (3,)
