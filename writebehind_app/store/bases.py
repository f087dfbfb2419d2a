"""Bases: copies of stored rows in Redis, from which reads are answered."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from itertools import count
from typing import NamedTuple

from writebehind_app.store import lua
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors
from writebehind_app.store.link import Command


class BaseTerms(NamedTuple):
    """The options of the bases of a shard."""

    prefix: str  # how bases begin; those with another beginning were made for other columns
    micros: int  # how long a base is kept
    bytes: int  # how much memory all bases may take


def fill(
    client: Client, terms: BaseTerms, lease: str, bases: Mapping[str, Mapping[str, str]]
) -> None:
    """Fill the bases that still have this lease, by shard and id."""
    calls: list[Command] = [
        (key, lease, terms.micros, terms.bytes, *(part for pair in own.items() for part in pair))
        for key, own in bases.items()
    ]
    with errors:
        lua.run_many(client, "fill", calls, again=True)


class Marked(NamedTuple):
    """The answer of a shard whose rows were marked, or whose marks were removed."""

    closed: str  # why the shard is not open, or ""


def mark(
    client: Client, ids: Mapping[str, Sequence[str]], token: str, *, seconds: float
) -> dict[str, Marked]:
    """Drop the bases of these rows and mark the rows: for some seconds, no new bases are made."""
    ms = round(seconds * 1000)
    return _marked(client, "mark", [(key, token, ms, *ids[key]) for key in ids])


def unmark(client: Client, ids: Mapping[str, Sequence[str]], token: str) -> dict[str, Marked]:
    """Drop the bases of these rows and remove the mark: from now on, new bases may be made."""
    return _marked(client, "unmark", [(key, token, *ids[key]) for key in ids])


def _marked(client: Client, script: str, calls: Sequence[Command]) -> dict[str, Marked]:
    with errors:
        replies = lua.run_many(client, script, calls, again=True)
    return {str(key): Marked(reply) for (key, *_), reply in zip(calls, replies, strict=True)}


# Leases

_numbers = count()
_process = ""


def _begin() -> None:
    global _process
    _process = secrets.token_hex(8)


_begin()
os.register_at_fork(after_in_child=_begin)


def new_lease() -> str:
    """A new lease. No other read has it, in any process."""
    return f"?{_process}{next(_numbers)}"
