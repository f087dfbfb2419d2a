"""Every kind of field: what goes in comes out, by value and by type.

What the ORM stores by itself, and gives back, is what a buffered write must come to.
"""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, connections
from django.db.models import JSONField, Model, QuerySet, Value
from django.db.models.fields.files import FieldFile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backdoor.batches import claim
from tests.backdoor.declarations import redeclare
from tests.models import (
    Color,
    Counter,
    Everything,
    Item,
    Level,
    Owner,
    Pair,
    Point,
    Seat,
    Stamp,
    Tally,
    Tier,
)
from tests.router import current
from writebehind_app import Max

# Which kind of Redis carries the texts makes no difference to them.
on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

JSON_NULL = Value(None, JSONField())
INT64 = (-(2**63), 2**63 - 1)

# PostgreSQL refuses NUL, and nothing takes half of a surrogate pair.
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


def text(max_size: int | None = None) -> st.SearchStrategy[str]:
    odd = st.sampled_from(
        ["", " ", "null", '"', "\\", "é", "e\u0301", "\u2028", "😀", "%s", "\r\n"]
    )
    return odd | st.text(characters, max_size=max_size)


def integers(bits: int, *, signed: bool = True) -> st.SearchStrategy[int]:
    least, most = (-(2 ** (bits - 1)) if signed else 0), 2 ** (bits - 1) - 1
    return st.sampled_from([least, most, 0]) | st.integers(least, most)


# MariaDB takes no earlier year than 1000. A day is left for the time zones.
moments = st.datetimes(
    datetime.datetime(1000, 1, 2),  # noqa: DTZ001
    datetime.datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.sampled_from(
        [
            datetime.UTC,
            ZoneInfo("Europe/Lisbon"),
            ZoneInfo("Asia/Kathmandu"),
            ZoneInfo("Pacific/Apia"),
            datetime.timezone(datetime.timedelta(hours=-11, minutes=-30)),
        ]
    ),
    allow_imaginary=False,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(*INT64)
    # PostgreSQL gives 1e16 back as an integer: with a half they are floats everywhere.
    | st.integers(-(10**6), 10**6).map(lambda n: n + 0.5)
    | text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text(), inner, max_size=3),
    max_leaves=10,
)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "small": integers(16),
    "integer": integers(32),
    "big": integers(64),
    "positive_small": integers(16, signed=False),
    "positive": integers(32, signed=False),
    "positive_big": integers(64, signed=False),
    "char": text(40),
    "text": text(),
    "email": st.from_regex(r"[a-zA-Z0-9_+-]{1,64}@[a-z]{1,20}\.(org|ä[a-z]{0,9}ö)", fullmatch=True),
    "slug": st.from_regex(r"[-a-zA-Z0-9_]{0,50}", fullmatch=True),
    "url": st.from_regex(r"https?://[a-z]{1,20}\.org/[!-~ä😀]{0,50}", fullmatch=True),
    "boolean": st.booleans(),
    "date": st.dates(datetime.date(1000, 1, 1)),
    "datetime": moments,
    "time": st.times(),
    "duration": st.sampled_from(
        [datetime.timedelta(microseconds=-1), datetime.timedelta(days=-3, hours=1)]
    )
    | st.timedeltas(datetime.timedelta(days=-100_000), datetime.timedelta(days=100_000)),
    # SQLite keeps fifteen digits.
    "decimal": st.decimals(-(10**8), 10**8, places=6),
    # MariaDB makes 0 of -0, which are equal.
    "float": st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False).map(
        lambda number: number + 0.0
    ),
    # MariaDB refuses most of those that are of no version.
    "uuid": st.sampled_from([1, 3, 4, 5]).flatmap(lambda version: st.uuids(version=version)),
    "json": st.just(JSON_NULL) | json_values,
    "binary": st.binary(max_size=50) | st.sampled_from([b"\0", b"\0\xff\0", b'"\\']),
    "ip": st.ip_addresses().map(str)
    | st.sampled_from(["::ffff:10.0.0.1", "2001:DB8::1", "::", "0.0.0.0"]),
    "color": st.sampled_from([*Color, "red", ""]),
    "level": st.sampled_from([*Level, 1, 2]),
    "file": st.sampled_from(["", "a.txt", "dir/ä 😀.txt", "x" * 200])
    | st.builds(lambda name: FieldFile(None, Everything._meta.get_field("file"), name), text(200)),
    "path": text(200),
    "point": st.builds(Point, st.integers(*INT64), st.integers(*INT64)),
    "tier": st.sampled_from(Tier),
}


