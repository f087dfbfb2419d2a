"""Batches as a flusher has them that dies, sleeps, or is overtaken."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from writebehind_app.buffers.base import Buffer
from writebehind_app.flush import engine, writer
from writebehind_app.store.connection import client
from writebehind_app.store.shard import Batch, Shard


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

    def release(self, *, retry_in: float = 0, error: str = "") -> None:
        """Give the batch back."""
        self.shard.release(self.token, retry_in=retry_in, error=error)

    def acknowledge(self) -> bool:
        """Say that the database has the batch, whether it has or not; False where the batch in
        flight is another one."""
        return self.shard.ack(self.token)

    def commit(self) -> None:
        """Bring the batch to the database, and die before the acknowledgement."""
        writer.apply(self.buffer, self.number, self.batch)

    def flush(self) -> None:
        """Go on as a flusher does after its claim."""
        outcome = engine._flush_batch(self.buffer, self.number, self.shard, self.batch)
        assert not isinstance(outcome, Exception), outcome


def claim(
    buffer: Buffer,
    *,
    lease: float = 60,
    size: int = 1000,
    due_only: bool = False,
    batches: int | None = None,
) -> list[Claim]:
    """Get no further than the claim: of each shard that has something to be flushed, and that
    nobody is at, a batch; so many at most."""
    claims: list[Claim] = []
    for number, shard in enumerate(buffer.shards()):
        if len(claims) == batches:
            break
        batch = shard.claim(secrets.token_hex(16), lease=lease, size=size, due_only=due_only)
        if isinstance(batch, Batch):
            claims.append(Claim(buffer, number, shard, batch))
    return claims


def claim_and_die(buffer: Buffer, *, lease: float = 0.000_001, size: int = 1000) -> None:
    """A flusher that gets no further than its claim, and whose lease ends at once."""
    claim(buffer, lease=lease, size=size)


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


def is_in_flight(buffer: Buffer) -> bool:
    """Whether a batch of the buffer is claimed, and not yet acknowledged."""
    return any(client().hexists(key, "token") for key in buffer.shard_keys())
