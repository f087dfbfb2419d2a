"""The records of a log as Redis has them: a stream a shard, and what is unique among them."""

from __future__ import annotations

from writebehind_app.buffers.base import Buffer
from writebehind_app.store.connection import client


def bytes_of_texts(buffer: Buffer) -> int:
    """How long the values of all pending records are, as texts."""
    return sum(
        len(text.encode())
        for key in buffer.shard_keys()
        for _, texts in client().xrange(f"{key}:log")
        for text in texts.values()
    )


def is_anything_noted(buffer: Buffer) -> bool:
    """Whether Redis notes unique values, or times that were given, of any record."""
    return any(
        [*client().scan_iter(f"{key}:taken:*")] or client().exists(f"{key}:times")
        for key in buffer.shard_keys()
    )