STORED: dict[str, Any] = {
    "small": -7,
    "integer": -7,
    "big": -(2**63),
    "positive_small": 7,
    "positive": 2**31 - 1,
    "positive_big": 2**63 - 1,
    "char": "é",
    "text": "text" * 100,
    "email": "a@b.org",
    "slug": "a-b",
    "url": "https://b.org/",
    "boolean": True,
    "date": datetime.date(2024, 2, 29),
    "datetime": datetime.datetime(2024, 2, 29, 12, 0, 0, 123456, datetime.UTC),
    "time": datetime.time(12, 0, 0, 123456),
    "duration": datetime.timedelta(days=-3, microseconds=1),
    "decimal": decimal.Decimal("7.500000"),
    "float": 7.0,
    "uuid": uuid.UUID(int=4 << 76 | 8 << 60),
    "json": {"a": [1, 1.5, None, "é"]},
    "binary": b"\0\xff",
    "ip": "2001:db8::1",
    "color": Color.RED,
    "level": Level.LOW,
    "file": "a.txt",
    "path": "/a",
    "point": Point(1, -1),
    "tier": Tier.PAID,
}


def test_every_field_has_its_values():
    fields = {field.name for field in Everything._meta.concrete_fields}
    assert fields - {"id", "key", "owner"} == VALUES.keys() == STORED.keys()


@on_valkey
class TestRoundTrip:
    @pytest.mark.parametrize("name", VALUES)
    def test_each_field(self, database, redis_server, name):
        # Rows of one batch: the same number of values with fewer flushes.
        @settings(max_examples=5)
        @given(st.lists(st.none() | VALUES[name], min_size=5, max_size=8))
        def check(values: list[Any]) -> None:
            assert_round_trip([{name: value} for value in values])

        check()

    @settings(max_examples=25)
    @given(st.lists(st.fixed_dictionaries({}, optional=VALUES), max_size=3))
    def test_all_fields_in_one_batch(self, database, redis_server, rows):
        assert_round_trip(rows)


@on_valkey
class TestNulls:
    def test_sql_null_and_json_null_are_told_apart(self, database, redis_server):
        keys = {"sql": uuid.uuid4(), "json": uuid.uuid4(), "nested": uuid.uuid4()}
        buffer = Everything.buffered
        buffer.set(key=keys["sql"], json=None)
        buffer.set(key=keys["json"], json=JSON_NULL)
        buffer.set(key=keys["nested"], json=[None, {"a": None}])
        assert buffer.get(key=keys["json"]).json is None
        buffer.flush()

        def keys_with(**condition: Any) -> list[uuid.UUID]:
            return list(Everything.objects.filter(**condition).values_list("key", flat=True))

        assert keys_with(json__isnull=True) == [keys["sql"]]
        assert keys_with(json=JSON_NULL) == [keys["json"]]
        assert Everything.objects.get(key=keys["nested"]).json == [None, {"a": None}]

    @pytest.mark.parametrize(("before", "after"), [(None, JSON_NULL), (JSON_NULL, None)])
    def test_one_takes_the_place_of_the_other(self, database, redis_server, before, after):
        key = uuid.uuid4()
        Everything.objects.create(key=key, json=before)
        Everything.buffered.set(key=key, json=after)
        Everything.buffered.flush()
        assert Everything.objects.filter(json__isnull=True).exists() == (after is None)

    def test_every_field_takes_none(self, database, redis_server):
        key = uuid.uuid4()
        Everything.objects.create(key=key, integer=5, text="x", point=Point(1, 2), tier=Tier.FREE)
        everything = dict.fromkeys([*VALUES, "owner"])
        Everything.buffered.set(key=key, **everything)
        Everything.buffered.flush()
        stored = Everything.objects.values().get(key=key)
        # The ORM stores a file that is None as an empty name.
        assert stored.pop("file") == ""
        assert {name: value for name, value in stored.items() if value is not None} == {
            "id": stored["id"],
            "key": key,
        }


