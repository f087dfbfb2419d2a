"""Copies of stored rows, from which reads are answered."""

from __future__ import annotations

from writebehind_app.buffers.base import Buffer
from writebehind_app.store.connection import client


def bases() -> list[str]:
    """What Redis has copies of: a name for each."""
    return [key for key in client().scan_iter(count=1000) if ":c:" in key]


def spoil(base: str, text: str) -> None:
    client().set(base, text)


def spoil_type(base: str) -> None:
    client().delete(base)
    client().rpush(base, "a list")


def let_read(buffer: Buffer) -> None:
    """The time for which no copy is read, after a row changed past its buffer, is over."""
    client().delete(f"{buffer.shard_keys()[0]}:dry")
