"""Reads show every acknowledged write at any moment (G3); tests/faults/test_histories.py has them
while writers and a flusher run."""

from __future__ import annotations

from functools import partial

import pytest
from django.db import connections
from django.db.models import Case, Value, When
from django.db.transaction import atomic
from django.test.utils import CaptureQueriesContext

from tests.backdoor.batches import claim, forget_ledger
from tests.backdoor.declarations import redeclare
from tests.backdoor.entries import put_merge, put_text
from tests.backdoor.reads import act_before_keys, act_once, forget_statements, reads_are_told_of
from tests.models import Child, Item, Note, Owner, Pair, Stamp, Visit
from writebehind_app import Add

pytestmark = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


class TestBetweenTheTwoReads:
    """What happens after Redis was read and before, or after, the database is."""

    @pytest.fixture
    def meanwhile(self, monkeypatch):
        return partial(act_once, monkeypatch)

    def test_the_write_and_a_newer_one_are_stored(self, database, redis_server, meanwhile):
        def act() -> None:
            Item.buffered.flush()
            Item.buffered.set(number=1, a=2, b="2")
            Item.buffered.flush()

        Item.buffered.set(number=1, a=1)
        meanwhile("before the database is asked", act)
        row = Item.buffered.get(number=1)
        assert (row.a, row.b) == (2, "2")

    def test_an_entry_is_stored_and_another_one_is_pending(self, database, redis_server, meanwhile):
        def act() -> None:
            Item.buffered.flush()
            Item.buffered.set(number=1, a=Add(10))

        Item.objects.create(number=1)
        Item.buffered.set(number=1, a=Add(1))
        meanwhile("before the database is asked", act)
        assert Item.buffered.get(number=1).a == 11

    def test_another_entry_of_the_shard_is_stored(
        self, database, redis_server, meanwhile, configure
    ):
        """What is pending is pending still, and counts."""
        configure(SHARDS=1)

        def act() -> None:
            Item.buffered.flush(number=2)

        Item.buffered.set_many([{"number": 1, "a": 1}, {"number": 2, "a": 2}])
        meanwhile("before the database is asked", act)
        assert Item.buffered.get(number=1).a == 1

    @pytest.mark.parametrize(
        "moment",
        [
            "before the database is asked",
            "after the database was asked",
        ],
    )
    def test_a_batch_in_flight_is_stored(
        self, database, redis_server, meanwhile, configure, moment
    ):
        configure(SHARDS=1, LEASE=0.01)
        old = Item.objects.create(number=1, a=1)
        Item.buffered.delete(number=1)
        Item.buffered.set(number=1, a=2)
        claim(Item.buffered, lease=0.01)
        meanwhile(moment, Item.buffered.flush)
        row = Item.buffered.get(number=1)
        assert row.a == 2
        # Merged a second time into the row that it made, the batch would make another one.
        assert (row.pk is not None and row.pk != old.pk) or moment.startswith("after")

    def test_a_row_of_a_queryset_is_changed_after_it_ran(self, database, redis_server, meanwhile):
        Item.objects.create(number=1)
        Item.buffered.set(number=1, a=1)
        meanwhile("before redis is asked", Item.buffered.flush)
        (row,) = Item.buffered.overlay(Item.objects.all())
        assert row.a == 1


