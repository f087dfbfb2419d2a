"""Calls while Redis is away, or not to be asked: straight in the database, with the results that
they have through Redis."""

from __future__ import annotations

import datetime
import sqlite3
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import OperationalError, connections, transaction
from django.db.models.signals import pre_delete
from django.utils import timezone

from tests.backdoor.batches import claim_and_die
from tests.backdoor.entries import put_text
from tests.models import Counter, Everything, Item, Note, Owner, Seat, Setting, Stamp, Tick, Visit
from tests.outages import wait_for_redis
from writebehind_app import Add, Max, Merge, Min, batch
from writebehind_app.exceptions import AlreadyExists, BufferUnavailable
from writebehind_app.models import DeadLetter, Fence


@pytest.fixture(params=["away", "off"])
def around(request, database, redis_server, configure):
    """Redis is away, or the settings say to leave it alone."""
    if request.param == "away":
        configure(WHEN_DOWN="direct")
        redis_server.stop()
    else:
        configure(MODE="direct")


class TestRows:
    def test_set_makes_a_row_or_changes_its_fields(self, around):
        receipt = Item.buffered.set(number=1, a=3, b="x")
        assert (receipt.direct, receipt.persisted, receipt.wait(0), receipt.dead) == (
            True,
            True,
            True,
            None,
        )
        Item.buffered.set(number=1, b="y")
        row = Item.objects.get(number=1)
        assert (row.a, row.b) == (3, "y")
        assert Item.buffered.get(number=1).b == "y"

    def test_operations(self, around):
        Counter.buffered.set(
            name="n", small=Add(2), big=Max(5), real=Min(1.5), extra=Merge({"a": 1})
        )
        Counter.buffered.set(
            name="n", small=Add(3), big=Max(4), real=Min(0.5), extra=Merge({"b": 2})
        )
        row = Counter.objects.get(name="n")
        assert (row.small, row.big, row.real, row.extra) == (5, 5, 0.5, {"a": 1, "b": 2})

    def test_a_sum_that_leaves_its_range(self, around):
        Counter.buffered.set(name="n", big=2**63 - 1)
        with pytest.raises(
            ValidationError, match="leaves the range of the field; nothing"
        ) as error:
            Counter.buffered.set(name="n", big=Add(1), real=1.0)
        assert list(error.value.message_dict) == ["big"]
        assert Counter.objects.get(name="n").real is None

    def test_set_many_is_one_transaction_in_its_order(self, around, database):
        Item.buffered.set_many(
            [{"number": 1, "a": 1}, {"number": 2, "a": 2}, {"number": 1, "a": Add(5)}]
        )
        assert dict(Item.objects.values_list("number", "a")) == {1: 6, 2: 2}
        most = 2**63 - 1
        with pytest.raises(ValidationError):
            Counter.buffered.set_many(
                [{"name": "a"}, {"name": "b", "big": most}, {"name": "b", "big": Add(1)}]
            )
        assert not Counter.objects.exists()

    def test_create(self, around):
        assert Item.buffered.create(number=1, a=1).direct
        with pytest.raises(AlreadyExists):
            Item.buffered.create(number=1, a=2)
        assert Item.objects.get().a == 1

    def test_set_if(self, around):
        Item.objects.create(number=1, a=1)
        assert Item.buffered.set_if({"a": 1}, number=1, a=2) is True
        assert Item.buffered.set_if({"a": 1}, number=1, a=3) is False
        assert Item.buffered.set_if({"a": 1}, number=2, a=3) is False
        assert Item.objects.get().a == 2

    def test_delete(self, around):
        Item.objects.create(number=1)
        Item.buffered.delete(number=1)
        Item.buffered.delete(number=2)
        assert not Item.objects.exists()
        with pytest.raises(Item.DoesNotExist):
            Item.buffered.get(number=1)

    def test_a_row_that_is_not_made(self, around):
        Stamp.buffered.set(pk=7, count=1)
        assert not Stamp.objects.exists()

    def test_fields_that_set_themselves(self, around):
        before = timezone.now() - datetime.timedelta(seconds=1)
        Item.buffered.set(number=1, a=1)
        first = Item.objects.get()
        Item.buffered.set(number=1, a=2)
        row = Item.objects.get()
        assert before < row.created_at == first.created_at < row.updated_at <= timezone.now()
        assert first.created_at <= first.updated_at < row.updated_at

    def test_values_are_checked(self, around):
        with pytest.raises(ValidationError):
            Item.buffered.set(number=1, a="x")
        assert not Item.objects.exists()

    def test_reads(self, around):
        Item.objects.create(number=1, a=1)
        Item.objects.create(number=2, a=2)
        assert {n: row.a for n, row in Item.buffered.get_many([1, 2, 3]).items()} == {1: 1, 2: 2}
        assert [row.a for row in Item.buffered.overlay(Item.objects.order_by("-a"))] == [2, 1]


