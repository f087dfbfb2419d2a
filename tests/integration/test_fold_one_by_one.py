"""What entries come to in the database: the same as their writes one by one through the ORM, for a
field of every type. No Redis is asked.

A nightly run: WRITEBEHIND_EXAMPLES=5000 make test ARGS=tests/integration/test_fold_one_by_one.py
"""

from __future__ import annotations

import datetime
import os
import uuid
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from django.db import models, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models import Color, Counter, Everything, Item, Level, Note, Owner, Point, Setting, Tier
from tests.pending import DELETE, entry_of_writes, in_python
from writebehind_app import Add, Max, Merge, MetaBuffer, Min
from writebehind_app.database.planner import write_entries
from writebehind_app.fields.entry import Entry, combined, entry_of

EXAMPLES = int(os.environ.get("WRITEBEHIND_EXAMPLES", "100"))
sequences = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
numbers = count(1_700_000_000_000_000)  # of writes: microseconds

Strategy = st.SearchStrategy[Any]


def with_operations(values: Strategy, *, add: bool = False) -> Strategy:
    kinds = [values.map(Max), values.map(Min)] + ([values.map(Add)] if add else [])
    return st.one_of(values, *kinds)


# Values of each field. What a database refuses, or rounds, is for other tests.

SMALL = st.integers(-100, 100)
POSITIVE = st.integers(0, 100)
BIG = st.integers(-(10**15), 10**15)
TEXT = st.sampled_from(["", "a", "null", "ä€", '"\\', "+i:5", "0" * 16, "a\nb"])
DATES = st.dates(datetime.date(1990, 1, 1), datetime.date(2040, 1, 1))
TIMES = st.datetimes(
    datetime.datetime(1990, 1, 1),  # noqa: DTZ001
    datetime.datetime(2040, 1, 1),  # noqa: DTZ001
    timezones=st.just(datetime.UTC),
)
SPANS = st.integers(-(10**12), 10**12).map(lambda n: datetime.timedelta(microseconds=n))
DECIMALS = st.integers(-(10**12), 10**12).map(lambda n: Decimal(n).scaleb(-6))
HALVES = SMALL.map(lambda n: n / 2)
OBJECTS = st.dictionaries(st.sampled_from(["a", 'b"', "c:d", ""]), SMALL | st.none(), max_size=3)
JSON = st.one_of(
    st.none() | st.booleans() | st.text("1-e.[", max_size=3) | st.lists(SMALL, max_size=2),
    with_operations(HALVES | SMALL),
    OBJECTS | OBJECTS.map(Merge),
    SMALL.map(Add),
)
EVERYTHING: dict[str, Strategy] = {
    "small": with_operations(SMALL, add=True),
    "integer": with_operations(SMALL, add=True),
    "big": with_operations(BIG, add=True),
    "positive_small": with_operations(POSITIVE, add=True),
    "positive": with_operations(POSITIVE, add=True),
    "positive_big": with_operations(POSITIVE, add=True),
    "char": TEXT,
    "text": TEXT,
    "email": st.just("a@b.org"),
    "slug": st.just("a-b"),
    "url": st.just("https://a.org/c"),
    "boolean": st.booleans(),
    "date": with_operations(DATES),
    "datetime": with_operations(TIMES),
    "time": with_operations(st.times()),
    "duration": with_operations(SPANS, add=True),
    "decimal": with_operations(DECIMALS, add=True),
    "float": with_operations(HALVES),
    "uuid": st.uuids(version=4),  # MariaDB refuses others
    "json": JSON,
    "binary": st.binary(max_size=5),
    "ip": st.sampled_from(["::1", "127.0.0.1"]),
    "owner": st.sampled_from([0, 1]).map(lambda n: Owner.objects.order_by("pk")[n]),
    "color": st.sampled_from(Color),
    "level": st.sampled_from(Level) | st.just(Max(Level.HIGH)),
    "file": TEXT,
    "path": TEXT,
    "point": st.builds(Point, SMALL, SMALL),
    "tier": st.sampled_from(Tier),
}
EVERYTHING = {name: values | st.none() for name, values in EVERYTHING.items()}
COUNTER: dict[str, Strategy] = {
    "small": with_operations(SMALL, add=True),
    "big": with_operations(BIG, add=True) | st.none(),
    "decimal": with_operations(SMALL, add=True) | st.none(),
    "extra": JSON,
}
ITEM: dict[str, Strategy] = {
    "a": with_operations(SMALL, add=True),
    "b": TEXT,
    "c": TEXT | st.none(),
    "d": with_operations(HALVES),
    "e": st.booleans(),
    "f": with_operations(SMALL, add=True),
}


def batches(fields: dict[str, Strategy]) -> Strategy:
    """Writes by the batch in which they are flushed: to some fields, to all, deletes."""
    some, each = st.fixed_dictionaries({}, optional=fields), st.fixed_dictionaries(fields)
    one = st.one_of(some, some, some, each, st.just(DELETE))
    return st.lists(st.lists(one, min_size=1, max_size=3), min_size=1, max_size=2)


# Rows


def store(model: Any, entries: list[Entry]) -> None:
    layout = model.buffered.layout()
    with transaction.atomic(using=layout.using):
        write_entries(layout, entries)


