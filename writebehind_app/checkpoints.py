"""The named points of a write and of a flush at which tests stop a process."""

from __future__ import annotations

from collections.abc import Callable

NAMES = (
    "write.sending",  # the write has been checked, Redis knows nothing of it
    "write.accepted",  # Redis has it, the caller does not know yet
    "flush.claiming",  # nothing is in flight yet
    "flush.claimed",  # Redis froze the batch, the database knows nothing of it
    "flush.token",  # the token is in the ledger, not committed
    "flush.deleted",  # rows that go are gone, not committed
    "flush.updated",  # rows that were there are changed, not committed
    "flush.inserted",  # new rows are in, not committed
    "flush.buried",  # what was refused is in the dead letters, not committed
    "flush.committed",  # the database has the batch, Redis still holds it in flight
    "flush.acked",  # Redis dropped the batch, the flusher has not counted it
    "change.begun",  # a change of the shards is noted, all of them are open
    "change.closed",  # no shard takes writes, something may be pending
    "change.drained",  # nothing is pending or in flight
    "change.made",  # the new shards are there, and not in force
    "change.in_force",  # the new shards are in force, the process does not know yet
)

hook: Callable[[str], None] | None = None


def reach(checkpoint: str) -> None:
    """Call the hook of a test, if there is one."""
    if hook is not None:
        hook(checkpoint)
