"""Throws away what is pending, and what is in flight and nobody seems to work on.

Seems: its flusher may have been stopped and wake up, or be about to commit. So the token of such a
batch goes into the ledger first, as one that nothing is applied under, and the batch gets another
one. A crash between the two leaves a batch with a void token, which the next flusher replaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from django.db import transaction

from writebehind_app.database.transactions import check_outside_transaction
from writebehind_app.flush.writer import AlreadyApplied, enter, state_of
from writebehind_app.store.shard import Batch, Shard

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration


def discard(buffer: Declaration, ids: Sequence[str]) -> int:
    """Throw away the entries of these ids, or all; says how many."""
    by_shard: dict[int, list[str]] = {} if ids else {n: [] for n in range(len(buffer.shard_keys()))}
    for id in ids:
        number = buffer.shard_keys().index(buffer.shard_key_of(id))
        by_shard.setdefault(number, []).append(id)
    return _discard_of(buffer, by_shard)


def discard_records(buffer: Declaration, places: Iterable[tuple[int, int]]) -> int:
    """Throw away records of a log, by their shards and numbers; says how many."""
    by_shard: dict[int, list[str]] = {}
    for number, no in places:
        by_shard.setdefault(number, []).append(f"#{no}")
    return _discard_of(buffer, by_shard)


def _discard_of(buffer: Declaration, by_shard: Mapping[int, Sequence[str]]) -> int:
    shards = buffer.shards()
    idle = {number: shards[number].idle_token() for number in by_shard}
    if any(idle.values()):  # before anything is thrown away
        why = "discard() of a batch commits by itself, so that no flusher stores the batch after it"
        check_outside_transaction(buffer.layout().using, why)
    count = 0
    for number, ids in by_shard.items():
        count += _discard(buffer, shards[number], ids)
        if token := idle[number]:
            fresh = _void(buffer, number, shards[number], token)
            count += _discard(buffer, shards[number], ids, token=fresh)
    return count


def _discard(buffer: Declaration, shard: Shard, ids: Sequence[str], token: str = "") -> int:
    size = buffer.option("BATCH_SIZE")
    count = discarded = shard.discard(size, ids, token=token)
    while discarded and not ids:
        discarded = shard.discard(size, token=token)
        count += discarded
    return count


def _void(buffer: Declaration, number: int, shard: Shard, token: str) -> str:
    """The token that the batch has from now on; '' where it turns out to be in the database."""
    try:
        with transaction.atomic(using=buffer.layout().using):
            enter(buffer, number, Batch(token, 0, []))
    except AlreadyApplied as refused:
        match state_of(buffer.layout(), token):
            case "absent":  # the ledger refused it for something else
                raise refused.reason from None
            case "applied":
                shard.ack(token)
                return ""
    return shard.revoke(token)