def save(row: models.Model, values: dict[str, Any]) -> None:
    for name, value in values.items():
        is_json = isinstance(row._meta.get_field(name), models.JSONField)
        setattr(row, name, in_python(getattr(row, name), value, json=is_json))
    row.save()


def row_of(model: Any, fields: dict[str, Strategy], **key: Any) -> dict[str, Any] | None:
    found = model.objects.filter(**key).values(*fields).first()
    if found and "binary" in found and found["binary"] is not None:
        found["binary"] = bytes(found["binary"])  # PostgreSQL's is a memoryview
    return found


def check(
    model: Any, key: str, fields: dict[str, Strategy], folded: Any, one_by_one: Any, parts: Any
) -> None:
    for writes in parts:
        entry = entry_of_writes(
            model.buffered.layout(), {key: folded}, [(next(numbers), values) for values in writes]
        )
        store(model, [entry])
        for values in writes:
            row = model.objects.filter(**{key: one_by_one}).first()
            if values is DELETE:
                _ = row and row.delete()
            else:
                save(row or model(**{key: one_by_one}), values)
        assert row_of(model, fields, **{key: folded}) == row_of(model, fields, **{key: one_by_one})


@pytest.fixture
def owners(database):
    for name in ("anna", "berta"):
        Owner.objects.create(name=name)


@sequences
@given(batches(EVERYTHING))
def test_a_field_of_every_type(owners, parts):
    check(Everything, "key", EVERYTHING, uuid.uuid4(), uuid.uuid4(), parts)


@sequences
@given(batches(COUNTER))
def test_fields_that_operations_change(database, parts):
    number = next(numbers)
    check(Counter, "name", COUNTER, f"{number}f", f"{number}o", parts)


@sequences
@given(batches(ITEM))
def test_rows_with_defaults_and_times(database, parts):
    number = next(numbers)
    check(Item, "number", ITEM, number, -number, parts)


@sequences
@given(st.lists(batches({"a": ITEM["a"], "c": ITEM["c"]}), min_size=2, max_size=3))
def test_rows_of_one_batch(database, rows):
    """Of each row the writes of a first batch, and of a second one."""
    keys = [next(numbers) for _ in rows]
    layout = Item.buffered.layout()
    for n in (0, 1):
        now = {key: parts[n] for key, parts in zip(keys, rows, strict=True) if len(parts) > n}
        store(
            Item,
            [
                entry_of_writes(layout, {"number": key}, [(next(numbers), w) for w in writes])
                for key, writes in now.items()
            ],
        )
        for key, writes in now.items():
            for values in writes:
                row = Item.objects.filter(number=-key).first()
                if values is DELETE:
                    _ = row and row.delete()
                else:
                    save(row or Item(number=-key), values)
        for key in keys:
            assert row_of(Item, ITEM, number=key) == row_of(Item, ITEM, number=-key)


# Metadata

CLEAR = None  # a write that deletes all meta keys of an entity
GONE = object()  # in place of the value of a meta key that goes
KEYS = ["a", "b:", '"']


def updates(values: Strategy) -> Strategy:
    some = st.dictionaries(st.sampled_from(KEYS), values | st.just(GONE), min_size=1, max_size=3)
    one = st.one_of(some, some, some, st.just(CLEAR))
    return st.lists(st.lists(one, min_size=1, max_size=4), min_size=1, max_size=2)


def entry_of_updates(buffer: MetaBuffer, entity: dict[str, Any], writes: Any) -> Entry:
    layout, entries = buffer.entity_layout(), []
    id = layout.entity.id(entity)
    for values in writes:
        given_ = values or {}
        texts = layout.encode({key: v for key, v in given_.items() if v is not GONE})
        texts |= {layout.name(key): "!" for key, v in given_.items() if v is GONE}
        entries.append(entry_of(id, texts, next(numbers), delete=values is CLEAR))
    return combined(entries)


def check_metadata(
    model: Any, folded: dict[str, Any], one_by_one: dict[str, Any], parts: Any
) -> None:
    layout = model.buffered.entity_layout()

    def stored(entity: dict[str, Any]) -> dict[str, Any]:
        return dict(model.objects.filter(**entity).values_list("key", "value"))

    for writes in parts:
        entry = entry_of_updates(model.buffered, folded, writes)
        rows = layout.by_key(model.objects.filter(**folded))
        store(model, [*layout.row_entries(entry, rows).values()])
        for values in writes:
            if values is CLEAR:
                model.objects.filter(**one_by_one).delete()
                continue
            for key, value in values.items():
                found = model.objects.filter(key=key, **one_by_one)
                if value is GONE:
                    found.delete()
                else:
                    save(found.first() or model(key=key, **one_by_one), {"value": value})
        assert stored(folded) == stored(one_by_one)


@sequences
@given(updates(JSON))
def test_metadata(owners, parts):
    number, owner = next(numbers), Owner.objects.get(name="anna")
    folded, one_by_one = ({"page": f"{number}{way}", "owner": owner} for way in "fo")
    check_metadata(Note, folded, one_by_one, parts)


@sequences
@given(updates(with_operations(SMALL, add=True)))
def test_metadata_of_whole_numbers(database, parts):
    number = next(numbers) % 10**9
    check_metadata(Setting, {"site": number}, {"site": -number}, parts)