@on_valkey
class TestFieldsThatWereNotWritten:
    """They stay as they are stored, though another row of the batch writes them."""

    @pytest.fixture(autouse=True)
    def one_batch(self, redis_server: Any, settings: Any) -> None:
        settings.WRITEBEHIND = {**settings.WRITEBEHIND, "SHARDS": 1}

    def test_json_null(self, database):
        row = Everything.objects.create(key=uuid.uuid4(), json=JSON_NULL)
        other = Everything.objects.create(key=uuid.uuid4())
        Everything.buffered.set(key=row.key, integer=1)
        Everything.buffered.set(key=other.key, json=[1])
        Everything.buffered.flush()
        assert not Everything.objects.filter(json__isnull=True).exists()

    @pytest.mark.parametrize("database", ["sqlite"], indirect=True)
    def test_digits_that_sqlite_stores_and_django_does_not_read(self, database):
        row = Everything.objects.create(key=uuid.uuid4(), decimal="12345678901234.567891")
        other = Everything.objects.create(key=uuid.uuid4())

        def stored() -> Any:
            with connection.cursor() as cursor:
                cursor.execute("SELECT decimal FROM tests_everything WHERE id = %s", [row.pk])
                return cursor.fetchone()

        before = stored()
        Everything.buffered.set(key=row.key, integer=1)
        Everything.buffered.set(key=other.key, decimal=1)
        Everything.buffered.flush()
        assert stored() == before


@on_valkey
class TestStoredFieldsOfAPendingRow:
    """What is pending of a row does not change the types of its stored values."""

    @pytest.mark.parametrize("values", [STORED, dict.fromkeys(STORED)], ids=["values", "none"])
    def test_fields(self, database, redis_server, values):
        keys = [uuid.uuid4(), uuid.uuid4()]
        owner = Owner.objects.create(name="somebody")
        for key in keys:
            Everything.objects.create(key=key, owner=owner, **values)
        self.check(Everything, "key", keys, char="new")

    def test_keys(self, database, redis_server):
        rows = [Tally.objects.create(pk=pk, above_id=1) for pk in (1, 2)]
        self.check(Tally, "id", [row.pk for row in rows], note="new")

    def check(self, model: Any, key: str, keys: list[Any], **changes: Any) -> None:
        buffer = model.buffered
        for each in keys:
            buffer.set(**{key: each}, **changes)

        def stored() -> list[Any]:
            return [contents(model.objects.get(**{key: each})) for each in keys]

        def read() -> dict[str, list[Any]]:
            many = buffer.get_many(keys)
            rows = buffer.overlay(model.objects.filter(**{f"{key}__in": keys}))
            by_key = {getattr(row, key): row for row in rows}
            return {
                "get": [contents(buffer.get(**{key: each})) for each in keys],
                "get_many": [contents(many[each]) for each in keys],
                "overlay": [contents(by_key[each]) for each in keys],
            }

        pending = read()
        with in_flight(buffer):
            taken = read()
        buffer.flush()
        expected = dict.fromkeys(pending, stored())
        assert pending == expected
        assert taken == expected
        assert read() == expected


