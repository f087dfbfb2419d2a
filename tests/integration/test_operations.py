"""Add, Max, Min, Merge, create and set_if; test_one_by_one.py has all of them in sequences."""

from __future__ import annotations

import datetime
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import product

import pytest
from django.core.exceptions import ValidationError
from django.db import connections
from django.db.models import JSONField, Value
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from tests.backdoor.batches import claim
from tests.backdoor.declarations import kind_of, redeclare
from tests.backdoor.reads import act_once
from tests.models import Counter, Item, Note, Owner, Place, Preset, Stamp
from writebehind_app import Add, Max, Merge, Min
from writebehind_app.exceptions import AlreadyExists, Overtaken
from writebehind_app.models import DeadLetter

INT64 = st.integers(-(2**63), 2**63 - 1)


class TestAdd:
    def test_is_exact_up_to_64_bits(self, database, redis_server):
        Counter.buffered.set(name="x", big=2**62)
        Counter.buffered.set(name="x", big=Add(2**62 - 1))
        assert Counter.buffered.get(name="x").big == 2**63 - 1
        Counter.buffered.flush()
        Counter.buffered.set(name="x", big=Add(-(2**63) + 1))
        Counter.buffered.set(name="x", big=Add(-3))
        assert Counter.buffered.get(name="x").big == -3
        Counter.buffered.flush()
        assert Counter.objects.get().big == -3

    def test_is_exact_within_json(self, database, redis_server):
        Counter.objects.create(name="stored", extra=2**62)
        for name in ("stored", "pending"):
            Counter.buffered.set(name=name, **({} if name == "stored" else {"extra": 2**62}))
            Counter.buffered.set(name=name, extra=Add(2**62 - 2))
            Counter.buffered.set(name=name, extra=Add(1))
        Counter.buffered.flush()
        assert {row.extra for row in Counter.objects.all()} == {2**63 - 1}

    @given(st.lists(INT64, min_size=2, max_size=5))
    def test_adds_numbers_of_any_length(self, plain, numbers):
        Counter.buffered.discard()
        whole = [Decimal(number).scaleb(-2) for number in numbers]
        for number in whole:
            Counter.buffered.set(name="x", decimal=Add(number))
        expected = sum((Decimal(n) for n in numbers), Decimal()).scaleb(-2)
        assert Counter.buffered.get(name="x").decimal == expected

    def test_many_from_many_threads_all_count(self, database, redis_server):
        def add(n):
            Counter.buffered.set(name="x", big=Add(n))
            if n % 25 == 0:
                Counter.buffered.flush()
                connections.close_all()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, range(400)))
            pool.submit(connections.close_all)
        Counter.buffered.flush()
        assert Counter.objects.get().big == sum(range(400))

    def test_beyond_the_range_is_a_dead_letter_at_the_flush(self, database, redis_server):
        """The entry is refused as a whole; what is read of it is what can be known."""
        Counter.objects.create(name="x", big=1)
        receipts = [
            Counter.buffered.set(name="x", big=2**63 - 1, small=1),
            Counter.buffered.set(name="x", small=2, big=Add(1)),
        ]
        found = Counter.buffered.get(name="x")
        assert (found.big, found.small) == (2**63 - 1, 2)
        (entry,) = Counter.buffered.pending()
        assert entry.key == {"name": "x"}
        assert entry.values == {"big": (2**63 - 1, Add(1)), "small": 2}
        assert Counter.buffered.flush().dead_letters == 1
        for receipt in receipts:
            assert "big: Ensure this value is between" in receipt.dead
        assert Counter.buffered.get(name="x").big == Counter.objects.get().big == 1

    def test_a_sum_that_comes_back_into_the_range_is_stored(self, database, redis_server):
        """What counts is what the row has in the end."""
        Counter.buffered.set(name="x", big=2**63 - 1)
        Counter.buffered.set(name="x", big=Add(5))
        Counter.buffered.set(name="x", big=Add(-6))
        assert Counter.buffered.get(name="x").big == 2**63 - 2
        assert Counter.buffered.flush().dead_letters == 0
        assert Counter.objects.get().big == 2**63 - 2

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"real": Add(1)}, "Add needs a field that is a whole number"),
            ({"big": Add(0.5)}, "Add needs an exact number"),
            ({"big": Add(None)}, "Add needs an exact number"),
            ({"big": Add(Decimal("1.9"))}, "no more than 0 decimal places"),
            ({"big": Add(Decimal("inf"))}, "Add needs an exact number"),
            ({"big": Max(1.9)}, "1.9 is not a whole number"),
            ({"span": Add(5)}, "Add needs a timedelta, not 5"),
            ({"span": Max(5)}, "is not a value of a DurationField"),
            ({"at": Min(5)}, "is not a value of a DateTimeField"),
            ({"decimal": Add(Decimal("0.001"))}, "no more than 2 decimal places"),
            ({"small": Add(10**30)}, "more than the field can hold"),
            ({"extra": Add(0.5)}, "Add needs a whole number where it adds to JSON"),
            ({"extra": Add(True)}, "Add needs a whole number where it adds to JSON"),
            ({"extra": Max("1")}, "Max needs a number where it is for JSON"),
            ({"extra": Min(float("nan"))}, "Min needs a number where it is for JSON"),
            ({"extra": Max(2**63)}, "more than 64 bits hold"),
            ({"big": Max(None)}, "Max needs a value"),
            ({"big": Merge({})}, "Merge needs a field that is JSON"),
            ({"extra": Merge([1])}, "Merge takes a dict"),
            ({"name": Add(1)}, "takes a plain value"),
        ],
    )
    def test_where_it_makes_no_sense_is_refused(self, plain, values, message):
        with pytest.raises(ValidationError, match=message):
            Counter.buffered.set(**{"name": "x", **values})
        assert Counter.buffered.count_pending() == 0

    @pytest.mark.parametrize(
        ("name", "value", "operation"),
        [
            ("f", Decimal("9999999999.99"), Add(Decimal("0.01"))),
            ("small", 2**31 - 1, Add(1)),
            ("big", 2**63 - 1, Add(1)),
            ("span", datetime.timedelta(microseconds=2**63 - 1), Add(datetime.timedelta(days=1))),
            ("extra", 2**63 - 1, Add(1)),
            ("extra", 10**30, Add(-1)),
            ("extra", 10**30, Max(5)),
        ],
    )
    def test_beyond_the_range_on_what_is_stored_is_a_dead_letter(
        self, database, redis_server, name, value, operation
    ):
        model, key = (Item, {"number": 1}) if name == "f" else (Counter, {"name": "x"})
        if name == "small" and database == "default":
            value = 2**63 - 1  # SQLite has one kind of whole numbers
        model.buffered.set(**key, **{name: value})
        model.buffered.flush()
        receipt = model.buffered.set(**key, **{name: operation})
        assert getattr(model.buffered.get(**key), name) == value
        assert model.buffered.flush().dead_letters == 1
        assert getattr(model.objects.get(), name) == value
        assert name in receipt.dead
        assert DeadLetter.objects.count() == 1

    def test_numbers_within_json_compare_alike_pending_and_stored(self, database, redis_server):
        """As floats, where one of them is one."""
        for name in ("pending", "stored"):
            Counter.buffered.set(name=name, extra=2.0**53)
            if name == "stored":
                Counter.buffered.flush(name=name)
            Counter.buffered.set(name=name, extra=Max(2**53 + 1))
        Counter.buffered.flush()
        assert {row.extra for row in Counter.objects.all()} == {2**53}

    def test_pending_shows_operations(self, plain):
        Counter.objects.create(name="x", big=1)
        Counter.buffered.set(name="x", big=Add(2), extra=Merge({"a": 1}), real=Max(2.5))
        Counter.buffered.set(name="x", big=Min(9))
        assert Counter.buffered.pending()[0].values == {
            "big": (Add(2), Min(9)),
            "extra": Merge({"a": 1}),
            "real": Max(2.5),
        }


