"""Scenario 41: shards raised and lowered while entries are pending.

Old and new processes run side by side, each with a number of shards of its own. The change is made
by one of them, which may be killed, or lose an answer, at each of its steps.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections, transaction
from django.test.utils import CaptureQueriesContext

from tests.backdoor.batches import claim, end_lease
from tests.backdoor.declarations import declare_only
from tests.backdoor.divisions import (
    Process,
    acknowledged,
    are_open,
    begin_batches_at,
    close,
    divide,
    flush_rows,
    have_a_change_under_way,
    have_changes_end_soon,
    have_little_patience,
    is_change_under_way,
    is_held,
    know,
    pause,
    resume,
    shards_in_force,
)
from tests.backdoor.shards import begin_numbers_at, counted, status_of
from tests.faults.injection import FAULTS, Fault
from tests.models import Item, Line, Member, Setting, Team, Visit
from writebehind_app import Add, BufferedQuerySet, batch, checkpoints
from writebehind_app.checkpoints import NAMES
from writebehind_app.database.letters import described
from writebehind_app.exceptions import AlreadyExists, BufferPaused, BufferUnavailable
from writebehind_app.models import AppliedBatch, DeadLetter

on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
BUFFERS = (Item.buffered, Setting.buffered, Visit.buffered, Line.buffered)
STEPS = [step for step in NAMES if step.startswith("change.")]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    have_changes_end_soon(monkeypatch)


def processes(*shards: int) -> list[Process]:
    return [Process(each, *BUFFERS) for each in shards]


def drained() -> None:
    for buffer in BUFFERS:
        buffer.flush()
        assert buffer.count_pending() == 0
    assert [described(letter) for letter in DeadLetter.objects.all()] == []


def test_a_value_does_not_come_over_a_later_one(database, redis_server):
    """As it was before there were divisions: x=1 waits in the old shard, x=2 in the new one."""
    old, new = processes(1, 4)
    with old.running():
        Item.buffered.set_many([{"number": n, "a": 1} for n in range(20)])
    with new.running():
        Item.buffered.set_many([{"number": n, "a": 2} for n in range(20)])
        assert all(row.a == 2 for row in Item.buffered.get_many(range(20)).values())
        assert divide(Item.buffered) == ""
        Item.buffered.set_many([{"number": n, "a": 3} for n in range(20)])
    with old.running():
        assert Item.buffered.get(number=7).a == 3
        Item.buffered.set_many([{"number": n, "b": "old"} for n in range(20)])
        drained()
    assert {(row.a, row.b) for row in Item.objects.all()} == {(3, "old")}


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 3)])
def test_up_and_down(before, after, database, redis_server):
    old, new = processes(before, after)
    with redis_server.client() as client:
        client.flushall()  # a thread of an earlier test may have asked since
    with old.running():
        Item.buffered.set_many([{"number": n, "a": Add(n)} for n in range(50)])
        assert shards_in_force(Item.buffered) == before
    with new.running():
        assert divide(Item.buffered) == ""
        assert shards_in_force(Item.buffered) == after
        assert divide(Item.buffered) == ""  # and nothing more
    for process in (old, new):
        with process.running():
            Item.buffered.set_many([{"number": n, "a": Add(1)} for n in range(50)])
            found = Item.buffered.get_many(range(50))
            assert len({receipt.shard for receipt in map(_touch, range(50))}) == after
            assert len(found) == 50
    with old.running():
        assert divide(Item.buffered) == ""  # back, as its settings say
        drained()
        assert shards_in_force(Item.buffered) == before
    assert {row.number: row.a for row in Item.objects.all()} == {n: n + 2 for n in range(50)}


def _touch(n: int) -> Any:
    return Item.buffered.set(number=n, c="")


class Story:
    """Random calls of several processes, and what is there after them."""

    def __init__(self, rng: Any, processes: list[Process], database: str) -> None:
        self.rng, self.processes, self.database = rng, processes, database
        self.items: dict[int, tuple[int, str]] = {}
        self.settings: dict[tuple[int, str], int] = {}
        self.visits: set[str] = set()
        self.lines: list[str] = []
        self.names: list[tuple[int, str]] = []
        self.turn = 0

    def go_on(self) -> None:
        self.turn += 1
        acts = [self.set, self.add, self.delete, self.set_if, self.once, self.meta, self.visit]
        acts += [self.line, self.save, self.create, self.flush_some, self.claim_and_die, self.read]
        with self.rng.choice(self.processes).running():
            self.rng.choice(acts)()
        with self.rng.choice(self.processes).running():
            self.check()

    def key(self) -> int:
        return self.rng.randrange(6)

    def set(self) -> None:
        n, m = self.key(), self.key()
        rows = {n: {"number": n, "a": self.turn}, m: {"number": m, "b": f"b{self.turn}"}}
        Item.buffered.set_many([*rows.values()])
        for number, values in rows.items():
            a, b = self.items.get(number, (0, ""))
            self.items[number] = values.get("a", a), values.get("b", b)

    def add(self) -> None:
        n = self.key()
        Item.buffered.set(number=n, a=Add(3))
        a, b = self.items.get(n, (0, ""))
        self.items[n] = a + 3, b

    def delete(self) -> None:
        n = self.key()
        Item.buffered.delete(number=n)
        self.items.pop(n, None)

    def set_if(self) -> None:
        n = self.key()
        a, _ = self.items.get(n, (None, ""))
        end_lease(Item.buffered)
        Item.buffered.flush()  # what a dead flusher has would have to be waited for
        assert Item.buffered.set_if({"a": -1}, number=n, b="no") is False
        if a is not None:
            assert Item.buffered.set_if({"a": a}, number=n, b=f"if{self.turn}") is True
            self.items[n] = a, f"if{self.turn}"

    def create(self) -> None:
        n = self.key()
        end_lease(Item.buffered)
        Item.buffered.flush()
        if n in self.items:
            with pytest.raises(AlreadyExists):
                Item.buffered.create(number=n, a=1)
        else:
            Item.buffered.create(number=n, a=self.turn)
            self.items[n] = self.turn, ""

    def once(self) -> None:
        if self.names and self.rng.random() < 0.7:
            n, name = self.rng.choice(self.names)
            Item.buffered.set(number=n, a=Add(1000), once=name)  # changes nothing
            return
        n, name = self.key(), f"name{self.turn}"
        Item.buffered.set(number=n, a=Add(7), once=name)
        self.names.append((n, name))
        a, b = self.items.get(n, (0, ""))
        self.items[n] = a + 7, b

    def meta(self) -> None:
        site, key = self.key(), self.rng.choice("xy")
        of = Setting.buffered.of(site=site)
        if self.rng.random() < 0.2 and (site, key) in self.settings:
            del of[key]
            del self.settings[site, key]
        else:
            of[key] = self.settings[site, key] = self.turn

    def visit(self) -> None:
        email = f"{self.rng.randrange(30)}@b.c"
        if email in self.visits:
            with pytest.raises(AlreadyExists):
                Visit.buffered.append(event=1, email=email)
        else:
            Visit.buffered.extend([{"event": 1, "email": email}, {"event": 2, "email": email}])
            self.visits.add(email)

    def line(self) -> None:
        self.lines.append(str(self.turn))
        Line.buffered.append(text=str(self.turn))

    def save(self) -> None:
        n = self.key()
        end_lease(Item.buffered)
        row = Item.objects.filter(number=n).first()
        if row is not None and n in self.items:
            with transaction.atomic(using=self.database):
                row.b = f"saved{self.turn}"
                row.save(update_fields=["b"])
            self.items[n] = self.items[n][0], row.b

    def flush_some(self) -> None:
        self.rng.choice(BUFFERS).flush()

    def claim_and_die(self) -> None:
        buffer = self.rng.choice(BUFFERS)
        claim(buffer)
        end_lease(buffer)

    def read(self) -> None:
        found = Item.buffered.overlay(Item.objects.all())
        stored = {row.number for row in Item.objects.all()} & self.items.keys()
        assert {row.number for row in found} == stored
        assert all((row.a, row.b) == self.items[row.number] for row in found)

    def check(self) -> None:
        found = Item.buffered.get_many(range(6))
        assert {n: (row.a, row.b) for n, row in found.items()} == self.items
        n = self.key()
        try:
            row = Item.buffered.get(number=n)
            assert (row.a, row.b) == self.items[n]
        except Item.DoesNotExist:
            assert n not in self.items
        site = self.key()
        expected = {key: v for (of, key), v in self.settings.items() if of == site}
        assert dict(Setting.buffered.of(site=site)) == expected
        window = Visit.buffered.window(None, None, event=1)
        assert sorted(visit.email for visit in window) == sorted(self.visits)
        assert sorted(row.text for row in Line.buffered.window(None, None)) == sorted(self.lines)

    def check_stored(self) -> None:
        drained()
        assert {row.number: (row.a, row.b) for row in Item.objects.all()} == self.items
        stored = {(row.site, row.key): row.value for row in Setting.objects.all()}
        assert stored == self.settings
        assert {visit.email for visit in Visit.objects.filter(event=2)} == self.visits
        assert sorted(line.text for line in Line.objects.all()) == sorted(self.lines)


@pytest.mark.parametrize("seed", range(4))
def test_stories(seed, database, redis_server, rng, configure):
    configure(CACHE_SECONDS=60 if seed % 2 else 0, LEASE=5)
    rng.seed(seed)
    running = processes(1, 4, 2)
    story = Story(rng, running, database)
    changes = 0
    for turn in range(80):
        story.go_on()
        if turn % 8 == 7:
            buffer = rng.choice(BUFFERS)
            end_lease(buffer)
            with rng.choice(running).running():
                before = shards_in_force(buffer)
                assert divide(buffer) == ""
                changes += shards_in_force(buffer) != before
                story.check()
    with running[0].running():
        story.check_stored()
    assert changes > 2


@on_valkey
@pytest.mark.parametrize("how", FAULTS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("shards", [(1, 3), (3, 1)])
def test_a_change_that_goes_wrong(step, how, shards, database, redis_server):
    """Whatever becomes of it, each write is stored once, and the next change is made."""
    old, new = processes(*shards)
    with old.running():
        Item.buffered.set_many([{"number": n, "a": Add(1)} for n in range(30)])
    with new.running(), Fault(step, how) as fault:
        fault.go_on()
        error = fault.run(lambda: divide(Item.buffered))
    assert fault.met
    assert error is None or isinstance(error, FAULTS[how])
    for process in (old, new, old):
        with process.running():
            Item.buffered.set_many([{"number": n, "a": Add(1)} for n in range(30)])
            found = Item.buffered.get_many(range(30))
            assert len({row.a for row in found.values()}) == 1
    with new.running():
        end_lease(Item.buffered)
        assert divide(Item.buffered, seconds=5) == ""
        assert shards_in_force(Item.buffered) == shards[1]
    with old.running():
        Item.buffered.set_many([{"number": n, "a": Add(1)} for n in range(30)])
        drained()
    assert {row.a for row in Item.objects.all()} == {5}


ACTS: dict[str, Callable[[], Any]] = {
    "set": lambda: Item.buffered.set(number=1, b="x"),
    "add": lambda: Item.buffered.set(number=1, a=Add(1)),
    "set_many": lambda: Item.buffered.set_many([{"number": n, "a": 5} for n in range(300)]),
    "set_if": lambda: Item.buffered.set_if({"a": 1}, number=1, a=9),
    "once": lambda: Item.buffered.set(number=1, a=Add(1), once="name"),
    "delete": lambda: Item.buffered.delete(number=1),
    "flush": lambda: Item.buffered.flush(),
    "discard": lambda: Item.buffered.discard(number=2),
    "save": lambda: _save(),
}


def _save() -> None:
    row = Item.objects.filter(number=1).first()
    if row is not None:
        row.b = "saved"
        row.save()


EXPECTED: dict[str, tuple[int, str]] = {
    "set": (1, "x"),
    "add": (2, ""),
    "set_many": (5, ""),
    "set_if": (9, ""),
    "once": (2, ""),
    "delete": (-1, ""),
    "flush": (1, ""),
    "discard": (1, ""),
}


@on_valkey
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("step", STEPS)
def test_a_call_at_each_step(step, act, database, redis_server, monkeypatch):
    """A call of another process comes while a change stands still. What it meets closed, it opens
    once the change has taken too long."""
    old, new = processes(1, 4)
    with old.running():
        Item.buffered.set(number=1, a=1)
        know(Item.buffered)
    met = []

    def hook(reached: str) -> None:
        if reached == step and not met:
            met.append(step)
            with old.running():
                ACTS[act]()
                if act == "once":
                    ACTS[act]()
                seen.append(_row())

    seen: list[tuple[int, str]] = []
    monkeypatch.setattr(checkpoints, "hook", hook)
    with new.running():
        divide(Item.buffered)
        assert met
        monkeypatch.setattr(checkpoints, "hook", None)
        if act == "once":
            ACTS[act]()
        assert _row() == seen[0]
        assert divide(Item.buffered, seconds=5) == ""
        assert _row() == seen[0]
        assert not is_change_under_way(Item.buffered)
        drained()
        assert _row() == seen[0]
    if act != "save":
        assert seen[0] == EXPECTED[act]


def _row() -> tuple[int, str]:
    try:
        row = Item.buffered.get(number=1)
    except Item.DoesNotExist:
        return -1, ""
    return row.a, row.b


def add_until_closed(number: int, until: int) -> None:
    """In a process of its own, with the settings that it was started with."""
    for _ in range(until):
        Item.buffered.set(number=number, a=Add(1), b=str(number))
        Item.buffered.set(number=100, a=Add(1))
    print("done")


@on_valkey
def test_processes_side_by_side(database, redis_server, configure, start_child, monkeypatch):
    have_changes_end_soon(monkeypatch, 2_000_000)
    children = []
    for number, shards in enumerate([1, 4]):
        configure(SHARDS=shards)
        children.append(start_child(add_until_closed, number, 400))
    changes = 0
    for shards in itertools.cycle([1, 3, 4]):
        configure(SHARDS=shards)
        changes += divide(Item.buffered, seconds=10) == ""
        Item.buffered.flush()
        if all(child.poll() is not None for child in children):
            break
        time.sleep(0.05)
    assert [child.stdout.readline() for child in children] == ["done\n"] * 2
    drained()
    assert changes > 2
    assert {row.number: row.a for row in Item.objects.all()} == {0: 400, 1: 400, 100: 800}


def test_a_write_waits_for_the_last_batch(plain, configure, monkeypatch):
    """It is neither refused nor sent around Redis, and comes after what was pending."""
    have_changes_end_soon(monkeypatch, 5_000_000)
    configure(SHARDS=1, WHEN_DOWN="raise")
    Item.buffered.set(number=1, a=1)
    configure(SHARDS=2)
    written = threading.Event()

    def write() -> None:
        try:
            Item.buffered.set(number=1, a=2)
            written.set()
        finally:
            connections.close_all()

    thread = threading.Thread(target=write)

    def hook(reached: str) -> None:
        if reached == "change.closed":
            thread.start()
        if reached == "change.made":
            assert not written.wait(0.1)

    monkeypatch.setattr(checkpoints, "hook", hook)
    assert divide(Item.buffered) == ""
    thread.join()
    assert written.is_set()
    assert Item.buffered.get(number=1).a == 2
    drained()
    assert Item.objects.get().a == 2


class TestAProcessThatKnowsTheOldShards:
    """Another one has changed them, and written since."""

    @pytest.fixture(autouse=True, params=[0, 60])
    def old(self, request, database, redis_server, configure) -> Iterator[None]:
        configure(CACHE_SECONDS=request.param)
        old, self.new = processes(1, 4)
        with old.running():
            Item.buffered.set_many([{"number": n, "a": 1} for n in range(8)])
            Item.buffered.set(number=1, a=Add(1), once="name")
            Visit.buffered.append(event=1, email="old")
            Item.buffered.get_many(range(8))
            know(*BUFFERS)
            for buffer in BUFFERS:
                with self.new.running():
                    assert divide(buffer) == ""
            with self.new.running():
                Item.buffered.set_many([{"number": n, "a": 5, "b": "new"} for n in range(8)])
                Item.buffered.set(number=2, a=Add(1), once="other")
                Visit.buffered.append(event=1, email="new")
                Setting.buffered.of(site=1)["x"] = 3
                Line.buffered.append(text="new")
            yield
            drained()

    def test_reads_what_is_pending(self):
        assert Item.buffered.get(number=1).a == 5

    def test_reads_many(self):
        assert {row.a for row in Item.buffered.get_many(range(8)).values()} == {5, 6}

    def test_reads_metadata(self):
        assert dict(Setting.buffered.of(site=1)) == {"x": 3}

    def test_overlays(self):
        assert {row.a for row in Item.buffered.overlay(Item.objects.all())} == {5, 6}

    def test_overlays_what_was_stored_meanwhile(self):
        queryset = Item.objects.all()
        with self.new.running():
            Item.buffered.flush()
        assert {row.b for row in Item.buffered.overlay(queryset)} == {"new"}

    def test_loads(self):
        assert {row.a for row in BufferedQuerySet(Item).all()} == {5, 6}

    def test_updates(self):
        BufferedQuerySet(Item).filter(number=1).update(b="updated")
        assert Item.buffered.get(number=1).b == "updated"
        Item.buffered.flush()
        assert Item.objects.get(number=1).b == "updated"

    def test_counts(self):
        assert Item.buffered.count_pending() == 8

    def test_lists(self):
        assert len(Item.buffered.pending()) == 8

    def test_counts_for_people(self):
        assert status_of(Item.buffered).pending == 8

    def test_has_something_to_flush(self):
        assert is_held(Item.buffered)

    def test_flushes(self):
        assert Item.buffered.flush().rows == 8
        assert Item.objects.get(number=1).a == 5

    def test_flushes_a_row(self):
        Item.buffered.flush(number=1)
        assert Item.objects.get(number=1).a == 5

    def test_flushes_rows_for_others(self):
        flush_rows(Item.buffered, ["1"])
        assert Item.objects.get(number=1).a == 5

    def test_discards(self):
        assert Item.buffered.discard(number=1) == 1
        assert Item.buffered.get(number=1).a == 2

    def test_saves(self):
        row = Item.objects.get(number=1)
        row.b = "saved"
        row.save()
        assert (Item.buffered.get(number=1).a, Item.buffered.get(number=1).b) == (5, "saved")
        Item.buffered.flush()
        assert Item.objects.get(number=1).b == "saved"

    def test_saves_what_was_read_there(self):
        with self.new.running():
            Item.buffered.flush()
            assert Item.buffered.get(number=1).b == "new"  # and there is a base now
        row = Item.objects.get(number=1)
        row.b = "saved"
        row.save()
        with self.new.running():
            assert Item.buffered.get(number=1).b == "saved"

    def test_deletes(self):
        Item.objects.get(number=1).delete()
        with pytest.raises(Item.DoesNotExist):
            Item.buffered.get(number=1)
        Item.buffered.flush()
        assert not Item.objects.filter(number=1).exists()

    def test_writes_if(self):
        assert Item.buffered.set_if({"a": 1}, number=1, a=7) is False
        assert Item.buffered.set_if({"a": 5}, number=1, a=7) is True

    def test_creates(self):
        with pytest.raises(AlreadyExists):
            Item.buffered.create(number=1)

    def test_appends(self):
        for email in ("old", "new"):
            with pytest.raises(AlreadyExists):
                Visit.buffered.append(event=1, email=email)

    def test_sees_records(self):
        window = Visit.buffered.window(None, None)
        assert {visit.email for visit in window} == {"old", "new"}
        assert [line.text for line in Line.buffered.window(None, None)] == ["new"]

    def test_repeats_a_call(self):
        for n, name in ((1, "name"), (2, "other")):
            Item.buffered.set(number=n, a=Add(1000), once=name)
        assert Item.buffered.get(number=1).a == 5
        assert Item.buffered.get(number=2).a == 6

    def test_pauses(self):
        pause(Item.buffered)
        with self.new.running(), pytest.raises(BufferPaused):
            Item.buffered.flush()
        resume(Item.buffered)

    def test_writes_in_a_loop(self):
        asyncio.run(Item.buffered.aset(number=1, a=8))
        assert Item.buffered.get(number=1).a == 8

    def test_writes_a_batch(self):
        with batch():
            Item.buffered.set(number=1, a=Add(1))
            Line.buffered.append(text="batch")
        assert Item.buffered.get(number=1).a == 6
        assert {line.text for line in Line.buffered.window(None, None)} == {"new", "batch"}


def test_a_change_that_takes_too_long(plain, configure, monkeypatch):
    """Somebody notices, and the process itself opens the shards again."""
    configure(SHARDS=1)
    Item.buffered.set(number=1)

    def hook(reached: str) -> None:
        if reached == "change.made":
            time.sleep(0.15)
            know(Item.buffered)

    monkeypatch.setattr(checkpoints, "hook", hook)
    configure(SHARDS=2)
    assert divide(Item.buffered) == "it took too long"
    assert shards_in_force(Item.buffered) == 1
    assert are_open(Item.buffered)


def test_numbers_go_on(plain, configure):
    """Also where those of the old shards are ahead of the clock: a fence compares them."""
    configure(SHARDS=1)
    Item.buffered.set(number=1)
    ahead = round((time.time() + 3600) * 1e6)
    begin_numbers_at(Item.buffered, ahead)
    earlier = Item.buffered.set(number=1, a=1)
    Item.buffered.flush()
    assert earlier.number > ahead
    configure(SHARDS=2)
    assert divide(Item.buffered) == ""
    later = Item.buffered.set(number=1, a=2)
    assert later.number > earlier.number
    assert earlier.where == "stored"
    assert later.where == "pending"


def test_numbers_of_batches_go_on(plain, configure):
    configure(SHARDS=2)
    ahead = round((time.time() + 3600) * 1e6)
    begin_batches_at(Item.buffered, ahead)
    Item.buffered.set_many([{"number": n} for n in range(9)])
    Item.buffered.flush()
    configure(SHARDS=1)
    assert divide(Item.buffered) == ""
    Item.buffered.set(number=1)
    Item.buffered.flush()
    uptos = AppliedBatch.objects.filter(upto__gt=0).order_by("pk").values_list("upto", flat=True)
    assert uptos.count() == 3
    assert AppliedBatch.objects.order_by("applied_at").last().upto == max(uptos)


def test_a_snapshot_without_the_last_batches_is_too_old(plain, configure):
    """The new shards say so by a token that was stored after these batches."""
    configure(SHARDS=2)
    Item.buffered.set_many([{"number": n} for n in range(9)])
    configure(SHARDS=3)
    assert divide(Item.buffered) == ""
    (token,) = acknowledged(Item.buffered)
    assert AppliedBatch.objects.order_by("applied_at").last().token == token


def test_a_read_after_a_change_asks_once(database, redis_server, configure, caplog):
    configure(SHARDS=2)
    Item.buffered.set(number=1, a=1)
    Setting.buffered.of(site=1)["x"] = 1
    configure(SHARDS=3)
    assert divide(Item.buffered) == divide(Setting.buffered) == ""
    Item.buffered.set(number=1, a=Add(1))
    Setting.buffered.of(site=1)["y"] = 1
    for read in (
        lambda: Item.buffered.get(number=1),
        lambda: Item.buffered.get_many([1, 2]),
        lambda: dict(Setting.buffered.of(site=1)),
    ):
        with CaptureQueriesContext(connections[database]) as queries:
            read()
        assert len(queries) == 1
    assert Item.buffered.get(number=1).a == 2
    assert not caplog.records


def test_counters_go_on(plain, configure):
    configure(SHARDS=3)
    Item.buffered.set_many([{"number": n} for n in range(9)])
    configure(SHARDS=2)
    assert divide(Item.buffered) == ""
    assert counted(Item.buffered, "accepted") == counted(Item.buffered, "flushed") == 9


def test_a_repeated_call_is_stored_meanwhile(plain, monkeypatch):
    """And the shard that knew its name is not in force any more."""
    old, new = processes(1, 2)
    met = []

    def hook(reached: str) -> None:
        if reached == "write.sending" and not met:
            met.append(reached)
            Item.buffered.set(number=1, a=Add(1), once="name")
            with new.running():
                assert divide(Item.buffered) == ""

    monkeypatch.setattr(checkpoints, "hook", hook)
    with old.running():
        Item.buffered.set(number=1, a=Add(1), once="name")
    assert met
    with new.running():
        drained()
    assert Item.objects.get().a == 1


def test_a_flusher_that_was_just_started(plain):
    """It has heard of no change, and its settings say a number that was never in force."""
    old, new, latest = processes(1, 2, 3)
    with old.running():
        Item.buffered.set(number=1)
    with new.running():
        assert divide(Item.buffered) == ""
        Item.buffered.set(number=1, a=1)
    with latest.running():
        assert is_held(Item.buffered)
        Item.buffered.flush()
    assert Item.objects.get().a == 1


@pytest.mark.parametrize("act", ["write", "delete"])
def test_rows_that_need_others(act, database, redis_server):
    """What a flusher needs besides its batch is in shards that it has not heard of."""
    related = (Team.buffered, Member.buffered)
    old, new = (Process(shards, *related) for shards in (1, 3))
    with old.running():
        Team.buffered.set_many([{"slug": "a", "title": "a"}, {"slug": "b", "title": "b"}])
        Team.buffered.flush()
        know(*related)
        with new.running():
            if act == "write":
                assert divide(Team.buffered) == ""
                Team.buffered.set(slug="c", title="new")
            else:
                assert divide(Member.buffered) == ""
                Member.buffered.set(slug="1", team="b", guest_of="a")
                Member.buffered.set(slug="1", guest_of=None)
                Member.buffered.set(slug="2", team="a")
        if act == "write":
            Member.buffered.set(slug="1", team="c")
            Member.buffered.flush()
            assert Member.objects.get().team_id == "c"
        else:
            Team.buffered.delete(slug="a")
            Team.buffered.flush()
            assert Team.objects.get().slug == "b"
        for buffer in related:
            buffer.flush()
            assert buffer.count_pending() == 0
    assert not DeadLetter.objects.exists()
    assert [member.slug for member in Member.objects.all()] == ["1"]


def test_a_pause_during_a_change(plain):
    old, new = processes(1, 2)

    def change() -> None:
        with new.running():
            assert divide(Item.buffered) == ""

    with old.running():
        pause(Item.buffered, change)
        Item.buffered.set(number=1)
        with pytest.raises(BufferPaused):
            Item.buffered.flush()


class TestCommand:
    @pytest.fixture(autouse=True)
    def one(self, plain, configure, monkeypatch) -> None:
        have_little_patience(monkeypatch)
        configure(SHARDS=1)
        Item.buffered.set(number=1)

    def test_it_puts_the_wished_number_in_force(self, configure, capsys):
        configure(SHARDS=3)
        call_command("writebehind_shards", "tests.Item")
        assert "tests.Item in 'default': 3 in force, 1 before\n" in capsys.readouterr().out
        call_command("writebehind_shards", "tests.Item")
        assert "tests.Item in 'default': 3 in force\n" in capsys.readouterr().out
        assert Item.objects.count() == 1

    def test_it_says_why_it_could_not(self, configure, capsys):
        Item.buffered.flush()
        pause(Item.buffered)
        configure(SHARDS=3)
        with pytest.raises(SystemExit) as end:
            call_command("writebehind_shards", "tests.Item")
        assert end.value.code == 1
        text = "tests.Item in 'default': 1 in force, and not 3: it is paused."
        assert text in capsys.readouterr().err

    def test_all_buffers(self, configure, capsys):
        configure(SHARDS=2)
        call_command("writebehind_shards")
        assert "tests.Item in 'default': 2 in force, 1 before\n" in capsys.readouterr().out

    def test_without_redis(self, plain):
        plain.stop()
        try:
            with pytest.raises(CommandError, match="Redis cannot be used"):
                call_command("writebehind_shards", "tests.Item")
        finally:
            plain.start()

    def test_without_the_database(self, configure):
        def away(*args):
            raise OperationalError("no connection")

        Item.buffered.flush()
        configure(SHARDS=3)
        with (
            connections["default"].execute_wrapper(away),
            pytest.raises(CommandError, match=r"A database cannot be used: no connection\."),
        ):
            call_command("writebehind_shards", "tests.Item")
        assert shards_in_force(Item.buffered) == 1

    def test_without_buffers(self, monkeypatch, capsys):
        declare_only(monkeypatch)
        call_command("writebehind_shards")
        assert capsys.readouterr().out == "No model declares a buffer.\n"


class TestWhatIsInTheWay:
    @pytest.fixture(autouse=True)
    def two(self, plain, configure) -> None:
        configure(SHARDS=1, BATCH_SIZE=10)
        Item.buffered.set(number=1)
        configure(SHARDS=2)

    def test_a_pause(self):
        Item.buffered.flush()
        pause(Item.buffered)
        assert divide(Item.buffered) == "it is paused"
        assert shards_in_force(Item.buffered) == 1
        Item.buffered.set(number=2)
        assert not is_change_under_way(Item.buffered)

    def test_another_change(self, monkeypatch):
        have_changes_end_soon(monkeypatch, 5_000_000)
        found = []

        def hook(reached: str) -> None:
            if reached == "change.begun" and not found:
                found.append("")
                found[0] = divide(Item.buffered)

        monkeypatch.setattr(checkpoints, "hook", hook)
        assert divide(Item.buffered) == ""
        assert found == ["another change is under way"]

    def test_flushers_that_do_not_keep_up(self, monkeypatch):
        def hook(reached: str) -> None:
            if reached == "change.begun":
                Item.buffered.set_many([{"number": n} for n in range(11)])

        monkeypatch.setattr(checkpoints, "hook", hook)
        why = "more is pending than one batch takes: the flushers do not keep up"
        assert divide(Item.buffered) == why
        assert not is_change_under_way(Item.buffered)

    def test_shards_that_a_failed_change_has_closed(self):
        close(Item.buffered, "over")
        assert divide(Item.buffered) == ""
        assert shards_in_force(Item.buffered) == 2

    def test_changes_without_end(self, monkeypatch):
        """A write waits for some of them, and then goes around Redis or raises, as it is told."""
        close(Item.buffered, "over")
        have_a_change_under_way(monkeypatch, "over")
        with pytest.raises(BufferUnavailable, match="are being changed for too long"):
            Item.buffered.set(number=1)

    def test_a_redis_that_goes(self, plain):
        plain.stop()
        try:
            with pytest.raises(BufferUnavailable):
                divide(Item.buffered)
        finally:
            plain.start()