@on_valkey
class TestTimeZoneOfADatabase:
    """Times are shown in it, as Django shows those that it reads."""

    AT = datetime.datetime(2024, 2, 29, 20, 0, tzinfo=datetime.UTC)
    LATER = AT + datetime.timedelta(hours=1)

    @pytest.fixture(autouse=True)
    def in_kathmandu(self, database, redis_server, configure, monkeypatch):
        configure(SHARDS=1, CACHE_SECONDS=60)
        connection = connections[current()]
        monkeypatch.setitem(connection.settings_dict, "TIME_ZONE", "Asia/Kathmandu")

        def connect_anew() -> None:
            connection.close()
            for name in ("timezone", "timezone_name"):  # Django works them out once
                vars(connection).pop(name, None)

        connect_anew()
        for model in (Counter, Item, Seat):
            redeclare(monkeypatch, model.buffered)
        yield
        monkeypatch.undo()
        connect_anew()

    def test_values(self):
        Counter.objects.create(name="operation", at=self.AT)
        Counter.buffered.set(name="operation", at=Max(self.LATER))
        Counter.buffered.set(name="value", at=self.LATER)
        Counter.buffered.set(name="none", at=None)
        local = "2024-03-01 02:45:00+05:45"
        expected = {"operation": local, "value": local, "none": "None"}

        def read() -> dict[str, str]:
            return {name: str(Counter.buffered.get(name=name).at) for name in expected}

        assert read() == expected
        Counter.buffered.flush()
        assert read() == expected, "from the database"
        assert read() == expected, "from a base"
        assert {row.name: str(row.at) for row in Counter.objects.all()} == expected

    def test_times_of_writes(self):
        Item.objects.create(number=1)
        Item.buffered.set(number=1, a=1)
        Item.buffered.set(number=2, a=1)

        def read() -> list[str]:
            rows = [Item.buffered.get(number=number) for number in (1, 2)]
            return [str(at) for row in rows for at in (row.created_at, row.updated_at)]

        pending = read()
        Item.buffered.flush()
        assert pending == read()
        assert all(at.endswith("+05:45") for at in pending)

    def test_records(self):
        Seat.buffered.append(number=1, at=self.AT)

        def read() -> list[str]:
            return [str(row.at) for row in Seat.buffered.window(self.AT, self.LATER)]

        assert read() == ["2024-03-01 01:45:00+05:45"]
        Seat.buffered.flush()
        assert read() == ["2024-03-01 01:45:00+05:45"]

    def test_at_the_end_of_time(self):
        last = datetime.datetime.max.replace(tzinfo=datetime.UTC)
        Counter.buffered.set(name="x", at=last)
        assert Counter.buffered.get(name="x").at == last


@on_valkey
class TestForeignKeys:
    @pytest.fixture
    def owner(self, database: str) -> Owner:
        return Owner.objects.create(name="somebody")

    @pytest.mark.parametrize("given_as", ["instance", "id", "text", "attname"])
    def test_by_instance_and_by_id(self, redis_server, owner, given_as):
        key = uuid.uuid4()
        value = {
            "instance": {"owner": owner},
            "id": {"owner": owner.pk},
            "text": {"owner": str(owner.pk)},
            "attname": {"owner_id": owner.pk},
        }[given_as]
        Everything.buffered.set(key=key, **value)
        assert Everything.buffered.get(key=key).owner == owner
        Everything.buffered.flush()
        assert Everything.objects.get(key=key).owner == owner

    def test_of_an_instance_of_the_model(self, redis_server, owner):
        row = Pair(owner=owner, name="x", value=3)
        Pair.buffered.set_many([row])
        Pair.buffered.flush()
        assert Pair.objects.get(owner=owner, name="x").value == 3

    def test_a_related_object_that_was_saved_after_it_was_assigned(self, database, redis_server):
        row = Pair(owner=Owner(name="late"), name="x")
        row.owner.save()
        Pair.buffered.set_many([row])
        Pair.buffered.flush()
        assert Pair.objects.get().owner.name == "late"