class TestDefaultOfTheDatabase:
    """`db_default` of a field: operations on a new row begin with it."""

    @pytest.mark.parametrize("mode", ["buffered", "direct"])
    @pytest.mark.parametrize(
        ("name", "operation", "outcome"),
        [
            ("count", Add(1), 4),
            ("count", Max(2), 3),
            ("count", Min(2), 2),
            ("extra", Merge({"b": 2}), {"a": 1, "b": 2}),
            ("day", Max(datetime.date(2019, 5, 5)), datetime.date(2020, 1, 1)),
        ],
    )
    def test_a_literal_counts(
        self, database, redis_server, configure, mode, name, operation, outcome
    ):
        configure(MODE=mode)
        Preset.buffered.set(name="x", **{name: operation})
        assert getattr(Preset.buffered.get(name="x"), name) == outcome
        Preset.buffered.flush()
        assert getattr(Preset.objects.get(), name) == outcome
        assert not DeadLetter.objects.exists()

    def test_a_literal_is_shown_while_the_row_is_pending(self, database, redis_server):
        Preset.buffered.set(name="x")
        Preset.buffered.get(name="x").extra["b"] = 2  # changes this instance alone
        row = Preset.buffered.get(name="x")
        assert (row.count, row.extra) == (3, {"a": 1})
        assert Preset.buffered.set_if({"count": 3}, name="x", count=4)
        Preset.buffered.flush()
        row = Preset.objects.get()
        assert (row.count, row.extra) == (4, {"a": 1})

    @pytest.mark.parametrize("mode", ["buffered", "direct"])
    def test_without_a_literal_operations_are_refused(self, plain, configure, mode):
        configure(MODE=mode)
        with pytest.raises(ValidationError, match="its db_default is an expression") as error:
            Preset.buffered.set(name="x", at=Max(timezone.now()))
        assert [*error.value.error_dict] == ["at"]
        assert Preset.buffered.count_pending() == 0

    def test_where_an_upgrade_makes_such_an_operation_it_is_a_dead_letter(self, plain, monkeypatch):
        at = timezone.now()

        class Upgraded(kind_of(Preset.buffered)):
            def upgrade(self, values, version):
                return {"at": Max(at)}

        Preset.buffered.set(name="x", count=1)
        redeclare(monkeypatch, Preset.buffered, Upgraded, version=1)
        assert Preset.buffered.flush().dead_letters == 1
        assert "its db_default is an expression" in DeadLetter.objects.get().reason


