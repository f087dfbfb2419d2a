"""The records of a log, and their unique ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from writebehind_app.fields.entry import Entry
from writebehind_app.store import codec, lua
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors
from writebehind_app.store.keys import unique_id_field
from writebehind_app.store.link import Command

PAGE = 5000  # records that are read at a time
PAGE_BYTES = 1_000_000  # and no more after so many bytes


def are_taken(client: Client, ids: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether records with these unique ids are pending or in flight, by shard and id."""
    commands: list[Command] = [("HEXISTS", *unique_id_field(key, id)) for key, id in ids]
    with errors:
        return [bool(reply) for reply in lua.run_commands(client, commands)]


class Found(NamedTuple):
    """What a shard has in a window."""

    records: Sequence[Entry]
    closed: str  # why the shard is not open, or ""


def window(
    client: Client, keys: Sequence[str], since: int | None, until: int | None
) -> dict[str, Found]:
    """The records of each shard, in flight or pending, whose times may be in [since, until). The
    bounds are in µs; None for no bound.

    It takes one round trip, and one more for each further page of a shard, so that nobody else
    waits long for Redis. A record that leaves Redis between two pages is in the database by then.
    """
    last = None if until is None else until - 1
    first_no = "-" if since is None else max(since, 0)  # no record was appended before 1970
    last_no = "+" if last is None else max(last, 0)
    times = ("-inf" if since is None else since, "+inf" if last is None else last)
    found: dict[str, dict[int, Entry]] = {key: {} for key in keys}
    calls: list[tuple[str | int, ...]] = [
        (key, PAGE, PAGE_BYTES, first_no, last_no, "times", *times) for key in keys
    ]
    closed = dict.fromkeys(keys, "")
    rest: dict[str, list[str]] = {key: [] for key in keys}  # numbers that were not asked for yet
    while calls:
        with errors:
            replies = lua.run_many(client, "window", calls)
        asked, calls = [str(key) for key, *_ in calls], []
        for key, (go_on, left, records, why) in zip(asked, replies, strict=True):
            closed[key] = closed[key] or why
            entries = [codec.record(id, flat) for id, flat in records]
            found[key] |= {entry.since: entry for entry in entries}
            more = [no for no in left + rest[key] if int(no) not in found[key]]
            if go_on or more:
                rest[key] = more[PAGE:]
                calls.append((key, PAGE, PAGE_BYTES, go_on, last_no, "numbers", *more[:PAGE]))
    return {
        key: Found(sorted(entries.values(), key=lambda entry: entry.since), closed[key])
        for key, entries in found.items()
    }
