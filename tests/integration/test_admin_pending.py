"""The list of what is pending is read page by page from the index, however much there is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.admin import DASHBOARD, client, entries, page
from tests.models import Everything, Item, Line, Visit
from tests.servers import RedisServer
from writebehind_app.admin import pending
from writebehind_app.store import listing, lua
from writebehind_app.store.connection import client as redis_client
from writebehind_app.store.listing import Listed, Place

ITEMS = entries("tests.Item")


def walk(read: Callable[[Place | None], list[Listed]], size: int) -> Iterator[Listed]:
    """What is on all pages of that size."""
    after = None
    while True:
        found = read(after)
        assert len(found) <= size
        yield from found
        if len(found) < size:
            return
        after = found[-1].place


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("size", [1, 3, 50])
def test_pages_show_each_entry_once_and_in_order(redis_server, newest_first, size):
    Item.buffered.set_many([{"number": n, "a": n} for n in range(20)])
    keys, redis = Item.buffered.shard_keys(), redis_client()
    with redis_server.client(decode_responses=True) as raw:
        for key in keys:  # some are due at the very same time
            for id in raw.zrange(f"{key}:due", 0, 3):
                raw.zadd(f"{key}:due", {id: 1_700_000_000_000_000})

    def read(after: Place | None) -> list[Listed]:
        return listing.pending(redis, keys, size, newest_first=newest_first, after=after).rows

    found = list(walk(read, size))
    assert sorted(int(listed.entry.id) for listed in found) == list(range(20))
    places = [listed.place for listed in found]
    assert places == sorted(places, reverse=newest_first)


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_page_goes_on_where_its_last_entry_is_flushed(plain, newest_first):
    Item.buffered.set_many([{"number": n, "a": n} for n in range(10)])
    keys, redis = Item.buffered.shard_keys(), redis_client()
    first = listing.pending(redis, keys, 4, newest_first=newest_first).rows
    Item.buffered.flush(number=int(first[-1].entry.id))
    rest = listing.pending(redis, keys, 50, newest_first=newest_first, after=first[-1].place)
    ids = {listed.entry.id for listed in (*first, *rest.rows)}
    assert ids == {str(n) for n in range(10)}


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_of_a_log(plain, newest_first):
    for n in range(20):
        Visit.buffered.append(event=n, email="a@b.c")
    keys, redis = Visit.buffered.shard_keys(), redis_client()
    shard = Visit.buffered.shards()[0]
    batch = shard.claim("a" * 32, lease=60, size=2, due_only=False)
    shard.release("a" * 32, retry_in=60, error="no")

    def read(after: Place | None) -> list[Listed]:
        return listing.pending(redis, keys, 3, newest_first=newest_first, after=after).rows

    found = list(walk(read, 3))
    assert len(found) == 20 - len(batch.entries)
    places = [listed.place for listed in found]
    assert places == sorted(places, reverse=newest_first)
    flying = list(walk(lambda after: listing.in_flight(redis, keys, 1, after=after).rows, 1))
    assert [listed.entry.no for listed in flying] == [entry.no for entry in batch.entries]
    assert flying[0].attempts == 1
    assert flying[0].error == "no"
    places = [(row.place.shard, row.entry.no) for row in (flying[0], found[0])]
    records = listing.records(redis, keys, [(0, 1), *places])
    assert records == [(True, flying[0]), (False, found[0])]


def test_pages_of_what_is_in_flight(redis_server):
    Item.buffered.set_many([{"number": n, "a": n} for n in range(20)])
    keys, redis = Item.buffered.shard_keys(), redis_client()
    claimed = [
        entry.id
        for shard in Item.buffered.shards()
        for entry in shard.claim("a" * 32, lease=60, size=3, due_only=False).entries
    ]
    found = walk(lambda after: listing.in_flight(redis, keys, 2, after=after).rows, 2)
    assert [listed.entry.id for listed in found] == claimed


def test_what_is_long_is_not_read_for_a_list(plain):
    key = "00000000-0000-0000-0000-000000000001"
    long = "x" * 1_000_000
    Everything.buffered.set(key=key, text=long, json=[long], binary=long.encode(), integer=5)
    (listed,) = listing.pending(redis_client(), Everything.buffered.shard_keys(), 50).rows
    assert len(str(listed.entry)) < 1000
    assert Everything.buffered.layout().columns["json"].decode(listed.entry.texts["json"]) == "…"
    Visit.buffered.append(event=1, email="a@b.c", details={"long": long})
    (listed,) = listing.pending(redis_client(), Visit.buffered.shard_keys(), 50).rows
    assert len(str(listed.entry)) < 1000
    admin = client("view")
    assert len(page(admin, entries("tests.Everything"))) < 50_000
    assert rows(page(admin, entries("tests.Visit"))) == ["event=1, email=a@b.c"]
    path = re.search(r'href="([^"]*/entry/[^"]*)"', page(admin, entries("tests.Visit")))[1]
    assert "…" in page(admin, path)
    assert f"{'x' * 300}…" in page(admin, f"{entries('tests.Everything')}entry/", id=f'"{key}"')


def rows(text: str) -> list[str]:
    return re.findall(r"<th scope=\"row\"><a [^>]*>(.*?)</a>", text)


def states(text: str) -> list[str]:
    return re.findall(r"<td><span class=\"wb-state wb-(\w+)", text)


def test_filters_of_state_and_age(plain, configure):
    admin = client("view")
    configure(MAX_AGE=60)
    Item.buffered.set_many([{"number": n, "a": n} for n in range(4)])
    at = lua.now(redis_client())
    age(plain, {0: at - 100_000_000, 1: at - 30_000_000})

    assert rows(page(admin, ITEMS)) == ["number=0", "number=1", "number=2", "number=3"]
    assert rows(page(admin, ITEMS, order="newest"))[-1] == "number=0"
    assert states(page(admin, ITEMS)) == ["due", "waiting", "waiting", "waiting"]
    assert rows(page(admin, ITEMS, state="due")) == ["number=0"]
    assert rows(page(admin, ITEMS, state="waiting", order="newest"))[-1] == "number=1"
    assert len(rows(page(admin, ITEMS, state="waiting"))) == 3
    assert rows(page(admin, ITEMS, age="10")) == ["number=0", "number=1"]
    assert rows(page(admin, ITEMS, age="60", order="newest")) == ["number=0"]
    assert rows(page(admin, ITEMS, age="10", state="waiting")) == ["number=1"]
    assert rows(page(admin, ITEMS, age="3600")) == []


def test_an_age_is_found_behind_many_that_are_younger(plain, configure, monkeypatch):
    """With `quiet`, what is due first is not always what came first."""
    monkeypatch.setattr(pending, "PAGE", 3)
    configure(MAX_AGE=3600, QUIET=1)
    Item.buffered.set_many([{"number": n, "a": n} for n in range(40)])
    at = lua.now(redis_client())
    with plain.client(decode_responses=True) as redis:
        for number in (38, 39):  # old, and written to all the time
            key = Item.buffered.shard_key_of(str(number))
            no, writes, _, _, row, relative = redis.hget(f"{key}:e:{number}", "@").split()
            head = f"{no} {writes} {at - 60_000_000} {at} {row} {relative}"
            redis.hset(f"{key}:e:{number}", "@", head)
            redis.zadd(f"{key}:due", {str(number): at + 900_000})
    admin, path, found = client("view"), ITEMS, []
    query = {"age": "10"}
    for _ in range(20):
        text = page(admin, path, **query)
        found += rows(text)
        further = re.search(r'href="(\?[^"]*)">(Look further|Next page)', text)
        if not further:
            break
        assert "There is nothing like that.<" not in text
        path, query = ITEMS + further[1], {}
    assert sorted(found) == ["number=38", "number=39"]


def test_a_filter_that_is_none_leaves_the_others(plain, configure):
    configure(MAX_AGE=60)
    Item.buffered.set(number=1, a=1)
    assert rows(page(client("view"), ITEMS, state="nonsense", age="10")) == []
    assert rows(page(client("view"), ITEMS, state="nonsense")) == ["number=1"]


def age(server: RedisServer, since: dict[int, int]) -> None:
    """As if entries had been written at these times, with a max_age of a minute."""
    with server.client(decode_responses=True) as redis:
        for number, micros in since.items():
            key = Item.buffered.shard_key_of(str(number))
            no, writes, _, _, row, relative = redis.hget(f"{key}:e:{number}", "@").split()
            head = f"{no} {writes} {micros} {micros} {row} {relative}"
            redis.hset(f"{key}:e:{number}", "@", head)
            redis.zadd(f"{key}:due", {str(number): micros + 60_000_000})


def test_filters_of_a_log(plain, configure):
    admin = client("view")
    configure(MAX_AGE=0.2)
    Line.buffered.append(text="old")
    time.sleep(0.3)
    Line.buffered.append(text="new")
    lines = entries("tests.Line")
    assert states(page(admin, lines)) in (["due", "waiting"], ["due", "due"])
    assert states(page(admin, lines, state="due"))[0] == "due"
    configure(MAX_AGE=60)
    assert states(page(admin, lines, state="waiting")) == ["waiting", "waiting"]
    assert not states(page(admin, lines, state="due"))
    assert not states(page(admin, lines, age="10"))


def test_pages_in_the_browser(plain, monkeypatch):
    monkeypatch.setattr(pending, "PAGE", 8)
    admin = client("view")
    Item.buffered.set_many([{"number": n, "a": n} for n in range(20)])
    seen, path = [], ITEMS
    for _ in range(3):
        text = page(admin, path)
        seen += rows(text)
        following = re.search(r'href="(\?[^"]*after=[^"]+)">Next page', text)
        path = ITEMS + following[1] if following else ""
    assert path == ""
    assert sorted(seen) == sorted(f"number={n}" for n in range(20))
    assert "First page" in text


@pytest.mark.slow
def test_a_page_costs_the_same_however_much_is_pending(cost, configure):
    """With 20,000 entries, each page stays within what a click may cost."""
    configure(MAX_PENDING=10_000_000)
    admin = client(superuser=True)
    Item.buffered.set(number=1, a=1)
    few = cost(admin, ITEMS)
    for start in range(2, 20_002, 5000):
        Item.buffered.set_many([{"number": n, "a": n} for n in range(start, start + 5000)])
    paths = [ITEMS, f"{ITEMS}?order=newest", f"{ITEMS}?age=10", f"{ITEMS}?state=due"]
    paths += [f"{ITEMS}entry/?id=500", f"{DASHBOARD}flush/"]
    for path in paths:
        commands, queries, seconds = cost(admin, path)
        assert commands < 30, path
        assert queries < 20, path
        assert seconds < 3, path  # on a loaded machine
    assert cost(admin, ITEMS)[:2] == few[:2]


@pytest.fixture
def cost(plain, monkeypatch) -> Callable[[Client, str], tuple[int, int, float]]:
    """`cost(admin, path)`: how many commands of Redis and queries a page takes, and how long."""
    sent: list[str | int] = []
    exchange = lua.exchange

    def counting(client: Any, commands: Any, **options: Any) -> Any:
        sent.extend(command[0] for command in commands)
        return exchange(client, commands, **options)

    monkeypatch.setattr(lua, "exchange", counting)

    def measure(admin: Client, path: str) -> tuple[int, int, float]:
        sent.clear()
        with CaptureQueriesContext(connection) as queries:
            started = time.monotonic()
            assert admin.get(path).status_code == 200
            return len(sent), len(queries), time.monotonic() - started

    return measure