class TestCreate:
    def test_refuses_what_is_pending_or_stored(self, database, redis_server):
        """Scenario 18."""
        Counter.buffered.create(name="x", big=1)
        with pytest.raises(AlreadyExists, match="exists already"):
            Counter.buffered.create(name="x", big=2)
        Counter.buffered.flush()
        with pytest.raises(AlreadyExists):
            Counter.buffered.create(name="x", big=2)
        Counter.buffered.delete(name="x")
        Counter.buffered.create(name="x", big=3)
        Counter.buffered.flush()
        assert Counter.objects.get().big == 3

    def test_without_a_field_that_a_row_needs_is_refused(self, plain):
        with pytest.raises(ValidationError) as error:
            Place.buffered.create(number=1)
        assert error.value.message_dict == {"venue": ["This field is required."]}
        assert Place.buffered.count_pending() == 0
        Place.buffered.create(number=1, venue="hall")
        Place.buffered.discard()
        Counter.buffered.create(name="x", extra=Merge({"a": 1}))  # the others may be NULL

    def test_where_a_missing_row_is_not_made_is_refused(self, plain):
        with pytest.raises(TypeError, match=r'has on_missing="discard": it makes no rows'):
            Stamp.buffered.create(pk=1, count=1)
        assert Stamp.buffered.count_pending() == 0

    def test_of_many_at_once_exactly_one_wins(self, database, redis_server):
        """Scenario 18."""

        def create(n):
            try:
                Counter.buffered.create(name="x", big=n)
            except AlreadyExists:
                return 0
            finally:
                connections.close_all()
            return 1

        with ThreadPoolExecutor(16) as pool:
            assert sum(pool.map(create, range(50))) == 1


