"""The exceptions of the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from writebehind_app.buffers.receipt import Receipt


class WritebehindError(Exception):
    """The base class of all exceptions of the package."""


class AlreadyExists(WritebehindError):
    """The row that `create` should make exists already, pending or stored."""


class BufferUnavailable(WritebehindError):
    """Redis is away, or refused the call. A write that raises this was not taken."""


class BufferPaused(WritebehindError):
    """The buffer is paused by `writebehind_pause`. Its entries stay pending."""


class BufferFull(WritebehindError):
    """The buffer holds as many entries as it may, or the entry of the row holds as much as it may.
    The write was not taken."""


class NewerVersion(WritebehindError):
    """An entry was written by newer code, and only that code can store it. Nothing is lost."""


class WriteUncertain(WritebehindError):
    """The write was sent, and the answer was lost. Redis has taken it once, or not at all.

    A write of plain values can be repeated: a repeat changes nothing. Before you repeat any other
    write, such as an `Add`, read the row once Redis answers again.
    """

    def __init__(self, message: str, until: int = 0) -> None:
        super().__init__(message)
        self.until = until  # Redis takes it by then or never; in µs since 1970 by Redis' clock


class Overtaken(WritebehindError):
    """A write such as `set_if` or `create` was not taken: somebody else wrote to the row after the
    decision, and the decision would be different now.

    This happens to writes that are held back in a transaction or a `batch()`. It also happens if
    the row is being flushed or saved for longer than a lease.
    """


class NotDurable(WritebehindError):
    """The write was taken and will be flushed: do not repeat it. But Redis did not reach the
    durability that the option `durability` asks for in time."""

    def __init__(self, message: str, receipts: Sequence[Receipt] = ()) -> None:
        super().__init__(message)
        self.receipts = list(receipts)

    @property
    def receipt(self) -> Receipt:
        """The receipt of a single write."""
        return self.receipts[0]


class EditedSince(WritebehindError):
    """A dead letter was not retried: its row was edited since, and the retry would overwrite that.
    `over=True` writes it anyway."""
