"""Which keys of Redis are the package's, and which of them expire."""

from __future__ import annotations

import re
from typing import Any

import redis

from tests.servers import lasting_keys
from writebehind_app.buffers.base import Buffer

LOOKALIKES = (":e:1", "}:due", "{wb:x:1}", "planted 1 1")
"""Values that look like parts of keys."""

OF_THE_PROJECT = b"{wb:shop.Ticket:default:0}:e:1"
"""A key of the same Redis, of a project and not of its tests."""


def beginning(label: str = "", *, prefix: str = "wb") -> str:
    """What every key of a test begins with; of one buffer, by its label."""
    return f"{{{prefix}:test:{label}"


def are_those_of_shards(keys: set[Any], buffer: Buffer) -> bool:
    """Whether these are the state of each shard of a buffer, and who wrote to it, and how many
    shards there are, and no more."""
    kept = {f"{key}{part}" for key in buffer.shard_keys() for part in ("", ":senders")}
    for alias in buffer.databases():
        with buffer.in_database(alias):
            kept.add(buffer.redis_key())
    return keys == {key.encode() for key in kept}


def data(server: redis.Redis) -> set[Any]:
    """All keys but those by which Redis knows a call that comes twice."""
    found = {_bytes(key): key for key in server.scan_iter()}
    return {key for name, key in found.items() if b":once:" not in name and b":senders" not in name}


def entries(server: redis.Redis) -> set[Any]:
    """What writes, or records, left."""
    return {key for key in server.scan_iter() if re.search(b":(e|log|senders)", _bytes(key))}


def without_probe(server: redis.Redis) -> set[Any]:
    """All keys but the mark by which a process finds a Redis that was away."""
    return {key for key in server.scan_iter() if b":probe" not in _bytes(key)}


def of_measurement(server: redis.Redis) -> set[Any]:
    """What lasts of `writebehind_bench`."""
    return {key for key in lasting_keys(server) if b"bench" in _bytes(key)}


def of_hints(server: redis.Redis) -> set[Any]:
    """The marks that somebody was told to flush an entry at once."""
    return set(server.scan_iter("*:told:*"))


def has_shard_of(server: redis.Redis, receipt: Any) -> bool:
    """Whether a Redis, as a replica, has the shard of a write."""
    return bool(server.exists(receipt.shard))


def is_doctors_key_there(server: redis.Redis) -> bool:
    """Whether the doctor left the key behind on which it tries what the user may do."""
    return bool([*server.scan_iter("*:doctor*")])


def _bytes(key: Any) -> bytes:
    return key if isinstance(key, bytes) else key.encode()
