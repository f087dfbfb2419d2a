"""Every verb has a twin that gives the same and does not block the event loop."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from tests.models import Item, Owner, Pair
from writebehind_app import RowBuffer, steps

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
        [(e.key, e.values, e.delete, e.writes) for e in verbs("pending", limit=2)],
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
        bad = await Pair.buffered.aset(owner=404, name="y")
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

    monkeypatch.setattr(steps, "hook", slow)
    receipts = async_to_sync(both)()
    assert [receipt.where for receipt in receipts] == ["pending", "pending"]
    assert [receipt.id for receipt in receipts] == ["1", "2"]
    assert ticks >= 10
    assert {e.key["number"]: e.values for e in Item.buffered.pending()} == {
        1: {"a": 1},
        2: {"a": 2},
    }


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
