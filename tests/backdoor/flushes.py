"""Flushes that go wrong: the database refuses, or the package itself breaks a promise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import IntegrityError

from writebehind_app.buffers import reading
from writebehind_app.buffers.base import Buffer
from writebehind_app.database import arrays, direct, upsert
from writebehind_app.flush import batch, garbage, ledger, pruning, writer
from writebehind_app.store.shard import Shard


def refuse_batches(
    patch: pytest.MonkeyPatch, error: Exception, *, only_with: tuple[Buffer, str] | None = None
) -> None:
    """Have the database refuse each batch as a whole; or those of the shard that has an id."""
    apply = batch.apply

    def refuse(buffer: Any, number: int, *args: Any, **options: Any) -> Any:
        if only_with is None or number == _number(*only_with):
            raise error
        return apply(buffer, number, *args, **options)

    patch.setattr(batch, "apply", refuse)


def _number(buffer: Buffer, id: str) -> int:
    return buffer.shard_keys().index(buffer.shard_key_of(id))


def isolate_at_once(patch: pytest.MonkeyPatch) -> None:
    """Have a flush look for what is refused from the first try on."""

    def isolating(buffer: Buffer, number: int, batch: Any, **options: Any) -> Any:
        return writer.apply(buffer, number, batch, **{**options, "isolating": True})

    patch.setattr(batch, "apply", isolating)


@contextmanager
def collector_lock() -> Iterator[None]:
    """As if another thread were about to switch the collector of garbage off or on."""
    with garbage._lock:
        yield


def refuse_direct_writes(patch: pytest.MonkeyPatch, error: Exception) -> None:
    """Have the database refuse what goes past Redis."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise error

    patch.setattr(direct, "write", refuse)


def refuse_token_once(patch: pytest.MonkeyPatch, error: Exception) -> None:
    """Have the ledger refuse the token of one batch."""
    enter, left = ledger.enter, [error]

    def refuse(*args: Any) -> None:
        if left:
            raise left.pop()
        enter(*args)

    patch.setattr(ledger, "enter", refuse)


def say_that_the_token_is_there(patch: pytest.MonkeyPatch, reason: str) -> None:
    """Have the ledger refuse a token as it refuses one that it has, for another reason."""

    def refuse(*args: Any) -> None:
        raise ledger.AlreadyApplied(IntegrityError(reason))

    patch.setattr(ledger, "enter", refuse)


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


def die_before_extension(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """A flusher dies when the ledger has the token of a batch as void, and nothing was added to the
    batch yet."""

    def die(*args: Any, **options: Any) -> None:
        raise error

    patch.setattr(Shard, "extend", die)


def act_before_extension(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Something happens, once, when a flusher has found what it will add to a batch."""
    is_behind, left = Shard.is_behind, [act]

    def dawdle(*args: Any, **options: Any) -> bool:
        found = is_behind(*args, **options)
        if found and left:
            left.pop()()
        return found

    patch.setattr(Shard, "is_behind", dawdle)


# Promises that are broken, which a checker has to notice


def acknowledge_before_commit(patch: pytest.MonkeyPatch) -> None:
    apply = batch._apply

    def too_late(related: Any) -> Any:
        related.own.shard.ack(related.own.batch.token)
        time.sleep(0.01)
        return apply(related)

    patch.setattr(batch, "_apply", too_late)


def read_nothing_in_flight(patch: pytest.MonkeyPatch) -> None:
    reading_of = reading.reads.reading_of

    def blind(*args: Any, **options: Any) -> Any:
        return reading_of(*args, **options)._replace(in_flight={})

    patch.setattr(reading.reads, "reading_of", blind)


def read_what_is_stored_twice(patch: pytest.MonkeyPatch) -> None:
    """What is in flight is counted, although the ledger has its token."""
    ask = reading._ask_database

    def forgetful(*args: Any) -> Any:
        return {id: seen._replace(is_applied=False) for id, seen in ask(*args).items()}

    patch.setattr(reading, "_ask_database", forgetful)


BROKEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    function.__name__: function
    for function in (acknowledge_before_commit, read_nothing_in_flight, read_what_is_stored_twice)
}


def write_by_upserts(patch: pytest.MonkeyPatch) -> None:
    """Have PostgreSQL write stored rows as the other databases do."""
    patch.setattr(upsert, "takes_arrays", lambda layout: False)
    patch.setattr(upsert, "may_be_arrays", lambda *args: False)


def forget_writers() -> None:
    """Have the package look anew which fields PostgreSQL takes as arrays."""
    arrays.takes_arrays.cache_clear()
    arrays._array_type.cache_clear()


def forget_pruning() -> None:
    """Have this process prune each buffer the next time that it may."""
    pruning._next_at.clear()
