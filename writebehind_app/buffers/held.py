"""A call whose writes are held back in this process, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

from writebehind_app.buffers.blocks import add_to_block, current_block, held_in_blocks
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.buffers.sending import send_calls
from writebehind_app.exceptions import NotDurable, WriteUncertain
from writebehind_app.fields.entry import field_of
from writebehind_app.store import clock

if TYPE_CHECKING:
    from writebehind_app.buffers.base import Buffer
    from writebehind_app.fields.entry import Entry
    from writebehind_app.fields.writes import Write
    from writebehind_app.store.shard import Where

_order = count()


class Held:
    """One call whose writes are held back, by a `batch()` or a transaction. The commit calls it."""

    def __init__(
        self,
        buffer: Buffer,
        parts: Sequence[Any],
        send_parts: Callable[[Sequence[Any]], Iterable[Receipt]],
        *,
        visible: Iterable[int] | None = None,
        is_plain: bool = False,
        names: Iterable[str] = (),
    ) -> None:
        self.buffer = buffer
        self.using = buffer.using()  # the router may name another database when it is sent
        # The writes, or records of a log, that reads show; by their index in the call.
        self.parts = {i: parts[i] for i in (range(len(parts)) if visible is None else visible)}
        # The others are sent with them: these were taken before, under the same name.
        self._taken = {i: part for i, part in enumerate(parts) if i not in self.parts}
        self.keys = frozenset((self.using, buffer.place_in_order(part)) for part in parts)
        self.is_plain = is_plain  # it does not depend on what is there, and goes in a pipeline
        self.names = frozenset(names)  # the digests of idempotency keys
        self.at = clock.now()
        self.order = next(_order)
        self.state: Literal["held", "sent", "dropped"] = "held"
        self.connection: BaseDatabaseWrapper | None = None  # whose transaction it waits for
        self.callbacks: list[Any] = []  # of that transaction, for the commit; it is one of them
        self.receipts: dict[int, Receipt] = {}
        self.error: Exception | None = None
        self.strikes: list[Strike] = []  # what saves have replaced since
        self.is_for_block = False  # it follows a write that waits for the end of a block
        self.replaced: set[str] = set()  # the names of the fields that committed saves have written
        self._send_parts = send_parts

    def part(self, index: int) -> Any | None:
        """Return a write, or record, as it will be sent; None if a save replaced all of it."""
        part = self.parts[index]
        for strike in self.strikes:
            if part is not None and strike.is_waiting:
                part = strike.left_of(part)
        return part

    @property
    def is_waiting(self) -> bool:
        """Whether it is still to be sent."""
        return self.state == "held" and (
            self.connection is None
            or any(callback is self for callback in held_for_commit(self.connection))
        )

    def where(self, index: int) -> Literal["held", "discarded", "lost"]:
        """Return where a write is that was not sent, or could not be sent."""
        if isinstance(self.error, WriteUncertain):
            return "lost"
        is_in = index in self.parts or index in self._taken
        return "held" if is_in and self.is_waiting else "discarded"

    def entries(self) -> Iterator[Entry]:
        """Yield the entries that it would make in an empty Redis."""
        for i in self.parts:
            if (part := self.part(i)) is not None:
                yield part.entry(self.at + i)._replace(version=self.buffer.version)

    def ids(self) -> set[str]:
        """Return the ids written. A record without an id counts as its own."""
        parts = {i: part for i in self.parts if (part := self.part(i)) is not None}
        return {part.id or f"{self.order} {i}" for i, part in parts.items()}

    def discard(self, ids: Sequence[str]) -> set[str]:
        """Throw away the writes to these ids, or to all. Return the ids whose writes went. A call
        that is not plain goes as a whole, or not at all."""
        before = self.ids()
        left = {i: part for i, part in self.parts.items() if ids and part.id not in ids}
        if left != self.parts and (self.is_plain or not left):
            self.parts = left
            if not left:
                self.state = "dropped"
        return before - self.ids()

    def replace(self, index: int, left: Any | None, names: Set[str]) -> None:
        """Note what a committed save has left of a write, and which fields it wrote. A call of
        which nothing is left is dropped; one with an idempotency key is sent all the same, so that
        its name is remembered."""
        self.replaced |= names
        if left is not None:
            self.parts[index] = left
            return
        del self.parts[index]
        if not (self.parts or self.names):
            self.state = "dropped"

    def send(self) -> None:
        """Send it alone."""
        parts = dict(sorted({**self._taken, **self.parts}.items()))
        indexes = list(parts)
        try:
            receipts = self._send_parts(list(parts.values()))
            self.receipts = dict(zip(indexes, receipts, strict=True))
        except NotDurable as taken:
            self.receipts = dict(zip(indexes, taken.receipts, strict=False))
            raise
        except Exception as error:
            self.error = error
            raise

    def wait_for_commit(self, connection: BaseDatabaseWrapper) -> None:
        """Become one of Django's callbacks for the commit."""
        self.connection = connection
        connection.on_commit(self)
        for entry in reversed(connection.run_on_commit):
            callback = entry[1]
            if isinstance(callback, Held):
                if callback.callbacks is connection.run_on_commit:
                    break
                callback.callbacks = connection.run_on_commit

    def __call__(self) -> None:
        """Send it; Django calls this after the commit."""
        if self.state == "held" and self.connection is not None:
            every = [self, *self._called_after()]
            if calls := [one for one in every if not one._goes_on_in_block()]:
                send_calls([*_earlier(calls), *calls])

    def _goes_on_in_block(self) -> bool:
        """Wait for the end of the block from now on, if that is what this is for."""
        connection, self.connection = self.connection, None
        if self.is_for_block and add_to_block(current_block(), [self]):
            return True
        self.connection = connection
        return False

    def _called_after(self) -> list[Held]:
        """Return the held calls that Django calls after this one, for the same commit.

        Django takes each callback out of its list before it calls it. If this one is still in the
        list, Django goes through another list. There are two such cases: Django made a new list,
        because a savepoint was rolled back; or a test case calls what it has captured. Then nobody
        knows what follows, and each call is sent when its turn comes.
        """
        if any(entry[1] is self for entry in self.callbacks):
            if self.connection and self.callbacks is not self.connection.run_on_commit:
                self.callbacks.clear()  # nobody else uses it: the next call need not search it
            return []
        return [entry[1] for entry in self.callbacks if isinstance(entry[1], Held)]


