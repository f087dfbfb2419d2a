"""What row and meta buffers share: an entry for each id, into which all its writes go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError

from writebehind_app.buffers.base import Buffer
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.steps import reach
from writebehind_app.store import lua
from writebehind_app.store.codec import Entry
from writebehind_app.store.connection import OutOfRange, client, errors

_PIPELINE = 1000  # writes in one round trip


class Write(NamedTuple):
    """A write that was checked."""

    id: str
    texts: dict[str, str]
    delete: str = ""  # '1' for a delete
    guard: str = ""  # what Redis must hold for the id still


class CoalescingBuffer(Buffer):
    """Writes to an id, and what is there of it with all of them."""

    @abstractmethod
    def stored(self, ids: Sequence[str]) -> dict[str, Any]:
        """What the database has of those ids, by id."""

    @abstractmethod
    def merged(self, entry: Entry, stored: Any | None) -> Any | None:
        """What is there after the entry, of what was there before; None for nothing."""

    def out_of_range(self, name: str) -> ValidationError:
        """The error for an operation on the field of that name in Redis."""
        message = "The sum leaves the range of the field; nothing was changed."
        return ValidationError({name: [ValidationError(message, code="range")]})

    def _write(self, writes: list[Write]) -> list[Receipt]:
        """Send checked writes; those whose row no longer looks as expected are left out."""
        max_age, quiet = round(self.option("MAX_AGE") * 1e6), round(self.option("QUIET") * 1e6)
        calls = []
        for id, texts, delete, guard in writes:
            fields = [part for pair in texts.items() for part in pair]
            shard = self.shard_key_of(id)
            calls.append((shard, id, max_age, quiet, delete, guard, *fields))
        reach("write.sending")
        try:
            with errors:
                if len(calls) == 1:
                    numbers = [lua.run(client(), "write", *calls[0])]
                else:
                    numbers = lua.run_in_order(client(), "write", calls, size=_PIPELINE)
        except OutOfRange as error:
            raise self.out_of_range(str(error)) from None
        reach("write.accepted")
        return [
            Receipt(call[0], call[1], number)
            for call, number in zip(calls, numbers, strict=True)
            if number
        ]
