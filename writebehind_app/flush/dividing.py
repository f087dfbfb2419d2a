"""Divide a buffer into another number of shards, while processes write, read and flush.

The shards of each division are its own. A crash between any two steps leaves this:

begin … close       nothing: whoever begins the next change replaces this one
close … in force    shards that take no writes. Whoever writes waits; once the change has taken too
                    long, it is over, and whoever meets a closed shard opens it again
in force            the new division. The old shards are empty, and stay closed
"""

from __future__ import annotations

import secrets
import time
from contextlib import suppress

from writebehind_app.checkpoints import reach
from writebehind_app.database.divided import renew
from writebehind_app.database.transactions import check_outside_transaction
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.flush import engine
from writebehind_app.flush.ledger import void
from writebehind_app.store import divisions, state
from writebehind_app.store.connection import client
from writebehind_app.store.keys import Division, division_of, shard_key
from writebehind_app.store.shard import Shard
from writebehind_app.store.state import Overview

_PAUSE = 1.0  # seconds between two tries
_POLL = 0.01  # seconds between two looks at a batch that another flusher has
_ROUNDS = 20  # flushes in a row, after which less than a batch should be pending
_SOON = 0.75  # the part of the time of a change in which the last batches have to be stored


def divide(buffer: Declaration, *, seconds: float) -> str:
    """Put as many shards in force as the settings say, in the database that rows are written to.

    Return why this was not possible within so many seconds; "" if they are in force.
    """
    check_outside_transaction(buffer.layout().using)
    until = time.monotonic() + seconds
    while True:
        why = _try(buffer)
        if not why or time.monotonic() + _PAUSE > until:
            return why
        time.sleep(_PAUSE)


def _try(buffer: Declaration) -> str:
    renew([buffer], patient=True)
    shards = buffer.shards(patient=True)
    _, division = division_of(shards[0].key)
    if division.shards == buffer.option("SHARDS"):
        return ""
    for _ in range(_ROUNDS):
        engine.flush(buffer, ignore_backoff=True, pruning=False)
        if _is_little(buffer, shards):
            break
    token = secrets.token_hex(8)
    number = divisions.begin(client(patient=True), buffer.redis_key(), token, division)
    if not number:
        return "another change is under way"
    reach("change.begun")
    try:
        why = _carry_out(buffer, shards, token, Division(buffer.option("SHARDS"), number))
    except Exception:
        with suppress(BufferUnavailable):
            _undo(buffer, shards, token)
        raise
    return why and _undo(buffer, shards, token, why)


def _carry_out(buffer: Declaration, shards: list[Shard], token: str, to: Division) -> str:
    """Carry out a change that has begun. Return why this was not possible, or ""."""
    redis, until = client(patient=True), time.monotonic() + _SOON * divisions.LONGEST / 1e6
    keys = [shard.key for shard in shards]
    # After the begin: who pauses a buffer looks for changes after it.
    if any(each.paused for each in state.overview(redis, shards).values()):
        return "it is paused"
    if not _is_little(buffer, shards):
        return "more is pending than one batch takes: the flushers do not keep up"
    if left_closed := divisions.close(redis, keys, token):  # by a change that has failed
        divisions.reopen(redis, left_closed)
        if divisions.close(redis, keys, token):
            return "another change has closed its shards"
    reach("change.closed")
    while _count(held := _held(shards)):
        if time.monotonic() > until:
            return "what was pending could not be stored in time"
        engine.flush(buffer, ignore_backoff=True, pruning=False, wait=False)
        time.sleep(_POLL)
    reach("change.drained")
    _make(buffer, held, to)
    reach("change.made")
    if not divisions.put_in_force(redis, buffer.redis_key(), token, to):
        return "it took too long"
    reach("change.in_force")
    state.leave(redis, keys)
    renew([buffer], patient=True)
    return ""


def _undo(buffer: Declaration, shards: list[Shard], token: str, why: str = "") -> str:
    """Open the shards again, unless the new division is in force: the answer that said so may have
    been lost. Return why it is not in force, or ""."""
    redis = client(patient=True)
    divisions.give_up(redis, buffer.redis_key(), token)
    renew([buffer], patient=True)
    if buffer.shard_keys()[0] != shards[0].key:
        return ""
    divisions.reopen(redis, {shard.key: token for shard in shards})
    return why


def _is_little(buffer: Declaration, shards: list[Shard]) -> bool:
    """Whether the rest can be stored by one batch of each shard."""
    size = buffer.option("BATCH_SIZE")
    return all(each.pending + each.in_flight <= size for each in _held(shards).values())


def _count(held: dict[str, Overview]) -> int:
    return sum(each.pending + each.in_flight for each in held.values())


def _held(shards: list[Shard]) -> dict[str, Overview]:
    return state.overview(client(patient=True), shards)


def _make(buffer: Declaration, held: dict[str, Overview], to: Division) -> None:
    """Make the shards of a division, before it is put in force. Their numbers and counters go on
    where those of the old shards end."""
    stored = secrets.token_hex(16)
    # Whoever sees this token in the ledger sees all batches of the old shards.
    void(buffer, 0, stored)
    keys = [shard_key(buffer.redis_key(), number, to) for number in range(to.shards)]
    last = [each.last for each in held.values()]
    batch = [each.batch for each in held.values()]
    counters = {name: sum(each.counters[name] for each in held.values()) for name in state.COUNTERS}
    state.make(client(patient=True), keys, stored, max(last), max(batch), counters)
