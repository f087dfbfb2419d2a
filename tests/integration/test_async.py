"""Every verb has a twin that gives the same and does not block the event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ValidationError
from django.db import transaction

from tests.models import Item, Line, Owner, Pair, Setting
from writebehind_app import Add, RowBuffer, batch, checkpoints
from writebehind_app.exceptions import BufferFull, BufferUnavailable

VERBS = (
    "set",
    "set_many",
    "get",
    "get_many",
    "delete",
    "overlay",
    "pending",
    "count_pending",
    "flush",
    "discard",
)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_a_twin(verb):
    assert inspect.iscoroutinefunction(getattr(RowBuffer, f"a{verb}"))
    assert not inspect.iscoroutinefunction(getattr(RowBuffer, verb))


def _play(verbs: Any) -> list[Any]:
    """What each verb says, in a play with all of them. `verbs(name, …)` calls one."""

    def seen(value: Any) -> Any:
        match value:
            case Item():
                return value.number, value.a, value.b
            case dict():
                return {key: seen(item) for key, item in value.items()}
            case list():
                return [seen(item) for item in value]
            case _:
                return value

    Item.objects.create(number=1, a=1, b="stored")
    said = [
        verbs("set", number=1, a=2).where,
        [receipt.where for receipt in verbs("set_many", [{"number": 2, "a": 2}, Item(number=3)])],
        seen(verbs("get", number=1)),
        seen(verbs("get_many", [1, 2, 9])),
        seen(verbs("overlay", Item.objects.all())),
        verbs("delete", number=3).where,
        [(e.key, e.values, e.delete) for e in verbs("pending", limit=2)],
        verbs("count_pending"),
        verbs("discard", number=2),
        verbs("flush", number=1).rows,
        verbs("flush").rows,
        verbs("count_pending"),
        verbs("discard"),
    ]
    with pytest.raises(Item.DoesNotExist):
        verbs("get", number=2)
    return [*said, seen(list(Item.objects.all()))]


def test_the_twins_give_the_same(plain):
    def call(verb: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(Item.buffered, verb)(*args, **kwargs)

    def call_twin(verb: str, *args: Any, **kwargs: Any) -> Any:
        return async_to_sync(getattr(Item.buffered, f"a{verb}"))(*args, **kwargs)

    expected = _play(call)
    Item.objects.all().delete()
    with plain.client() as client:
        client.flushall()
    assert _play(call_twin) == expected
    assert expected[2] == (1, 2, "stored")


def test_a_receipt_can_be_asked_on_the_loop(plain):
    async def use() -> None:
        owner = await Owner.objects.acreate(name="anna")
        good = await Pair.buffered.aset(owner=owner, name="x")
        bad = await Pair.buffered.aset(owner=404404, name="y")
        assert await good.awhere() == "pending"
        assert not await good.await_(0.05)
        waiting = asyncio.create_task(good.await_(10))
        await Pair.buffered.aflush()
        assert await waiting
        assert await good.apersisted()
        assert await good.adead() is None
        assert await bad.awhere() == "dead"
        assert "404" in await bad.adead()
        assert not await bad.apersisted()
        assert not await bad.await_(10)

    async_to_sync(use)()


def test_a_twin_is_the_verb_of_the_subclass(plain):
    class Loud(RowBuffer):
        def get(self, /, **key: Any) -> Any:
            return "loud"

    assert async_to_sync(Loud(key="number").aget)(number=1) == "loud"


def test_two_on_one_loop_and_the_loop_goes_on(plain, monkeypatch):
    ticks = 0

    def slow(step: str) -> None:
        if step == "write.sending":
            time.sleep(0.2)

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def both() -> list[Any]:
        ticking = asyncio.create_task(tick())
        try:
            return await asyncio.gather(
                Item.buffered.aset(number=1, a=1), Item.buffered.aset(number=2, a=2)
            )
        finally:
            ticking.cancel()

    monkeypatch.setattr(checkpoints, "hook", slow)
    receipts = async_to_sync(both)()
    assert [receipt.where for receipt in receipts] == ["pending", "pending"]
    assert [receipt.id for receipt in receipts] == ["1", "2"]
    assert ticks >= 10
    assert {e.key["number"]: e.values for e in Item.buffered.pending()} == {
        1: {"a": 1},
        2: {"a": 2},
    }


@pytest.fixture
def sent_by(monkeypatch) -> list[int]:
    """The threads that sent writes to Redis."""
    found: list[int] = []

    def note(step: str) -> None:
        if step == "write.sending":
            found.append(threading.get_ident())

    monkeypatch.setattr(checkpoints, "hook", note)
    return found


def test_plain_writes_are_sent_by_the_loop_itself(plain, sent_by):
    async def write() -> list[str]:
        receipts = [
            await Item.buffered.aset(number=1, a=Add(1), b="ä"),
            *await Item.buffered.aset_many([{"number": 2, "a": 2}, Item(number=3, a=3)]),
            await Line.buffered.aappend(text="a"),
            await Setting.buffered.of(site=1).aupdate({"color": 7}, size=Add(2)),
        ]
        return [await receipt.awhere() for receipt in receipts]

    assert asyncio.run(write()) == ["pending"] * 5
    assert sent_by == [threading.get_ident()] * 4
    rows = Item.buffered.get_many([1, 2, 3])
    assert {n: (row.a, row.b) for n, row in rows.items()} == {1: (1, "ä"), 2: (2, ""), 3: (3, "")}
    assert [line.text for line in Line.buffered.window()] == ["a"]
    assert dict(Setting.buffered.of(site=1)) == {"color": 7, "size": 7}


def test_what_the_loop_writes_is_checked(plain):
    for write in (
        Item.buffered.aset(number=1, a="x"),
        Item.buffered.aset_many([{"number": 1, "a": "x"}]),
    ):
        with pytest.raises(ValidationError, match="'a'"):
            asyncio.run(write)


def test_a_redis_that_is_away(plain, configure):
    plain.stop()
    configure(WHEN_DOWN="direct")
    assert asyncio.run(Item.buffered.aset(number=1, a=1)).direct
    assert [r.direct for r in asyncio.run(Item.buffered.aset_many([{"number": 2, "a": 2}]))]
    assert {row.number: row.a for row in Item.objects.all()} == {1: 1, 2: 2}
    configure(WHEN_DOWN="raise")
    for write in (
        Item.buffered.aset(number=1, a=3),
        Item.buffered.aset_many([{"number": 1, "a": 3}]),
        Line.buffered.aappend(text="a"),
    ):
        with pytest.raises(BufferUnavailable):
            asyncio.run(write)


def test_a_buffer_that_is_full(plain, configure):
    configure(MAX_PENDING=1, SHARDS=1, WHEN_FULL="raise")

    async def write() -> None:
        await Item.buffered.aset(number=1)
        with pytest.raises(BufferFull):
            await Item.buffered.aset(number=2)
        assert (await Item.buffered.aset(number=1, a=1)).id == "1"

    asyncio.run(write())


def test_a_batch_holds_what_a_loop_writes(plain, sent_by):
    async def write() -> None:
        async with batch():
            receipt = await Item.buffered.aset(number=1, a=1)
            assert await receipt.awhere() == "held"
            assert not sent_by
        assert await receipt.awhere() == "pending"

    asyncio.run(write())


def test_the_transaction_of_who_waits_for_the_loop_holds_its_writes(plain, sent_by):
    with transaction.atomic():
        receipt = async_to_sync(Item.buffered.aset)(number=1, a=1)
        assert receipt.where == "held"
        assert not sent_by
    assert receipt.where == "pending"


def test_code_of_the_project_runs_in_a_thread(plain, monkeypatch):
    ran_in = []

    def clean(values: dict[str, Any]) -> dict[str, Any]:
        ran_in.append(threading.get_ident())
        return values | {"a": Owner.objects.count()}

    monkeypatch.setattr(Item.buffered, "clean", clean)
    asyncio.run(Item.buffered.aset(number=1))
    asyncio.run(Item.buffered.aset_many([{"number": 2}]))
    assert len(ran_in) == 2
    assert threading.get_ident() not in ran_in


def test_rows_that_come_from_the_database_are_read_in_a_thread(plain):
    Item.objects.create(number=1, a=1)
    receipts = asyncio.run(Item.buffered.aset_many(Item.objects.all()))
    assert [receipt.id for receipt in receipts] == ["1"]


def test_many_on_one_loop(plain):
    async def write(n: int) -> int:
        await Item.buffered.aset(number=n % 10, a=n)
        return (await Item.buffered.aget(number=n % 10)).a

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*(write(n) for n in range(100)))

    seen = async_to_sync(all_of_them)()
    assert all(a >= n and a % 10 == n % 10 for n, a in enumerate(seen))
    async_to_sync(Item.buffered.aflush)()
    assert Item.objects.count() == 10
