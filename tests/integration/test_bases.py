"""Reads that are answered from Redis alone: `cache_seconds`."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from threading import Thread
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, connections
from django.db.models import F
from django.db.models.signals import post_init
from django.db.transaction import atomic
from django.test.utils import CaptureQueriesContext

from tests.backdoor.bases import (
    bytes_of_bases,
    die_before_the_end,
    expire_base,
    forget_bases,
    has_base,
    seconds_left,
    spoil_base,
)
from tests.backdoor.batches import claim
from tests.backdoor.declarations import redeclare
from tests.backdoor.reads import act_once
from tests.models import Article, Everything, Item, Member, Note, Owner, Pair, Stamp, Team
from tests.router import current
from writebehind_app import Add, BufferedManager

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def cached(redis_server, configure):
    configure(SHARDS=1, CACHE_SECONDS=60)
    return configure


@pytest.fixture
def item() -> Item:
    return Item.objects.create(number=1, a=1, b="open")


@contextmanager
def statements(count: int):
    with CaptureQueriesContext(connections[current()]) as queries:
        yield
    assert len(queries) == count, [q["sql"] for q in queries]


def a(number: int = 1) -> int:
    """What a reader sees."""
    value: int = Item.buffered.get(number=number).a
    assert Item.buffered.get_many([number])[number].a == value
    return value


def elsewhere(act) -> Any:
    """What somebody else gets, on a connection of their own."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(act())
        finally:
            connections.close_all()

    thread = Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


class TestReads:
    def test_a_row_is_read_once(self, item):
        with statements(1):
            assert a() == 1
            assert a() == 1

    def test_what_is_pending_and_in_flight_is_over_it(self, item):
        Item.buffered.set(number=1, a=Add(1), b="x")
        with statements(1):
            assert a() == 2
        claim(Item.buffered)
        Item.buffered.set(number=1, a=Add(10))
        with statements(0):
            assert a() == 12
            assert Item.buffered.get(number=1).b == "x"
            assert Item.buffered.get(number=1).pk == item.pk

    def test_a_row_that_is_not_there(self):
        with statements(1):
            for _ in range(3):
                with pytest.raises(Item.DoesNotExist):
                    Item.buffered.get(number=7)
            assert Item.buffered.get_many([7]) == {}
        Item.buffered.set(number=7, a=3)
        with statements(0):
            assert a(7) == 3
        Item.buffered.delete(number=7)
        with statements(0), pytest.raises(Item.DoesNotExist):
            Item.buffered.get(number=7)

    def test_many(self):
        Item.objects.bulk_create(Item(number=n, a=n) for n in range(5))
        with statements(1):
            first = Item.buffered.get_many(range(8))
        Item.buffered.set(number=2, a=20)
        with statements(0):
            second = Item.buffered.get_many(range(8))
        assert {n: row.a for n, row in first.items()} == {n: n for n in range(5)}
        assert {n: row.a for n, row in second.items()} == {0: 0, 1: 1, 2: 20, 3: 3, 4: 4}

    def test_each_reader_has_a_row_of_their_own(self, item):
        a()
        Item.buffered.get(number=1).a = 5
        assert a() == 1

    def test_an_option_and_a_setting_say_for_how_long(self, item, configure, monkeypatch):
        configure(SHARDS=1, CACHE_SECONDS=0)
        with statements(2):
            Item.buffered.get(number=1)
            Item.buffered.get(number=1)
        monkeypatch.setattr(Item.buffered, "options", {"CACHE_SECONDS": 2})
        a()
        assert 1 < seconds_left(Item.buffered, "1") <= 2

    def test_what_is_written_past_the_package_is_seen_when_the_base_ends(self, item, configure):
        configure(SHARDS=1, CACHE_SECONDS=0.3)
        assert Item.buffered.get(number=1).a == 1
        Item.objects.update(a=2)
        until = time.monotonic() + 0.3
        while Item.buffered.get(number=1).a == 1:
            assert time.monotonic() < until + 0.2
        assert a() == 2

    def test_metadata(self):
        owner = Owner.objects.create(name="o")
        notes, none = (Note.buffered.of(page=page, owner=owner) for page in "pq")
        notes.update(a=1, b=Add(2))
        notes.flush()
        with statements(2):
            assert dict(notes) == {"a": 1, "b": 2}
            assert dict(none) == {}
        notes.update(b=Add(3), c={"x": 1})
        with statements(0):
            assert Note.buffered.get_many([("p", owner), ("q", owner)]) == {
                ("p", owner): {"a": 1, "b": 5, "c": {"x": 1}},
                ("q", owner): {},
            }
        Note.buffered.flush()
        with statements(0):
            assert dict(notes) == {"a": 1, "b": 5, "c": {"x": 1}}
        notes.clear()
        with statements(0):
            assert dict(notes) == {}
        Note.objects.create(page="q", owner=owner, key="k", value=1)
        assert dict(none) == {"k": 1}
        Note.objects.get(page="q").delete()
        assert dict(none) == {}


