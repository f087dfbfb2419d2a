"""The list of what is pending is read page by page from the index, however much there is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.admin import DASHBOARD, client, entries, page
from tests.backdoor.calls import round_trips
from tests.backdoor.entries import set_times
from tests.backdoor.limits import limit
from tests.models import Everything, Item, Line, Visit

ITEMS = entries("tests.Item")


def test_what_is_long_is_not_read_for_a_list(plain):
    key = "00000000-0000-0000-0000-000000000001"
    long = "x" * 1_000_000
    Everything.buffered.set(key=key, text=long, json=[long], binary=long.encode(), integer=5)
    Visit.buffered.append(event=1, email="a@b.c", details={"long": long})
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
    for number, seconds in ((0, -100), (1, -30)):
        set_times(Item.buffered, str(number), first=seconds, last=seconds, due=seconds + 60)

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
    limit(monkeypatch, admin_page=3)
    configure(MAX_AGE=3600, QUIET=1, SHARDS=4)
    Item.buffered.set_many([{"number": n, "a": n} for n in range(40)])
    for number in (38, 39):  # old, and written to all the time
        set_times(Item.buffered, str(number), first=-60, last=0, due=0.9)
    admin, path, found = client("view"), ITEMS, []
    query = {"age": "10"}
    for _ in range(20):
        text = page(admin, path, **query)
        found += rows(text)
        further = re.search(r'href="(\?[^"]*)">(Look further|Next page)', text)
        if not further:
            break
        assert "No entry matches.<" not in text
        path, query = ITEMS + further[1], {}
    assert sorted(found) == ["number=38", "number=39"]


def test_a_filter_that_is_none_leaves_the_others(plain, configure):
    configure(MAX_AGE=60)
    Item.buffered.set(number=1, a=1)
    assert rows(page(client("view"), ITEMS, state="nonsense", age="10")) == []
    assert rows(page(client("view"), ITEMS, state="nonsense")) == ["number=1"]


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


def test_pages_in_the_browser(plain, configure, monkeypatch):
    configure(SHARDS=4)
    limit(monkeypatch, admin_page=8)
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
    cost(admin, ITEMS)  # and Redis has the scripts
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
    trips = round_trips(monkeypatch)

    def measure(admin: Client, path: str) -> tuple[int, int, float]:
        trips.clear()
        with CaptureQueriesContext(connection) as queries:
            started = time.monotonic()
            assert admin.get(path).status_code == 200
            return sum(trips), len(queries), time.monotonic() - started

    return measure
