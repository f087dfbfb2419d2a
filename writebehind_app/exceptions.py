"""Everything the package raises of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from writebehind_app.buffers.receipt import Receipt


class WritebehindError(Exception):
    """The base of all of them."""


class AlreadyExists(WritebehindError):
    """The row that was to be created is there, pending or stored."""


class BufferUnavailable(WritebehindError):
    """Redis did not take or answer the call. A write that raises it was not taken."""


class BufferPaused(WritebehindError):
    """What was to be flushed is paused, by `writebehind_pause`; it stays pending."""


class BufferFull(WritebehindError):
    """The buffer holds as many entries as it may; the write was not taken."""


class NewerVersion(WritebehindError):
    """Something was written by newer code, which alone knows what it means. Nothing is lost."""


class WriteUncertain(WritebehindError):
    """The write was sent, and the answer was lost: it was taken once, or not at all.

    A write that comes to the same when it is repeated, as one of plain values, can be repeated. For
    any other, as an `Add`, look first what is there once Redis answers again.
    """

    def __init__(self, message: str, until: int = 0) -> None:
        super().__init__(message)
        self.until = until  # it is taken no later than that, in µs since 1970 by Redis' clock


class Overtaken(WritebehindError):
    """A write that was decided by what was there, and held back in a transaction or a `batch()`,
    was not taken when it was sent: somebody else had written in between, and it would be decided
    otherwise by then."""


class NotDurable(WritebehindError):
    """The write was taken, and will be flushed, but was not made as durable as the option
    `durability` asks for in time. It must not be repeated."""

    def __init__(self, message: str, receipts: Sequence[Receipt] = ()) -> None:
        super().__init__(message)
        self.receipts = list(receipts)

    @property
    def receipt(self) -> Receipt:
        """That of a single write."""
        return self.receipts[0]
