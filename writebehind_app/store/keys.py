"""Where things live in Redis."""

from __future__ import annotations

from hashlib import sha1
from zlib import crc32


def shard_key(prefix: str, label: str, number: int) -> str:
    """The key of a shard's state, and the beginning of all its other keys.

    The braces make it a hash tag: on a cluster, all keys of a shard are on one node, so that a
    script can take the others from this one.

    {wb:app.Model:3}          hash    state: token and lease of the batch in flight, counters
    {wb:app.Model:3}:due      zset    ids of pending entries by the time they are due
    {wb:app.Model:3}:e:<id>   hash    a pending entry
    {wb:app.Model:3}:flight   list    ids of the batch in flight
    {wb:app.Model:3}:f:<id>   hash    an entry in flight
    {wb:app.Model:3}:w:*      hash    what became of the last calls of a writer
    {wb:app.Model:3}:told:*   string  that somebody was told to flush an entry at once; these two
                                      expire, as they are nothing that is to be stored
    {wb:app.Model:3}:c:<id>   string  what is stored, for reads; see scripts/ack.lua. It expires, as
    {wb:app.Model:3}:dry      string  does this: no copies are read

    and of a log, in place of those

    {wb:app.Model:3}:log      stream  the records in flight, then the pending ones, by their number
    {wb:app.Model:3}:taken:*  hash    which of them holds a unique id, by its digest
    {wb:app.Model:3}:times    zset    numbers of those whose time was given, by that time
    """
    return f"{{{prefix}:{label}:{number}}}"


def taken_place(key: str, id: str) -> tuple[str, str]:
    """The hash of a log, and the field of it, that hold a unique id; as append.lua has it."""
    digest = sha1(id.encode(), usedforsecurity=False).hexdigest()
    return f"{key}:taken:{digest[:3]}", digest[3:24]


def place_key(prefix: str, name: str) -> str:
    """The key of what is no buffer's: a place that one process has at a time, or 'samples', of how
    much waited. It expires."""
    return f"{{{prefix}:{name}}}"


def label_and_number(key: str) -> tuple[str, int]:
    """The label and the number that a shard's key was made of."""
    _, label, number = key.strip("{}").rsplit(":", 2)
    return label, int(number)


def shard_number(id: str, shards: int) -> int:
    """The shard an id belongs to, the same in every process and release."""
    return crc32(id.encode()) % shards
