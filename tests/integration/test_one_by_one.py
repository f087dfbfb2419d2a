"""G2: random sequences through a buffer come to what the same steps come to one by one in the ORM.

Each runs on rows of its own next to the rows that the ORM makes in the same tables. A nightly run:

    WRITEBEHIND_EXAMPLES=2500 make test ARGS=tests/integration/test_one_by_one.py
"""

from __future__ import annotations

import datetime
import os
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backdoor.batches import claim, take_over_where_waited_for
from tests.models import Counter, Note, Owner, Visit
from tests.pending import in_python
from writebehind_app import Add, Max, Merge, Min
from writebehind_app.buffers.base import Buffer
from writebehind_app.exceptions import AlreadyExists

# For each database and each kind of Redis: that is 300 for each kind of buffer.
EXAMPLES = int(os.environ.get("WRITEBEHIND_EXAMPLES", "50"))
sequences = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """No guarded write has to wait for long for what a dead flusher left."""
    take_over_where_waited_for(monkeypatch)


ACTS = st.sampled_from(["claim", "flush", "flush one"])


def act(buffer: Buffer, verb: str, **key: Any) -> None:
    """What must change nothing: a flusher that dies, one that does its work."""
    match verb:
        case "claim":
            claim(buffer, lease=0, size=9)
        case "flush":
            buffer.flush()
        case "flush one":
            buffer.flush(**key)


# Values

BIG = st.integers(-(10**15), 10**15)
NUMBERS = BIG | st.integers(-(10**9), 10**9).map(lambda n: n / 2)  # halves are added exactly
# SQLite keeps 15 digits of a decimal.
CENTS = st.integers(-(10**12), 10**12).map(lambda n: Decimal(n).scaleb(-2))
TIMES = st.datetimes(
    datetime.datetime(1990, 1, 1),  # noqa: DTZ001
    datetime.datetime(2040, 1, 1),  # noqa: DTZ001
    timezones=st.just(datetime.UTC),
)
SPANS = st.integers(-(10**12), 10**12).map(lambda n: datetime.timedelta(microseconds=n))
OBJECTS = st.dictionaries(
    st.sampled_from(["a", 'b"', "c:d", ""]), st.integers() | st.none(), max_size=3
)
JSON = st.one_of(
    NUMBERS,
    st.none() | st.booleans() | st.text("1-e.[", max_size=3) | OBJECTS,
    OBJECTS.map(Merge),
    BIG.map(Add),
    NUMBERS.map(Max),
    NUMBERS.map(Min),
)


def values(plain: st.SearchStrategy[Any], *, add: bool = True) -> st.SearchStrategy[Any]:
    kinds = [plain.map(Max), plain.map(Min)] + ([plain.map(Add)] if add else [])
    return st.one_of(plain, st.none(), *kinds)


# Rows

FIELDS = {
    "big": values(BIG),
    "decimal": values(CENTS),
    "real": values(st.floats(-1e9, 1e9), add=False),
    "at": values(TIMES, add=False),
    "span": values(SPANS),
    "extra": JSON,
}
WRITES = st.fixed_dictionaries({}, optional=FIELDS)
EXPECTED = st.fixed_dictionaries({}, optional={"big": st.sampled_from([None, 0, 1])})
ROW_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), WRITES),
        st.tuples(st.just("set"), WRITES),
        st.tuples(st.just("create"), st.fixed_dictionaries({"big": st.sampled_from([None, 0, 1])})),
        st.tuples(st.just("set_if"), EXPECTED, WRITES),
        st.tuples(st.just("delete")),
        st.tuples(ACTS),
    ),
    max_size=12,
)


def on_rows(name: str, verb: str, *given_: dict[str, Any]) -> Any:
    """A step through the buffer; the answer of those that have one."""
    match verb, *given_:
        case "set", written:
            Counter.buffered.set(name=name, **written)
        case "create", written:
            try:
                Counter.buffered.create(name=name, **written)
            except AlreadyExists:
                return "exists"
        case "set_if", expected, written:
            return Counter.buffered.set_if(expected, name=name, **written)
        case ("delete",):
            Counter.buffered.delete(name=name)
        case (verb,):
            act(Counter.buffered, verb, name=name)
    return None


def on_rows_with_the_orm(name: str, verb: str, *given_: dict[str, Any]) -> Any:
    row = Counter.objects.filter(name=name).first()

    def write(row: Counter, written: dict[str, Any]) -> None:
        for field, value in written.items():
            setattr(row, field, in_python(getattr(row, field), value, json=field == "extra"))
        row.save()

    match verb, *given_:
        case "set", written:
            write(row or Counter(name=name), written)
        case "create", written:
            if row:
                return "exists"
            write(Counter(name=name), written)
        case "set_if", expected, written:
            if row is None or any(getattr(row, f) != value for f, value in expected.items()):
                return False
            write(row, written)
            return True
        case ("delete",) if row:
            row.delete()
    return None


def fields_of(row: Counter | None) -> dict[str, Any] | None:
    return row and {field: getattr(row, field) for field in FIELDS}


@sequences
@given(ROW_STEPS)
def test_rows(database, redis_server, steps):
    Counter.buffered.discard()
    Counter.objects.all().delete()
    stored = Counter.objects.filter
    for step in steps:
        assert on_rows("buffered", *step) == on_rows_with_the_orm("orm", *step)
        seen = Counter.buffered.get_many(["buffered"]).get("buffered")
        assert fields_of(seen) == fields_of(stored(name="orm").first())
    Counter.buffered.flush()
    assert fields_of(stored(name="buffered").first()) == fields_of(stored(name="orm").first())


# Metadata

