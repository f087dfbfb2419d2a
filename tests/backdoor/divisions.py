"""How buffers are divided into shards, and processes that were told different numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from writebehind_app.buffers.base import Buffer
from writebehind_app.database.divided import on_all_shards, renew
from writebehind_app.flush import dividing, engine
from writebehind_app.management.commands import writebehind_shards
from writebehind_app.store import divisions, state
from writebehind_app.store.client import Client
from writebehind_app.store.connection import client


def know(*buffers: Buffer) -> None:
    """Open the shards, as the first calls of a project do, and know it, as later calls do."""
    renew(buffers)
    keys = [shard.key for buffer in buffers for shard in buffer.every_shard()]
    divisions.are_moved(client(), dict.fromkeys(keys, "?"))


def shards_in_force(buffer: Buffer) -> int:
    """How many shards are in force, by what Redis says."""
    return int(client().hget(buffer.redis_key(), "shards") or 0)


def is_change_under_way(buffer: Buffer) -> bool:
    return bool(client().hexists(buffer.redis_key(), "change"))


def have_changes_end_soon(patch: pytest.MonkeyPatch, micros: int = 100_000) -> None:
    """Whoever waits for a change waits no longer than that."""
    patch.setattr(divisions, "LONGEST", micros)


def divide(buffer: Buffer, seconds: float = 0) -> str:
    """What the command does; why it could not be done, or ""."""
    return dividing.divide(buffer, seconds=seconds)


class Process:
    """A process as far as the number of shards is concerned: what its settings say, and what it
    knows of Redis. Each is a context, in which the code is that process."""

    def __init__(self, shards: int, *buffers: Buffer) -> None:
        self.options = {buffer: {**buffer.options, "SHARDS": shards} for buffer in buffers}
        self.known = divisions.Known({}, {})

    @contextmanager
    def running(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for buffer, options in self.options.items():
                patch.setattr(buffer, "options", options)
            patch.setattr(divisions, "known", self.known)
            try:
                yield
            finally:
                self.known = divisions.known


def pause(buffer: Buffer, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Pause a buffer; something happens right before the pause is in Redis."""
    left = [meanwhile]

    def act(client: Client, keys: Sequence[str]) -> bool:
        while left:
            left.pop()()
        return state.pause(client, keys)

    on_all_shards(buffer, act)


def resume(buffer: Buffer) -> None:
    on_all_shards(buffer, state.resume)


def is_held(buffer: Buffer) -> bool:
    """Whether an idle flusher finds something to do."""
    return engine.holding([buffer]) == [buffer]


def begin_batches_at(buffer: Buffer, number: int) -> None:
    """Have the next batches of each shard numbered from there on."""
    for key in buffer.shard_keys():
        client().hset(key, "batch", number)


def acknowledged(buffer: Buffer) -> set[str]:
    """The tokens that reads compare snapshots with."""
    return {str(client().hget(key, "acked")) for key in buffer.shard_keys()}


def are_open(buffer: Buffer) -> bool:
    """Whether all shards take writes."""
    return all(client().hget(key, "open") == "1" for key in buffer.shard_keys())


def flush_rows(buffer: Buffer, ids: Sequence[str]) -> None:
    """Flush some entries, as a task does that was told to."""
    engine.flush(buffer, ids=ids)


def close(buffer: Buffer, token: str) -> None:
    """Close the shards in force, as a change does that fails then."""
    renew([buffer])
    divisions.close(client(), buffer.shard_keys(), token)


def have_a_change_under_way(patch: pytest.MonkeyPatch, token: str) -> None:
    """Whoever asks is told of this change, for ever."""
    asking = divisions._asking

    def asked(buffers: Any) -> Any:
        found = yield from asking(buffers)
        return {key: (division, token, "") for key, (division, *_) in found.items()}

    patch.setattr(divisions, "_asking", asked)


def have_little_patience(patch: pytest.MonkeyPatch) -> None:
    """The command tries once."""
    patch.setattr(writebehind_shards, "_PATIENCE", 0.1)