class TestMetadata:
    def test_a_mapping(self, around):
        owner = Owner.objects.create(name="o")
        meta = Note.buffered.of(page="p", owner=owner)
        assert meta.update(a=1, b={"c": 2}, n=Add(3)).direct
        meta["n"] = Add(4)
        del meta["a"]
        assert dict(meta) == {"b": {"c": 2}, "n": 7}
        assert dict(Note.objects.values_list("key", "value")) == {"b": {"c": 2}, "n": 7}
        assert (meta.pop("b"), meta.pop("x", 5)) == ({"c": 2}, 5)
        assert (meta.setdefault("n", 1), meta.setdefault("m", 1)) == (7, 1)
        with pytest.raises(KeyError):
            del meta["nothing"]
        meta.clear()
        assert not Note.objects.exists()
        assert dict(meta) == {}

    def test_get_many(self, around):
        Setting.buffered.update_many([({"site": 1}, {"a": 1}), ({"site": 2}, {"b": 2})])
        assert Setting.buffered.get_many([1, 2, 3]) == {1: {"a": 1}, 2: {"b": 2}, 3: {}}

    def test_a_sum_that_leaves_its_range(self, around):
        meta = Setting.buffered.of(site=1)
        meta["a"] = meta["b"] = 2**63 - 1
        with pytest.raises(ValidationError) as error:
            meta.update(b=Add(1), c=Add(1))
        assert list(error.value.message_dict) == ["b"]
        assert dict(meta) == {"a": 2**63 - 1, "b": 2**63 - 1}


class TestLogs:
    def test_append_and_extend(self, around):
        receipt = Visit.buffered.append(event=1, email="a")
        assert (receipt.direct, receipt.persisted) == (True, True)
        with pytest.raises(AlreadyExists):
            Visit.buffered.append(event=1, email="a")
        with pytest.raises(AlreadyExists):
            Visit.buffered.extend([{"event": 1, "email": "b"}, {"event": 1, "email": "a"}])
        with pytest.raises(AlreadyExists):
            Visit.buffered.extend([{"event": 1, "email": "b"}, {"event": 1, "email": "b"}])
        Visit.buffered.extend([{"event": 1, "email": "b"}, {"event": 2, "email": "a"}])
        assert [row.email for row in Visit.buffered.window(event=1)] == ["a", "b"]
        assert Visit.buffered.count() == Visit.objects.count() == 3

    def test_times(self, around):
        before = timezone.now()
        at = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        Tick.buffered.extend([{"value": 1}, {"value": 2, "at": at}, {"value": 3}])
        rows = Tick.buffered.window()
        assert [row.value for row in rows] == [2, 1, 3]
        assert rows[0].at == at
        assert before < rows[1].at < rows[2].at < timezone.now() + datetime.timedelta(seconds=1)

    def test_a_unique_value(self, around):
        Seat.buffered.append(number=1)
        with pytest.raises(AlreadyExists):
            Seat.buffered.append(number=1)


class TestTransactions:
    def test_a_write_within_one_is_part_of_it(self, around, database):
        with transaction.atomic(using=database):
            Item.buffered.set(number=1, a=1)
            transaction.set_rollback(True, using=database)
        assert not Item.objects.exists()
        assert not Fence.objects.using(database).exists()

    def test_a_duplicate_leaves_it_usable(self, around, database):
        with transaction.atomic(using=database):
            Item.buffered.create(number=1)
            with pytest.raises(AlreadyExists):
                Item.buffered.create(number=1)
            Item.buffered.create(number=2)
        assert Item.objects.count() == 2


