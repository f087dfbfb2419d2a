"""What became of writes that were sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from writebehind_app.buffers.fallback import goes_around, report
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.exceptions import BufferFull, BufferUnavailable, WriteUncertain
from writebehind_app.fields.writes import Write
from writebehind_app.store.calls import Fleeting, Outcome, Refused
from writebehind_app.store.connection import client
from writebehind_app.store.delivery import deliver

if TYPE_CHECKING:
    from writebehind_app.buffers.coalescing import CoalescingBuffer


class Settlement:
    """The receipts of writes that were taken, and the errors of those that were not."""

    def __init__(
        self, buffer: CoalescingBuffer, writes: Sequence[Write], *, may_go_around: bool = True
    ) -> None:
        self.receipts: dict[int, Receipt] = {}  # by the index of the write
        self.failures: dict[int, Exception] = {}
        self._buffer = buffer
        self._writes = writes
        self._may_go_around = may_go_around
        self._for_database: list[int] = []  # the writes that go around Redis
        self._elsewhere: list[int] = []  # the writes whose shard is not in force any more
        self._missing = ""  # why the durability of some was not reached

    def send(self, indexes: Sequence[int]) -> None:
        """Send these writes through Redis."""
        plan = self._buffer.plan()
        parts = plan.calls([self._writes[i] for i in indexes])
        outcomes = deliver(client(), [call for _, call in parts], plan.durability)
        for (own, call), outcome in zip(parts, outcomes, strict=True):
            self.note([indexes[n] for n in own], outcome, call.shard)

    def note(self, indexes: Sequence[int], outcome: Outcome, shard: str) -> None:
        """Note the outcome of the call to a shard that had these writes."""
        buffer, writes = self._buffer, [self._writes[i] for i in indexes]
        if isinstance(outcome, Fleeting):
            self._missing, outcome = outcome.why, outcome.first
        match outcome:
            case int(first):
                buffer.took(writes)
                report(buffer)
                rows_of = buffer.rows_of
                for number, (i, write) in enumerate(zip(indexes, writes, strict=True), first):
                    self.receipts[i] = Receipt(shard, write.id, number, rows_of(write))
            case Refused("elsewhere"):
                self._elsewhere += indexes
            case Exception():
                for i, write in zip(indexes, writes, strict=True):
                    if self._may_go_around and goes_around(
                        buffer, outcome, again=write.is_idempotent
                    ):
                        self._for_database.append(i)
                    else:
                        self.failures[i] = outcome
            case _:
                raise AssertionError(f"A write without a guard was refused: {outcome}.")

    def receipts_or_raise(self) -> list[Receipt]:
        """Send again what has another shard by now, and write directly what goes around Redis. Then
        return the receipts of all writes, or raise the gravest error with the number of writes that
        were taken."""
        while self._elsewhere:
            again, self._elsewhere = sorted(self._elsewhere), []
            self.send(again)
        if self._for_database:
            receipts = self._buffer.directly([self._writes[i] for i in self._for_database])
            self.receipts.update(zip(self._for_database, receipts, strict=True))
            self._for_database = []
        if self.failures:
            self._raise_gravest()
        receipts = [self.receipts[i] for i in range(len(self._writes))]
        return self._buffer.durable(receipts, self._missing)

    def _raise_gravest(self) -> None:
        failures, count = list(self.failures.values()), len(self._writes)
        for kind in (WriteUncertain, BufferUnavailable, BufferFull):
            for failure in failures:
                if isinstance(failure, kind):
                    if count > 1:
                        taken = count - len(failures)
                        were = "was" if taken == 1 else "were"
                        text = f"{taken} of {count} writes {were} taken for certain."
                        failure.args = (f"{text} {failure}",)
                    raise failure
        raise failures[0]
