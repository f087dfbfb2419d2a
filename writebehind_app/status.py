"""How the buffers are doing: what waits, what was done, what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from django.db import Error
from django.db.models import Count

from writebehind_app import registry
from writebehind_app.database.divided import renew
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.models import DeadLetter
from writebehind_app.store import server, state
from writebehind_app.store.client import Client
from writebehind_app.store.connection import client


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a buffer is doing."""

    label: str
    pending: int  # entries, without those in flight
    in_flight: int
    oldest_seconds: float  # that the oldest of all these has waited; 0 where there is none
    dead_letters: int | None  # None where the database does not say
    paused: bool
    attempts: int  # how often a batch in flight failed so far, of the shard where that was most
    seconds: float  # that the last batch took, of the shard where that was longest
    counters: Mapping[str, int]  # see store/state.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """A Redis that cannot be used."""

    address: str  # without the password
    buffers: Sequence[Declaration]  # that are on it
    problem: BufferUnavailable


@dataclass(frozen=True, slots=True)
class Look:
    """How some buffers are doing, as far as each Redis of them answers."""

    found: Sequence[Status]  # of the buffers that are on these:
    answering: Sequence[Client]
    away: Sequence[Away]


def look(buffers: Sequence[Declaration]) -> Look:
    """How the buffers are doing. A Redis that cannot be used is no error: the buffers on the others
    are found."""
    found: list[Status] = []
    answering, away = [], []
    for group in registry.by_server(buffers):
        its = client().server_of(group[0].redis_key())
        try:
            found += read(its, group)
        except BufferUnavailable as error:
            away.append(Away(address=server.address(its), buffers=group, problem=error))
        else:
            answering.append(its)
    order = {buffer.label: i for i, buffer in enumerate(buffers)}
    return Look(sorted(found, key=lambda one: order[one.label]), answering, away)


def read(client: Client, buffers: Sequence[Declaration]) -> list[Status]:
    """How the buffers are doing; `BufferUnavailable` where Redis cannot be used."""
    renew(buffers, to_write=False)
    every = {buffer: buffer.every_shard() for buffer in buffers}
    shards = state.overview(client, [shard for own in every.values() for shard in own])
    letters = dead_letters(buffers)
    found = []
    for buffer in buffers:
        own = [shards[shard.key] for shard in every[buffer]]
        counters: Counter[str] = Counter(dict.fromkeys(state.COUNTERS, 0))
        for shard in own:
            counters.update(shard.counters)
        found.append(
            Status(
                label=buffer.label,
                pending=sum(shard.pending for shard in own),
                in_flight=sum(shard.in_flight for shard in own),
                oldest_seconds=round(max(shard.oldest for shard in own), 3),
                dead_letters=letters[buffer.label],
                paused=any(shard.paused for shard in own),
                attempts=max(shard.attempts for shard in own),
                seconds=max(shard.took for shard in own),
                counters=dict(counters),
            )
        )
    return found


def no_database(one: Status) -> str:
    """What it means that nothing is known of the dead letters."""
    return (
        f"{one.label}: its database cannot be used, or lacks the tables of writebehind, which "
        "manage.py migrate makes."
    )


_ADDED = ("used_memory", "maxmemory", "connected_clients")


def of_redis(servers: Sequence[Client]) -> dict[str, Any]:
    """What the servers tell about themselves: those that buffers name, and the masters of a
    cluster. Nothing in it is secret."""
    try:
        infos = [server.info(node) for each in servers for node in each.nodes()]
    except redis.RedisError as error:
        raise BufferUnavailable(f"Redis: {error}") from error
    names = ("redis_version", "valkey_version", *_ADDED, "maxmemory_policy")
    known = {
        name: sum(info.get(name, 0) for info in infos) if name in _ADDED else infos[0][name]
        for name in names
        if name in infos[0]
    }
    return {"address": "; ".join(map(server.address, servers)), **known}


def dead_letters(buffers: Sequence[Declaration]) -> dict[str, int | None]:
    by_database: dict[str, list[str]] = {}
    for buffer in buffers:
        by_database.setdefault(buffer.layout().using, []).append(buffer.label)
    found: dict[str, int | None] = {}
    for using, labels in by_database.items():
        letters = DeadLetter.objects.using(using).order_by().filter(buffer__in=labels)
        try:
            counts = dict(letters.values_list("buffer").annotate(Count("pk")))
        except Error:
            found |= dict.fromkeys(labels)
        else:
            found |= {label: counts.get(label, 0) for label in labels}
    return found
