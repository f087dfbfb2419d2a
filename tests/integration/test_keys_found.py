"""Rows are found by an index on their key."""

from __future__ import annotations

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from tests.models import Item


def test_a_look_by_key_reads_no_other_rows(database, redis_server):
    """A condition that MariaDB compares with 1 reads, and locks, the whole table."""
    Item.objects.bulk_create(Item(number=n) for n in range(20))
    Item.buffered.set_many({"number": n, "a": n} for n in range(5))
    with CaptureQueriesContext(connections[database]) as queries:
        Item.buffered.get(number=1)
        Item.buffered.get_many([1, 2])
        Item.buffered.flush()
    looks = [q["sql"] for q in queries if "IN (" in q["sql"] and "tests_item" in q["sql"]]
    assert looks
    assert not [sql for sql in looks if ") = 1" in sql or ") = True" in sql]


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_flush_locks_no_other_rows(database, redis_server):
    """MariaDB locks what it reads: it must find the rows by the index."""
    Item.objects.bulk_create([Item(number=n) for n in range(2000)], batch_size=1000)
    Item.buffered.set_many({"number": n, "a": 1} for n in range(0, 2000, 100))
    with CaptureQueriesContext(connections[database]) as queries:
        Item.buffered.flush()
    locks = [q["sql"] for q in queries if "tests_item" in q["sql"] and "FOR UPDATE" in q["sql"]]
    with connections[database].cursor() as cursor:
        for sql in locks:
            cursor.execute(f"EXPLAIN {sql}")
            plan = dict(zip([c[0] for c in cursor.description], cursor.fetchone(), strict=True))
            assert (plan["type"], int(plan["rows"]) < 100) == ("range", True)
    assert locks
