"""`batch()` gathers the writes of a block into one round trip; reads inside see them."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import FieldError, ValidationError
from django.db import OperationalError, connections, transaction
from django.http import HttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory
from django.urls import path

from tests.backdoor.divisions import know
from tests.backdoor.flushes import refuse_direct_writes
from tests.backdoor.limits import limit
from tests.elsewhere import elsewhere
from tests.models import Counter, Item, Line, Note, Owner, Seat, Setting, Tick, Visit
from tests.servers import Proxy
from writebehind_app import Add, Max, Merge, batch
from writebehind_app.exceptions import (
    AlreadyExists,
    BufferFull,
    BufferUnavailable,
    NotDurable,
    Overtaken,
)
from writebehind_app.middleware import BatchMiddleware

each_database = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


class Stop(Exception):
    pass


def count_elsewhere() -> int:
    return elsewhere(lambda: Item.buffered.count_pending() + Line.buffered.count_pending())


class TestRoundTrips:
    def test_one_for_all_buffers_and_many_writes_to_one_key(self, plain, trips):
        owner = Owner.objects.create(name="anna")
        # So that Redis knows the scripts, and its clock is known.
        know(Note.buffered)
        Item.buffered.set(number=9, a=Add(0))
        Line.buffered.append(text="first")
        del trips[:]
        with batch():
            for n in range(20):
                Item.buffered.set(number=1, a=Add(1), b=str(n))
                Line.buffered.append(text=str(n))
            Item.buffered.set_many([{"number": 1, "c": "c"}, {"number": 2, "a": 2}])
            Item.buffered.delete(number=9)
            note = Note.buffered.of(page="p", owner=owner)
            note["x"] = 1
            note.update(y=Add(2))
            assert trips == []
        # A call to each shard: 23 writes to rows, 2 to an entity, 20 records.
        assert trips == [3]
        for buffer in (Item.buffered, Line.buffered, Note.buffered):
            buffer.flush()
        assert {(row.number, row.a, row.b, row.c) for row in Item.objects.all()} == {
            (1, 20, "19", "c"),
            (2, 2, "", None),
        }
        assert dict(note) == {"x": 1, "y": 2}
        texts = Line.objects.order_by("pk").values_list("text", flat=True)
        assert list(texts) == ["first", *map(str, range(20))]

    def test_redis_does_not_know_the_scripts_yet(self, plain, trips):
        with plain.client() as client:
            client.script_flush()
        with batch():
            for n in range(3):
                Item.buffered.set(number=1, a=Add(1), b=str(n))
            Line.buffered.append(text="x")
        assert elsewhere(lambda: Item.buffered.get(number=1).a) == 3
        assert elsewhere(Line.buffered.count) == 1
        assert trips[0] <= 4

    def test_more_than_a_call_takes(self, plain, trips):
        """Redis does nothing else while it takes a call, and takes those to a shard in order."""
        Item.buffered.set(number=0, a=Add(0))  # so that Redis knows the script
        del trips[:]
        with batch():
            for n in range(2500):
                Item.buffered.set(number=n % 3, a=Add(1))
        assert trips == [1] * 13
        assert sorted(row.a for row in Item.buffered.get_many(range(3)).values()) == [833, 833, 834]

    @pytest.mark.parametrize("size", [3, 200])
    @pytest.mark.parametrize("story", range(2))
    def test_it_comes_to_the_same_as_one_by_one(
        self, plain, configure, monkeypatch, size, story, rng
    ):
        """G2, with reads among the writes, and calls of some size to some shards."""
        configure(SHARDS=3)
        limit(monkeypatch, writes_of_a_call=size)
        choices = [
            lambda c, s, n: Counter.buffered.set(name=c, big=Add(n), real=n),
            lambda c, s, n: Counter.buffered.set(name=c, big=Max(n), decimal=Add(n)),
            lambda c, s, n: Counter.buffered.set(name=c, extra=Merge({str(n % 3): n}), big=n),
            lambda c, s, n: Counter.buffered.set(name=c, extra={"n": n}),
            lambda c, s, n: Counter.buffered.delete(name=c),
            lambda c, s, n: Counter.buffered.set_if({"big": None}, name=c, big=n),
            lambda c, s, n: Counter.buffered.set_many([{"name": x, "small": n} for x in "ab"]),
            lambda c, s, n: s.update({c: Add(n), "x": n}),
            lambda c, s, n: s.pop(c, None),
            lambda c, s, n: s.setdefault(c, n),
            lambda c, s, n: s.clear(),
            lambda c, s, n: Line.buffered.append(text=f"{n}"),
        ]
        calls = [(rng.choice(choices), rng.choice("abc"), n) for n in range(1, 60)]

        def state() -> Any:
            rows = Counter.buffered.get_many("abc")
            values = [(r.name, r.big, r.small, r.decimal, r.real, r.extra) for r in rows.values()]
            lines = [row.text for row in Line.buffered.window()]
            return values, dict(Setting.buffered.of(site=1)), lines

        def play() -> list[Any]:
            setting, states = Setting.buffered.of(site=1), []
            for call, name, n in calls:
                call(name, setting, n)
                states.append(state() if n % 5 == 0 else None)
            return [*states, state()]

        expected = play()
        Counter.buffered.flush()
        for buffer in (Counter.buffered, Setting.buffered, Line.buffered):
            buffer.discard()
        Counter.objects.all().delete()
        with batch():
            seen = play()
        assert seen == expected
        assert state() == expected[-1]
        for buffer in (Counter.buffered, Setting.buffered, Line.buffered):
            buffer.flush()
        assert state() == expected[-1]

    def test_with_nothing_to_send_none(self, plain, trips):
        with batch():
            pass
        assert trips == []


class TestReading:
    """G3: reads inside see what is held."""

    @each_database
    def test_rows(self, database, redis_server):
        Item.objects.bulk_create(Item(number=n, a=n) for n in range(5))
        Item.buffered.set(number=1, a=10)
        Item.buffered.set(number=2, a=20)
        Item.buffered.flush(number=2)
        with batch():
            Item.buffered.set(number=0, a=Add(5), b="x")
            Item.buffered.set(number=1, a=Add(5))
            Item.buffered.set(number=1, a=Max(3))
            Item.buffered.set(number=2, a=Add(5))
            Item.buffered.delete(number=3)
            Item.buffered.set(number=4, b="kept")
            Item.buffered.delete(number=4)
            Item.buffered.set(number=4, c="anew")
            Item.buffered.set(number=5, a=5)
            found = Item.buffered.get_many(range(7))
            assert {n: row.a for n, row in found.items()} == {0: 5, 1: 15, 2: 25, 4: 0, 5: 5}
            assert (Item.buffered.get(number=4).b, Item.buffered.get(number=4).c) == ("", "anew")
            with pytest.raises(Item.DoesNotExist):
                Item.buffered.get(number=3)
            rows = Item.buffered.overlay(Item.objects.order_by("number").only("a"))
            assert [(row.number, row.a) for row in rows] == [(0, 5), (1, 15), (2, 25), (4, 0)]
            assert elsewhere(lambda: Item.buffered.get(number=0).a) == 0
        after = Item.buffered.get_many(range(7))
        assert {n: row.a for n, row in after.items()} == {0: 5, 1: 15, 2: 25, 4: 0, 5: 5}
        Item.buffered.flush()
        assert {row.number: row.a for row in Item.objects.all()} == {0: 5, 1: 15, 2: 25, 4: 0, 5: 5}

    def test_operations_on_every_kind(self, plain):
        Counter.buffered.set(name="c", big=1, decimal="1.50", extra={"a": 1})
        with batch():
            Counter.buffered.set(
                name="c", big=Add(2**40), decimal=Add("0.25"), extra=Merge({"b": 2})
            )
            Counter.buffered.set(name="c", extra=Merge({"b": 3}))
            row = Counter.buffered.get(name="c")
            inside = row.big, str(row.decimal), row.extra
        row = Counter.buffered.get(name="c")
        assert inside == (row.big, str(row.decimal), row.extra)
        assert inside == (1 + 2**40, "1.75", {"a": 1, "b": 3})

    def test_metadata(self, plain):
        setting = Setting.buffered.of(site=1)
        setting.update(a=1, b=2)
        with batch():
            setting["a"] = Add(1)
            setting["c"] = 3
            assert setting.pop("b") == 2
            assert setting.pop("b", None) is None
            assert setting.setdefault("d", 4) == 4
            assert setting.setdefault("d", 9) == 4
            assert dict(setting) == {"a": 2, "c": 3, "d": 4}
            assert [entry.state for entry in setting.pending()] == ["pending"] + ["held"] * 4
            assert Setting.buffered.get_many([1, 2]) == {1: {"a": 2, "c": 3, "d": 4}, 2: {}}
            assert elsewhere(lambda: dict(setting)) == {"a": 1, "b": 2}
            setting.clear()
            assert dict(setting) == {}
            setting["e"] = 5
        assert dict(setting) == {"e": 5}

    def test_a_window(self, plain):
        Tick.buffered.append(value=1)
        with batch():
            Tick.buffered.append(value=2)
            Tick.buffered.append(value=0, at="2020-01-01T00:00:00Z")
            assert [row.value for row in Tick.buffered.window()] == [0, 1, 2]
            assert Tick.buffered.count() == 3
            assert Tick.buffered.count(value=2) == 1
            since = Tick.buffered.window(value=1)[0].at
            assert [row.value for row in Tick.buffered.window(since)] == [1, 2]
            assert [row.value for row in Tick.buffered.window(None, since)] == [0]
            assert elsewhere(Tick.buffered.count) == 1
        assert [row.value for row in Tick.buffered.window()] == [0, 1, 2]

    def test_what_is_pending(self, plain):
        Item.buffered.set(number=1, a=1)
        with batch():
            Item.buffered.set(number=1, a=2)
            Item.buffered.set(number=1, b="b")
            Item.buffered.set(number=2, a=Add(1))
            Line.buffered.extend([{"text": "x"}, {"text": "y"}])
            found = [(e.key["number"], e.values, e.state) for e in Item.buffered.pending()]
            assert found == [
                (1, {"a": 1}, "pending"),
                (1, {"a": 2}, "held"),
                (1, {"b": "b"}, "held"),
                (2, {"a": Add(1)}, "held"),
            ]
            assert Item.buffered.count_pending() == 3
            assert [e.values["text"] for e in Line.buffered.pending()] == ["x", "y"]
            assert Line.buffered.count_pending() == 2
            assert count_elsewhere() == 1
        assert count_elsewhere() == 4


class TestWhatIsRefused:
    def test_at_the_call(self, plain):
        with batch():
            Item.buffered.set(number=1)
            with pytest.raises(FieldError):
                Item.buffered.set(number=1, nothing=1)
            with pytest.raises(ValidationError):
                Item.buffered.set(number=1, a="x")
            with pytest.raises(ValidationError):
                Line.buffered.append(text="x" * 101)
            Item.buffered.create(number=2)
            with pytest.raises(AlreadyExists):
                Item.buffered.create(number=1)
            with pytest.raises(AlreadyExists):
                Item.buffered.create(number=2)
            assert not Item.buffered.set_if({"a": 5}, number=1, a=6)
            with pytest.raises(AlreadyExists):
                Seat.buffered.extend([{"number": 1}, {"number": 1}])
        assert {row.number: row.a for row in Item.buffered.get_many([1, 2]).values()} == {
            1: 0,
            2: 0,
        }

    @pytest.mark.parametrize("how", ["held", "pending", "stored"])
    def test_a_unique_value_that_is_taken(self, plain, how):
        with batch():
            if how == "held":
                Visit.buffered.append(event=1, email="a")
            else:
                elsewhere(lambda: Visit.buffered.append(event=1, email="a"))
            if how == "stored":
                elsewhere(Visit.buffered.flush)
            with pytest.raises(AlreadyExists):
                Visit.buffered.append(event=1, email="a")
            Visit.buffered.append(event=1, email="b")
        assert {row.email for row in Visit.buffered.window()} == {"a", "b"}

    def test_an_exception_that_leaves_the_block_sends_nothing(self, plain, trips):
        trips.clear()
        with pytest.raises(Stop), batch():  # noqa: PT012
            first = Item.buffered.set(number=1)
            with batch():
                second = Line.buffered.append(text="x")
            raise Stop
        assert trips == []
        assert (first.where, second.where) == ("discarded", "discarded")
        assert not first.wait(5)
        assert count_elsewhere() == Item.buffered.count_pending() == 0

    def test_a_save_after_a_delete_of_a_block_that_fails(self, plain):
        """The save is committed. The delete, and what would follow it, are not sent."""
        row = Item.objects.create(number=1, a=1, b="old")
        for block in (nullcontext, transaction.atomic):
            with pytest.raises(Stop), batch():  # noqa: PT012
                Item.buffered.delete(number=1)
                row.a += 1
                with block():
                    row.save(update_fields=["a"])
                assert Item.buffered.get(number=1).a == row.a
                raise Stop
            assert Item.buffered.count_pending() == 0
        row.refresh_from_db()
        assert (row.a, row.b) == (3, "old")

    def test_a_save_after_a_delete_of_a_block(self, plain):
        row = Item.objects.create(number=1, a=1, b="old")
        with batch():
            Item.buffered.delete(number=1)
            row.a = 2
            row.save(update_fields=["a"])
        Item.buffered.flush()
        found = Item.objects.get()
        assert (found.a, found.b) == (2, "")

    def test_a_sum_that_leaves_the_range(self, plain):
        """It is a dead letter; the writes to other rows before, between and after it are not."""
        Counter.objects.create(name="c", big=2**63 - 2)
        with batch():
            before = Counter.buffered.set(name="a", small=1)
            refused = [Counter.buffered.set(name="c", big=Add(1))]
            between = Counter.buffered.set(name="b", small=1)
            refused.append(Counter.buffered.set(name="c", big=Add(1), small=7))
            after = Counter.buffered.set(name="d", small=1)
        Counter.buffered.flush()
        assert [r.where for r in (before, between, after)] == ["stored"] * 3
        assert [receipt.where for receipt in refused] == ["dead"] * 2
        assert (before.dead, between.dead, after.dead) == (None, None, None)
        row = Counter.objects.get(name="c")
        assert (row.big, row.small) == (2**63 - 2, 0)
        assert set(Counter.objects.values_list("name", "small")) == {
            *(("a", 1), ("b", 1), ("d", 1)),
            ("c", 0),
        }


class TestWhatIsDecidedByWhatIsThere:
    @each_database
    def test_it_sees_what_is_held_and_goes_after_it(self, database, redis_server):
        with batch():
            Item.buffered.set(number=1, b="open")
            assert Item.buffered.set_if({"b": "open"}, number=1, b="closed", a=Add(1))
            assert not Item.buffered.set_if({"b": "open"}, number=1, b="again")
            Item.buffered.set(number=1, a=Add(10))
            receipt = Item.buffered.create(number=2, a=2)
            assert receipt.where == "held"
            Item.buffered.delete(number=2)
            Item.buffered.create(number=2, a=3)
            Item.buffered.set(number=2, b="after")
            Seat.buffered.append(number=7)
        assert receipt.where == "pending"
        for read in (Item.buffered.get_many, self.stored):
            rows = read([1, 2])
            assert (rows[1].b, rows[1].a) == ("closed", 11)
            assert (rows[2].a, rows[2].b) == (3, "after")
        Seat.buffered.flush()
        assert Seat.objects.get().number == 7

    def stored(self, keys):
        Item.buffered.flush()
        return {row.number: row for row in Item.objects.all()}

    @pytest.mark.parametrize(
        ("act", "meanwhile", "error"),
        [
            (
                lambda: Item.buffered.create(number=1, a=1),
                lambda: Item.buffered.create(number=1, a=2),
                AlreadyExists,
            ),
            (
                lambda: Seat.buffered.append(number=1),
                lambda: Seat.buffered.append(number=1),
                AlreadyExists,
            ),
            (
                lambda: Item.buffered.set_if({"a": 0}, number=5, a=1),
                lambda: Item.buffered.set(number=5, a=2),
                Overtaken,
            ),
            (
                lambda: Setting.buffered.of(site=1).pop("k"),
                lambda: Setting.buffered.of(site=1).update(k=2),
                Overtaken,
            ),
            (
                lambda: Setting.buffered.of(site=1).setdefault("new", 1),
                lambda: Setting.buffered.of(site=1).update(new=2),
                Overtaken,
            ),
        ],
        ids=["create", "append", "set_if", "pop", "setdefault"],
    )
    def test_somebody_else_comes_first(self, plain, act, meanwhile, error):
        Item.buffered.set(number=5)
        Setting.buffered.of(site=1)["k"] = 1
        with pytest.raises(error), batch():  # noqa: PT012
            act()
            Item.buffered.set(number=6)
            elsewhere(meanwhile)
        rows = Item.buffered.get_many([1, 5])
        assert {row.a for row in rows.values()} <= {0, 2}
        assert Setting.buffered.of(site=1).get("k") in (1, 2)
        assert Setting.buffered.of(site=1).get("new") in (None, 2)
        assert len(Seat.buffered.window()) <= 1
        assert Item.buffered.get(number=6)  # the others are sent all the same

    def test_what_changed_and_is_as_expected_still(self, plain):
        Item.buffered.set(number=5)
        with batch():
            assert Item.buffered.set_if({"a": 0}, number=5, a=1)
            elsewhere(lambda: Item.buffered.set(number=5, b="b"))
            elsewhere(Item.buffered.flush)
        row = Item.buffered.get(number=5)
        assert (row.a, row.b) == (1, "b")


class TestOnce:
    def test_is_carried_out_once(self, plain):
        Item.buffered.set(number=1, a=Add(1), once="before")
        with batch():
            Item.buffered.set(number=1, a=Add(1), once="before")
            for _ in range(2):
                receipt = Item.buffered.set(number=1, a=Add(10), once="within")
            Line.buffered.append(text="x", once="within")
            Line.buffered.append(text="x", once="within")
            assert Item.buffered.create(number=2, once="new")
            assert Item.buffered.create(number=2, once="new")
            assert Item.buffered.get(number=1).a == 11
            assert Line.buffered.count() == 1
            assert receipt.where == "held"
            elsewhere(lambda: Item.buffered.set(number=1, a=Add(10), once="within"))
        Item.buffered.set(number=1, a=Add(10), once="within")
        Line.buffered.append(text="x", once="within")
        assert Item.buffered.get(number=1).a == 11
        assert Line.buffered.count() == 1
        Item.buffered.flush()
        assert Item.objects.get(number=1).a == 11


class TestReceipts:
    def test_know_where_it_is(self, plain):
        with batch():
            one = Item.buffered.set(number=1)
            first, second = Line.buffered.extend([{"text": "1"}, {"text": "2"}])
            receipts = [one, first, second, Setting.buffered.of(site=1).update(a=1)]
            assert {receipt.where for receipt in receipts} == {"held"}
            assert not any(r.persisted or r.direct or r.dead or r.wait(0) for r in receipts)
        assert {receipt.where for receipt in receipts} == {"pending"}
        Item.buffered.flush()
        Line.buffered.flush()
        assert one.persisted
        assert second.wait(1)
        assert [receipt.where for receipt in receipts] == ["stored", "stored", "stored", "pending"]


class TestFlushAndDiscard:
    @each_database
    def test_a_flush_sends_what_is_held_first(self, database, redis_server):
        with batch():
            Item.buffered.set(number=1, a=1)
            receipt = Line.buffered.append(text="x")
            assert Item.buffered.flush(number=1).rows == 1
            assert Item.objects.get().a == 1
            Item.buffered.set(number=1, a=Add(1))
            assert receipt.where == "pending"
        assert Item.buffered.get(number=1).a == 2

    def test_a_discard(self, plain):
        with batch():
            one = Item.buffered.set(number=1)
            many = Item.buffered.set_many([{"number": 2}, {"number": 3}])
            Item.buffered.create(number=4)
            assert Item.buffered.discard(number=1) == 1
            assert Item.buffered.discard(number=2) == 1
            assert Item.buffered.count_pending() == 2
            Line.buffered.extend([{"text": "1"}, {"text": "2"}])
            assert Line.buffered.discard() == 2
            assert [r.where for r in (one, *many)] == ["discarded", "discarded", "held"]
        assert Item.buffered.get_many([1, 2, 3, 4]).keys() == {3, 4}
        assert many[1].where == "pending"
        assert Line.buffered.count() == 0


class TestNesting:
    def test_one_inside_another_is_part_of_it(self, plain, trips):
        with batch():
            Item.buffered.set(number=1)
            with batch():
                Item.buffered.set(number=1, a=Add(1))
                assert Item.buffered.get(number=1).a == 1
            with pytest.raises(Stop), batch():  # noqa: PT012
                Item.buffered.set(number=1, a=Add(10))
                assert Item.buffered.get(number=1).a == 11
                raise Stop
            assert Item.buffered.get(number=1).a == 1
            assert count_elsewhere() == 0
        assert Item.buffered.get(number=1).a == 1

    def test_is_entered_once_at_a_time(self, plain):
        one = batch()
        with one, pytest.raises(RuntimeError, match="entered already"), one:
            pass
        assert Item.buffered.set(number=1).where == "pending"  # none is open any more

    def test_threads_have_their_own(self, plain):
        barrier = threading.Barrier(4, timeout=10)

        def write(n: int) -> int:
            with batch():
                Item.buffered.set(number=1, a=Add(1))
                barrier.wait()
                seen = Item.buffered.get(number=1).a
                barrier.wait()
            connections.close_all()
            return seen

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(write, range(4))) == [1] * 4
        assert Item.buffered.get(number=1).a == 4

    def test_a_task_that_outlives_the_block_writes_at_once(self, plain):
        async def late(begun: asyncio.Event) -> str:
            await begun.wait()
            return await (await Item.buffered.aset(number=2)).awhere()

        async def use() -> tuple[str, str]:
            begun = asyncio.Event()
            async with batch():
                inside = await Item.buffered.aset(number=1)
                task = asyncio.create_task(late(begun))
                assert await inside.awhere() == "held"
                await asyncio.gather(*(Item.buffered.aset(number=3, a=Add(1)) for _ in range(5)))
                assert (await Item.buffered.aget(number=3)).a == 5
            begun.set()
            return await task, await inside.awhere()

        assert async_to_sync(use)() == ("pending", "pending")
        assert Item.buffered.get(number=3).a == 5

    def test_a_generator(self, plain):
        def rows():
            with batch():
                Item.buffered.set(number=1)
                yield
                Item.buffered.set(number=2)

        unfinished = rows()
        next(unfinished)
        unfinished.close()  # an exception, within
        assert Item.buffered.count_pending() == 0
        assert len(list(rows())) == 1
        assert Item.buffered.count_pending() == 2


class TestWhenRedisDoesNotTakeIt:
    def test_what_may_goes_around_it(self, plain, configure):
        configure(WHEN_DOWN="direct")
        with batch():
            one = Item.buffered.set(number=1, a=1)
            Item.buffered.set(number=1, a=Add(1))
            Item.buffered.create(number=2)
            two = Line.buffered.append(text="x")
            plain.stop()
            assert Item.buffered.get(number=1).a == 2
            assert [row.text for row in Line.buffered.window()] == ["x"]
        assert Item.objects.get(number=1).a == 2
        assert Item.objects.filter(number=2).exists()
        assert Line.objects.get().text == "x"
        assert one.direct
        assert one.where == two.where == "stored"
        plain.start()

    def test_or_it_is_raised_at_the_end(self, plain):
        def write() -> None:
            with batch():
                receipts.append(Item.buffered.set(number=1, a=1))
                receipts.append(Line.buffered.append(text="x"))
                plain.stop()

        receipts: list[Any] = []
        with pytest.raises(BufferUnavailable):
            write()
        plain.start()
        assert [receipt.where for receipt in receipts] == ["discarded", "discarded"]

    def test_the_database_refuses_what_goes_around(self, plain, configure, monkeypatch):
        """What Redis took it has all the same."""
        configure(MAX_PENDING=1, SHARDS=1)
        limit(monkeypatch, writes_of_a_call=1)
        with pytest.raises(OperationalError), batch():  # noqa: PT012
            one = Item.buffered.set(number=1)
            two = Item.buffered.set(number=2)
            other = Line.buffered.append(text="x")
            refuse_direct_writes(monkeypatch, OperationalError("It is away."))
        assert [r.where for r in (one, two, other)] == ["pending", "discarded", "pending"]

    def test_full(self, plain, monkeypatch, configure):
        """A call is taken whole or not at all, and after one that was not, none to the shard."""
        configure(MAX_PENDING=2, SHARDS=1, WHEN_FULL="raise")
        limit(monkeypatch, writes_of_a_call=2)
        with pytest.raises(BufferFull, match="4 of 8 writes were taken"), batch():  # noqa: PT012
            for n in (1, 1, 2, 1, 2, 3, 1, 1):
                Item.buffered.set(number=n, a=Add(1))
        assert {n: r.a for n, r in Item.buffered.get_many([1, 2, 3]).items()} == {1: 3, 2: 1}
        configure(WHEN_FULL="direct")
        with batch():
            for n in (1, 2, 3, 1, 3):
                Item.buffered.set(number=n, a=Add(1))
        assert Item.objects.get(number=3).a == 2
        assert {n: r.a for n, r in Item.buffered.get_many([1, 2]).items()} == {1: 5, 2: 2}

    @pytest.mark.parametrize("fault", ["lose the reply", "keep"])
    def test_an_answer_is_lost(self, plain, configure, fault):
        with Proxy(plain) as proxy:
            configure(REDIS=proxy.url)
            Item.buffered.set(number=1)
            with batch():
                for _ in range(5):
                    Item.buffered.set(number=1, a=Add(1))
                Item.buffered.set(number=2, a=Add(1))
                proxy.faults = [fault]
            assert proxy.met == 1
            proxy.deliver()
            assert {row.a for row in Item.buffered.get_many([1, 2]).values()} == {5, 1}

    def test_not_as_durable_as_it_should_be(self, plain, monkeypatch, configure):
        configure(DURABILITY_TIMEOUT=0.01)
        monkeypatch.setattr(Item.buffered, "options", {"DURABILITY": 1})
        with pytest.raises(NotDurable), batch():  # noqa: PT012
            receipt = Item.buffered.set(number=1)
            other = Line.buffered.append(text="x")
        assert receipt.where == other.where == "pending"

    def test_directly_nothing_is_held(self, plain, configure):
        configure(MODE="direct")
        with batch():
            Item.buffered.set(number=1, a=1)
            assert Item.objects.get().a == 1


class TestMiddleware:
    @pytest.fixture(autouse=True)
    def site(self, settings):
        settings.ROOT_URLCONF = __name__
        settings.MIDDLEWARE = ["writebehind_app.middleware.BatchMiddleware"]

    def test_sends_with_the_response(self, plain, trips):
        Item.buffered.set(number=9)
        Line.buffered.append(text="first")
        del trips[:]
        assert Client().get("/write").content == b"held held"
        assert trips == [2]
        assert count_elsewhere() == 5

    def test_sends_nothing_where_the_view_fails(self, plain):
        assert Client(raise_request_exception=False).get("/fail").status_code == 500
        assert count_elsewhere() == 0

    def test_asynchronously_too(self, plain):
        async def ask() -> list[int]:
            client = AsyncClient(raise_request_exception=False)
            return [(await client.get(url)).status_code for url in ("/fail", "/write")]

        assert async_to_sync(ask)() == [500, 200]
        assert count_elsewhere() == 3

    def test_an_asynchronous_view(self, plain):
        async def view(request: Any) -> HttpResponse:
            first = await Item.buffered.aset(number=1)
            second = await sync_to_async(Item.buffered.set)(number=2)
            return HttpResponse(f"{await first.awhere()} {second.where}")

        response = async_to_sync(BatchMiddleware(view))(AsyncRequestFactory().get("/"))
        assert response.content == b"held held"
        assert count_elsewhere() == 2

    def test_an_outage_is_told(self, plain):
        def view(request: Any) -> HttpResponse:
            Item.buffered.set(number=1)
            plain.stop()
            return HttpResponse("done")

        with pytest.raises(BufferUnavailable):
            BatchMiddleware(view)(RequestFactory().get("/"))
        plain.start()


def write(request: Any) -> HttpResponse:
    first = Item.buffered.set(number=1, a=Add(1))
    Item.buffered.set(number=1, b="b")
    Item.buffered.set(number=2)
    return HttpResponse(f"{first.where} {Line.buffered.append(text='x').where}")


def write_and_fail(request: Any) -> HttpResponse:
    write(request)
    raise Stop


urlpatterns = [path("write", write), path("fail", write_and_fail)]
