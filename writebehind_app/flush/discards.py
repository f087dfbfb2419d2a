"""Discard entries that are pending, or in flight in a batch whose lease is over.

The flusher of such a batch may still wake up and commit it. So the token of the batch first goes
into the ledger as void: nothing can be applied under it any more. Then the batch gets a new token.
A crash between the two steps leaves a batch with a void token. The next flusher replaces the token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from writebehind_app.database.divided import by_shard, renew
from writebehind_app.database.transactions import check_outside_transaction
from writebehind_app.flush.ledger import AlreadyApplied, state_of, void
from writebehind_app.store.shard import Shard

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration


def discard(buffer: Declaration, ids: Sequence[str]) -> int:
    """Discard the entries of these ids, or all entries without ids; return how many."""
    renew([buffer])
    keys = buffer.shard_keys()
    found: Mapping[str, Sequence[str]] = dict.fromkeys(keys, ())
    if ids:
        found = by_shard(buffer, ids)
    return _discard_of(buffer, {keys.index(key): own for key, own in found.items()})


def discard_records(buffer: Declaration, places: Iterable[tuple[int, int]]) -> int:
    """Discard records of a log, by their shards and numbers; return how many."""
    found: dict[int, list[str]] = {}
    for number, no in places:
        found.setdefault(number, []).append(f"#{no}")
    return _discard_of(buffer, found)


def _discard_of(buffer: Declaration, asked: Mapping[int, Sequence[str]]) -> int:
    """Discard the entries of these ids, or all, by the numbers of their shards."""
    shards = buffer.shards()
    idle = {number: shards[number].idle_token() for number in asked}
    if any(idle.values()):  # check before anything is discarded
        why = "discard() of a batch commits by itself, so that no flusher stores the batch after it"
        check_outside_transaction(buffer.layout().using, why)
    count = 0
    for number, ids in asked.items():
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
    """Void the token of a batch, and return its new token; "" if the batch is stored already."""
    try:
        void(buffer, number, token)
    except AlreadyApplied as refused:
        match state_of(buffer.layout(), token):
            case "absent":  # the ledger refused the token for another reason
                raise refused.reason from None
            case "applied":
                shard.ack(token)
                return ""
    return shard.revoke(token)
