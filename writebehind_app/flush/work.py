"""The work of a flush, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from writebehind_app.database.divided import by_shard, renew
from writebehind_app.database.failures import is_end
from writebehind_app.declaration import Declaration
from writebehind_app.store import divisions, reads, state
from writebehind_app.store.connection import client
from writebehind_app.store.shard import Batch, Shard, Which


@dataclass(slots=True)
class Work:
    """What to flush in one shard."""

    number: int
    shard: Shard
    left: int  # how many entries are still to be flushed
    ids: Sequence[str] = ()  # their ids; none stands for all entries
    token: str = ""  # the token that the last claim offered
    claimed: str = ""  # the token of the batch that the last claim got
    until: float = 0.0  # until when to wait for related shards, on time.monotonic()

    def is_held(self) -> bool:
        """Whether Redis holds anything to flush here. With ids, this asks Redis."""
        if not self.ids:
            return True
        found = reads.read(self.shard.client, {self.shard.key: [*self.ids]})[self.shard.key]
        return bool(found.pending or found.in_flight)

    def done(self, batch: Batch) -> None:
        if not self.ids:
            self.left = max(self.left - len(batch.entries), 0)
        elif batch.token == self.token:  # not a batch that a dead flusher left
            claimed = {entry.id for entry in batch.entries}
            # Redis may hold nothing for the other ids: the next claim says so.
            self.ids = [id for id in self.ids if id not in claimed]
            self.left = len(self.ids)


@contextmanager
def given_back(works: Sequence[Work]) -> Iterator[None]:
    """Give claimed batches back if the process is told to end in the block, as schedulers do when a
    task takes too long. So nobody has to wait until the leases are over."""
    try:
        yield
    except BaseException as error:
        if is_end(error):
            for work in works:
                work.shard.release(work.claimed)
        raise


def works_of(buffer: Declaration, ids: Sequence[str], *, due_only: bool) -> list[Work]:
    redis = client(patient=True)
    if ids:
        renew([buffer], patient=True)
        keys, shards = buffer.shard_keys(), buffer.shards(patient=True)
        found = {keys.index(key): own for key, own in by_shard(buffer, dict.fromkeys(ids)).items()}
        return [Work(number, shards[number], len(own), own) for number, own in found.items()]
    works = []
    which = which_of(buffer, due_only=due_only)
    held = divisions.asked(redis, lambda: state.count(redis, buffer.shards(patient=True)))
    for number, (key, counts) in enumerate(held.items()):
        is_whole = which == "all" or (which == "due" and counts.due)
        left = (counts.pending if is_whole else counts.due) + counts.in_flight
        if left:
            works.append(Work(number, Shard(redis, key, is_log=buffer.is_log), left))
    return works


def which_of(buffer: Declaration, *, due_only: bool) -> Which:
    """Which entries of a shard to claim.

    If one is due, the others go along. Not with QUIET: then each entry waits until nobody has
    written to it for a while.
    """
    if not due_only:
        return "all"
    return "ripe" if buffer.option("QUIET") else "due"