class TestWhatRedisHolds:
    def test_with_the_mode_it_need_not_be_there(self, plain, configure):
        configure(MODE="direct")
        Item.buffered.set(number=1, a=1)
        plain.stop()
        assert (Item.buffered.count_pending(), Item.buffered.pending()) == (0, [])
        assert (
            Item.buffered.flush().rows,
            Item.buffered.discard(),
            Item.buffered.discard(number=1),
        ) == (
            0,
            0,
            0,
        )
        assert Note.buffered.of(page="p", owner=1).pending() == []

    def test_with_the_mode_what_is_there_is_flushed(self, plain, configure):
        Item.buffered.set(number=1, a=1)
        configure(MODE="direct")
        Item.buffered.set(number=2, a=2)
        assert (Item.buffered.count_pending(), Item.buffered.flush().rows) == (1, 1)
        assert Item.objects.count() == 2

    @pytest.mark.parametrize(
        "call",
        [
            lambda: Item.buffered.flush(),
            lambda: Item.buffered.discard(),
            lambda: Item.buffered.pending(),
            lambda: Item.buffered.count_pending(),
        ],
    )
    def test_while_it_is_away_nobody_knows(self, plain, configure, call):
        configure(WHEN_DOWN="direct")
        plain.stop()
        with pytest.raises(BufferUnavailable):
            call()


def test_many_at_once(database, configure):
    """They make and delete one row, and each call finds a moment for it, without a deadlock."""
    configure(MODE="direct")
    before = deadlocks(database)

    def act(n: int) -> None:
        try:
            for _ in range(10):
                if n % 3:
                    Item.buffered.set(number=1, a=Add(1))
                    Setting.buffered.of(site=1).setdefault("a", n)
                else:
                    Item.buffered.delete(number=1)
                    Setting.buffered.of(site=1).pop("a", None)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(act, range(6)))
    assert deadlocks(database) == before


def test_others_are_in_the_way_again_and_again(plain, configure):
    configure(MODE="direct")
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorname = "SQLITE_BUSY"
    refused = []

    def refuse(execute: Any, sql: str, *args: Any) -> Any:
        if "UPDATE" in sql and len(refused) < 10:
            refused.append(sql)
            raise OperationalError(*busy.args) from busy
        return execute(sql, *args)

    with connections["default"].execute_wrapper(refuse):
        assert Item.buffered.set(number=1, a=Add(1)).where == "stored"
    assert len(refused) == 10
    assert Item.objects.get().a == 1


def deadlocks(database: str) -> int:
    """How many there were, where the database counts them."""
    if connections[database].vendor != "postgresql":
        return 0
    with connections[database].cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        [found] = cursor.fetchone()
    connections[database].close()  # a statement sees the counts of its first look in a session
    return int(found)


def test_an_error_of_a_receiver_is_told(database, configure):
    """It is not about the values, though its class says so."""
    configure(MODE="direct")
    Item.objects.create(number=1)

    def refuse(**kwargs: Any) -> None:
        raise ValidationError("not this one")

    pre_delete.connect(refuse, sender=Item)
    try:
        with pytest.raises(ValidationError, match="not this one"):
            Item.buffered.delete(number=1)
    finally:
        pre_delete.disconnect(refuse, sender=Item)
    assert Item.objects.exists()


class TestPolicy:
    def test_to_raise(self, plain, configure):
        configure(WHEN_DOWN="raise")
        Item.objects.create(number=2)  # without a row, overlay() has nothing to ask for
        plain.stop()
        for call in (
            lambda: Item.buffered.set(number=1, a=1),
            lambda: Item.buffered.create(number=1, a=1),
            lambda: Item.buffered.get(number=1),
            lambda: Item.buffered.overlay(Item.objects.all()),
            lambda: Visit.buffered.append(event=1, email="a"),
            lambda: Visit.buffered.window(),
        ):
            with pytest.raises(BufferUnavailable):
                call()
        assert Item.objects.get().number == 2

    def test_an_option_of_the_buffer_comes_first(self, plain, configure, monkeypatch):
        configure(WHEN_DOWN="raise")
        plain.stop()
        monkeypatch.setattr(
            Item.buffered, "options", {**Item.buffered.options, "WHEN_DOWN": "direct"}
        )
        assert Item.buffered.set(number=1, a=1).direct


