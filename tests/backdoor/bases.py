"""Copies of stored rows, from which reads are answered."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import pytest

from writebehind_app.buffers.base import Buffer
from writebehind_app.database.bases import Passing
from writebehind_app.store.connection import client


def base_key(buffer: Buffer, id: str) -> str:
    return f"{buffer.shard_key_of(id)}:b:{id}"


def has_base(buffer: Buffer, id: str) -> bool:
    """Whether there is one, and not the lease for one."""
    return not (client().get(base_key(buffer, id)) or "?").startswith("?")


def seconds_left(buffer: Buffer, id: str) -> float:
    """For how long the base, or the lease, is kept."""
    return float(client().pttl(base_key(buffer, id))) / 1000


def expire_base(buffer: Buffer, id: str) -> None:
    client().delete(base_key(buffer, id))


def spoil_base(buffer: Buffer, id: str, how: str) -> None:
    """Somebody else writes over it."""
    key, kept = base_key(buffer, id), client()
    text = kept.get(key)
    match how:
        case "hash":
            kept.delete(key)
            kept.hset(key, "a", "b")
        case "cut":
            kept.set(key, text[:-3])
        case "other":
            kept.set(key, "no base")
        case "longer":
            kept.set(key, text + "]")
        case "narrow":
            kept.set(key, text[: text.index("[")] + "[[1]]")


def bytes_of_bases(buffer: Buffer) -> int:
    """The memory that all of them take, with what is known of them."""
    kept = client()
    keys = [
        key
        for shard in buffer.shard_keys()
        for key in (
            f"{shard}:bases",
            f"{shard}:bytes",
            *kept.scan_iter(match=f"{shard}:b:*", count=10_000),
        )
    ]
    return sum(kept.memory_usage(key, samples=0) or 0 for key in keys)


def die_before_the_end(patch: pytest.MonkeyPatch) -> None:
    """Processes that write past Redis die once they have committed."""
    patch.setattr(Passing, "end", lambda write: None)
    patch.setattr(Passing, "__call__", lambda write: None)


def forget_bases(patch: pytest.MonkeyPatch, buffer: Any) -> None:
    """The model has other columns from now on."""
    known = buffer.bases()
    format = copy(known.format)
    format.prefix = "another one,"
    other = replace(known, format=format, terms=known.terms._replace(prefix=format.prefix))
    patch.setattr(buffer, "bases", lambda: other)
    buffer._plans.clear()