class TestFormat:
    def test_each_value_is_as_it_is_stored(self):
        key = UUID(int=5)
        owner = Owner.objects.create(name="o")
        values: dict[str, Any] = {
            "small": -3,
            "integer": 2**31 - 1,
            "big": -(2**63),
            "positive_small": 0,
            "positive": 7,
            "positive_big": 2**60,
            "char": 'é"\\\u2028',
            "text": "line\nline" * 50,
            "email": "a@b.c",
            "slug": "a-b",
            "url": "http://x.y/z?q=1",
            "boolean": True,
            "date": date(2024, 2, 29),
            "datetime": datetime(2024, 2, 29, 1, 2, 3, 456789, UTC),
            "time": time_of_day(1, 2, 3, 456789),
            "duration": timedelta(days=-3, microseconds=5),
            "decimal": Decimal("-12345678901234.567891"),
            "float": 1 / 3,
            "uuid": UUID(int=2**127),
            "json": {"a": [1, None, {"b": "ü"}], "c": 1.5},
            "binary": b"\x00\xff",
            "ip": "2001:db8::1",
            "owner": owner,
            "color": "red",
            "level": 1,
            "file": "a/b.txt",
            "path": "/tmp/x",
            "point": None,
            "tier": None,
        }
        Everything.objects.create(key=key, **values)
        Everything.objects.create(key=UUID(int=6))
        for each in (key, UUID(int=6)):
            stored = Everything.objects.get(key=each)
            Everything.buffered.get(key=each)
            with statements(0):
                read = Everything.buffered.get(key=each)
            for field in Everything._meta.concrete_fields:
                one, other = (getattr(row, field.attname) for row in (read, stored))
                same = bytes(one or b"") == bytes(other or b"") if field.name == "binary" else None
                assert same if same is not None else (one, type(one)) == (other, type(other))
            assert (read._state.db, read._state.adding) == (stored._state.db, False)

    @pytest.mark.parametrize("how", ["from_db", "__init__", "__setattr__"])
    def test_the_project_has_a_hand_in_its_instances(self, item, monkeypatch, configure, how):
        seen = []
        given = getattr(Item, how)

        def own(first, *args):
            seen.append(args)
            return given(*args) if how == "from_db" else given(first, *args)

        monkeypatch.setattr(Item, how, classmethod(own) if how == "from_db" else own)
        configure(SHARDS=1, CACHE_SECONDS=61)
        Item.buffered.get(number=1)
        seen.clear()
        with statements(0):
            assert Item.buffered.get(number=1).a == 1
        assert seen

    def test_somebody_wants_to_know_of_each_instance(self, item):
        seen = []

        def hear(instance, **kwargs):
            seen.append(instance)

        Item.buffered.get(number=1)
        post_init.connect(hear, sender=Item)
        try:
            assert [Item.buffered.get(number=1)] == seen
        finally:
            post_init.disconnect(hear, sender=Item)

    def test_code_with_other_columns_does_not_read_it(self, item, monkeypatch):
        a()
        forget_bases(monkeypatch, Item.buffered)
        with statements(1):
            assert a() == 1

    @pytest.mark.parametrize("how", ["hash", "cut", "other", "longer", "narrow"])
    def test_what_somebody_else_wrote_there_is_no_base(self, item, how):
        a()
        spoil_base(Item.buffered, "1", how)
        Item.buffered.set(number=1, b="x")
        assert a() == 1
        assert Item.buffered.flush().rows == 1
        assert Item.buffered.get(number=1).b == "x"

    def test_a_long_row_has_none(self, configure):
        owner = Owner.objects.create(name="o")
        Article.objects.create(number=1, slug="x", low=10, body="x" * 100_000, owner=owner)
        with statements(2):
            for _ in range(2):
                assert len(Article.buffered.get(number=1).body) == 100_000


