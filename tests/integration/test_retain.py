"""The option `retain`: for a while after a flush, what it wrote is read from Redis alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections

from tests.backdoor.bases import bases, let_read, spoil, spoil_type
from tests.backdoor.batches import claim, claim_and_die, end_lease
from tests.backdoor.flushes import die_before_acknowledgement
from tests.models import Counter, Everything, Item, Note, Owner, Pair
from tests.router import current
from writebehind_app import Add, steps
from writebehind_app.database import deadletters
from writebehind_app.models import DeadLetter


class Died(BaseException):
    pass


@pytest.fixture(autouse=True)
def retaining(configure: Callable[..., None]) -> None:
    configure(RETAIN=60, WHEN_DOWN="raise", WHEN_FULL="raise", SHARDS=1)


@contextmanager
def statements() -> Iterator[list[str]]:
    """Those that are executed."""
    found: list[str] = []

    def note(execute: Any, sql: str, *args: Any) -> Any:
        found.append(sql)
        return execute(sql, *args)

    with connections[current()].execute_wrapper(note):
        yield found


class TestServed:
    def test_a_row_after_its_flush(self, database, redis_server):
        Item.objects.create(number=1, b="stored")
        Item.buffered.set(number=1, a=Add(3))
        Item.buffered.set(number=2, f=Decimal("1.5"))
        Item.buffered.flush()
        with statements() as found:
            rows = Item.buffered.get_many([1, 2])
            assert Item.buffered.get(number=1).a == 3
        assert found == []
        for number, row in rows.items():
            assert vars(row).keys() == vars(Item.objects.get(number=number)).keys()
            stored = Item.objects.get(number=number)
            for field in Item._meta.concrete_fields:
                assert getattr(row, field.attname) == getattr(stored, field.attname), field
            assert row._state.db == stored._state.db
            assert not row._state.adding

    def test_every_kind_of_field(self, database, redis_server):
        owner = Owner.objects.create(name="o")
        Everything.buffered.set(
            key="12345678-1234-5678-1234-567812345678",
            integer=1,
            json={"a": [None]},
            binary=b"\0\xff",
            decimal=Decimal("1.500000"),
            datetime="2026-01-02T03:04:05.000006Z",
            duration="1 00:00:01",
            time="01:02:03",
            owner=owner,
            file="a/b.txt",
            ip="::1",
        )
        Everything.buffered.flush()
        stored = Everything.objects.get()
        with statements() as found:
            row = Everything.buffered.get(key=stored.key)
        assert found == []
        for field in Everything._meta.concrete_fields:
            ours, theirs = (getattr(each, field.attname) for each in (row, stored))
            assert ours == theirs or bytes(ours) == bytes(theirs), field

    def test_metadata(self, database, redis_server):
        note = Note.buffered.of(page="p", owner=Owner.objects.create(name="o"))
        note.update(a=1, b={"x": None})
        note.flush()
        note["b"] = 2
        note.flush()
        with statements() as found:
            assert dict(note) == {"a": 1, "b": 2}
        assert found == []

    def test_no_longer_than_so(self, plain, configure):
        configure(RETAIN=0.05)
        Item.buffered.set(number=1, a=1)
        Item.buffered.flush()
        assert len(bases()) == 1
        time.sleep(0.06)
        assert bases() == []
        assert Item.buffered.get(number=1).a == 1

    def test_not_where_it_is_not_asked_for(self, plain, configure):
        configure(RETAIN=0)
        Item.buffered.set(number=1, a=1)
        Item.buffered.flush()
        assert bases() == []

    @pytest.mark.parametrize("option", ["WHEN_DOWN", "WHEN_FULL"])
    def test_not_where_a_write_may_go_around_redis(self, plain, configure, option):
        configure(**{option: "direct"})
        Item.buffered.set(number=1, a=1)
        Item.buffered.flush()
        assert bases() == []


class TestNeverStale:
    @pytest.fixture(autouse=True)
    def copied(self, retaining: None, database: str, redis_server: Any) -> None:
        Item.buffered.set(number=1, a=1, b="x")
        Item.buffered.flush()
        assert len(bases()) == 1

    def test_what_is_pending_counts(self):
        Item.buffered.set(number=1, a=Add(1))
        assert Item.buffered.get(number=1).a == 2
        Item.buffered.discard(number=1)
        assert Item.buffered.get(number=1).a == 1

    @pytest.mark.parametrize("step", ["flush.claimed", "flush.token", "flush.committed"])
    def test_what_is_in_flight_counts(self, step, monkeypatch):
        Item.buffered.set(number=1, a=Add(1))

        def die(reached: str) -> None:
            if reached == step:
                raise Died

        monkeypatch.setattr(steps, "hook", die)
        with pytest.raises(Died):
            Item.buffered.flush()
        monkeypatch.setattr(steps, "hook", None)
        assert Item.buffered.get(number=1).a == 2
        end_lease(Item.buffered)
        Item.buffered.flush()  # which only acknowledges, where the batch is committed
        assert Item.buffered.get(number=1).a == 2
        assert Item.objects.get().a == 2

    def test_a_flush_of_who_keeps_none_drops_them(self, configure):
        Item.buffered.set(number=1, a=2)
        configure(RETAIN=0)
        Item.buffered.flush()
        configure(RETAIN=60)
        assert Item.buffered.get(number=1).a == 2

    def test_a_delete(self):
        Item.buffered.delete(number=1)
        Item.buffered.flush()
        assert Item.buffered.get_many([1]) == {}

    def test_a_discard_of_a_batch_that_is_in_flight(self, configure):
        Item.buffered.set(number=1, a=5)
        claim(Item.buffered, lease=0.001)
        time.sleep(0.01)
        assert Item.buffered.discard() == 1
        assert Item.buffered.get(number=1).a == 1

    def test_a_batch_with_a_refused_entry(self):
        owner = Owner.objects.create(name="o")
        Pair.objects.create(owner=owner, name="there", note="taken")
        Pair.buffered.set(owner=owner, name="a", value=1)
        Pair.buffered.flush()
        Pair.buffered.set(owner=owner, name="a", value=2)
        Pair.buffered.set(owner=owner, name="b", note="taken")
        assert Pair.buffered.flush().dead_letters == 1
        found = Pair.buffered.get_many([(owner, "a"), (owner, "b")])
        assert {name: row.value for (_, name), row in found.items()} == {"a": 2}

    @pytest.fixture
    def letter(self, copied: None) -> Callable[[], None]:
        """Retries a dead letter, of a row whose copy may be read."""
        Counter.objects.create(name="n", big=2**63 - 1)
        Counter.buffered.set(name="n", big=Add(1))
        assert Counter.buffered.flush().dead_letters == 1
        Counter.objects.filter(name="n").update(big=5)

        def retry() -> None:
            letter = DeadLetter.objects.get()
            assert deadletters.retry(Counter.buffered, [letter.pk]) == (1, 0)

        let_read(Counter.buffered)
        return retry

    def test_a_dead_letter_that_is_retried(self, letter):
        Counter.buffered.set(name="n", small=1)
        Counter.buffered.flush()
        assert Counter.buffered.get(name="n").big == 5
        letter()
        assert Counter.buffered.get(name="n").big == 6

    def test_a_dead_letter_that_is_retried_while_a_batch_is_in_flight(self, letter, monkeypatch):
        """Which has read the row before, and is acknowledged late."""
        Counter.buffered.set(name="n", small=1)

        def hook(reached: str) -> None:
            if reached == "flush.committed":
                letter()
                let_read(Counter.buffered)

        monkeypatch.setattr(steps, "hook", hook)
        Counter.buffered.flush()
        counter = Counter.buffered.get(name="n")
        assert (counter.big, counter.small) == (6, 1)

    def test_a_copy_that_cannot_be_read_is_none(self):
        (base,) = bases()
        for text in ("", "x", "[]", '[["1"]]', "[[]]", "null"):
            spoil(base, text)
            assert Item.buffered.get(number=1).a == 1
        spoil_type(base)
        assert Item.buffered.get(number=1).a == 1
        Item.buffered.set(number=1, a=2)
        Item.buffered.flush()
        assert Item.buffered.get(number=1).a == 2


def test_any_story(plain, rng):
    """Whatever is written, flushed, discarded or taken over: a read is what is there."""
    state: dict[int, int | None] = dict.fromkeys(range(4))
    pending: dict[int, int | None] = {}
    served = 0

    def read() -> dict[int, int | None]:
        rows = Item.buffered.get_many(range(4))
        return {number: rows[number].a if number in rows else None for number in range(4)}

    for _ in range(300):
        number = rng.randrange(4)
        match rng.choice(["set", "add", "delete", "flush", "claim", "commit", "discard", "read"]):
            case "set":
                value = rng.randrange(100)
                Item.buffered.set(number=number, a=value)
                pending[number] = value
            case "add":
                Item.buffered.set(number=number, a=Add(1))
                before = pending[number] if number in pending else state[number]
                pending[number] = (before or 0) + 1
            case "delete":
                Item.buffered.delete(number=number)
                pending[number] = None
            case "flush":
                Item.buffered.flush()
                state |= pending
                pending.clear()
            case "commit":  # and die
                with pytest.MonkeyPatch.context() as patch, suppress(Died):
                    die_before_acknowledgement(patch, Died())
                    Item.buffered.flush()
                assert read() == {**state, **pending}
                end_lease(Item.buffered)
                Item.buffered.flush()
                state |= pending
                pending.clear()
            case "claim":
                claim_and_die(Item.buffered)
            case "discard":
                Item.buffered.discard()
                pending.clear()
        assert read() == {**state, **pending}
        served += len(bases())
    assert served > 50
