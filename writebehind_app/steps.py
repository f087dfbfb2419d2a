"""The named steps of a write and of a flush, where tests stop a process dead."""

from __future__ import annotations

from collections.abc import Callable

STEPS = (
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
)

hook: Callable[[str], None] | None = None


def reach(step: str) -> None:
    """Tell a test, if one listens, that `step` is reached."""
    if hook is not None:
        hook(step)
