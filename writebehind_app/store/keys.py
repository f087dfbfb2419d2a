"""The names of the keys in Redis."""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple
from zlib import crc32


class Division(NamedTuple):
    """How a buffer is divided into shards."""

    shards: int
    number: int = 0  # of two divisions of a buffer, the later one has the greater one


def buffer_key(prefix: str, label: str, alias: str) -> str:
    """The key that says which division of a buffer is in force."""
    return f"{{{prefix}:{label}:{alias}}}"


def shard_key(buffer: str, number: int, division: Division) -> str:
    """The key of a shard's state, and the beginning of all its other keys: see docs/protocol.md.

    The braces make it a hash tag: on a cluster, all keys of a shard are on one node, so that a
    script can take the others from this one.
    """
    later = f".{division.number}" if division.number else ""
    return f"{buffer[:-1]}:{number}/{division.shards}{later}}}"


def unique_id_field(key: str, id: str) -> tuple[str, str]:
    """The hash of a log, and the field in it, that hold a unique id; as in append.lua."""
    digest = sha1(id.encode(), usedforsecurity=False).hexdigest()
    return f"{key}:taken:{digest[:3]}", digest[3:24]


def shared_key(prefix: str, name: str) -> str:
    """A key that belongs to no buffer: of a lock, or of a trial of the doctor or the breaker."""
    return f"{{{prefix}:{name}}}"


def parts_of(key: str) -> tuple[str, str, int]:
    """The label, the alias and the number that a shard's key was made of."""
    _, label, alias, name = key.strip("{}").rsplit(":", 3)
    return label, alias, int(name.partition("/")[0])


def division_of(key: str) -> tuple[str, Division]:
    """The key of the buffer of a shard, and the division that the shard is of."""
    buffer, _, name = key.strip("{}").rpartition(":")
    shards, _, number = name.partition("/")[2].partition(".")
    return f"{{{buffer}}}", Division(int(shards), int(number or 0))


def shard_number(id: str, shards: int) -> int:
    """The shard an id belongs to, the same in every process and release."""
    return crc32(id.encode()) % shards
