"""How much waited over the last hour, as Redis keeps it for the charts."""

from __future__ import annotations

import json

from writebehind_app import sampling
from writebehind_app.store.connection import client


def seconds_left() -> int:
    """Until the samples expire."""
    return client().ttl(sampling.key())


def plant(minutes_ago: int, at_minutes_ago: int, of: dict[str, tuple[int, int]]) -> None:
    """In the slot of a minute, a sample that says that it is of another one (or of that one):
    by the label, how many entries waited, and ms of the oldest."""
    minute = int(client().time()[0]) // 60
    sample = {"at": minute - at_minutes_ago, "of": of}
    _put(minute - minutes_ago, json.dumps(sample))


def spoil(minutes_ago: int, text: str) -> None:
    """In the slot of a minute, what is no sample."""
    _put(int(client().time()[0]) // 60 - minutes_ago, text)


def _put(minute: int, text: str) -> None:
    client().hset(sampling.key(), f"minute {minute % 60}", text)


def spoil_all() -> None:
    """What is kept is of another type."""
    client().set(sampling.key(), "planted")


def are_kept() -> bool:
    return client().type(sampling.key()) == "hash"


def take_at_once() -> None:
    """The next one who looks takes a sample, however short a time ago the last one was taken."""
    sampling._next_at = 0