KEYS = st.sampled_from(["a", "b:", '"'])
UPDATES = st.dictionaries(KEYS, JSON, max_size=3)
META_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("update"), UPDATES),
        st.tuples(st.just("update"), UPDATES),
        st.tuples(st.just("update_many"), UPDATES, UPDATES),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("clear")),
        st.tuples(ACTS),
    ),
    max_size=12,
)


def on_metadata(entity: dict[str, Any], verb: str, *given_: Any) -> Any:
    metadata = Note.buffered.of(**entity)
    match verb, *given_:
        case "update", written:
            metadata.update(written)
        case "update_many", *updates:
            Note.buffered.update_many([(entity, written) for written in updates])
        case "delete", key:
            return metadata.pop(key, "missing")
        case ("clear",):
            metadata.clear()
        case (verb,):
            act(Note.buffered, verb, **entity)
    return None


def on_metadata_with_the_orm(entity: dict[str, Any], verb: str, *given_: Any) -> Any:
    notes = Note.objects.filter(**entity)

    def update(written: dict[str, Any]) -> None:
        for key, value in written.items():
            note = notes.filter(key=key).first() or Note(key=key, **entity)
            note.value = in_python(note.value, value, json=True)
            note.save()

    match verb, *given_:
        case "update" | "update_many", *updates:
            for written in updates:
                update(written)
        case "delete", key:
            note = notes.filter(key=key).first()
            if note is None:
                return "missing"
            note.delete()
            return note.value
        case ("clear",):
            notes.delete()
    return None


@sequences
@given(META_STEPS)
def test_metadata(database, redis_server, steps):
    Note.buffered.discard()
    Note.objects.all().delete()
    owner, _ = Owner.objects.get_or_create(name="anna")
    buffered, orm = {"page": "buffered", "owner": owner}, {"page": "orm", "owner": owner}

    def stored(entity: dict[str, Any]) -> dict[str, Any]:
        return dict(Note.objects.filter(**entity).values_list("key", "value"))

    for step in steps:
        assert on_metadata(buffered, *step) == on_metadata_with_the_orm(orm, *step)
        assert dict(Note.buffered.of(**buffered)) == stored(orm)
    Note.buffered.flush()
    assert stored(buffered) == stored(orm)


# Logs

PEOPLE = st.sampled_from(["a", "b:", "c,"])
MOMENTS = st.datetimes(
    datetime.datetime(2020, 1, 1),  # noqa: DTZ001
    datetime.datetime(2020, 1, 1, 0, 0, 9),  # noqa: DTZ001
    timezones=st.just(datetime.UTC),
)
VISITS = st.fixed_dictionaries(
    {"email": PEOPLE, "details": OBJECTS},
    optional={"note": st.text("xy", max_size=2), "registered_at": MOMENTS},
)
LOG_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), VISITS),
        st.tuples(st.just("append"), VISITS),
        st.tuples(st.just("extend"), st.lists(VISITS, max_size=3)),
        st.tuples(st.just("delete"), PEOPLE),
        st.tuples(st.just("window"), MOMENTS, MOMENTS),
        st.tuples(ACTS.filter(lambda act: act != "flush one")),
    ),
    max_size=12,
)


def on_log(event: int, verb: str, *given_: Any) -> Any:
    log = Visit.buffered
    match verb, *given_:
        case "append" | "extend", written:
            records = [written] if verb == "append" else written
            try:
                if verb == "append":
                    log.append(event=event, **written)
                else:
                    log.extend([{"event": event, **record} for record in records])
            except AlreadyExists:
                return "exists"
        case "delete", email:
            if not log.discard(event=event, email=email):
                log.flush()
                Visit.objects.filter(event=event, email=email).delete()
        case "window", since, until:
            found = log.window(since, until, event=event)
            assert log.count(since, until, event=event) == len(found)
            return [record_of(row) for row in found]
        case (verb,):
            act(log, verb)
    return None


def on_log_with_the_orm(event: int, verb: str, *given_: Any) -> Any:
    visits = Visit.objects.filter(event=event)
    match verb, *given_:
        case "append" | "extend", written:
            records = [written] if verb == "append" else written
            emails = [record["email"] for record in records]
            if len(set(emails)) < len(emails) or visits.filter(email__in=emails).exists():
                return "exists"
            for record in records:
                Visit.objects.create(event=event, **record)
        case "delete", email:
            visits.filter(email=email).delete()
        case "window", since, until:
            found = visits.filter(registered_at__gte=since, registered_at__lt=until)
            return [record_of(row) for row in found.order_by("registered_at", "pk")]
    return None


def record_of(row: Visit) -> tuple[Any, ...]:
    given_ = row.registered_at.year == 2020
    return row.email, row.details, row.note, row.registered_at if given_ else None


@pytest.fixture
def one_shard(monkeypatch, configure):
    """In which rows get their keys in the order of the records."""
    monkeypatch.setattr(Visit.buffered, "options", {**Visit.buffered.options, "SHARDS": 1})
    configure()  # with other settings, a buffer works out its shards anew


@sequences
@given(LOG_STEPS)
def test_logs(database, redis_server, one_shard, steps):
    Visit.buffered.flush()
    Visit.objects.all().delete()
    for step in steps:
        assert on_log(1, *step) == on_log_with_the_orm(2, *step)
        seen = [record_of(row) for row in Visit.buffered.window(event=1)]
        stored = Visit.objects.filter(event=2).order_by("registered_at", "pk")
        assert seen == [record_of(row) for row in stored]
    Visit.buffered.flush()
    rows = [Visit.objects.filter(event=event).order_by("pk") for event in (1, 2)]
    assert [record_of(row) for row in rows[0]] == [record_of(row) for row in rows[1]]