@on_valkey
class TestKeys:
    def test_keys_that_look_alike_once_joined(self, database, redis_server):
        owners = [Owner(pk=pk, name=str(pk)) for pk in (1, 12, 123)]
        Owner.objects.bulk_create(owners)
        names = ["", "23", "3", ",", '"', '","', "\\", '\\"', '1,"2', "null", "[]", "é", "😀"]
        keys = [(owner.pk, name) for owner in owners for name in names]
        expected = {key: number for number, key in enumerate(keys)}
        for number, (owner, name) in enumerate(keys):
            Pair.buffered.set(owner=owner, name=name, value=number)

        def read() -> dict[Any, int]:
            return {key: row.value for key, row in Pair.buffered.get_many(keys).items()}

        assert Pair.buffered.count_pending() == len(keys)
        assert read() == expected
        Pair.buffered.flush()
        assert read() == expected
        stored = Pair.objects.values_list("owner_id", "name", "value")
        assert {(owner, name): value for owner, name, value in stored} == expected

    def test_one_row_by_instance_by_id_and_by_attname(self, database, redis_server):
        owner = Owner.objects.create(name="somebody")
        Pair.buffered.set(owner=owner, name="x", value=1)
        Pair.buffered.set(owner=owner.pk, name="x", value=2)
        Pair.buffered.set(owner_id=owner.pk, name="x", value=3)
        assert Pair.buffered.count_pending() == 1
        assert Pair.buffered.get(owner=owner, name="x").value == 3
        assert Pair.buffered.get(owner_id=owner.pk, name="x").value == 3
        assert Pair.buffered.get_many([(owner, "x")])[owner, "x"].value == 3
        Pair.buffered.flush(owner=owner, name="x")
        assert Pair.objects.get().value == 3

    def test_a_uuid_and_its_text_are_the_same_key(self, database, redis_server):
        key = uuid.uuid4()
        Everything.buffered.set(key=str(key).upper(), integer=1)
        Everything.buffered.set(key=key.hex, text="x")
        row = Everything.buffered.get(key=key)
        assert (row.key, row.integer, row.text) == (key, 1, "x")
        Everything.buffered.flush(key=key)
        assert Everything.objects.get(key=key).integer == 1

    def test_the_primary_key_by_either_name(self, database, redis_server):
        stamp = Stamp.objects.create()
        Stamp.buffered.set(pk=stamp.pk, count=1)
        Stamp.buffered.set(id=stamp.pk, count=2)
        assert Stamp.buffered.get(pk=stamp.pk).count == 2
        Stamp.buffered.flush(id=stamp.pk)
        stamp.refresh_from_db()
        assert stamp.count == 2


def assert_round_trip(rows: list[dict[str, Any]]) -> None:
    """Rows that the ORM saves, and the same rows through a buffer, are the same at any moment."""
    saved = [uuid.uuid4() for _ in rows]
    for key, row in zip(saved, rows, strict=True):
        Everything(key=key, **row).save()
    expected = [contents(row) for row in in_order(saved, Everything.objects.all())]
    buffer, keys = Everything.buffered, [uuid.uuid4() for _ in rows]
    receipts = buffer.set_many({"key": key, **row} for key, row in zip(keys, rows, strict=True))

    def read() -> list[Any]:
        found = buffer.get_many(keys)
        return [contents(found[key]) for key in keys]

    assert read() == expected, "pending"
    with in_flight():
        assert read() == expected, "in flight"
    buffer.flush()
    assert all(receipt.persisted for receipt in receipts)
    assert read() == expected, "flushed"
    assert [contents(row) for row in in_order(keys, Everything.objects.all())] == expected
    no_json = Everything.objects.filter(json__isnull=True)
    assert len(in_order(keys, no_json)) == len(in_order(saved, no_json))


def in_order(keys: list[uuid.UUID], rows: QuerySet[Everything]) -> list[Everything]:
    found = rows.in_bulk(keys, field_name="key")
    return [found[key] for key in keys if key in found]


def contents(row: Model) -> dict[str, tuple[type, str]]:
    """What an instance holds, such that different types and different values are different."""
    held = {f.attname: getattr(row, f.attname) for f in row._meta.concrete_fields}
    if isinstance(row, Everything):
        del held["id"], held["key"]
        held["json"] = json.dumps(held["json"], sort_keys=True)  # PostgreSQL has its own order
    return {name: (type(value), repr(value)) for name, value in held.items()}


@contextmanager
def in_flight(buffer: Any = Everything.buffered) -> Iterator[None]:
    """A flusher has claimed what is pending, and is at work on it."""
    batches = claim(buffer)
    assert {entry.state for entry in buffer.pending()} <= {"in_flight"}
    try:
        yield
    finally:
        for batch in batches:
            batch.release()
