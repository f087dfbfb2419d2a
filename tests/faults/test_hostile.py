"""Who can write to Redis, or calls with data of a user, gets nothing but errors.

A nightly run: WRITEBEHIND_EXAMPLES=100000 make test ARGS=tests/faults/test_hostile.py
"""

from __future__ import annotations

import datetime
import itertools
import math
import os
import random
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
import redis
from django.core.exceptions import FieldError, ObjectDoesNotExist, ValidationError
from django.db import IntegrityError
from django.db.models import F, Q, Value
from django.utils import timezone

from tests.backdoor import hostile
from tests.backdoor.entries import forget_due, id_of, put_number, put_text, remove
from tests.backdoor.keyspace import LOOKALIKES
from tests.backdoor.shards import PARTS, spoil
from tests.models import (
    Counter,
    Everything,
    Item,
    Note,
    Owner,
    Setting,
    Stamp,
    Tick,
    Visit,
)
from writebehind_app import Add, LogBuffer, Max, Merge, MetaBuffer, Min, RowBuffer, registry
from writebehind_app.buffers import meta
from writebehind_app.buffers.base import Buffer
from writebehind_app.database import deadletters
from writebehind_app.database.letters import described
from writebehind_app.exceptions import AlreadyExists, BufferUnavailable, WritebehindError
from writebehind_app.flush.engine import flush
from writebehind_app.models import DeadLetter

EXAMPLES = int(os.environ.get("WRITEBEHIND_EXAMPLES", "2000"))
AT_ONCE = 25  # payloads that are planted before a flush

number = itertools.count(1)
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


@pytest.fixture
def raw(redis_server) -> redis.Redis:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def owner(database) -> Owner:
    return Owner.objects.create(name="anna")