class TestFills:
    """A miss leaves a lease, and it is filled only if nothing happened meanwhile."""

    def test_a_batch_was_stored_meanwhile(self, item, monkeypatch):
        def act() -> None:
            Item.buffered.set(number=1, a=5)
            Item.buffered.flush()

        act_once(monkeypatch, "after the database was asked", act)
        Item.buffered.get(number=1)
        assert a() == 5

    def test_two_readers(self, item, monkeypatch):
        """The first one has the lease no more when it comes to fill it."""

        def act() -> None:
            Item.buffered.set(number=1, a=5)
            Item.buffered.flush()
            assert Item.buffered.get(number=1).a == 5

        act_once(monkeypatch, "after the database was asked", act)
        Item.buffered.get(number=1)
        assert a() == 5

    def test_a_batch_is_in_flight_by_then(self, item, monkeypatch):
        """It may be in the row that was read."""

        def act() -> None:
            Item.buffered.set(number=1, a=Add(4))
            (batch,) = claim(Item.buffered)
            batch.commit()

        act_once(monkeypatch, "before the database is asked", act)
        Item.buffered.get(number=1)
        assert a() == 5

    def test_while_a_batch_is_in_flight_nobody_begins(self, item):
        Item.buffered.set(number=1, a=Add(4))
        claim(Item.buffered)
        a()
        assert seconds_left(Item.buffered, "1") < 0

    def test_not_in_a_transaction(self, item, database):
        with atomic(database):
            assert a() == 1
        assert seconds_left(Item.buffered, "1") < 0
        a()
        with atomic(database), statements(0):
            assert a() == 1

    def test_it_ends_with_its_lease(self, item, configure, monkeypatch):
        configure(SHARDS=1, CACHE_SECONDS=2)
        act_once(monkeypatch, "before the database is asked", lambda: time.sleep(0.7))
        Item.buffered.get(number=1)
        assert has_base(Item.buffered, "1")
        assert 0 < seconds_left(Item.buffered, "1") <= 1.3

    def test_what_is_older_than_a_fence_is_not_read_over_it(self, item):
        Item.buffered.set(number=1, a=5)
        item.a = 7
        item.save()
        for _ in range(2):
            assert a() == 7
        assert has_base(Item.buffered, "1")
        Item.buffered.flush()
        assert a() == 7
        Item.buffered.set(number=1, a=Add(1))
        with statements(0):
            assert a() == 8

    def test_so_for_metadata(self):
        owner = Owner.objects.create(name="o")
        notes = Note.buffered.of(page="p", owner=owner)
        row = Note.objects.create(page="p", owner=owner, key="k", value=1)
        notes["k"] = 5
        row.value = 7
        row.save()
        for _ in range(2):
            assert notes["k"] == 7


class TestAck:
    def test_it_overwrites_a_base(self, item):
        a()
        for n in range(2, 5):
            Item.buffered.set(number=1, a=Add(1))
            Item.buffered.flush()
            with statements(0):
                assert a() == n

    def test_and_makes_none(self, item):
        Item.buffered.set(number=1, a=2)
        Item.buffered.flush()
        assert seconds_left(Item.buffered, "1") < 0

    def test_nor_of_a_lease(self, item, monkeypatch):
        def act() -> None:
            Item.buffered.set(number=1, a=2)
            Item.buffered.flush()
            assert seconds_left(Item.buffered, "1") < 0

        act_once(monkeypatch, "after the database was asked", act)
        Item.buffered.get(number=1)
        assert a() == 2

    def test_one_that_comes_again_drops_it(self, item):
        """The flusher died between commit and ack."""
        a()
        Item.buffered.set(number=1, a=Add(4))
        (batch,) = claim(Item.buffered, lease=0.001)
        batch.commit()
        time.sleep(0.01)
        Item.buffered.flush()
        assert seconds_left(Item.buffered, "1") < 0
        assert a() == 5

    def test_a_base_ends_so_long_after_the_claim(self, item, configure):
        configure(SHARDS=1, CACHE_SECONDS=2)
        a()
        Item.buffered.set(number=1, a=2)
        (batch,) = claim(Item.buffered)
        time.sleep(0.7)
        batch.flush()
        assert has_base(Item.buffered, "1")
        assert seconds_left(Item.buffered, "1") <= 1.3

    def test_a_row_that_goes_and_one_that_comes(self, item):
        Item.buffered.get_many([1, 2])
        Item.buffered.delete(number=1)
        Item.buffered.set(number=2, a=2)
        Item.buffered.flush()
        with statements(0):
            assert {n: row.a for n, row in Item.buffered.get_many([1, 2]).items()} == {2: 2}
            assert Item.buffered.get(number=2).pk is not None

    def test_a_dead_letter_leaves_what_is_stored(self):
        owner = Owner.objects.create(name="o")
        Article.objects.create(number=1, slug="x", low=10, owner=owner)
        assert Article.buffered.get(number=1).span == 10
        Article.buffered.set(number=1, low=1)  # which a constraint refuses
        assert Article.buffered.flush().dead_letters == 1
        with statements(0):
            assert Article.buffered.get(number=1).low == 10
        Article.buffered.set(number=1, low=20)
        Article.buffered.flush()
        with statements(0):
            assert Article.buffered.get(number=1).span == 5  # as the database computes it

    def test_rows_that_go_with_their_parent(self):
        team = Team.objects.create(slug="t")
        Member.objects.create(slug="m", team=team)
        assert Member.buffered.get(slug="m").team_id == team.pk
        Team.buffered.delete(slug="t")
        Team.buffered.flush()
        with pytest.raises(Member.DoesNotExist):
            Member.buffered.get(slug="m")


