"""A process that writes while nobody flushes says so, once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.core.management import call_command

from tests.backdoor.breaker import look_at_what_is_overdue
from tests.backdoor.calls import NotSent, intercept
from tests.backdoor.entries import make_older
from tests.backdoor.limits import limit
from tests.models import Item, Visit
from writebehind_app import Add


def write_many() -> None:
    Item.buffered.set_many([{"number": 2}, {"number": 3}])


def write_from_a_loop() -> None:
    asyncio.run(Item.buffered.aset(number=2))


WRITES: list[Callable[[], Any]] = [
    lambda: Item.buffered.set(number=2, a=Add(1)),
    lambda: Item.buffered.create(number=2),
    write_many,
    write_from_a_loop,
]


@pytest.fixture(autouse=True)
def one_shard(configure: Callable[..., None]) -> None:
    """A look is at the shards that were written to."""
    configure(SHARDS=1)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    def said() -> list[str]:
        found = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        caplog.clear()
        return found

    return said


@pytest.mark.parametrize("write", WRITES)
def test_it_is_logged(redis_server, said, database, write):
    Item.buffered.set(number=1)
    make_older(Item.buffered, 31)
    look_at_what_is_overdue()
    write()
    (text,) = said()
    assert text.startswith("tests.Item: the oldest pending entry has waited for 31 s")
    assert "manage.py writebehind_doctor" in text


def test_of_a_log(plain, said, configure, monkeypatch):
    configure(LEASE=0.001, MAX_AGE=0.001)
    limit(monkeypatch, overdue_slack=-0.01)
    Visit.buffered.append(event=1, email="a")
    look_at_what_is_overdue()
    Visit.buffered.append(event=1, email="b")
    assert "tests.Visit: " in said()[0]


def test_once_until_it_was_flushed(plain, said):
    def look() -> list[str]:
        look_at_what_is_overdue()
        Item.buffered.set(number=1)
        return said()

    look()
    make_older(Item.buffered, 31)
    assert len(look()) == 1
    assert look() == []
    Item.buffered.flush()
    assert look() == []
    make_older(Item.buffered, 31)
    assert len(look()) == 1


def test_a_look_is_a_round_trip_a_minute(plain, trips, said):
    Item.buffered.set(number=1)
    make_older(Item.buffered, 31)
    trips.clear()
    look_at_what_is_overdue()
    for _ in range(5):
        Item.buffered.set(number=1)
    assert trips == [1, 1, *[1] * 4]


@pytest.mark.parametrize("age", [5, 29])
def test_what_may_wait_is_not(plain, said, age):
    Item.buffered.set(number=1)
    make_older(Item.buffered, age)
    look_at_what_is_overdue()
    Item.buffered.set(number=1)
    assert said() == []


def test_nor_what_is_paused(plain, said):
    Item.buffered.set(number=1)
    make_older(Item.buffered, 400)
    call_command("writebehind_pause", "tests.Item", verbosity=0)
    said()
    look_at_what_is_overdue()
    Item.buffered.set(number=1)
    assert said() == []


def test_a_redis_that_goes_in_between_does_not_matter(plain, said, monkeypatch):
    def around(name: str, call: Callable[[], Any]) -> Any:
        if name == "count":
            raise NotSent(redis.ConnectionError("gone"))
        return call()

    Item.buffered.set(number=1)
    make_older(Item.buffered, 400)
    intercept(monkeypatch, around)
    look_at_what_is_overdue()
    Item.buffered.set(number=1, a=5)
    assert said() == []
    assert Item.buffered.get(number=1).a == 5
