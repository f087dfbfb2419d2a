"""Reads show every acknowledged write at any moment (G3)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.db import connections

from tests.models import Child, Item, Owner, Pair, Stamp
from writebehind_app.buffers import reading, row

pytestmark = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


@contextmanager
def in_background(*loops: Callable[[], None]) -> Iterator[None]:
    """Runs each again and again while the block runs; what one of them raises, it raises."""
    done = threading.Event()
    errors: list[BaseException] = []

    def run(loop: Callable[[], None]) -> None:
        try:
            while not done.is_set():
                loop()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[loop]) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


class History:
    """What one writer did to one row: `states[n]` is the row after n writes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.states: list[int | None] = [None]
        self.sent = self.acknowledged = 0

    def write(self) -> None:
        n = self.sent + 1
        if n % 5 == 0 and self.number % 2:
            self.states.append(None)
            self.sent = n
            Item.buffered.delete(number=self.number)
        else:
            self.states.append(n)
            self.sent = n
            Item.buffered.set(number=self.number, a=n)
        self.acknowledged = n

    def check(self, least: int, seen: int | None) -> int:
        """`seen` is the state after a write that was not overtaken when the read began, and was
        sent when it ended. Says which."""
        if seen is not None:
            possible = [seen]
        else:
            possible = [n for n in range(least, self.sent + 1) if self.states[n] is None]
        assert possible, f"row {self.number} is missing after write {least}"
        assert least <= possible[0] <= self.sent, (least, seen, self.sent)
        return possible[0]


READERS = {
    "get": lambda numbers: {n: _get(n) for n in numbers},
    "get_many": lambda numbers: {n: r.a for n, r in Item.buffered.get_many(numbers).items()},
    "overlay": lambda numbers: {
        r.number: r.a for r in Item.buffered.overlay(Item.objects.filter(number__in=numbers))
    },
}


def _get(number: int) -> int | None:
    try:
        return Item.buffered.get(number=number).a
    except Item.DoesNotExist:
        return None


@pytest.mark.parametrize("how", READERS)
def test_while_flushers_run_no_write_is_missed_and_none_goes_back(
    database, redis_server, configure, how
):
    """Scenarios 15 and 21."""
    configure(SHARDS=2, BATCH_SIZE=3)
    # A row that is not stored is not in a queryset: those that overlay() reads are never deleted.
    numbers = [2, 4, 6] if how == "overlay" else [1, 2, 3, 4]
    histories = [History(number) for number in numbers]
    for history in histories:
        history.write()
    Item.buffered.flush()
    seen_before = dict.fromkeys(numbers, 0)
    reads = 0

    def write() -> None:
        for history in histories:
            history.write()
        time.sleep(0.001)

    with in_background(write, Item.buffered.flush):
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            least = {h.number: max(h.acknowledged, seen_before[h.number]) for h in histories}
            seen = READERS[how](numbers)
            for history in histories:
                number = history.number
                seen_before[number] = history.check(least[number], seen.get(number))
            reads += 1
    assert reads > 20
    assert min(history.sent for history in histories) > 20
    Item.buffered.flush()
    last = {h.number: h.states[-1] for h in histories if h.states[-1] is not None}
    assert dict(Item.objects.values_list("number", "a")) == last


class TestBetweenTheTwoReads:
    """What happens after Redis was read and before, or after, the database is."""

    @pytest.fixture
    def meanwhile(self, monkeypatch):
        def during_the_next(name: str, act: Callable[[], None], *, first: bool) -> None:
            module = reading if hasattr(reading, name) else row
            call, left = getattr(module, name), [act]

            def called(*args):
                if left and first:
                    left.pop()()
                result = call(*args)
                if left:
                    left.pop()()
                return result

            monkeypatch.setattr(module, name, called)

        return during_the_next

    def test_the_write_and_a_newer_one_are_stored(self, database, redis_server, meanwhile):
        def act() -> None:
            Item.buffered.flush()
            Item.buffered.set(number=1, a=2, b="2")
            Item.buffered.flush()

        Item.buffered.set(number=1, a=1)
        meanwhile("_stored", act, first=True)
        row = Item.buffered.get(number=1)
        assert (row.a, row.b) == (2, "2")

    def test_the_write_is_stored_and_a_newer_one_is_pending(
        self, database, redis_server, meanwhile
    ):
        def act() -> None:
            Item.buffered.flush()
            Item.buffered.set(number=1, b="2")

        Item.objects.create(number=1)
        Item.buffered.set(number=1, a=1)
        meanwhile("_stored", act, first=False)
        row = Item.buffered.get(number=1)
        assert (row.a, row.b) == (1, "2")

    @pytest.mark.parametrize(
        ("name", "first"), [("_stored", True), ("rows_by_id", True), ("_stored", False)]
    )
    def test_a_batch_in_flight_is_stored(
        self, database, redis_server, meanwhile, configure, name, first
    ):
        configure(SHARDS=1, LEASE=0.01)
        old = Item.objects.create(number=1, a=1)
        Item.buffered.delete(number=1)
        Item.buffered.set(number=1, a=2)
        Item.buffered.shards()[0].claim("t" * 32, lease=0.01, size=1, due_only=False)
        meanwhile(name, Item.buffered.flush, first=first)
        row = Item.buffered.get(number=1)
        assert row.a == 2
        # Merged a second time into the row that it made, the batch would make another one.
        assert (row.pk is not None and row.pk != old.pk) or not first

    def test_a_row_of_a_queryset_is_changed_after_it_ran(self, database, redis_server, meanwhile):
        Item.objects.create(number=1)
        Item.buffered.set(number=1, a=1)
        meanwhile("_read", Item.buffered.flush, first=True)
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