class TestPastRedis:
    """Writes past the buffer drop the bases of their rows, before and after."""

    def test_save(self, item):
        a()
        item.a = 2
        item.save()
        with statements(1):
            assert a() == 2
            assert a() == 2

    @pytest.mark.parametrize("dies", [False, True])
    def test_save_of_a_field_that_is_not_buffered(self, item, monkeypatch, dies):
        redeclare(monkeypatch, Item.buffered, fields=("a",))
        a()
        if dies:
            die_before_the_end(monkeypatch)
        item.b = "new"
        item.save(update_fields=["b"])
        assert Item.buffered.get(number=1).b == "new"

    def test_a_row_that_is_made(self):
        with pytest.raises(Item.DoesNotExist):
            a()
        Item.objects.create(number=1, a=4)
        assert a() == 4
        last = Stamp.objects.create().pk
        with pytest.raises(Stamp.DoesNotExist):
            Stamp.buffered.get(pk=last + 1)
        Stamp.objects.create(count=5)
        assert Stamp.buffered.get(pk=last + 1).count == 5

    def test_delete(self, item):
        a()
        item.delete()
        with pytest.raises(Item.DoesNotExist):
            a()

    @pytest.mark.parametrize("write", ["save", "delete"])
    def test_somebody_dies_before_the_end(self, item, write, monkeypatch):
        a()
        die_before_the_end(monkeypatch)
        item.a = 2
        getattr(item, write)()
        found = Item.buffered.get_many([1])
        assert {n: row.a for n, row in found.items()} == ({1: 2} if write == "save" else {})

    def test_somebody_reads_before_the_commit_and_the_writer_dies(
        self, item, database, monkeypatch
    ):
        a()
        die_before_the_end(monkeypatch)
        with atomic(database):
            item.a = 2
            item.save()
            assert elsewhere(a) == 1
        assert a() == 2

    def test_a_transaction_that_outlives_its_mark(self, item, database, cached):
        cached(SHARDS=1, CACHE_SECONDS=60, LEASE=0.05)
        a()
        with atomic(database):
            item.a = 2
            item.save()
            time.sleep(0.1)
            assert elsewhere(a) == 1
            assert has_base(Item.buffered, "1")
            assert a() == 2
        assert a() == 2

    def test_it_reads_bases_again_after_a_rollback(self, item, database):
        Item.objects.create(number=2)
        Item.buffered.get(number=2)
        with atomic(database):
            Item.buffered.set(number=3)  # which waits for the commit
            with atomic(database):
                item.save()
                with statements(1):
                    Item.buffered.get(number=2)
                connections[database].needs_rollback = True
            with statements(0):
                Item.buffered.get(number=2)

    def test_a_save_that_is_refused_leaves_no_mark(self, item):
        Item.objects.create(number=2)
        item.number = 2
        with pytest.raises(IntegrityError):
            item.save(force_insert=True)
        a(2)
        assert has_base(Item.buffered, "2")

    def test_expressions_and_unsaved_pending(self, item):
        a()
        Item.buffered.set(number=1, a=Add(3))
        item.a = F("a") + 1
        item.save(update_fields=["a"])
        assert a() == 5
        Item.buffered.flush()
        assert a() == 5

    def test_querysets_of_the_manager(self, item):
        rows = BufferedManager()
        rows.model = Item
        Item.buffered.get_many(range(5))
        rows.filter(number=1).update(a=4)
        assert a() == 4
        rows.bulk_create([Item(number=2, a=2)])
        assert a(2) == 2
        item.a = 9
        rows.bulk_update([item], ["a"])
        assert a() == 9
        last = Stamp.objects.create().pk
        Stamp.buffered.get_many([last + 1])
        rows.model = Stamp
        rows.bulk_create([Stamp(count=7)])
        assert Stamp.buffered.get(pk=last + 1).count == 7
        rows.filter(pk=last + 1).delete()
        assert Stamp.buffered.get_many([last + 1]) == {}

    def test_directly(self, item, cached):
        a()
        cached(SHARDS=1, CACHE_SECONDS=60, MAX_PENDING=1)
        Item.buffered.set(number=2)
        Item.buffered.set_many([{"number": 1, "a": 4}, {"number": 3, "a": 3}])
        assert Item.objects.get(number=1).a == 4
        assert a() == 4

    def test_discarded_in_flight(self, item):
        a()
        Item.buffered.set(number=1, a=2)
        claim(Item.buffered, lease=0.001)
        time.sleep(0.01)
        Item.buffered.discard()
        assert a() == 1

    def test_what_costs_nothing_without_bases(self, item, cached, trips):
        cached(SHARDS=1, CACHE_SECONDS=0)
        Item.buffered.get(number=1)
        trips.clear()
        item.save()
        assert trips == [1]


