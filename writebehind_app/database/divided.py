"""Ask all shards of a buffer, whichever division into shards is in force."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from writebehind_app.declaration import Declaration
from writebehind_app.store import divisions, reads
from writebehind_app.store.client import Client
from writebehind_app.store.connection import client
from writebehind_app.store.reads import Reading

_POLL = 0.02  # seconds between two looks at a change of the shards


def by_shard(buffer: Declaration, ids: Iterable[str]) -> dict[str, list[str]]:
    """The ids, by the keys of their shards."""
    found: dict[str, list[str]] = defaultdict(list)
    for id in ids:
        found[buffer.shard_key_of(id)].append(id)
    return found


def read(
    buffer: Declaration, ids: Iterable[str], *, patient: bool = False, **options: Any
) -> dict[str, Reading]:
    """What Redis holds for each id; the options as for `reads.read()`."""
    redis, ids, asked = client(patient=patient), [*ids], {}

    def ask() -> dict[str, Reading]:
        nonlocal asked
        asked = by_shard(buffer, ids)
        return reads.read(redis, asked, **options)

    readings = divisions.asked(redis, ask)
    return {id: readings[key] for key, own in asked.items() for id in own}


def on_all_shards(buffer: Declaration, act: Callable[[Client, Sequence[str]], bool]) -> bool:
    """Do something to all shards, and to those of a new division if they change meanwhile. Return
    whether it changed anything."""
    redis, changed = client(), False
    while True:
        before = _state_of(buffer)
        if before[1]:  # a change is under way
            time.sleep(_POLL)
            continue
        changed |= act(redis, [shard.key for shard in buffer.every_shard()])
        if _state_of(buffer) == before:
            return changed


def _state_of(buffer: Declaration) -> tuple[list[str], str]:
    """The shards in force, and the token of a change that is under way, or ""."""
    changes = renew([buffer])
    return [shard.key for shard in buffer.every_shard()], max(changes.values())


def renew(
    buffers: Iterable[Declaration], *, patient: bool = False, to_write: bool = True
) -> dict[str, str]:
    """Learn how the buffers are divided into shards now, for all their databases. Return the tokens
    of changes that are under way, or "". One round trip.

    Whoever asks all shards of a buffer calls this first: the shards of a division that is not in
    force any more hold nothing, and do not say so. With `to_write=False`, for those who only look,
    nothing changes in Redis.
    """
    return divisions.renew(client(patient=patient), _first(buffers), to_write=to_write)


def learn(buffers: Iterable[Declaration], *, patient: bool = False) -> None:
    """Do the same for buffers whose division this process does not know yet. Mostly there are
    none, and Redis is not asked."""
    first, known = _first(buffers), divisions.known.divisions
    if unknown := {key: shards for key, shards in first.items() if key not in known}:
        divisions.renew(client(patient=patient), unknown)


def _first(buffers: Iterable[Declaration]) -> dict[str, int]:
    """By the keys of the buffers: how many shards the first division has."""
    first: dict[str, int] = {}
    for buffer in buffers:
        for alias in buffer.databases():
            with buffer.in_database(alias):
                first[buffer.redis_key()] = buffer.option("SHARDS")
    return first