class TestSetIf:
    def test_writes_only_what_is_as_expected(self, database, redis_server):
        assert not Counter.buffered.set_if({}, name="x", big=1)
        Counter.objects.create(name="x", big=1)
        assert not Counter.buffered.set_if({"big": 2}, name="x", big=3)
        assert Counter.buffered.set_if({"big": 1, "span": None}, name="x", big=3)
        assert not Counter.buffered.set_if({"big": 1}, name="x", big=4)
        assert Counter.buffered.set_if({"big": 3}, name="x", big=Add(2))
        Counter.buffered.flush()
        assert Counter.objects.get().big == 5

    @pytest.mark.parametrize("stored", [False, True])
    def test_json_is_as_expected_where_python_says_so(self, database, redis_server, stored):
        def is_expected(value, expected):
            Counter.buffered.set(name="x", extra=value)
            if stored:
                Counter.buffered.flush()
            return Counter.buffered.set_if({"extra": expected}, name="x", big=1)

        assert is_expected({"vip": True, "a": 1, "bb": [1]}, {"bb": [1.0], "vip": True, "a": 1.0})
        assert is_expected(None, None)
        assert is_expected(Value(None, JSONField()), Value(None, JSONField()))
        assert is_expected([1, "a"], [1, "a"])
        assert not is_expected({"a": 1}, {"a": 2})
        assert not is_expected({"a": 1}, None)

    def test_a_function_can_say_what_is_expected(self, database, redis_server):
        Counter.objects.create(name="x", big=5)
        assert not Counter.buffered.set_if(lambda row: row.big > 5, name="x", big=1)
        assert Counter.buffered.set_if(lambda row: row.big == 5, name="x", big=Add(1))
        assert not Counter.buffered.set_if(lambda row: True, name="y", big=1)
        assert Counter.buffered.get(name="x").big == 6

    def test_a_refusal_is_of_the_row_as_it_is(self, database, redis_server, monkeypatch):
        """What was pending when Redis was read is stored when the database is."""
        Counter.objects.create(name="x", big=0)
        Counter.buffered.set(name="x", big=Add(1))
        act_once(monkeypatch, "before the database is asked", Counter.buffered.flush)
        assert Counter.buffered.set_if({"big": 1}, name="x", big=2)

    def test_steps_from_many_threads_come_one_after_the_other(self, database, redis_server):
        Counter.objects.create(name="x", big=0)

        def step(n):
            if n % 20 == 0:
                Counter.buffered.flush()
            done = False
            while not done:
                now = Counter.buffered.get(name="x").big
                done = Counter.buffered.set_if({"big": now}, name="x", big=now + 1)
            connections.close_all()

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(step, range(60)))
        Counter.buffered.flush()
        assert Counter.objects.get().big == 60


