"""How the buffers are doing: what waits, what was done, what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from django.db import Error
from django.db.models import Count

from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.models import DeadLetter
from writebehind_app.store import server
from writebehind_app.store import shard as store
from writebehind_app.store.client import Client


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
    counters: Mapping[str, int]  # see store/shard.py


def read(client: Client, buffers: Sequence[Declaration]) -> list[Status]:
    """How the buffers are doing; `BufferUnavailable` where Redis cannot be used."""
    shards = store.overview(client, [key for buffer in buffers for key in buffer.shard_keys()])
    letters = dead_letters(buffers)
    found = []
    for buffer in buffers:
        own = [shards[key] for key in buffer.shard_keys()]
        counters: Counter[str] = Counter(dict.fromkeys(store.COUNTERS, 0))
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


def of_redis(client: Client) -> dict[str, Any]:
    """What the server says of itself. Nothing in it is secret."""
    try:
        info = server.info(client)
    except redis.RedisError as error:
        raise BufferUnavailable(f"Redis: {error}") from error
    names = ("redis_version", "valkey_version", "used_memory", "maxmemory", "connected_clients")
    known = {name: info[name] for name in (*names, "maxmemory_policy") if name in info}
    return {"address": server.address(client), **known}


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