class TestGuardedWrites:
    def test_they_are_decided_by_what_is_stored(self, item):
        a()
        Item.objects.update(a=2)
        assert not Item.buffered.set_if({"a": 1}, number=1, b="x")
        assert Item.buffered.set_if({"a": 2}, number=1, b="y")

    def test_they_wait_for_a_save(self, item, database):
        with atomic(database):
            item.a = 2
            item.save()
            found: list[bool] = []

            def decide() -> None:
                found.append(Item.buffered.set_if({"a": 1}, number=1, b="x"))
                connections.close_all()

            thread = Thread(target=decide)
            thread.start()
            time.sleep(0.1)
        thread.join()
        assert found == [False]

    def test_and_not_for_their_own(self, item, database, cached):
        started = time.monotonic()
        with atomic(database):
            assert Item.buffered.set_if({"a": 1}, number=1, b="x")
            item.c = "y"
            item.save(update_fields=["c"])
        assert time.monotonic() - started < 5
        assert Item.buffered.get(number=1).b == "x"


class TestMemory:
    def test_all_take_no_more_than_they_may(self, cached):
        most = 60_000
        Item.objects.bulk_create(Item(number=n, b="x" * 30, c="y" * 50) for n in range(300))
        cached(SHARDS=1, CACHE_SECONDS=60, CACHE_BYTES=most)
        for n in range(150):
            Item.buffered.get(number=n)
        Item.buffered.get_many(range(150, 300))
        assert most * 0.5 < bytes_of_bases(Item.buffered) <= most
        Item.buffered.set_many({"number": n, "c": "z" * 100} for n in range(300))
        Item.buffered.flush()
        assert bytes_of_bases(Item.buffered) <= most
        Item.buffered.get(number=299)
        with statements(0):
            Item.buffered.get(number=299)

    def test_leases_count(self, cached):
        cached(SHARDS=1, CACHE_SECONDS=60, CACHE_BYTES=20_000)
        owner = Owner.objects.create(name="o")
        Article.objects.bulk_create(
            Article(number=n, slug=str(n), low=10, body="x" * 100_000, owner=owner)
            for n in range(100)
        )
        for n in range(100):  # too long for a base
            Article.buffered.get(number=n)
        assert 5000 < bytes_of_bases(Article.buffered) <= 20_000

    def test_nothing_is_left_of_them(self, item, cached, redis_server):
        cached(SHARDS=1, CACHE_SECONDS=0.05)
        a()
        item.save()
        a()
        time.sleep(0.15)
        assert bytes_of_bases(Item.buffered) == 0


def test_a_key_of_several_fields():
    owner = Owner.objects.create(name="o")
    Pair.objects.create(owner=owner, name="n", value=1)
    with statements(1):
        for _ in range(2):
            assert Pair.buffered.get(owner=owner, name="n").value == 1
    expire_base(Pair.buffered, f'{owner.pk},"n"')
    with statements(1):
        assert Pair.buffered.get(owner=owner, name="n").value == 1