def _earlier(calls: Sequence[Held]) -> list[Held]:
    """Return held calls that wrote to the same keys before these: they must be sent first. Some
    wait for the end of a block. Some wait for the same commit, if a test case captures only a part
    of its callbacks."""
    connection = calls[0].connection
    others = held_in_blocks() + (held_for_commit(connection) if connection else [])
    keys = {key for one in calls for key in one.keys}
    last = max(one.order for one in calls)
    found = []
    for one in sorted(others, key=lambda one: -one.order):
        if one.order < last and not keys.isdisjoint(one.keys):
            keys |= one.keys
            found.append(one)
    return found


def held_for_commit(connection: BaseDatabaseWrapper) -> list[Held]:
    """Return the held calls that wait for the commit of the current transaction."""
    return [entry[1] for entry in connection.run_on_commit if isinstance(entry[1], Held)]


class Strike:
    """What a save replaced of held writes of its transaction: some fields of an id, or all.

    It is a callback for the commit. So a rollback takes it away, and the writes are held in full
    again. Django calls it before all held calls.
    """

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        names: Set[str] | None,
        writes: list[tuple[Held, int]],
    ) -> None:
        self._connection = connection
        self._names = names  # of the fields, as the writes have them; None for all
        self._writes = writes

    def wait_for_commit(self) -> None:
        """Become a callback for the commit, before those of held calls."""
        for held, _ in self._writes:
            held.strikes.append(self)
        self._connection.on_commit(self)
        callbacks = self._connection.run_on_commit
        first = next(i for i, entry in enumerate(callbacks) if isinstance(entry[1], Held | Strike))
        callbacks.insert(first, callbacks.pop())

    @property
    def is_waiting(self) -> bool:
        """Whether the save is neither committed nor rolled back yet."""
        return any(entry[1] is self for entry in self._connection.run_on_commit)

    def left_of(self, write: Write) -> Write | None:
        """Return what is still to be sent of a write, or None."""
        if self._names is None:
            return None
        texts = {n: t for n, t in write.texts.items() if field_of(n) not in self._names}
        if write.texts and not texts and not write.delete:
            return None
        return write._replace(texts=texts)

    def __call__(self) -> None:
        """Take what the save wrote out of the held writes; Django calls this after the commit."""
        for held, i in self._writes:
            if i in held.parts and held.state == "held":
                held.replace(i, self.left_of(held.parts[i]), self._names or frozenset())
        self._writes = []


class HeldWrite(NamedTuple):
    """One write of a held call, for its receipt."""

    call: Held
    number: int  # of the write in the call

    @property
    def sent(self) -> Receipt | None:
        """The receipt that it got when Redis took it."""
        return self.call.receipts.get(self.number)

    @property
    def where(self) -> Where | Literal["dead", "held"]:
        return sent.where if (sent := self.sent) else self.call.where(self.number)