class TestOverlay:
    def test_pending_values_over_stored_rows_in_their_order(self, database, redis_server):
        Item.objects.bulk_create(Item(number=n, a=n, b="stored") for n in range(6))
        Item.buffered.set(number=1, a=100)
        Item.buffered.set(number=3, b="pending")
        Item.buffered.set(number=9, a=9)  # not stored
        rows = Item.buffered.overlay(Item.objects.filter(a__lt=5).order_by("-a"))
        assert [(r.number, r.a, r.b) for r in rows] == [
            (4, 4, "stored"),
            (3, 3, "pending"),
            (2, 2, "stored"),
            (1, 100, "stored"),
            (0, 0, "stored"),
        ]

    def test_deleted_rows_are_left_out(self, database, redis_server):
        Item.objects.bulk_create(Item(number=n, a=n) for n in range(4))
        Item.buffered.delete(number=1)
        Item.buffered.delete(number=2)
        Item.buffered.set(number=2, b="made again")
        rows = Item.buffered.overlay(Item.objects.order_by("number"))
        assert [(r.number, r.a, r.b) for r in rows] == [
            (0, 0, ""),
            (2, 0, "made again"),
            (3, 3, ""),
        ]

    def test_only_the_loaded_fields(self, database, redis_server):
        Item.objects.create(number=1, a=1)
        Item.buffered.set(number=1, a=2, b="pending")
        (row,) = Item.buffered.overlay(Item.objects.only("number", "a"))
        assert row.a == 2
        assert row.get_deferred_fields() >= {"b", "c"}

    @pytest.mark.parametrize("part", [["only", "value"], ["defer", "owner", "name"]])
    def test_keys_that_were_not_loaded_are_by_one_query(self, database, redis_server, part):
        method, *fields = part
        owner = Owner.objects.create(name="o")
        Pair.objects.bulk_create(Pair(owner=owner, name=str(n), value=n) for n in range(30))
        Pair.buffered.set(owner=owner, name="3", value=33)
        rows = getattr(Pair.objects.filter(value__lt=5).order_by("value"), method)(*fields)
        with CaptureQueriesContext(connections[database]) as queries:
            found = Pair.buffered.overlay(rows)
        assert [row.value for row in found] == [0, 1, 2, 33, 4]
        # The rows, their keys, whether there are fences, and the row that is pending.
        assert len(queries) <= 4

    def test_a_row_that_goes_before_its_key_is_read(self, database, redis_server, monkeypatch):
        Item.objects.bulk_create(Item(number=n, a=n) for n in range(3))

        act_before_keys(monkeypatch, Item.objects.filter(number=1).delete)
        rows = Item.objects.only("a").order_by("number")
        assert [row.a for row in Item.buffered.overlay(rows)] == [0, 2]

    def test_what_is_no_queryset_is_refused(self, database, redis_server):
        Item.objects.create(number=1)
        with pytest.raises(TypeError, match="takes a queryset, not "):
            Item.buffered.overlay(list(Item.objects.all()))

    def test_related_rows(self, database, redis_server):
        one, two = (Owner.objects.create(name=name) for name in ("one", "two"))
        for n in range(3):
            Pair.objects.create(owner=one, name=str(n), value=n)
        Pair.buffered.set(owner=one, name="1", value=10)
        rows = Pair.buffered.overlay(Pair.objects.select_related("owner").order_by("name"))
        assert [(r.owner.name, r.value) for r in rows] == [("one", 0), ("one", 10), ("one", 2)]
        assert two.pk not in {r.owner_id for r in rows}

    def test_a_row_that_comes_twice(self, database, redis_server):
        owner = Owner.objects.create(name="o")
        pair = Pair.objects.create(owner=owner, name="n", value=1)
        for _ in range(2):
            Child.objects.create(pair=pair)
        Pair.buffered.set(owner=owner, name="n", value=2)
        rows = Pair.buffered.overlay(Pair.objects.filter(child__isnull=False))
        assert [r.value for r in rows] == [2, 2]

    def test_a_queryset_that_was_read_before(self, database, redis_server):
        Item.objects.create(number=1)
        queryset = Item.objects.all()
        assert len(queryset) == 1
        Item.buffered.set(number=1, a=1)
        Item.buffered.flush()
        assert [row.a for row in Item.buffered.overlay(queryset)] == [1]

    def test_nothing(self, database, redis_server):
        Item.buffered.set(number=1)
        assert Item.buffered.overlay(Item.objects.none()) == []
        assert Item.buffered.overlay(Item.objects.all()) == []

    @pytest.mark.parametrize("method", ["values", "values_list"])
    def test_rows_without_instances_are_refused(self, database, redis_server, method):
        Item.objects.create(number=1)
        with pytest.raises(TypeError, match="values"):
            Item.buffered.overlay(getattr(Item.objects, method)("number", "a"))

    def test_rows_of_another_model_are_refused(self, database, redis_server):
        with pytest.raises(TypeError, match=r"tests\.Item.*tests\.Stamp"):
            Item.buffered.overlay(Stamp.objects.all())


class TestFieldsThatAreNoMore:
    """A value of a field was pending when a deploy took the field away."""

    def test_rows_are_read_without(self, database, redis_server, configure):
        configure(SHARDS=1)
        Item.objects.create(number=1, a=1, b="stored")
        Item.buffered.set(number=1, a=2)
        Item.buffered.set(number=2, a=3)
        for id in ("1", "2"):
            put_text(Item.buffered, id, "removed", '"x"')
            put_merge(Item.buffered, id, "gone", "key", "1")
        row = Item.buffered.get(number=1)
        assert (row.a, row.b) == (2, "stored")
        assert Item.buffered.get_many([1, 2])[2].a == 3
        assert [row.a for row in Item.buffered.overlay(Item.objects.all())] == [2]
        assert Item.buffered.set_if({"a": 2}, number=1, a=4)
        assert {e.key["number"]: e.values for e in Item.buffered.pending()} == {
            1: {"a": 4},
            2: {"a": 3},
        }
        assert Item.buffered.flush().dead_letters == 2
        assert Item.buffered.get(number=1).a == 1

    def test_records_are_read_without(self, database, redis_server, monkeypatch):
        Visit.buffered.append(event=1, email="a", note="old")
        less = [f for f in Visit.buffered.written() if f.name != "note"]
        redeclare(monkeypatch, Visit.buffered, written=lambda: less)
        (visit,) = Visit.buffered.window(event=1)
        assert (visit.email, visit.note) == ("a", "none")
        (entry,) = Visit.buffered.pending()
        assert "note" not in entry.values