class TestFences:
    """What waits in Redis and is older does not come over what went around it."""

    @pytest.fixture
    def outage(self, database, redis_server, configure):
        configure(WHEN_DOWN="direct")

        class Outage:
            def __enter__(self) -> None:
                redis_server.stop()

            def __exit__(self, *error: Any) -> None:
                redis_server.start()
                wait_for_redis()

        return Outage()

    def test_field_by_field(self, outage):
        Item.buffered.set(number=1, a=1, b="pending", c="pending")
        with outage:
            Item.buffered.set(number=1, a=2)
        assert Item.buffered.get(number=1).a == 2
        Item.buffered.set(number=1, c="later")
        Item.buffered.flush()
        row = Item.objects.get()
        assert (row.a, row.b, row.c) == (2, "pending", "later")

    def test_sums_are_exact(self, outage):
        Counter.buffered.set(name="n", small=5, big=Add(1))
        with outage:
            Counter.buffered.set(name="n", small=Add(3), big=Add(2))
        Counter.buffered.set(name="n", small=Add(10), big=Add(3))
        assert Counter.buffered.get(name="n").small == 18
        Counter.buffered.flush()
        row = Counter.objects.get()
        assert (row.small, row.big) == (18, 6)

    @pytest.mark.parametrize("held", [False, True])
    def test_bounds_of_what_was_written_directly_before(self, outage, held):
        noon = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
        hour = datetime.timedelta(hours=1)
        key = uuid.uuid4()
        with outage:
            Everything.buffered.set(
                key=key, date=noon.date(), datetime=noon, time=noon.time(), float=0.5
            )
            with batch() if held else nullcontext():
                Everything.buffered.set(
                    key=key,
                    date=Max((noon + 24 * hour).date()),
                    datetime=Max(noon + hour),
                    time=Min((noon - hour).time()),
                    float=Min(0.25),
                )
        row = Everything.objects.get()
        assert (row.date, row.datetime, row.time, row.float) == (
            (noon + 24 * hour).date(),
            noon + hour,
            (noon - hour).time(),
            0.25,
        )
        assert Everything.buffered.count_pending() == 0

    def test_a_batch_in_flight(self, outage):
        Item.buffered.set(number=1, a=1, b="in flight")
        claim_and_die(Item.buffered)
        with outage:
            Item.buffered.set(number=1, a=2)
        Item.buffered.flush()
        row = Item.objects.get()
        assert (row.a, row.b) == (2, "in flight")

    def test_a_row_that_was_deleted_or_created_directly(self, outage):
        Item.buffered.set(number=1, a=1)
        Item.buffered.set(number=2, a=1, b="pending")
        with outage:
            Item.buffered.delete(number=1)
            Item.buffered.create(number=2, a=2)
        with pytest.raises(Item.DoesNotExist):
            Item.buffered.get(number=1)
        Item.buffered.flush()
        assert list(Item.objects.values_list("number", "a", "b")) == [(2, 2, "")]

    def test_an_older_deletion(self, outage):
        Item.objects.create(number=1, a=1, b="gone")
        Item.buffered.delete(number=1)
        with outage:
            Item.buffered.set(number=1, a=2)
        row = Item.buffered.get(number=1)
        assert (row.a, row.b) == (2, "")
        Item.buffered.flush()
        row = Item.objects.get()
        assert (row.a, row.b) == (2, "")

    def test_metadata(self, outage):
        meta = Setting.buffered.of(site=1)
        other = Setting.buffered.of(site=2)
        meta.update(a=1, b=1, n=Add(1))
        other["a"] = 1
        with outage:
            meta.update(a=2, n=Add(2))
            other.clear()
        meta["c"] = 3
        expected = {"a": 2, "b": 1, "c": 3, "n": 8}  # of a default of 5
        assert (dict(meta), dict(other)) == (expected, {})
        Setting.buffered.flush()
        assert dict(Setting.objects.values_list("key", "value")) == expected

    def test_keys_of_metadata_have_times_of_their_own(self, outage):
        meta = Setting.buffered.of(site=1)
        meta.update(a=1)
        Setting.buffered.flush()
        del meta["a"]
        meta["b"] = 1
        with outage:
            meta.update(a=5)
        meta["c"] = 3
        expected = {"a": 5, "b": 1, "c": 3}
        assert dict(meta) == expected
        Setting.buffered.flush()
        assert dict(meta) == dict(Setting.objects.values_list("key", "value")) == expected

    def test_metadata_that_was_cleared_does_not_come_back(self, outage):
        meta = Setting.buffered.of(site=1)
        meta["a"] = 1
        with outage:
            meta.clear()
        meta["c"] = 3
        assert dict(meta) == {"c": 3}
        Setting.buffered.flush()
        assert dict(Setting.objects.values_list("key", "value")) == {"c": 3}

    def test_what_somebody_else_wrote_is_no_more_trouble_with_a_fence(self, outage):
        meta = Setting.buffered.of(site=1)
        meta.update(a=1, b=1)
        Item.buffered.set(number=1, a=3, b="s")
        with outage:
            meta.update(z=1, b=Add(2))
            Item.buffered.set(number=1, a=Add(1))
        put_text(Setting.buffered, "1", '"b"', "{nonsense")
        put_text(Item.buffered, "1", "a", "{nonsense")
        put_text(Setting.buffered, "1", '"\\ud800"', "1")
        assert meta["z"] == 1
        assert Setting.buffered.get_many([1])[1]["z"] == 1
        assert Item.buffered.get(number=1).a == 1
        assert [row.a for row in Item.buffered.overlay(Item.objects.all())] == [1]
        for buffer in (Item.buffered, Setting.buffered):
            buffer.flush()
            assert buffer.count_pending() == 0
            assert DeadLetter.objects.filter(buffer=buffer.label).exists()

    def test_a_row_that_is_new_since_a_delete(self, outage):
        Item.objects.create(number=1, a=1)
        Item.buffered.delete(number=1)
        with outage:
            Item.buffered.delete(number=1)
            Item.buffered.create(number=1, a=5)
        assert Item.buffered.get(number=1).a == 5
        Item.buffered.flush()
        assert Item.objects.get().a == 5

    def test_they_go_when_nothing_older_can_be_there(self, outage, configure):
        Item.buffered.set(number=1, a=1)
        with outage:
            Item.buffered.set(number=1, a=2)
        configure(FENCE_DAYS=1e-9)
        Item.buffered.flush()
        assert Item.objects.get().a == 2
        assert Fence.objects.exists()  # it was there when the flush began
        Item.buffered.flush()
        assert not Fence.objects.exists()

    def test_an_older_state_of_redis(self, outage, redis_server):
        """SCENARIOS 32: Redis returns from an older file."""
        Item.buffered.set(number=1, a=1, b="first")
        redis_server.stop()
        saved = redis_server.save_files()
        redis_server.start()
        wait_for_redis()
        Item.buffered.set(number=1, b="second")
        Item.buffered.flush()
        with outage:
            Item.buffered.set(number=1, a=2)
            redis_server.restore_files(saved)
        Item.buffered.flush()
        assert Item.objects.get().a == 2


@pytest.mark.process
def test_two_who_create_at_once(database, redis_server, configure, start_child):
    """One wins, and the other is told."""
    configure(MODE="direct")
    children = [start_child(_create, 50) for _ in range(2)]
    won = [int(child.communicate(timeout=60)[0]) for child in children]
    assert sum(won) == 50
    assert Item.objects.count() == 50


def _create(rows: int) -> None:
    won = 0
    for number in range(rows):
        try:
            Item.buffered.create(number=number)
            won += 1
        except AlreadyExists:
            pass
    print(won)


@pytest.mark.process
def test_two_who_add_at_once(database, redis_server, configure, start_child):
    configure(MODE="direct")
    children = [start_child(_add, 50) for _ in range(2)]
    assert [child.wait(timeout=60) for child in children] == [0, 0]
    assert Counter.objects.get().small == 100


def _add(times: int) -> None:
    for _ in range(times):
        Counter.buffered.set(name="n", small=Add(1))
    connections.close_all()
