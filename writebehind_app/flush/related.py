"""Claim the batches that must be stored in the same transaction as a given batch.

These are batches of other shards, and entries of its own shard that it left out.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Self

from writebehind_app import conf
from writebehind_app.checkpoints import reach
from writebehind_app.database.divided import by_shard
from writebehind_app.database.failures import is_end
from writebehind_app.database.parents import Row, RowPending, children_of, parents_of, row_of
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import WritebehindError
from writebehind_app.flush.lease import keep_lease
from writebehind_app.flush.ledger import state_of, void
from writebehind_app.flush.writer import Claimed, last_delete, last_write
from writebehind_app.store import divisions, state
from writebehind_app.store.connection import client, errors
from writebehind_app.store.durability import Durability, batch_shortfall
from writebehind_app.store.shard import Batch, Shard, Wait

_CHUNK = 1000  # ids in one call of a script
_JOINS = 10  # times that a row is claimed for refused entries of one batch


class Busy(WritebehindError):
    """Another flusher has the batch of a related shard."""


class NotSafe(Busy):
    """The claim of a batch is on too few replicas of Redis."""


class Related:
    """A flusher's own batch, and the related batches that it claims for it.

    At the end, related batches that were not acknowledged are given back. The own batch is given
    back only if the process is told to end in the block.
    """

    def __init__(self, own: Claimed) -> None:
        self.own = own
        self.claims: list[Claimed] = []
        # How often rows were claimed for refused entries.
        self._joined: Counter[Row] = Counter()
        self._leases = ExitStack()
        self._safe: set[str] = set()  # the tokens of claims that are as durable as their writes
        # By shard, a number: all writes of the shard before it are claimed …
        self._gathered: dict[str, int] = {}
        # … and all deletes of the shard before it have been looked for.
        self._looked: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._renew(self.own)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if is_end(error):
            self.own.shard.release(self.own.batch.token)
        self.give_back()

    def every(self) -> list[Claimed]:
        return [self.own, *self.claims]

    def give_back(self) -> None:
        """Give the related batches back, so that other flushers can have them."""
        self._leases.close()
        for each in self.claims:
            each.shard.release(each.batch.token)
        self.claims.clear()

    def is_settled(self, token: str) -> bool:
        """Drop the related batch with this token, which is in the ledger already; False if none of
        the related batches has it."""
        for each in self.claims:
            if each.batch.token == token:
                match state_of(each.buffer.layout(), token):
                    case "absent":
                        return False
                    case "void":
                        each.shard.revoke(token)
                    case "applied":
                        each.shard.ack(token)
                self.claims.remove(each)
                self._gathered.pop(each.shard.key, None)
                self._looked.pop(each.shard.key, None)
                return True
        return False

    def claim_rows(self, pending: RowPending) -> bool:
        """Claim the batches with these pending rows; False if there are none. Raise `Busy` if
        another flusher has one."""
        buffer, keys = pending.buffer, pending.buffer.shard_keys()
        by_key = by_shard(buffer, pending.ids)
        found = [self._take(buffer, keys.index(key), ids=own) for key, own in by_key.items()]
        if any(found):
            self._joined.update(row_of(buffer, id) for id in pending.ids)
        return any(found)

    @property
    def joined(self) -> set[Row]:
        """The rows that were claimed for refused entries as often as they may be. Without this
        limit, a row that is written all the time would be claimed again and again."""
        return {row for row, times in self._joined.items() if times >= _JOINS}

    def gather(self) -> None:
        """Claim what must be stored before the claimed batches, or together with them.

        If a batch deletes rows, older writes to their children come along. If a batch writes
        children, older deletions of their parents come along.
        """
        found = True
        while found:
            found = False
            for buffer, number, before in self._missing():
                found |= self._take(buffer, number, before=before)

    def make_safe(self) -> None:
        """Wait until the claims are on as many replicas as their writes. Raise `NotSafe` if they
        are not in time."""
        settings = conf.settings()
        for each in self.every():
            level, token = each.buffer.option("DURABILITY"), each.batch.token
            if isinstance(level, int) and token not in self._safe:
                wait = Durability(level, settings.DURABILITY_TIMEOUT)
                key, lease = each.shard.key, settings.LEASE
                with errors:
                    why = batch_shortfall(each.shard.client, key, token, lease, wait)
                if why:
                    raise NotSafe(f"A batch of {each.buffer} is not safe to apply: {why}.")
                self._safe.add(token)

    def _missing(self) -> Iterator[tuple[Declaration, int, int]]:
        """Shards of which all writes before a number must be claimed."""
        for each in self.every():
            if number := last_delete(each.batch):
                for child in children_of(each.buffer):
                    yield from self._before(number, child, range(len(child.shard_keys())))
            if parents := parents_of(each.buffer):
                number = last_write(each.batch)
                for parent in parents:
                    yield from self._before(number, parent, self._deleting(parent, number))

    def _before(
        self, before: int, buffer: Declaration, numbers: Iterable[int]
    ) -> Iterator[tuple[Declaration, int, int]]:
        keys = buffer.shard_keys()
        for number in numbers:
            if self._gathered.get(keys[number], 0) < before:
                yield buffer, number, before

    def _deleting(self, buffer: Declaration, before: int) -> list[int]:
        """The shards with pending deletes that may be older than a number."""
        keys = buffer.shard_keys()
        asked = [key for key in keys if self._looked.get(key, 0) < before]
        if not asked:
            return []
        found = state.deleting(client(patient=True), asked)
        self._check_divided(buffer, {key: each.closed for key, each in found.items()})
        self._looked |= dict.fromkeys(asked, before)
        return [keys.index(key) for key, each in found.items() if each.is_so]

    def _take(
        self, buffer: Declaration, number: int, *, before: int = 0, ids: Sequence[str] = ()
    ) -> bool:
        """Claim a shard's entries of some ids, or those written before a number; False if none."""
        shard = buffer.shards(patient=True)[number]
        mine = next((each for each in self.every() if each.shard.key == shard.key), None)
        found = False
        if mine is None:
            mine = self._claim(buffer, number, shard, ids)
            found = mine is not None
        for start in range(0, len(ids), _CHUNK) if ids else (0,):
            found |= mine is not None and self._extend(mine, before, ids[start : start + _CHUNK])
        if before:
            self._gathered[shard.key] = before
        return found

    def _claim(
        self, buffer: Declaration, number: int, shard: Shard, ids: Sequence[str]
    ) -> Claimed | None:
        held = state.count(shard.client, [shard])[shard.key]
        self._check_divided(buffer, {shard.key: held.closed})
        if not (held.pending or held.in_flight):
            return None
        reach("flush.claiming")
        size, lease = buffer.option("BATCH_SIZE"), conf.settings().LEASE
        batch = shard.claim(
            secrets.token_hex(16),
            lease=lease,
            size=size,
            max_age=buffer.option("MAX_AGE"),
            ids=ids[:size] if held.pending > size else (),
            # Two batches that need each other and have failed would wait for each other.
            ignore_backoff=True,
            bases=buffer.bases() is not None,
        )
        match batch:
            case Wait(reason=reason):
                raise Busy(f"{buffer} has rows that this batch needs, and is {reason}.")
            case Batch():
                claimed = Claimed(buffer, number, shard, batch)
                self.claims.append(claimed)
                self._renew(claimed)
                reach("flush.claimed")
                return claimed
        return None

    def _check_divided(self, buffer: Declaration, closed: Mapping[str, str]) -> None:
        """Raise `Busy` if one of these shards is not in force any more. `closed` says for each
        shard why it is not open, or ""."""
        if divisions.are_moved(client(patient=True), {k: why for k, why in closed.items() if why}):
            raise Busy(f"{buffer} is divided into other shards by now.")

    def _extend(self, claimed: Claimed, before: int, ids: Sequence[str]) -> bool:
        """Add pending entries to a claimed batch: those of some ids, or those written before a
        number. False if there are none. Raise `AlreadyApplied` if the ledger has its token.

        The batch gets a new token, as what a token names never changes. A crash between the two
        steps leaves a batch with a void token. The next flusher replaces the token.
        """
        buffer, shard, found = claimed.buffer, claimed.shard, False
        max_age = buffer.option("MAX_AGE")
        while shard.is_behind(claimed.batch, before=before, max_age=max_age, ids=ids):
            void(buffer, claimed.number, claimed.batch.token)
            reach("flush.claiming")
            batch = shard.extend(
                claimed.batch,
                lease=conf.settings().LEASE,
                size=buffer.option("BATCH_SIZE"),
                before=before,
                max_age=max_age,
                ids=ids,
            )
            if batch is None:
                raise Busy(f"{buffer} lost the lease of a batch.")
            claimed.batch, found = batch, True
            reach("flush.claimed")
        return found

    def _renew(self, claimed: Claimed) -> None:
        lease = conf.settings().LEASE
        self._leases.enter_context(keep_lease(claimed.shard, lambda: claimed.batch.token, lease))