class TestCost:
    """One script and one statement, however many keys."""

    @pytest.fixture
    def cost(self, database, redis_server, trips, configure):
        configure(SHARDS=1)

        def of(act) -> tuple[int, int]:
            trips.clear()
            with CaptureQueriesContext(connections[database]) as queries:
                act()
            return len(trips), len(queries)

        return of

    @pytest.fixture
    def items(self, cost):
        Item.objects.bulk_create(Item(number=n) for n in range(40))
        Item.buffered.set_many([{"number": n, "a": Add(1)} for n in range(0, 60, 3)])
        claim(Item.buffered)
        Item.buffered.set_many([{"number": n, "a": Add(1)} for n in range(0, 60, 2)])

    def test_get(self, items, cost):
        for n in (0, 1, 2, 3, 54):  # in flight and pending, neither, either, not stored
            assert cost(lambda n=n: Item.buffered.get(number=n)) == (1, 1)

    def test_get_many(self, items, cost):
        assert cost(lambda: Item.buffered.get_many(range(80))) == (1, 1)

    def test_overlay(self, items, cost):
        Item.buffered.get(number=0)
        assert cost(lambda: Item.buffered.overlay(Item.objects.filter(number=1))) == (1, 1)
        assert cost(lambda: Item.buffered.overlay(Item.objects.all())) == (1, 2)

    def test_metadata(self, database, cost):
        owner = Owner.objects.create(name="o")
        notes = Note.buffered.of(page="p", owner=owner)
        notes.update(a=1, b=Add(2))
        Note.buffered.flush()
        notes.update(a=3, b=Add(2))
        found = {}

        def get_many() -> None:
            found.update(
                Note.buffered.get_many([("p", owner.pk), ("p", owner.pk + 1), ("q", owner.pk)])
            )

        # MariaDB is asked once more whether it takes the missing keys for others.
        assert cost(get_many) == (1, 1 + (connections[database].vendor == "mysql"))
        assert found == {
            ("p", owner.pk): {"a": 3, "b": 4},
            ("p", owner.pk + 1): {},
            ("q", owner.pk): {},
        }

    def test_guarded_writes(self, items, cost):
        """One trip more, for the write."""
        assert cost(lambda: Item.buffered.create(number=100)) == (2, 1)
        assert cost(lambda: Item.buffered.set_if({"a": 1}, number=4, b="x")) == (2, 1)

    def test_append(self, cost):
        for n in range(20):  # from now on it knows the guard of each shard
            Visit.buffered.append(event=1, email=str(n))
        assert cost(lambda: Visit.buffered.append(event=1, email="a")) == (1, 1)


def test_entities_are_in_the_order_of_the_model_with_what_is_pending(
    database, redis_server, monkeypatch
):
    notes = Note.buffered.of(page="p", owner=Owner.objects.create(name="o"))
    notes.update(a=1, b=2, c=3)
    notes.flush()
    first = Case(When(key="b", then=Value(0)), default=Value(1))
    monkeypatch.setattr(Note._meta, "ordering", [first, "-key"])
    forget_statements()
    try:
        notes["a"] = 4
        assert [*notes.items()] == [("b", 2), ("c", 3), ("a", 4)]
    finally:
        monkeypatch.undo()
        forget_statements()


class TestOldSnapshots:
    """The transaction of the reader began before a batch was stored."""

    @pytest.fixture
    def told(self, caplog):
        reads_are_told_of(Item.buffered)
        return lambda: [r for r in caplog.records if "may miss stored values" in r.getMessage()]

    def test_it_is_said(self, database, redis_server, told, monkeypatch):
        Item.buffered.set(number=1, a=1)
        Item.buffered.flush()
        with atomic(database):
            assert Item.buffered.get(number=1).a == 1
        assert told() == []
        forget_ledger(database)
        with atomic(database):
            assert Item.buffered.get(number=1).a == 1
            assert Item.buffered.get(number=1).a == 1
        assert len(told()) == 1

    def test_outside_of_transactions_it_is_read_again(
        self, database, redis_server, told, monkeypatch
    ):
        """The database that is asked lags behind."""
        Item.buffered.set(number=1, a=1)
        Item.buffered.flush()
        Item.buffered.set(number=1, b="x")
        back = forget_ledger(database)
        act_once(monkeypatch, "after the database was asked", back)
        assert Item.buffered.get(number=1).b == "x"
        assert told() == []
