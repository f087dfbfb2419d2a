"""Pages of what the shards of a buffer hold, read from their indexes: however much there is, a page
costs what is on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from writebehind_app.fields.entry import Entry
from writebehind_app.store import codec, lua
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors
from writebehind_app.store.keys import taken_place


class Place(NamedTuple):
    """Where an entry is in the list of all shards; see scripts/page.lua."""

    at: int
    shard: int
    id: str


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of a page."""

    place: Place
    entry: Entry
    attempts: int  # how often its batch failed so far
    error: str  # the last time


class Page(NamedTuple):
    rows: list[Listed]
    stopped: Place | None = None  # where the search for a beginning gave up; None at the end


_ALIKE = 1000  # entries that are due at the same time
LOOKED_AT = 20_000  # entries of a shard, in one search for a beginning: Redis waits for that


def pending(
    client: Client,
    keys: Sequence[str],
    size: int,
    *,
    least: int | None = None,
    greatest: int | None = None,
    newest_first: bool = False,
    after: Place | None = None,
    beginning: str = "",
) -> Page:
    """The pending entries that are due from one time to another, in µs, in that order, in one
    round trip. Of those whose ids have a `beginning`, as many as are found soon: the index is in
    the order of time, and is looked through."""
    calls: list[tuple[str | int, ...]] = []
    for number, key in enumerate(keys):
        low, high = str(_or(least, "-inf")), str(_or(greatest, "+inf"))
        before = ""
        if after is not None:
            # Of those that are due at the same time, the shards come in their order.
            is_passed = number > after.shard if newest_first else number < after.shard
            bound = f"({after.at}" if is_passed else str(after.at)
            low, high = (low, bound) if newest_first else (bound, high)
            before = after.id if number == after.shard else ""
        reverse = "1" if newest_first else ""
        calls.append((key, "pending", size, reverse, low, high, before, beginning, LOOKED_AT))
    pages = _pages(client, calls, range(len(keys)))
    rows = [listed for page in pages for listed in page.rows]
    rows.sort(key=lambda listed: listed.place, reverse=newest_first)
    stops = [page.stopped for page in pages if page.stopped]
    if not stops:
        return Page(rows[:size])
    # Beyond the first of these there may be others in between.
    stopped = (max if newest_first else min)(stops)
    rows = [row for row in rows if (row.place >= stopped if newest_first else row.place <= stopped)]
    return Page(rows[:size], stopped)


def in_flight(
    client: Client,
    keys: Sequence[str],
    size: int,
    *,
    after: Place | None = None,
    beginning: str = "",
    failed: bool = False,
) -> Page:
    """The entries in flight, shard by shard, in one round trip; `failed`, those of batches that
    failed."""
    first = after.shard if after else 0
    calls: list[tuple[str | int, ...]] = []
    for number in range(first, len(keys)):
        least = after.at + 1 if after and number == first else "-inf"
        calls.append((keys[number], "in_flight", size, "", least, "+inf", "", beginning, 0))
    pages = _pages(client, calls, range(first, len(keys)))
    rows = [listed for page in pages for listed in page.rows if listed.attempts or not failed]
    return Page(rows[:size])


def records(
    client: Client, keys: Sequence[str], places: Sequence[tuple[int, int]]
) -> list[tuple[bool, Listed]]:
    """The records that there are, of these shards and numbers; and of each, whether it is in
    flight."""
    asked = [(place, which) for place in places for which in ("pending", "in_flight")]
    calls: list[tuple[str | int, ...]] = [
        (keys[shard], which, 1, "", no, no, "", "", 0) for (shard, no), which in asked
    ]
    pages = _pages(client, calls, [shard for (shard, _), _ in asked]) if calls else []
    return [
        (which == "in_flight", listed)
        for ((_, no), which), page in zip(asked, pages, strict=True)
        for listed in page.rows
        if listed.entry.no == no
    ]


def ids_at(client: Client, key: str, at: int) -> list[str]:
    """The ids of pending entries that are due at that very time, as far as they may be many."""
    with errors:
        found: list[str] = lua.call(
            client, "ZRANGEBYSCORE", f"{key}:due", at, at, "LIMIT", 0, _ALIKE, again=True
        )
    return found


def record_number(client: Client, key: str, id: str) -> int | None:
    """The number of the pending record that has that unique id."""
    with errors:
        found = lua.call(client, "HGET", *taken_place(key, id), again=True)
    return int(found) if found and found.isdigit() else None


def _pages(
    client: Client, calls: Sequence[tuple[str | int, ...]], numbers: Sequence[int]
) -> list[Page]:
    with errors:
        replies = lua.run_many(client, "page", calls)
    pages = []
    for number, (attempts, error, stopped, *found) in zip(numbers, replies, strict=True):
        rows = [
            Listed(Place(_micros(place), number, id), entry, attempts, error)
            for id, place, flat in found
            if (entry := codec.entry(id, flat))
        ]
        stop = Place(_micros(stopped[1]), number, stopped[0]) if stopped else None
        pages.append(Page(rows, stop))
    return pages


def _or(number: int | None, default: str) -> int | str:
    return default if number is None else number


def _micros(place: str) -> int:
    """A place as a whole number; somebody else may have given an entry any."""
    found = float(place)
    return int(found) if math.isfinite(found) else 0
