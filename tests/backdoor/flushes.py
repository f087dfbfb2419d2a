"""Flushes that go wrong: the database refuses, or the package itself breaks a promise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.db import IntegrityError

from writebehind_app.buffers import reading
from writebehind_app.buffers.base import Buffer
from writebehind_app.database import direct
from writebehind_app.flush import engine, writer
from writebehind_app.store.shard import Shard


def refuse_batches(
    patch: pytest.MonkeyPatch, error: Exception, *, only_with: tuple[Buffer, str] | None = None
) -> None:
    """Have the database refuse each batch as a whole; or those of the shard that has an id."""
    apply = engine.apply

    def refuse(buffer: Any, number: int, *args: Any, **options: Any) -> Any:
        if only_with is None or number == _number(*only_with):
            raise error
        return apply(buffer, number, *args, **options)

    patch.setattr(engine, "apply", refuse)


def _number(buffer: Buffer, id: str) -> int:
    return buffer.shard_keys().index(buffer.shard_key_of(id))


def isolate_at_once(patch: pytest.MonkeyPatch) -> None:
    """Have a flush look for what is refused from the first try on."""

    def isolating(buffer: Buffer, number: int, batch: Any, **options: Any) -> Any:
        return writer.apply(buffer, number, batch, isolating=True)

    patch.setattr(engine, "apply", isolating)


def refuse_direct_writes(patch: pytest.MonkeyPatch, error: Exception) -> None:
    """Have the database refuse what goes past Redis."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise error

    patch.setattr(direct, "write", refuse)


def refuse_token_once(patch: pytest.MonkeyPatch, error: Exception) -> None:
    """Have the ledger refuse the token of one batch."""
    enter, left = writer.enter, [error]

    def refuse(*args: Any) -> None:
        if left:
            raise left.pop()
        enter(*args)

    patch.setattr(writer, "enter", refuse)


def say_that_the_token_is_there(patch: pytest.MonkeyPatch, reason: str) -> None:
    """Have the ledger refuse a token as it refuses one that it has, for another reason."""

    def refuse(*args: Any) -> None:
        raise writer.AlreadyApplied(IntegrityError(reason))

    patch.setattr(writer, "enter", refuse)


def stop_before_new_token(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """A process that discards of a batch dies when the ledger has the old token as void, and Redis
    no new one yet."""

    def die(*args: Any) -> None:
        raise error

    patch.setattr(Shard, "revoke", die)


def die_before_acknowledgement(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """A flusher dies between the commit and the acknowledgement."""

    def die(*args: Any, **options: Any) -> None:
        raise error

    patch.setattr(Shard, "ack", die)


# Promises that are broken, which a checker has to notice


def acknowledge_before_commit(patch: pytest.MonkeyPatch) -> None:
    apply = engine._apply

    def too_late(buffer: Any, number: int, batch: Any) -> Any:
        buffer.shards()[number].ack(batch.token)
        time.sleep(0.01)
        return apply(buffer, number, batch)

    patch.setattr(engine, "_apply", too_late)


def read_nothing_in_flight(patch: pytest.MonkeyPatch) -> None:
    read = reading.store.read

    def blind(*args: Any, **options: Any) -> Any:
        found = read(*args, **options)
        return {key: replace(each, in_flight={}) for key, each in found.items()}

    patch.setattr(reading.store, "read", blind)


def read_what_is_stored_twice(patch: pytest.MonkeyPatch) -> None:
    """What is in flight is counted, although the ledger has its token."""
    stored = reading._stored
    patch.setattr(reading, "_stored", lambda *args: (stored(*args)[0], set()))


BROKEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    function.__name__: function
    for function in (acknowledge_before_commit, read_nothing_in_flight, read_what_is_stored_twice)
}