class TestInFlight:
    """What a guarded write is decided by may be refused yet, while it is in flight."""

    @pytest.fixture
    def flushing(self, database, redis_server):
        """What is pending is in flight, and its flusher is at work for a moment."""
        with ThreadPoolExecutor(1) as pool:

            def begin() -> None:
                (claimed,) = claim(Counter.buffered)

                def finish() -> None:
                    time.sleep(0.2)
                    claimed.flush()
                    connections.close_all()

                pool.submit(finish)

            yield begin

    def test_it_waits_until_the_row_is_stored(self, flushing):
        Counter.buffered.set(name="x", big=1)
        flushing()
        assert Counter.buffered.set_if({"big": 1}, name="x", big=2)
        assert Counter.objects.get().big == 1
        assert Counter.buffered.get(name="x").big == 2

    def test_it_waits_until_the_row_is_refused(self, flushing):
        Counter.buffered.set(name="x", big=2**63 - 1)
        Counter.buffered.set(name="x", big=Add(1))
        flushing()
        assert not Counter.buffered.set_if({}, name="x", big=2)
        Counter.buffered.create(name="x", big=3)
        Counter.buffered.flush()
        assert Counter.objects.get().big == 3

    def test_it_waits_for_a_lease_at_most(self, database, redis_server, configure):
        configure(LEASE=0.3)
        Counter.buffered.set(name="x", big=1)
        claim(Counter.buffered)
        started = time.monotonic()
        with pytest.raises(Overtaken, match="for longer than a lease"):
            Counter.buffered.set_if({"big": 1}, name="x", big=2)
        assert 0.3 <= time.monotonic() - started < 5
        assert Counter.buffered.get(name="x").big == 1
        Counter.buffered.create(name="y", big=1)  # nothing of another row is

    def test_it_does_not_wait_where_the_row_is_stored(self, database, redis_server, configure):
        """And nothing is missing but the acknowledgement."""
        configure(LEASE=30)
        Counter.buffered.set(name="x", big=1)
        (claimed,) = claim(Counter.buffered)
        claimed.commit()
        started = time.monotonic()
        assert Counter.buffered.set_if({"big": 1}, name="x", big=2)
        assert time.monotonic() - started < 10
        claimed.acknowledge()
        Counter.buffered.flush()
        assert Counter.objects.get().big == 2


class TestMany:
    def test_of_many_writes_those_out_of_range_are_dead_letters(self, database, redis_server):
        Counter.objects.bulk_create(Counter(name=n, small=1, big=2**63 - 1) for n in "abc")
        writes = [{"name": name, "small": Add(1)} for name in "abc"]
        writes[1]["big"] = Add(1)
        receipts = Counter.buffered.set_many([*writes])
        assert Counter.buffered.flush().dead_letters == 1
        assert [receipt.where for receipt in receipts] == ["stored", "dead", "stored"]
        found = Counter.buffered.get_many("abc")
        assert [found[name].small for name in "abc"] == [2, 1, 2]

    def test_a_write_of_thousands_of_keys(self, database, redis_server):
        """Lua unpacks a few thousand values at most."""
        many = {f"k{n}": n for n in range(5000)}
        Counter.buffered.set(name="x", extra=Merge({"a": 1}))
        Counter.buffered.set(name="x", extra=Merge(many))
        assert Counter.buffered.get(name="x").extra == {"a": 1, **many}
        owner = Owner.objects.create(name="anna")
        notes = Note.buffered.of(page="p", owner=owner)
        notes.update(m=Merge({"a": 1}))
        notes.update({"m": Max(5), **many})
        for _ in range(2):
            assert dict(notes) == {"m": 5, **many}
            Note.buffered.flush()


JSON = [Add(3), Max(5), Merge({"x": 7}), {"x": 1, "z": 2}, 4, None]


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
@pytest.mark.parametrize("stored", [None, 10, {"y": 1}], ids=str)
def test_json_that_is_pending_before_what_goes_directly(database, redis_server, go, stored):
    """It comes to what both would in their order; but for `Max` after a sum, see guarantees.md."""

    def outcome(name: str, modes: tuple[str, str], *values: object) -> object:
        Counter.objects.create(name=name, extra=stored)
        for mode, value in zip(modes, values, strict=True):
            go(mode)
            Counter.buffered.set(name=name, extra=value)
        go("buffered")
        shown = Counter.buffered.get(name=name).extra
        Counter.buffered.flush()
        assert Counter.objects.get(name=name).extra == shown
        return shown

    for n, (first, second) in enumerate(product(JSON, JSON)):
        if (first, second) != (JSON[0], JSON[1]):
            expected = outcome(f"{n} d", ("direct", "direct"), first, second)
            found = outcome(f"{n} p", ("buffered", "direct"), first, second)
            assert found == expected, (first, second)
