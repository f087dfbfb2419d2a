"""Batches as a flusher has them that dies, sleeps, or is overtaken."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from writebehind_app import checkpoints
from writebehind_app.buffers.base import Buffer
from writebehind_app.buffers.coalescing import CoalescingBuffer
from writebehind_app.flush import batch, ledger, writer
from writebehind_app.models import AppliedBatch
from writebehind_app.store.connection import client
from writebehind_app.store.shard import Batch, Shard


class Killed(BaseException):
    """The process is dead."""


@dataclass(frozen=True)
class Claim:
    """A batch that was claimed."""

    buffer: Buffer
    number: int  # of the shard
    shard: Shard
    batch: Batch

    @property
    def token(self) -> str:
        return self.batch.token

    @property
    def ids(self) -> list[str]:
        return [entry.id for entry in self.batch.entries]

    def is_held(self) -> bool:
        """Whether the batch in flight is this one."""
        return client().hget(self.shard.key, "token") == self.token

    def renew(self, lease: float, *, token: str = "") -> None:
        """Lengthen the lease; under another token, as one who has it no more."""
        self.shard.renew(token or self.token, lease=lease)

    def release(self, *, retry_in: float = 0, error: str = "refused") -> None:
        """Give the batch back."""
        self.shard.release(self.token, retry_in=retry_in, error=error)

    def acknowledge(self) -> bool:
        """Say that the database has the batch, whether it has or not; False where the batch in
        flight is another one."""
        return self.shard.ack(self.token)

    def commit(self) -> None:
        """Bring the batch to the database, and die before the acknowledgement."""
        writer.apply(self.buffer, self.number, self.batch)

    def commit_if_it_may(self) -> None:
        """The same, where the ledger takes the token still."""
        with suppress(ledger.AlreadyApplied):
            self.commit()

    def void(self) -> None:
        """Die amid an extension: the ledger has the token as void, and Redis no new one yet."""
        ledger.void(self.buffer, self.number, self.token)

    def flush(self) -> None:
        """Go on as a flusher does after its claim."""
        outcome = batch.flush_batch(self.buffer, self.number, self.shard, self.batch, wait=False)
        assert not isinstance(outcome, Exception), outcome

    def wake_up(self) -> None:
        """The same, as one whose batch others may have by now."""
        batch.flush_batch(self.buffer, self.number, self.shard, self.batch, wait=False)


def claim(
    buffer: Buffer,
    *,
    lease: float = 60,
    size: int = 1000,
    due_only: bool = False,
    batches: int | None = None,
    shards: Sequence[str] | None = None,
) -> list[Claim]:
    """Get no further than the claim: of each shard that has something to be flushed, and that
    nobody is at, a batch; so many at most, or of these shards."""
    claims: list[Claim] = []
    for number, shard in enumerate(buffer.shards()):
        if len(claims) == batches:
            break
        if shards is not None and shard.key not in shards:
            continue
        batch = shard.claim(
            secrets.token_hex(16),
            lease=lease,
            size=size,
            max_age=buffer.option("MAX_AGE"),
            which="due" if due_only else "all",
            bases=buffer.bases() is not None,
        )
        if isinstance(batch, Batch):
            claims.append(Claim(buffer, number, shard, batch))
    return claims


def claim_and_die(buffer: Buffer, *, lease: float = 0.000_001, size: int = 1000) -> None:
    """A flusher that gets no further than its claim, and whose lease ends at once."""
    claim(buffer, lease=lease, size=size)


def die_at(buffer: Buffer, step: str, n: int, **key: Any) -> None:
    """A flusher gets no further than to a step, when it reaches that for the n-th time, and gives
    nothing back."""
    left = [n]

    def hook(name: str) -> None:
        left[0] -= name == step
        if name == step and left[0] == 0:
            patch.setattr(Shard, "release", lambda *args, **options: False)
            raise Killed

    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        patch.setattr(checkpoints, "hook", hook)
        buffer.flush(**key)


def take_over_where_waited_for(patch: pytest.MonkeyPatch) -> None:
    """When a guarded write waits for what a dead flusher left in flight, another one takes it over
    at once."""

    def take_over(buffer: CoalescingBuffer, id: str, until: float) -> None:
        for found in claim(buffer, shards=[buffer.shard_key_of(id)]):
            found.flush()

    patch.setattr(CoalescingBuffer, "_wait_for_others", take_over)


def end_lease(buffer: Buffer) -> None:
    """The time of whoever holds a batch of the buffer is over."""
    for key in buffer.shard_keys():
        if client().hexists(key, "token"):
            client().hset(key, "lease", 0)


def lease_left(buffer: Buffer) -> float:
    """Seconds for which nobody else gets the batch in flight of the only shard."""
    (key,) = buffer.shard_keys()
    seconds, micros = client().time()
    return int(client().hget(key, "lease") or 0) / 1e6 - seconds - micros / 1e6


def in_another_shard(buffer: CoalescingBuffer, id: str, others: Iterable[str]) -> str:
    """The first of other ids that is not in the shard of this one. Ids are texts, as keys are."""
    shard = buffer.shard_key_of(json.dumps(id))
    return next(other for other in others if buffer.shard_key_of(json.dumps(other)) != shard)


def is_in_flight(buffer: Buffer) -> bool:
    """Whether a batch of the buffer is claimed, and not yet acknowledged."""
    return any(client().hexists(key, "token") for key in buffer.shard_keys())


def forget_ledger(database: str) -> Callable[[], None]:
    """Take the ledger away, as a database has it that lags behind; what is returned brings it
    back."""
    ledger = AppliedBatch.objects.using(database)
    rows = [*ledger.all()]
    ledger.all().delete()
    return lambda: [*ledger.bulk_create(rows)].clear()