def drained(buffer: Buffer) -> None:
    """Whatever is in the way of one flush, it is not in the way of all: nothing is left."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(WritebehindError):
            result = flush(buffer, ignore_backoff=True, wait=False)
            if not result.errors and buffer.count_pending() == 0:
                return
        time.sleep(0.02)  # for the lease of a batch whose flusher met something
    raise AssertionError(f"{buffer.count_pending()} entries of {buffer} are left.")


def settled(call: Callable[..., Any], *args: Any) -> Any:
    """What a call returns; it may fail once for each thing that was spoiled."""
    for _ in range(3):
        with suppress(WritebehindError):
            return call(*args)
    return call(*args)


# Entries


class Rows:
    def __init__(self, owner: Owner) -> None:
        self.buffer = Item.buffered

    def write(self, rng: random.Random) -> tuple[str, Any]:
        """The id of a new entry, and what it says."""
        n = next(number)
        values = {"a": n, "b": f"b{n}", "d": 1.5, "e": True, "f": "2.50"}
        if rng.random() < 0.5:
            values["a"] = Add(n)
        Item.buffered.set(number=n, **values)
        return str(n), n

    def write_again(self, n: int, rng: random.Random) -> None:
        assert Item.buffered.set(number=n, c="again", a=rng.choice([n, Add(1), Max(n)]))

    def has_again(self, n: int) -> bool:
        return Item.objects.filter(number=n, c="again").exists()

    def shown(self, n: int) -> tuple[Any, ...]:
        row = Item.buffered.get_many([n]).get(n)
        return row and (row.a, row.b, row.d, row.e)

    def expected(self, n: int) -> tuple[Any, ...]:
        return (n, f"b{n}", 1.5, True)

    def stored(self, n: int) -> tuple[Any, ...]:
        return Item.objects.filter(number=n).values_list("a", "b", "d", "e").first()


class Metadata:
    def __init__(self, owner: Owner) -> None:
        self.buffer = Note.buffered
        self.owner = owner

    def write(self, rng: random.Random) -> tuple[str, Any]:
        n = next(number)
        notes = Note.buffered.of(page=f"p{n}", owner=self.owner)
        # One key: its row dies with it.
        notes.update({"k": {"n": n}})
        return id_of(Note.buffered, page=f"p{n}", owner=self.owner), n

    def write_again(self, n: int, rng: random.Random) -> None:
        value = rng.choice([n, Add(1), Merge({"m": n})])
        Note.buffered.of(page=f"p{n}", owner=self.owner).update({"again": n, "k": value})

    def has_again(self, n: int) -> bool:
        return Note.objects.filter(page=f"p{n}", key="again").exists()

    def shown(self, n: int) -> Any:
        return dict(Note.buffered.of(page=f"p{n}", owner=self.owner))

    def expected(self, n: int) -> Any:
        return {"k": {"n": n}}

    def stored(self, n: int) -> Any:
        return dict(Note.objects.filter(page=f"p{n}").values_list("key", "value"))


@pytest.mark.parametrize("kind", [Rows, Metadata])
def test_planted_entries_die_and_others_live(
    database, redis_server, raw, owner, configure, kind, caplog, rng
):
    configure(SHARDS=2, LEASE=0.5, BACKOFF=0.001)
    of = kind(owner)
    for _ in range(max(EXAMPLES // AT_ONCE // 12, 2)):
        planted, good = {}, []
        for _ in range(AT_ONCE):
            id, what = of.write(rng)
            spoil = rng.choice(hostile.SPOILS)
            planted[spoil(raw, of.buffer, id, rng)] = spoil.__name__, what
            good.append(of.write(rng)[1])
            with suppress(WritebehindError):
                of.shown(what)
        of.buffer.pending(1000)
        for what in good:
            assert of.shown(what) == of.expected(what)
        drained(of.buffer)
        for what in good:
            assert of.stored(what) == of.expected(what)
            assert of.shown(what) == of.expected(what)
        for id, (how, what) in planted.items():
            assert hostile.is_dead(id), (how, id, what, of.stored(what))
        for letter in DeadLetter.objects.all():
            described(letter)
        ids = list(DeadLetter.objects.values_list("pk", flat=True))
        assert deadletters.retry(of.buffer, ids) == (0, len(ids))
        deadletters.discard(of.buffer, ids)


def test_entries_out_of_the_index_go_with_the_next_write(database, redis_server):
    """Without the time at which it is due nothing finds an entry, until somebody writes to it."""
    Item.buffered.set(number=1, a=1)
    Item.buffered.set(number=2, a=1)
    for n in (1, 2):
        forget_due(Item.buffered, str(n))
    assert Item.buffered.flush().rows == 0
    Item.buffered.set(number=1, b="x")
    Item.buffered.flush()
    Item.buffered.flush(number=2)
    assert list(Item.objects.order_by("number").values_list("a", "b")) == [(1, "x"), (1, "")]


def test_more_broken_entries_than_a_poison_limit(database, redis_server, configure):
    """They are nobody's fault but their own, and keep nobody waiting."""
    configure(SHARDS=1, POISON_LIMIT=3, BATCH_SIZE=10)
    for n in range(30):
        Item.buffered.set(number=n, a=1)
        put_number(Item.buffered, str(n), "x")
    Item.buffered.set(number=99, a=1)
    assert Item.buffered.flush().dead_letters == 30
    assert Item.objects.get().number == 99


# Records


