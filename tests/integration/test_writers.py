"""A flush reads and writes what was written, by each of the writers, and nothing else."""

from __future__ import annotations

import datetime
import json
import random
import uuid
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from tests.backdoor.entries import id_of, put_text
from tests.backdoor.flushes import forget_writers, write_by_upserts
from tests.models import Article, Counter, Everything, Item, Owner, Point
from writebehind_app import Add, Max, Merge

pytestmark = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

LONG = "text " * 20_000
FIELDS = ["slug", "body", "views", "likes", "low", "high", "data", "price", "raw", "point"]
FIELDS += ["saved", "stamp"]


by_each_writer = pytest.mark.parametrize(
    ("database", "writer"),
    [
        ("sqlite", "chosen"),
        ("mariadb", "chosen"),
        ("postgresql", "chosen"),
        ("postgresql", "upsert"),
    ],
    indirect=True,
)


@pytest.fixture
def writer(request, monkeypatch, database):
    """The one that is chosen by itself, and on PostgreSQL the other one as well."""
    if request.param == "upsert":
        write_by_upserts(monkeypatch)
    return request.param


def article(number: int, owner: Owner, **values: Any) -> Article:
    values = {"slug": f"s{number}", "body": "b", "low": 10, "high": 90, **values}
    return Article(number=number, owner=owner, **values)


def received_and_sent(alias: str) -> int:
    with connections[alias].cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS WHERE Variable_name IN ('Bytes_received','Bytes_sent')")
        return sum(int(value) for _, value in cursor.fetchall())


@by_each_writer
def test_a_counter_does_not_move_the_text_next_to_it(database, redis_server, writer):
    owner = Owner.objects.create(name="o")
    Article.objects.bulk_create([article(n, owner, body=LONG) for n in range(1000)], batch_size=100)
    Article.buffered.set_many({"number": n, "views": Add(n)} for n in range(1000))
    vendor = connections[database].vendor
    before = received_and_sent(database) if vendor == "mysql" else 0
    with CaptureQueriesContext(connections[database]) as queries:
        Article.buffered.flush()
    if vendor == "mysql":
        assert received_and_sent(database) - before <= 1_000_000
    statements = [query["sql"] for query in queries]
    assert sum(map(len, statements)) <= 1_000_000
    reads = [sql for sql in statements if sql.startswith("SELECT")]
    assert not [sql for sql in reads if "body" in sql or "data" in sql or "raw" in sql]
    found = Article.objects.order_by("number").values_list("views", "body")
    assert [*found] == [(n, LONG) for n in range(1000)]


def change(choose: random.Random, number: int) -> dict[str, Any]:
    """Some fields, and what they are to be."""
    values = {
        "slug": f"new {number}",
        "body": choose.choice(["", "long " * 300, "ü\\'\"\n"]),
        "views": choose.choice([7, Add(3)]),
        "likes": choose.choice([1, Max(2)]),
        "low": choose.randrange(6, 60),
        "high": choose.choice([None, 60, 70]),
        "data": choose.choice([{}, {"a": [1]}, Merge({"b": 2})]),
        "price": choose.choice([0, Add(2)]),
        "raw": choose.choice([b"", b"\0\xff'\\"]),
        "point": Point(choose.randrange(9), 2),
        "saved": choose.randrange(100),
        "stamp": "written",
    }
    return {name: values[name] for name in choose.sample(FIELDS, choose.randint(1, 4))}


def saved(number: int, change: dict[str, Any]) -> None:
    """The change through the ORM."""
    row = Article.objects.get(number=number)
    for name, value in change.items():
        match value:
            case Add():
                value = getattr(row, name) + value.amount
            case Max():
                value = max(getattr(row, name), value.value)
            case Merge():
                value = {**(getattr(row, name) or {}), **value.values}
        setattr(row, name, value)
    row.save(update_fields=[*change])


def rows(start: int) -> list[tuple[Any, ...]]:
    stored = Article.objects.filter(number__range=(start, start + 999)).order_by("number")
    return [
        tuple(bytes(v) if isinstance(v, memoryview) else v for v in row)
        for row in stored.values_list(*FIELDS, "span", "owner")
    ]


@by_each_writer
def test_any_change_comes_to_what_the_orm_makes_of_it(database, redis_server, writer, rng):
    owner = Owner.objects.create(name="o")
    for start in (0, 1000):
        Article.objects.bulk_create([article(n + start, owner) for n in range(60)])
    for _ in range(3):
        for n in range(60):
            made = change(rng, n)
            Article.buffered.set(number=n, **made)
            slug = {"slug": f"other {n}"} if "slug" in made else {}
            saved(n + 1000, {**made, **slug})
        result = Article.buffered.flush()
        assert (result.rows, result.dead_letters) == (60, 0)
        assert result.statements <= 20  # and not row by row, as after a refusal
    buffered, expected = rows(0), rows(1000)
    for mine, other in zip(buffered, expected, strict=True):
        assert mine[1:] == other[1:]


