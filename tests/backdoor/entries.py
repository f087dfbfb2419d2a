"""Pending entries as Redis has them: an entry is a hash of texts by field, and of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha1
from typing import Any, Literal

import redis
from redis.crc import key_slot

from tests.backdoor.connection import raw
from writebehind_app import LogBuffer
from writebehind_app.buffers.base import Buffer
from writebehind_app.fields.entry import Entry, entry_of
from writebehind_app.store import codec
from writebehind_app.store.connection import client

TIME = 16  # digits ahead of a text
OLD = "1" * TIME  # the time of a text of 2005
FIRST, LAST = "#", "@"  # the names of the numbers of its first and its last write


def made(n: int) -> Entry:
    """An entry that no Redis has seen, of the row n, with the number n."""
    return entry_of(str(n), {"a": "1"}, n)


def of_reply(id: str, reply: Sequence[str]) -> Entry:
    """The entry that Redis answers with."""
    found = codec.entry(id, reply)
    assert found is not None
    return found


def id_of(buffer: Any, **key: Any) -> str:
    """What names the entries of a row, an entity, or a record with unique fields."""
    if isinstance(buffer, LogBuffer):
        return ",".join(column.encode(key[column.name]) for column in buffer.unique_columns())
    return buffer._id(key)


def digest(id: bytes) -> str:
    """By which a dead letter is found of an entry with that id."""
    text = id.decode(errors="backslashreplace")
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


def place(buffer: Buffer, id: str) -> str:
    """The key of a pending entry."""
    return f"{buffer.shard_key_of(id)}:e:{id}"


def pending_ids(buffer: Buffer) -> list[list[str]]:
    """By shard, what is pending, in the order in which it is due."""
    return [client().zrange(f"{key}:due", 0, -1) for key in buffer.shard_keys()]


def every_id(server: redis.Redis) -> set[str]:
    """The ids of all pending entries, where they have no colon; of a client that reads texts."""
    return {key.rpartition(":")[2] for key in server.scan_iter("*:e:*", count=1000)}


def entries_in(server: redis.Redis) -> int:
    """How many entries, pending and in flight, a Redis has, and how many records."""
    entries = sum(len(server.keys(f"*:{kind}:*")) for kind in ("e", "f"))
    return entries + sum(map(server.xlen, server.keys("*:log")))


def assert_apart(buffer: Buffer, ids: list[str]) -> None:
    """Each id has an entry of its own, on the shard that it belongs to."""
    assert len(set(ids)) == len(ids)
    with raw() as bytes_of:
        found = {key for key in bytes_of.scan_iter(count=1000) if b":e:" in key}
    assert found == {place(buffer, id).encode() for id in ids}
    for id in ids:
        shard = buffer.shard_key_of(id)
        assert key_slot(place(buffer, id).encode()) == key_slot(shard.encode())


# As if time had passed


def make_older(buffer: Buffer, seconds: float) -> None:
    """As if all pending entries had been written earlier."""
    for id in (id for ids in pending_ids(buffer) for id in ids):
        client().hincrby(place(buffer, id), FIRST, -round(seconds * 1e6))


def set_times(buffer: Buffer, id: str, *, first: float, last: float, due: float) -> None:
    """As if the first and the last write of an entry had come at these times, and it were due
    then: in seconds from now."""
    seconds, micros = client().time()
    now = seconds * 1_000_000 + micros
    times = {FIRST: now + round(first * 1e6), LAST: now + round(last * 1e6)}
    client().hset(place(buffer, id), mapping=times)
    set_due(buffer, {id: now + round(due * 1e6)})


def set_due(buffer: Buffer, at: Mapping[str, float]) -> None:
    """When entries are due, by their ids, in µs since 1970."""
    with client().pipeline() as pipe:
        for id, micros in at.items():
            pipe.zadd(f"{buffer.shard_key_of(id)}:due", {id: micros})
        pipe.execute()


def forget_due(buffer: Buffer, id: str) -> None:
    """Nothing says any more that the entries of that shard are due some time."""
    client().delete(f"{buffer.shard_key_of(id)}:due")


# What somebody else writes


def put_text(buffer: Buffer, id: str, field: str, text: str, *, old: bool = False) -> None:
    """Write the text of a field as no call would: with the time of the text that is there, or a
    time of long ago."""
    before = None if old else client().hget(place(buffer, id), field)
    client().hset(place(buffer, id), field, (before or OLD)[:TIME] + text)


def put_merge(buffer: Buffer, id: str, field: str, key: str, text: str) -> None:
    """Write a Merge of a key into a field, with a time of long ago."""
    texts = {f"+{field}": f"{OLD},{OLD},&,", f'&{field}:"{key}"': OLD + text}
    client().hset(place(buffer, id), mapping=texts)


def put_number(buffer: Buffer, id: str, number: str) -> None:
    """Write the number of the last write as no call would."""
    client().hset(place(buffer, id), LAST, number)


def remove(buffer: Buffer, id: str) -> None:
    """The entry is gone, although it is due some time."""
    client().delete(place(buffer, id))


Planted = Literal["without a number", "with a text that is no value", "of another type", "nothing"]


def plant(buffer: Buffer, id: str, what: Planted, *, due: float | str) -> None:
    """Put what no call would write into each shard, and have it due then."""
    for shard in buffer.shard_keys():
        key = f"{shard}:e:{id}"
        match what:
            case "without a number":
                client().hset(key, "x", "<i>")
            case "with a text that is no value":
                client().hset(key, mapping={FIRST: OLD, LAST: OLD, "a": OLD + "x"})
            case "of another type":
                client().set(key, "x")
        client().zadd(f"{shard}:due", {id: due})


def plant_copy(buffer: Buffer, id: str, other: str) -> None:
    """Have the numbers of an entry under another id, too."""
    numbers = zip((FIRST, LAST), client().hmget(place(buffer, id), FIRST, LAST), strict=True)
    client().hset(place(buffer, other), mapping=dict(numbers))
    set_due(buffer, {other: 1})


def plant_in_index(buffer: Buffer, ids: Mapping[str, float]) -> None:
    """Ids without entries, due at these times, in the first shard."""
    client().zadd(f"{buffer.shard_keys()[0]}:due", dict(ids))