def test_planted_records_die_and_others_live(database, redis_server, raw, configure, rng):
    configure(LEASE=0.5, BACKOFF=0.001)
    for _ in range(max(EXAMPLES // AT_ONCE // 12, 2)):
        good = []
        for _ in range(AT_ONCE):
            for _ in range(2):
                n = next(number)
                with suppress(WritebehindError):  # no number follows the greatest
                    Visit.buffered.append(event=n, email="good", hint=1, token=uuid.UUID(int=n))
                    good.append(n)
            hostile.spoil_log(raw, Visit.buffered, rng)
        assert shown(good) == good
        assert Visit.buffered.count(email="good") >= len(good)
        Visit.buffered.pending(1000)
        drained(Visit.buffered)
        assert shown(good) == good
        assert set(Visit.objects.filter(email="good").values_list("event", flat=True)) >= {*good}
        for _ in range(3 * Visit.buffered.option("SHARDS")):  # in each shard, there is a next one
            n = next(number)
            Visit.buffered.append(event=n, email="good")
            assert shown([n]) == [n]
        drained(Visit.buffered)
        for letter in DeadLetter.objects.all():
            described(letter)
        deadletters.discard(Visit.buffered, DeadLetter.objects.values_list("pk", flat=True))


def shown(events: list[int]) -> list[int]:
    wanted = set(events)
    return sorted(v.event for v in Visit.buffered.window(email="good") if v.event in wanted)


@pytest.mark.parametrize("how", hostile.SPOILS[:4])
@pytest.mark.parametrize("quiet", [0, 0.001])
@pytest.mark.parametrize("kind", [Rows, Metadata])
@on_sqlite
@on_valkey
def test_a_write_to_a_planted_entry_is_stored_or_dies_with_it(
    database, raw, owner, configure, kind, quiet, how, rng
):
    """It was accepted: it does not get lost, nor does it crash."""
    configure(QUIET=quiet, LEASE=0.5, BACKOFF=0.001)
    of = kind(owner)
    for _ in range(max(EXAMPLES // 100, 5)):
        ids = {}
        for _ in range(AT_ONCE):
            id, what = of.write(rng)
            how(raw, of.buffer, id, rng)
            for _ in range(rng.randrange(1, 4)):
                of.write_again(what, rng)
            ids[id] = what
            with suppress(WritebehindError):
                of.shown(what)
        drained(of.buffer)
        for id, what in ids.items():
            assert of.has_again(what) or hostile.is_dead(id.encode(), "again"), id
        DeadLetter.objects.all().delete()


@pytest.mark.parametrize("name", [b"@", b"!", b"guard"])
def test_what_is_decided_by_a_planted_row_is_decided(database, redis_server, raw, name):
    """Whatever is there, a guard is one that a caller can give back."""
    for value in [*hostile.NUMBERS, *hostile.STATE_VALUES]:
        n = next(number)
        Item.objects.create(number=n)
        Item.buffered.set(number=n, a=1)
        hostile.put_guard(raw, Item.buffered, str(n), name, value)
        is_there = Item.buffered.set_if(lambda row: True, number=n, c="decided")
        assert is_there or name == b"!"  # which may be the number of a delete
        hostile.put_guard(raw, Visit.buffered, "", b"guard", value)
        assert Visit.buffered.append(event=n, email="x")


def test_a_write_after_its_entry_is_gone_is_stored(database, redis_server):
    """Somebody took it out of Redis, and not out of the index."""
    for n, again in enumerate(
        [
            lambda: Item.buffered.set(number=0, a=Add(2)),
            lambda: Item.buffered.set(number=1, a=2),
            lambda: Item.buffered.delete(number=2),
        ]
    ):
        Item.objects.create(number=n, a=10)
        Item.buffered.set(number=n, a=Add(1))
        remove(Item.buffered, str(n))
        assert again().where == "pending"
    result = Item.buffered.flush()
    assert (result.rows, result.dead_letters) == (3, 0)
    assert list(Item.objects.order_by("number").values_list("a", flat=True)) == [12, 2]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *(("json", "\\[]x"), ("json", "(1)"), ("json", "["), ("decimal", "x1.5x")),
        *(("datetime", "x2026-01-01 00:00:00x"), ("date", "x2026-01-01x"), ("time", "x10:00x")),
        ("json", "$[],[],[],[],"),
        *(("uuid", "x" + "0" * 32 + "x"), ("binary", "xYQ==x")),
    ],
)
def test_texts_that_only_resemble_values_are_none(plain, field, text):
    Everything.buffered.set(key="0" * 32, char="x")
    put_text(Everything.buffered, id_of(Everything.buffered, key="0" * 32), field, text, old=True)
    assert Everything.buffered.flush().dead_letters == 1
    assert not Everything.objects.exists()


@pytest.mark.parametrize("part", PARTS)
def test_a_call_that_fails_for_what_somebody_wrote_was_not_taken(plain, configure, part):
    """It is sure to say so: the caller may repeat it, or goes around Redis."""
    configure(LEASE=0.5)  # of a batch whose acknowledgement fails
    Item.buffered.set(number=1, a=Add(1))
    Visit.buffered.append(event=1, email="x")
    spoil(Item.buffered, part)
    spoil(Visit.buffered, part)
    at = timezone.now()
    again(lambda: Item.buffered.set_many({"number": n, "a": Add(1)} for n in (1, 2)))
    again(lambda: Visit.buffered.append(event=2, email="x", registered_at=at))
    drained(Item.buffered)
    drained(Visit.buffered)
    assert dict(Item.objects.values_list("number", "a")) == {1: 2, 2: 1}
    assert not DeadLetter.objects.exists()
    assert Visit.objects.filter(event=2).count() == 1


def again(call: Callable[[], Any]) -> None:
    with suppress(BufferUnavailable):
        call()
        return
    call()


# What a shard keeps next to its entries


@pytest.mark.parametrize("buffer", [Item.buffered, Note.buffered, Visit.buffered], ids=str)
def test_the_next_calls_go_on_after_a_shard_was_spoiled(
    database, redis_server, raw, owner, configure, buffer, rng
):
    configure(SHARDS=2, LEASE=0.5, BACKOFF=0.001)
    writer = {
        Item.buffered: lambda n: Item.buffered.set(number=n, a=n),
        Note.buffered: lambda n: Note.buffered.of(page=str(n), owner=owner).update(n=n),
        Visit.buffered: lambda n: Visit.buffered.append(event=n, email="x"),
    }
    for _ in range(max(EXAMPLES // 24, 4)):
        history = [hostile.spoil_state(raw, buffer, rng) for _ in range(rng.randrange(1, 4))]
        for call in (buffer.count_pending, buffer.pending, lambda: flush(buffer)):
            with suppress(WritebehindError):
                call()
        n = next(number)
        receipt = settled(writer[buffer], n)
        drained(buffer)
        assert settled(getattr, receipt, "where")
        model, field, value = {
            Item.buffered: (Item, "number", n),
            Note.buffered: (Note, "page", str(n)),
            Visit.buffered: (Visit, "event", n),
        }[buffer]
        assert model.objects.filter(**{field: value}).count() == 1, history
        settled(buffer.discard)


# Calls


def deep(kind: str) -> Any:
    value: Any = 1
    for _ in range(10_000):
        value = [value] if kind == "list" else {"a": value}
    return value


class Evil:
    """Answers nothing that is asked of it."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error("evil")

    __repr__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __int__ = __float__ = __str__
    __index__ = __lt__ = __gt__ = __getitem__ = __str__


class EvilText(str):
    def __str__(self) -> str:
        return self

    def __len__(self) -> int:
        return 0

    def isascii(self) -> bool:
        return True

    def encode(self, *args: Any) -> bytes:
        return b""


class EvilDict(dict):
    def items(self) -> Any:
        raise KeyError("evil")

    keys = __iter__ = __len__ = items


RELEASED = memoryview(b"x")
RELEASED.release()

VALUES: list[Any] = [
    *(None, True, 0, -1, 5, 2**31, 2**63 - 1, 2**63, -(2**64), 10**4000, 10**5000),
    *(0.0, -0.0, 1.5, math.nan, math.inf, 1e308, 5e-324, 1j),
    *(Decimal("1.5"), Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), Decimal("1e999999")),
    *("", " ", "x", "5", "1.5", "true", "\0", "\ud800", "a\udfff", "x" * 300, "9" * 5000),
    *(
        "\N{ARABIC-INDIC DIGIT ONE}",
        "1e999",
        "1e999990",
        "nan",
        "null",
        '"',
        "'",
        "{",
        ",",
        ":",
        *LOOKALIKES,
        "@",
        "&",
    ),
    *("!", "^", "#1", "$1,,,,", "~x", "%1", "+#1,,0,9", "2026-01-01", "2026-01-01 25:00", "é" * 99),
    *(b"", b"x", b"\xff\x00", bytearray(b"x"), memoryview(b"abcd")[::2], RELEASED),
    *([], [1], [[]], (), (1, 2), {}, {"a": 1}, {1: 2}, {None: 1}, {"a": math.nan}, {"\ud800": 1}),
    *({1, 2}, frozenset(), range(3), iter([]), object(), type, len, lambda: 1, ..., NotImplemented),
    *(deep("list"), deep("dict"), [10**5000], {"a": [b"x"]}, {"a": "\0"}, {"a": "\ud800"}),
    *(EvilText("x"), EvilText("\ud800"), EvilText("x" * 500), EvilDict(a=1)),
    *(
        Evil(error)
        for error in (ValueError, TypeError, KeyError, RecursionError, ZeroDivisionError)
    ),
    *(datetime.datetime.max, datetime.datetime.min),  # noqa: DTZ901
    *(datetime.date.max, datetime.time.max),
    datetime.datetime.max.replace(tzinfo=datetime.timezone(-datetime.timedelta(hours=23))),
    datetime.datetime.min.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=23))),
    *(datetime.timedelta.max, datetime.timedelta.min, uuid.UUID(int=1), uuid.uuid4),
    *(F("a"), Q(a=1), Value(1), Item, Item(), Owner(pk=10**30), Item.objects.none()),
]
NAMES: list[Any] = [
    *("number", "a", "b", "c", "d", "e", "f", "key", "owner", "owner_id", "page", "event", "email"),
    *("details", "registered_at", "char", "json", "decimal", "datetime", "binary", "uuid", "ip"),
    *("file", "point", "tier", "duration", "boolean", "float", "time", "date", "integer", "extra"),
    *(
        "id",
        "pk",
        "once",
        "",
        "@",
        "&a:",
        "no",
        "__class__",
        "self",
        "limit",
        "x" * 1000,
        "\ud800",
        "\0",
    ),
]


class Chance:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def value(self) -> Any:
        plain = self.rng.choice(VALUES)
        if self.rng.random() < 0.8:
            return plain
        if self.rng.random() < 0.5:
            return self.rng.choice([Add, Max, Min, Merge])(plain)
        return self.rng.choice([[plain], {"a": plain}, {"b": [plain, {"c": plain}]}, (plain,)])

    def iterable(self) -> Any:
        """Not one that raises by itself: that is the caller's own error."""
        while isinstance(value := self.value(), Evil | EvilDict | memoryview):
            pass
        return value

    def name(self) -> str:
        return self.rng.choice(NAMES)

    def named(self, *likely: str) -> dict[str, Any]:
        """Arguments by name: some of the likely ones, and any others."""
        names = [n for n in likely if self.rng.random() < 0.9]
        names += [self.name() for _ in range(self.rng.choice([0, 0, 1, 2]))]
        good = {"number": 1, "event": 1, "email": "x", "page": "p", "owner": 1, "key": uuid.uuid4()}
        return {
            n: good[n] if n in good and self.rng.random() < 0.6 else self.value() for n in names
        }

    def mapping(self) -> Any:
        """What somebody gives for a mapping."""
        if self.rng.random() < 0.2:
            return self.value()
        return {self.rng.choice(["a", self.name(), self.value_as_key()]): self.value()}

    def value_as_key(self) -> Any:
        value = self.value()
        try:
            hash(value)
        except Exception:  # noqa: BLE001 - evil ones raise anything
            return "k"
        return value


Calls = dict[str, Callable[[], Any]]  # by the verb


def calls_of_rows(of: Chance) -> Calls:
    buffer = of.rng.choice([Item.buffered, Everything.buffered, Counter.buffered, Stamp.buffered])
    key = buffer.key[0]
    fields = of.rng.sample(list(buffer.layout().columns), 1)

    def expected() -> Any:
        return of.mapping() if of.rng.random() < 0.5 else lambda row: row.pk == of.value()

    def instance() -> Any:
        row = buffer.model()
        row.__dict__.update(of.named(key, *fields))
        return row

    return {
        "set": lambda: buffer.set(**of.named(key, *fields)),
        "create": lambda: buffer.create(**of.named(key, *fields)),
        "save": lambda: buffer.save(
            of.rng.choice([of.value(), instance(), instance()]),
            of.rng.choice([None, of.iterable(), fields]),
        ),
        "set_many": lambda: buffer.set_many(
            of.rng.choice([of.iterable(), [of.mapping(), of.named(key, *fields)]])
        ),
        "set_if": lambda: buffer.set_if(expected(), **of.named(key, *fields)),
        "delete": lambda: buffer.delete(**of.named(key)),
        "get": lambda: buffer.get(**of.named(key)),
        "get_many": lambda: buffer.get_many(
            of.rng.choice([of.iterable(), [of.value(), of.value()]])
        ),
        "overlay": lambda: buffer.overlay(of.value()),
        "pending": lambda: buffer.pending(of.value()),
        "count_pending": buffer.count_pending,
        "flush": lambda: buffer.flush(**of.named(key)),
        "discard": lambda: buffer.discard(**of.named(key)),
    }


def calls_of_metadata(of: Chance) -> Calls:
    buffer = of.rng.choice([Note.buffered, Setting.buffered])
    good = {"page": "p", "owner": 1} if buffer is Note.buffered else {"site": 1}

    def entity() -> meta.Metadata:
        return buffer.of(**(good if of.rng.random() < 0.8 else of.named(*good)))

    def key() -> Any:
        return of.value_as_key() if of.rng.random() < 0.5 else of.name()

    return {
        "get_many": lambda: buffer.get_many(
            of.rng.choice([of.iterable(), [of.value(), (of.value(), of.value())]])
        ),
        "update_many": lambda: buffer.update_many(
            of.rng.choice(
                [
                    of.iterable(),
                    [of.value(), (good, of.mapping()), (of.mapping(), {})],
                    [(good, of.mapping()), (of.mapping(), of.mapping())],
                ]
            )
        ),
        "count_pending": buffer.count_pending,
        "pending": lambda: entity().pending() or buffer.pending(of.value()),
        "flush": lambda: entity().flush(),
        "discard": lambda: of.rng.choice([entity(), buffer]).discard(),
        "update": lambda: entity().update(
            of.rng.choice([of.value(), of.mapping(), {key(): of.value()}])
        ),
        "get": lambda: entity().get(key()) or key() in entity() or entity()[key()],
        "items": lambda: entity().items() or len(entity()) or [*entity()] or dict(entity()),
        "pop": lambda: entity().pop(key(), *of.rng.choice([(), (of.value(),)])),
        "popitem": lambda: entity().popitem(),
        "setdefault": lambda: entity().setdefault(key(), of.value()),
        "__setitem__": lambda: entity().__setitem__(key(), of.value()),
        "__delitem__": lambda: entity().__delitem__(key()),
        "clear": lambda: entity().clear(),
    }


def calls_of_logs(of: Chance) -> Calls:
    buffer = of.rng.choice([Visit.buffered, Tick.buffered])
    likely = ("event", "email") if buffer is Visit.buffered else ("value",)
    return {
        "append": lambda: buffer.append(**of.named(*likely)),
        "extend": lambda: buffer.extend(
            of.rng.choice([of.iterable(), [of.named(*likely), of.mapping()]])
        ),
        "window": lambda: buffer.window(
            of.value() if of.rng.random() < 0.5 else None, **of.named("email")
        ),
        "count": lambda: buffer.count(of.value(), **of.named("note")),
        "pending": lambda: buffer.pending(of.value()),
        "count_pending": buffer.count_pending,
        "flush": buffer.flush,
        "discard": lambda: buffer.discard(**of.named(*likely)),
    }


SELDOM = {"flush", "discard", "clear", "delete"}  # else there is little to meet
KINDS = {calls_of_rows: [RowBuffer], calls_of_metadata: [MetaBuffer, meta.Metadata]}
KINDS[calls_of_logs] = [LogBuffer]


@pytest.mark.parametrize("calls", KINDS)
def test_all_verbs_are_called(calls, rng):
    """Those that have a twin."""
    verbs = {
        function.__wrapped__.__name__
        for kind in KINDS[calls]
        for name in dir(kind)
        if name.startswith("a") and hasattr(function := getattr(kind, name), "__wrapped__")
    }
    assert verbs <= calls(Chance(rng)).keys()


def test_a_row_of_number_zero(database, redis_server):
    """MariaDB has none where it gives the numbers itself."""
    if database == "mariadb":
        with pytest.raises(ValidationError):
            Note.buffered.of(page="p", owner=0)
    else:
        assert dict(Note.buffered.of(page="p", owner=0)) == {}


@pytest.mark.parametrize("field", ["a", "f"])
@pytest.mark.parametrize("value", [Decimal("1e999990"), Decimal("-1e5000"), "1e999990"])
@pytest.mark.parametrize("operation", [lambda value: value, Add, Max, Min])
def test_immense_numbers_are_refused_at_once(plain, field, value, operation):
    """As whole numbers they take minutes to make."""
    started = time.monotonic()
    with pytest.raises(ValidationError):
        Item.buffered.set(number=1, **{field: operation(value)})
    assert time.monotonic() - started < 10


@pytest.mark.filterwarnings("ignore:.*received a naive datetime")
@pytest.mark.parametrize("mode", ["buffered", "direct"])
@pytest.mark.parametrize("calls", KINDS)
def test_calls_raise_what_is_documented(database, redis_server, owner, configure, calls, mode, rng):
    if mode == "direct" and redis_server.kind == "redis":
        return  # there is none to ask
    configure(SHARDS=2, MODE=mode)
    of = Chance(rng)
    taken = 0
    for n in range(max(EXAMPLES // 27, 50)):
        verbs = calls(of)
        verb = of.rng.choice([v for v in verbs if v not in SELDOM or of.rng.random() < 0.1])
        said = True
        try:
            verbs[verb]()
            taken += 1
        except (ValidationError, FieldError, TypeError, KeyError, ObjectDoesNotExist) as error:
            said = isinstance(error, KeyError) or str(error)
        except AlreadyExists:
            pass
        except IntegrityError:  # of a row that refers to none, as the ORM would raise it
            assert mode == "direct"
        assert said
        if mode == "buffered" and n % 100 == 99:
            for buffer in registry.declared():
                drained(buffer)
    assert taken  # every fifth is, more or less