@by_each_writer
def test_rows_that_change_in_the_same_fields_take_one_statement(database, redis_server, writer):
    owner = Owner.objects.create(name="o")
    Article.objects.bulk_create([article(n, owner) for n in range(50)])
    Article.buffered.set_many(
        {"number": n, "body": "new", "data": {"n": n}, "price": n, "views": n} for n in range(50)
    )
    with CaptureQueriesContext(connections[database]) as queries:
        Article.buffered.flush()
    table = Article._meta.db_table
    writes = [q["sql"] for q in queries if table in q["sql"] and "SELECT" not in q["sql"][:8]]
    assert len(writes) == 1
    assert Article.objects.filter(body="new", price=30, views=30).count() == 1


@by_each_writer
def test_no_statement_outgrows_what_the_database_takes(database, redis_server, writer, configure):
    """Together the rows are larger than MariaDB's packet."""
    configure(SHARDS=1)
    text = "x" * 1_000_000
    Counter.objects.bulk_create(
        [Counter(name=str(n), extra={"text": text}) for n in range(20)], batch_size=4
    )
    Counter.buffered.set_many({"name": str(n), "extra": Merge({"n": n})} for n in range(20))
    result = Counter.buffered.flush()
    assert (result.rows, result.dead_letters) == (20, 0)
    assert result.statements <= 12  # and not by halves, as after a refusal
    found = {row.name: row.extra for row in Counter.objects.all()}
    assert found == {str(n): {"text": text, "n": n} for n in range(20)}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_what_cannot_be_an_array_goes_by_an_upsert(database, redis_server, monkeypatch):
    field = Item._meta.get_field("b")
    Item.objects.bulk_create([Item(number=n, a=n) for n in range(3)])
    monkeypatch.setattr(field, "db_type", lambda connection: "character varying(100)")
    forget_writers()
    try:
        Item.buffered.set_many({"number": n, "a": -n, "c": json.dumps(n)} for n in range(3))
        with CaptureQueriesContext(connections[database]) as queries:
            Item.buffered.flush()
        assert any("ON CONFLICT" in query["sql"] for query in queries)
        assert [*Item.objects.order_by("number").values_list("a", "c")] == [
            (-n, str(n)) for n in range(3)
        ]
    finally:
        forget_writers()


ODD: dict[str, list[Any]] = {
    "integer": [0, -1, 2**31 - 1, -(2**31)],
    "big": [2**63 - 1, -(2**63)],
    "char": [
        "",
        " ",
        "NULL",
        "null",
        '"',
        "\\",
        '\\"',
        "{}",
        "a,b",
        "a\nb\t",
        "é\u2028",
        "'",
        "%s",
    ],
    "text": ['","', "\\\\", "\x01", "😀", "\u200b", "tail\\"],
    "boolean": [True, False],
    "date": [datetime.date(1, 1, 1), datetime.date(9999, 12, 31)],
    "datetime": [
        datetime.datetime(2000, 2, 29, 1, 2, 3, 4, tzinfo=datetime.UTC),
        datetime.datetime(9999, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=-11))),
    ],
    "float": [1e308, 5e-324, -0.0, 0.1],
    "uuid": [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)],
    "json": [{"a": '\\"'}, [], "text"],
}


@by_each_writer
@pytest.mark.parametrize("with_null", [False, True])
def test_any_value_comes_as_it_is(database, redis_server, writer, rng, with_null):
    """New rows, and rows that are there."""
    keys = [uuid.UUID(int=n) for n in range(30)]
    expected: dict[uuid.UUID, dict[str, Any]] = {}
    for _ in range(3):
        for key in keys:
            row = {
                name: None if with_null and rng.random() < 0.2 else rng.choice(values)
                for name, values in ODD.items()
            }
            Everything.buffered.set(key=key, **row)
            expected[key] = row
        assert Everything.buffered.flush().dead_letters == 0
        found = {row.pop("key"): row for row in Everything.objects.values("key", *ODD)}
        assert found == expected


@by_each_writer
@pytest.mark.parametrize("stored", [False, True])
def test_a_text_that_the_database_does_not_take_is_refused_alone(
    database, redis_server, writer, stored
):
    """Of PostgreSQL, a NUL: somebody else has written it to Redis."""
    keys = [uuid.UUID(int=n) for n in range(4)]
    if stored:
        Everything.objects.bulk_create([Everything(key=key) for key in keys])
    for key in keys:
        Everything.buffered.set(key=key, char="a", text="b")
    put_text(Everything.buffered, id_of(Everything.buffered, key=keys[2]), "char", '"x\\u0000y"')
    is_taken = connections[database].vendor != "postgresql"
    assert Everything.buffered.flush().dead_letters == (not is_taken)
    expected: dict[uuid.UUID, str | None] = dict.fromkeys(keys, "a")
    expected[keys[2]] = "x\0y" if is_taken else None
    if not (stored or is_taken):
        del expected[keys[2]]
    assert dict(Everything.objects.values_list("key", "char")) == expected
