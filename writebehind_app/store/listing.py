"""Pages of the entries in the shards of a buffer.

They are read from indexes: a page costs the same, however many entries there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from writebehind_app.fields.entry import Entry
from writebehind_app.store import codec, lua
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors
from writebehind_app.store.keys import unique_id_field


class Place(NamedTuple):
    """The place of an entry in the list over all shards; see scripts/page.lua."""

    at: int
    shard: int
    id: str


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry on a page."""

    place: Place
    entry: Entry
    attempts: int  # how often its batch has failed
    error: str  # the last error of its batch


class Page(NamedTuple):
    rows: list[Listed]
    stopped: Place | None = None  # where the search gave up; None if it came to the end


_ALIKE = 1000  # the most ids to fetch that are due at the same time
LOOKED_AT = 20_000  # entries of a shard that one search looks at: Redis is busy meanwhile
LONGEST = 10_000  # characters of a text in a list; longer ones are replaced by a mark


def pending(
    client: Client,
    keys: Sequence[str],
    size: int,
    *,
    is_log: bool = False,
    least: int | None = None,
    greatest: int | None = None,
    newest_first: bool = False,
    after: Place | None = None,
    beginning: str = "",
    longest: int = LONGEST,
) -> Page:
    """The pending entries that are due from `least` to `greatest` (µs), in this order.

    This takes one round trip. With a `beginning`, only entries whose ids begin with it are found.
    The index is sorted by time, so this search looks through it, and may give up early. A text
    longer than `longest` is replaced by a mark, unless `longest` is 0.
    """
    calls: list[tuple[str | int, ...]] = []
    for number, key in enumerate(keys):
        low, high = str(_or(least, "-inf")), str(_or(greatest, "+inf"))
        before = ""
        if after is not None:
            # Entries that are due at the same time are sorted by shard.
            is_passed = number > after.shard if newest_first else number < after.shard
            bound = f"({after.at}" if is_passed else str(after.at)
            low, high = (low, bound) if newest_first else (bound, high)
            before = after.id if number == after.shard else ""
        reverse = "1" if newest_first else ""
        which = ("pending", size, reverse, low, high, before, beginning, LOOKED_AT, longest)
        calls.append((key, *which))
    pages = _pages(client, calls, range(len(keys)), is_log)
    rows = [listed for page in pages for listed in page.rows]
    rows.sort(key=lambda listed: listed.place, reverse=newest_first)
    stops = [page.stopped for page in pages if page.stopped]
    if not stops:
        return Page(rows[:size])
    # Beyond the first stop, that shard may have entries that nobody has looked at.
    stopped = (max if newest_first else min)(stops)
    rows = [row for row in rows if (row.place >= stopped if newest_first else row.place <= stopped)]
    return Page(rows[:size], stopped)


def in_flight(
    client: Client,
    keys: Sequence[str],
    size: int,
    *,
    is_log: bool = False,
    after: Place | None = None,
    beginning: str = "",
    failed: bool = False,
    longest: int = LONGEST,
) -> Page:
    """The entries in flight, shard by shard, in one round trip. With `failed`, only those of
    batches that have failed."""
    first = after.shard if after else 0
    calls: list[tuple[str | int, ...]] = []
    for number in range(first, len(keys)):
        least = after.at + 1 if after and number == first else "-inf"
        which = ("in_flight", size, "", least, "+inf", "", beginning, 0, longest)
        calls.append((keys[number], *which))
    pages = _pages(client, calls, range(first, len(keys)), is_log)
    rows = [listed for page in pages for listed in page.rows if listed.attempts or not failed]
    return Page(rows[:size])


def records(
    client: Client, keys: Sequence[str], places: Sequence[tuple[int, int]]
) -> list[tuple[bool, Listed]]:
    """The records with these shards and numbers, and whether each of them is in flight."""
    asked = [(place, which) for place in places for which in ("pending", "in_flight")]
    calls: list[tuple[str | int, ...]] = [
        (keys[shard], which, 1, "", no, no, "", "", 0, LONGEST) for (shard, no), which in asked
    ]
    pages = _pages(client, calls, [shard for (shard, _), _ in asked], True) if calls else []
    return [
        (which == "in_flight", listed)
        for ((_, no), which), page in zip(asked, pages, strict=True)
        for listed in page.rows
        if listed.entry.since == no
    ]


def ids_at(client: Client, key: str, at: int) -> list[str]:
    """The ids of the pending entries that are due exactly at this time; the first `_ALIKE`."""
    with errors:
        found: list[str] = lua.call(
            client, "ZRANGEBYSCORE", f"{key}:due", at, at, "LIMIT", 0, _ALIKE, again=True
        )
    return found


def record_number(client: Client, key: str, id: str) -> int | None:
    """The number of the pending record with this unique id, or None."""
    with errors:
        found = lua.call(client, "HGET", *unique_id_field(key, id), again=True)
    return int(found) if found and re.fullmatch("[0-9]{1,18}", found) else None


def _pages(
    client: Client, calls: Sequence[tuple[str | int, ...]], numbers: Sequence[int], is_log: bool
) -> list[Page]:
    with errors:
        replies = lua.run_many(client, "page_records" if is_log else "page", calls)
    decode = codec.decoder(is_log=is_log)
    pages = []
    for number, (attempts, error, stopped, *found) in zip(numbers, replies, strict=True):
        rows = [
            Listed(Place(_micros(place), number, id), entry, attempts, error)
            for id, place, flat in found
            if (entry := decode(id, flat))
        ]
        stop = Place(_micros(stopped[1]), number, stopped[0]) if stopped else None
        pages.append(Page(rows, stop))
    return pages


def _or(number: int | None, default: str) -> int | str:
    return default if number is None else number


def _micros(place: str) -> int:
    """A score of the index as a whole number; 0 if it is infinite."""
    found = float(place)
    return int(found) if math.isfinite(found) else 0
