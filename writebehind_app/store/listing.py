"""Pages of what the shards of a buffer hold, read from their indexes: however much there is, a page
costs what is on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import redis

from writebehind_app.store import codec, lua
from writebehind_app.store.codec import Entry
from writebehind_app.store.connection import errors


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


def pending(
    client: redis.Redis,
    keys: Sequence[str],
    size: int,
    *,
    least: int | None = None,
    greatest: int | None = None,
    newest_first: bool = False,
    after: Place | None = None,
) -> list[Listed]:
    """The pending entries that are due from one time to another, in µs, in that order, in one
    round trip."""
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
        calls.append((key, "pending", size, reverse, low, high, before))
    found = [listed for page in _pages(client, calls, range(len(keys))) for listed in page]
    return sorted(found, key=lambda listed: listed.place, reverse=newest_first)[:size]


def in_flight(
    client: redis.Redis, keys: Sequence[str], size: int, *, after: Place | None = None
) -> list[Listed]:
    """The entries in flight, shard by shard, in one round trip."""
    first = after.shard if after else 0
    calls: list[tuple[str | int, ...]] = []
    for number in range(first, len(keys)):
        least = after.at + 1 if after and number == first else "-inf"
        calls.append((keys[number], "in_flight", size, "", least, "+inf", ""))
    pages = _pages(client, calls, range(first, len(keys)))
    return [listed for page in pages for listed in page][:size]


def record(client: redis.Redis, keys: Sequence[str], no: int) -> tuple[bool, Listed] | None:
    """The record of a log with that number, if there is one, and whether it is in flight."""
    calls: list[tuple[str | int, ...]] = [
        (key, which, 1, "", no, no, "") for which in ("pending", "in_flight") for key in keys
    ]
    pages = _pages(client, calls, [*range(len(keys))] * 2)
    for i, page in enumerate(pages):
        if page and page[0].entry.no == no:
            return i >= len(keys), page[0]
    return None


def _pages(
    client: redis.Redis, calls: Sequence[tuple[str | int, ...]], numbers: Sequence[int]
) -> list[list[Listed]]:
    with errors:
        replies = lua.run_many(client, "page", calls)
    return [
        [
            Listed(Place(_micros(place), number, id), entry, attempts, error)
            for id, place, flat in found
            if (entry := codec.entry(id, flat))
        ]
        for number, (attempts, error, *found) in zip(numbers, replies, strict=True)
    ]


def _or(number: int | None, default: str) -> int | str:
    return default if number is None else number


def _micros(place: str) -> int:
    """A place as a whole number; somebody else may have given an entry any."""
    found = float(place)
    return int(found) if math.isfinite(found) else 0
