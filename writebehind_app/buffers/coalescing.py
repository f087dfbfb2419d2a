"""What row and meta buffers share: an entry for each id, into which all its writes go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from django.core.exceptions import ValidationError

from writebehind_app.buffers import reading
from writebehind_app.buffers.base import Buffer, PendingEntry, asynchronous
from writebehind_app.buffers.layout import Layout
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.steps import reach
from writebehind_app.store import lua
from writebehind_app.store import shard as store
from writebehind_app.store.codec import Entry
from writebehind_app.store.connection import OutOfRange, client, errors

if TYPE_CHECKING:
    from writebehind_app.flush.engine import FlushResult

_PIPELINE = 1000  # writes in one round trip


class Write(NamedTuple):
    """A write that was checked."""

    id: str
    texts: dict[str, str]
    delete: str = ""  # '1' for a delete
    guard: str = ""  # what Redis must hold for the id still


class CoalescingBuffer(Buffer):
    """Writes to an id, and reads of what is there with all of them."""

    @abstractmethod
    def stored(self, ids: Sequence[str]) -> dict[str, Any]:
        """What the database has of those ids, by id."""

    @abstractmethod
    def merged(self, entry: Entry, stored: Any | None) -> Any | None:
        """What is there after the entry, of what was there before; None for nothing."""

    @abstractmethod
    def key_layout(self) -> Layout:
        """The fields that name an id."""

    def flush(self, /, **key: Any) -> FlushResult:
        """Bring what is pending, for one key or for all, to the database, and return when it is
        there. An error of the database is raised; nothing is lost by it."""
        return self._flush([self._id(key)] if key else ())

    def discard(self, /, **key: Any) -> int:
        """Throw away what is pending, for one key or for all; says how many entries went.

        What a flusher works on is not touched: it may be in the database already.
        """
        return self._discard([self._id(key)] if key else ())

    aflush = asynchronous(flush)
    adiscard = asynchronous(discard)

    def rows_of(self, write: Write) -> tuple[str, ...]:
        """The rows that a receipt asks for, of those of the id; none for all there are."""
        return ()

    def field_of(self, name: str) -> str:
        """What people call the field of that name in Redis."""
        return name

    def _write(self, writes: list[Write], *, max_age: float | None = None) -> list[Receipt]:
        """Send checked writes; those whose row no longer looks as expected are left out.

        One whose operation leaves the range of its field is refused by Redis; the others are
        written all the same.
        """
        age = round((self.option("MAX_AGE") if max_age is None else max_age) * 1e6)
        quiet = round(self.option("QUIET") * 1e6)
        calls = []
        for id, texts, delete, guard in writes:
            fields = [part for pair in texts.items() for part in pair]
            shard = self.shard_key_of(id)
            calls.append((shard, id, age, quiet, delete, guard, *fields))
        reach("write.sending")
        replies = self._send(calls)
        reach("write.accepted")
        if refused := [reply for reply in replies if isinstance(reply, OutOfRange)]:
            outcome = "nothing was changed"
            if len(calls) > 1:
                outcome = f"{len(calls) - len(refused)} of {len(calls)} writes were taken"
            message = f"The sum leaves the range of the field; {outcome}."
            names = {self.field_of(str(error)) for error in refused}
            raise ValidationError({n: [ValidationError(message, code="range")] for n in names})
        return [
            Receipt(call[0], write.id, reply, self.rows_of(write))
            for call, write, reply in zip(calls, writes, replies, strict=True)
            if reply
        ]

    def _send(self, calls: list[Any]) -> list[Any]:
        """The number of the entry that took each write, 0, or OutOfRange."""
        replies: list[Any]
        try:
            with errors:
                if len(calls) == 1:
                    return [lua.run(client(), "write", *calls[0])]
                replies = lua.run_in_order(client(), "write", calls, size=_PIPELINE)
        except OutOfRange as error:
            return [error]
        for i, reply in enumerate(replies):
            if isinstance(reply, Exception):
                try:
                    with errors:
                        raise reply
                except OutOfRange as error:
                    replies[i] = error
        return replies

    def _write_if(self, id: str, write_for: Callable[[Any | None], Write | None]) -> Receipt | None:
        """The receipt of the write that is made for what is there of the id; None where none is.
        Nobody's write comes between the look and the write."""
        while True:
            found, guard = reading.guarded(self, [id])[id]
            write = write_for(found)
            if write is not None:
                if receipts := self._write([write._replace(guard=guard)]):
                    return receipts[0]
            elif reading.is_unchanged(self, id, guard):
                return None

    def _pending_of(self, id: str) -> list[PendingEntry]:
        """The entries of one id, the one in flight first."""
        reading = store.read(client(), {self.shard_key_of(id): [id]})[self.shard_key_of(id)]
        found = [
            self._describe(e, reading.attempts, "in_flight") for e in reading.in_flight.values()
        ]
        return found + [self._describe(e, 0, "pending") for e in reading.pending.values()]

    def _id(self, key: Mapping[str, Any]) -> str:
        layout = self.key_layout()
        layout.only_key(key)
        return layout.id(key)

    def _key(self, key: Hashable) -> dict[str, Any]:
        """A key as get_many() takes it."""
        names = [column.name for column in self.key_layout().key]
        values = key if isinstance(key, tuple) and len(names) > 1 else (key,)
        if len(values) != len(names):
            raise TypeError(f"A key of {self.label} is ({', '.join(names)}), not {key!r}.")
        return dict(zip(names, values, strict=True))
