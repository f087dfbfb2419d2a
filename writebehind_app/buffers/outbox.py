"""Writes that are held back in this process, and sent together: at the end of a `batch()`, or with
the commit of the transaction that they are in.

What is held knows by itself what becomes of it. In a `batch()` it is in the list of that; in a
transaction it is one of Django's own callbacks for the commit, and nowhere else. So what Django
forgets with a rollback, of the transaction or of a savepoint, is gone, and nothing is kept of a
transaction that never commits. A write in both waits for the commit; it is gone where either
fails.

Held writes of one key are sent in their order. All that are plain go in one pipeline over all
buffers. One that was decided by what was there is decided once more when it is sent, after that.
"""

from __future__ import annotations

import sys
from asyncio import get_running_loop
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from itertools import count
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from asgiref.sync import AsyncToSync, sync_to_async
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from writebehind_app.buffers.receipt import Receipt
from writebehind_app.database.once import Once
from writebehind_app.database.transactions import check_commit_is_told, check_outside_transaction
from writebehind_app.exceptions import (
    BufferFull,
    BufferUnavailable,
    NotDurable,
    WritebehindError,
    WriteUncertain,
)
from writebehind_app.steps import reach
from writebehind_app.store import clock
from writebehind_app.store.calls import Delivery, Durability, Outcome
from writebehind_app.store.connection import breaker, client, errors
from writebehind_app.store.delivery import deliver_all

if TYPE_CHECKING:
    from writebehind_app.buffers.base import Buffer
    from writebehind_app.buffers.plan import Plan
    from writebehind_app.declaration import Declaration, KeyedDeclaration
    from writebehind_app.fields.entry import Entry
    from writebehind_app.store.shard import Where

Outcomes = Sequence[Sequence[Outcome]]  # of deliveries, of the calls of each
_order = count()


class Held:
    """One call whose writes are held back."""

    def __init__(
        self,
        buffer: Buffer,
        parts: Sequence[Any],
        act: Callable[[Sequence[Any]], Iterable[Receipt]],
        *,
        shown: Iterable[int] | None = None,
        together: bool = False,
        once: str | None = None,
    ) -> None:
        self.buffer = buffer
        # Writes, or records of a log, by their index in the call: those that reads show.
        self.parts = {i: parts[i] for i in (range(len(parts)) if shown is None else shown)}
        self._every = parts
        self.keys = frozenset(buffer.place_in_order(part) for part in parts)
        self.together = together  # it is plain: it can go in a pipeline
        self.once = once
        self.at = clock.now()
        self.order = next(_order)
        self.state: Literal["held", "sent", "dropped"] = "held"
        self.connection: BaseDatabaseWrapper | None = None  # of the transaction it waits for
        self.receipts: dict[int, Receipt] = {}
        self.error: Exception | None = None
        self._act = act

    @property
    def is_waiting(self) -> bool:
        """Whether it will be sent, if nothing comes in between."""
        return self.state == "held" and (
            self.connection is None
            or any(callback is self for callback in _callbacks(self.connection))
        )

    def where(self, index: int) -> Literal["held", "discarded", "lost"]:
        """Where a write is that has no receipt of Redis or the database."""
        if isinstance(self.error, WriteUncertain):
            return "lost"
        is_in = index in self.parts or not self.together
        return "held" if is_in and self.is_waiting else "discarded"

    def entries(self) -> Iterator[Entry]:
        """What it writes, as Redis would have it if there were nothing else."""
        for i, part in self.parts.items():
            yield part.entry(self.at + i)._replace(version=self.buffer.version)

    def places(self) -> set[str]:
        """The ids it writes to; of records without one, each has its own."""
        return {part.id or f"{self.order} {i}" for i, part in self.parts.items()}

    def discard(self, ids: Sequence[str]) -> set[str]:
        """Throw away what it writes to these ids, or all; says of what. What is not plain goes as a
        whole, or not at all."""
        before = self.places()
        left = {i: part for i, part in self.parts.items() if ids and part.id not in ids}
        if self.together or not left:
            self.parts = left
        if not self.parts:
            self.state = "dropped"
        return before - self.places()

    def act(self) -> None:
        """Send it by itself."""
        parts = self.parts if self.together else dict(enumerate(self._every))
        indexes = list(parts)
        try:
            receipts = self._act(list(parts.values()))
            self.receipts = dict(zip(indexes, receipts, strict=True))
        except NotDurable as taken:
            self.receipts = dict(zip(indexes, taken.receipts, strict=False))
            raise
        except Exception as error:
            self.error = error
            raise

    def __call__(self) -> None:
        """Django calls it when the transaction is committed."""
        if self.state == "held":
            leave(_with_those_before([self, *_of_the_same_commit()]))


class HeldWrite(NamedTuple):
    """One write of a call that is held back, as its receipt has it."""

    call: Held
    number: int  # of the write in the call

    @property
    def sent(self) -> Receipt | None:
        """The receipt that it got, once it was sent and taken."""
        return self.call.receipts.get(self.number)

    @property
    def where(self) -> Where | Literal["dead", "held"]:
        return sent.where if (sent := self.sent) else self.call.where(self.number)


def batch() -> Block:
    """Gathers the writes of a block, over all buffers, into one round trip.

        with batch():
            Ticket.buffered.set(number=5, status="open")
            LessonMeta.buffered.of(lesson_id=7, user=user)["section"] = 3

    Reads inside see them. They are sent at the end, all in their order, or not at all where an
    exception leaves the block. One inside another is part of that. In asynchronous code it is
    `async with batch():`.
    """
    return Block()


class Block:
    """What `with batch():` enters."""

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.failed = False
        self.closed = True
        self.outer: Block | None = None
        self._lock = Lock()

    def add(self, held: Iterable[Held]) -> bool:
        """Hold these; False where it is closed by now."""
        with self._lock:
            if not self.closed:
                self.held += held
            return not self.closed

    def __enter__(self) -> Self:
        if not self.closed:
            raise RuntimeError("This batch() is entered already: call batch() again.")
        self.closed, self.failed, self.outer = False, False, _current()
        _block.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None
    ) -> None:
        self._close()
        self._end(kind is not None)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None
    ) -> None:
        self._close()
        await sync_to_async(self._end)(kind is not None)

    def _close(self) -> None:
        with self._lock:
            self.closed = True
        if _block.get() is self:  # a generator may end in another context
            _block.set(self.outer)

    def _end(self, failed: bool) -> None:
        held, self.held = self.held, []
        if failed or self.failed:
            for one in held:
                if one.state == "held":
                    one.state = "dropped"
        elif not _add(self.outer, held):
            leave(one for one in held if one.connection is None)


_block: ContextVar[Block | None] = ContextVar("writebehind_batch", default=None)


def _open(block: Block | None) -> Block | None:
    while block is not None and block.closed:
        block = block.outer
    return block


def _add(block: Block | None, held: Sequence[Held]) -> bool:
    """Have the innermost block that is open hold these; False where there is none."""
    while (block := _open(block)) is not None:
        if block.add(held):
            return True
    return False


def _current() -> Block | None:
    """The innermost block. A task or a thread that was begun in one may outlive it."""
    return _open(_block.get())


def fail() -> None:
    """Have the innermost block send nothing at its end."""
    if block := _current():
        block.failed = True


# Holding


def holds(plan: Plan) -> bool:
    """Whether what is written now is held back. What goes straight to the database is part of its
    transaction anyway."""
    if plan.is_direct:
        return False
    if _block.get() is not None and _current() is not None:
        return True
    return plan.settings.ON_COMMIT and connections[plan.using].in_atomic_block


def may_hold_tasks() -> bool:
    """Whether what a task writes now may have to wait for a `batch()`, or for the transaction of a
    thread that waits for the task: of one that called `async_to_sync()`, as tests do."""
    return (
        _current() is not None
        or getattr(AsyncToSync.executors, "current", None) is not None
        or get_running_loop() in AsyncToSync.loop_thread_executors
    )


def hold(
    buffer: Buffer,
    parts: Sequence[Any],
    rows: Sequence[tuple[str, tuple[str, ...]]],
    act: Callable[[Sequence[Any]], Iterable[Receipt]],
    *,
    together: bool,
    once: str | None,
    calls: Callable[[], Iterable[tuple[str, Sequence[int]]]],
    check: Callable[[Sequence[Any]], None] = lambda parts: None,
) -> list[Receipt]:
    """Hold the writes, or records, of a call back; receipts by ids and rows. `check` refuses some.

    Of calls with the same text as `once` one is held, and none that was carried out before, as far
    as can be told: in each of the `calls` that will be made for it, shards with indexes of parts.
    """
    shown = [*range(len(parts))]
    if once is not None:
        if earlier := named(buffer, once):
            return _receipts(earlier, rows)
        shown = [
            i
            for number, (shard, indexes) in enumerate(calls())
            if not is_known(buffer, once, number, shard)
            for i in indexes
        ]
        if not shown:
            return [Receipt("", id, 0, of) for id, of in rows]
    check([parts[i] for i in shown])
    held = Held(buffer, parts, act, shown=sorted(shown), together=together, once=once)
    return add(held, rows)


def add(held: Held, rows: Sequence[tuple[str, tuple[str, ...]]]) -> list[Receipt]:
    """Hold a call back; receipts by ids and rows. One that may not go around a Redis which is known
    to be away is refused: a transaction can be rolled back yet."""
    if held.buffer.option("WHEN_DOWN") == "raise":
        with errors:
            breaker().check(write=True)
    if (connection := _transaction(held.buffer.plan())) is not None:
        held.connection = connection
        connection.on_commit(held)
    if not _add(_current(), [held]) and connection is None:
        leave([held])  # the block was closed in this moment, by the thread that it is of
    return _receipts(held, rows)


def _receipts(held: Held, rows: Sequence[tuple[str, tuple[str, ...]]]) -> list[Receipt]:
    return [Receipt("", id, 0, of, HeldWrite(held, i)) for i, (id, of) in enumerate(rows)]


def named(buffer: Buffer, once: str) -> Held | None:
    """The call with that name that is held."""
    return next((held for held in held_of(buffer) if held.once == once), None)


def is_known(buffer: Buffer, once: str, part: int, shard: str) -> bool:
    """Whether a call of that name was taken before, as far as can be told; see once.py."""
    with suppress(WriteUncertain):
        return Once(buffer, once, part, shard).was_taken()
    return False


def _transaction(plan: Plan) -> BaseDatabaseWrapper | None:
    """The connection whose transaction the writes wait for."""
    connection = connections[plan.using]
    if not (plan.settings.ON_COMMIT and connection.in_atomic_block):
        return None
    check_commit_is_told(connection.alias)
    return connection


def held_of(buffer: Declaration) -> list[Held]:
    """What is held of a buffer, in its order."""
    found = [*_callbacks(connections[buffer.layout().using]), *_in_blocks()]
    mine = (held for held in found if held.state == "held" and held.buffer is buffer)
    return sorted(mine, key=lambda held: held.order)


def _callbacks(connection: BaseDatabaseWrapper) -> list[Held]:
    """What waits for the commit of the transaction."""
    return [entry[1] for entry in connection.run_on_commit if isinstance(entry[1], Held)]


def _in_blocks() -> list[Held]:
    """What waits for the end of a block, and for nothing else."""
    found, block = [], _current()
    while block is not None:
        found += [held for held in block.held if held.connection is None]
        block = _open(block.outer)
    return found


# Reading


def no_fence(row_id: str) -> None:
    """Nothing was written directly after what is held."""


def over(buffer: KeyedDeclaration, ids: Iterable[str], found: Mapping[str, Any]) -> dict[str, Any]:
    """What is there of these ids with what is held of them."""
    merged, wanted = dict(found), set(ids)
    for held in held_of(buffer):
        for i, write in held.parts.items():
            if write.id in wanted:
                before = merged.pop(write.id, None)
                row = buffer.merged(write.entry(held.at + i), before, no_fence)
                if row is not None:
                    merged[write.id] = row
    return merged


def count_of(buffer: Buffer) -> int:
    """How many entries what is held of a buffer would make."""
    return len({place for held in held_of(buffer) for place in held.places()})


def discard(buffer: Buffer, ids: Sequence[str]) -> int:
    """Throw away what is held of these ids, or all; says of how many entries."""
    return len({place for held in held_of(buffer) for place in held.discard(ids)})


# Sending


def send(buffer: Buffer | None = None) -> None:
    """Send what is held before the end: of blocks, and, for a buffer, of the transaction that a
    test case has around it, as if it were committed."""
    held = _in_blocks()
    if buffer is not None:
        held += _callbacks(connections[buffer.layout().using])
        if held:
            check_outside_transaction(buffer.layout().using)
    leave(held)


class Sending(NamedTuple):
    """How held writes of a buffer go in a pipeline with others."""

    deliveries: Sequence[Delivery]
    # Notes, by their indexes, the receipts of those that were taken, and what kept others from it;
    # raises what became of some.
    settle: Callable[[Outcomes, dict[int, Receipt], dict[int, Exception]], None]


def leave(held: Iterable[Held]) -> None:
    """Send what is held. Where some of it is not taken the rest is sent all the same; then the
    gravest of the errors is raised."""
    waiting = [one for one in sorted({*held}, key=lambda one: one.order) if one.state == "held"]
    together, alone, keys_alone = [], [], set[object]()
    for one in waiting:
        one.state = "sent"
        if one.together and keys_alone.isdisjoint(one.keys):
            together.append(one)
        else:
            keys_alone |= one.keys
            alone.append(one)
    errors: list[Exception] = []
    for act in (lambda: _send_together(together, errors), *(one.act for one in alone)):
        try:
            act()
        except Exception as error:  # noqa: BLE001 - the others are sent all the same
            errors.append(error)
    if errors:
        gravest = min(errors, key=_gravity)
        for other in errors:
            if other is not gravest:
                gravest.add_note(f"Likewise {type(other).__name__}: {other}")
        raise gravest


_GRAVEST = (WriteUncertain, BufferUnavailable, BufferFull, WritebehindError, Exception)


def _gravity(error: Exception) -> int:
    if isinstance(error, NotDurable):  # it was taken
        return len(_GRAVEST)
    return next(n for n, kind in enumerate(_GRAVEST) if isinstance(error, kind))


def _send_together(held: Sequence[Held], errors: list[Exception]) -> None:
    """One round trip, but for buffers of another durability."""
    by_buffer: dict[Buffer, list[Held]] = {}
    for one in held:
        by_buffer.setdefault(one.buffer, []).append(one)
    by_durability: dict[Durability | None, list[tuple[Sending, list[tuple[Held, int]]]]] = {}
    for buffer, its in by_buffer.items():
        places = [(one, i) for one in its for i in one.parts]
        try:
            sending = buffer.sending([one.parts[i] for one, i in places])
        except Exception as error:  # noqa: BLE001 - the others are sent all the same
            errors.append(error)
        else:
            by_durability.setdefault(buffer.plan().durability, []).append((sending, places))
    for durability, sendings in by_durability.items():
        deliveries = [delivery for sending, _ in sendings for delivery in sending.deliveries]
        reach("write.sending")
        try:
            outcomes = iter(deliver_all(client(), deliveries, durability))
        except BufferUnavailable as error:
            outcomes = iter([[error] * len(delivery.calls) for delivery in deliveries])
        except Exception as error:  # noqa: BLE001 - as above
            errors.append(error)
            continue
        reach("write.accepted")
        for sending, places in sendings:
            try:
                _settle(sending, [next(outcomes) for _ in sending.deliveries], places)
            except Exception as error:  # noqa: BLE001 - the others are sent already
                errors.append(error)


def _settle(sending: Sending, outcomes: Outcomes, places: Sequence[tuple[Held, int]]) -> None:
    receipts: dict[int, Receipt] = {}
    failures: dict[int, Exception] = {}
    try:
        sending.settle(outcomes, receipts, failures)
    finally:  # what Redis took it has, whatever comes of the others
        for n, (one, i) in enumerate(places):
            if n in receipts:
                one.receipts[i] = receipts[n]
            elif n in failures:
                one.error = failures[n]


def _of_the_same_commit() -> list[Held]:
    """What else Django will call after this commit. It has that in a local variable; where it does
    not, each is sent as it is called."""
    callbacks = sys._getframe(2).f_locals.get("current_run_on_commit", ())
    return [entry[1] for entry in callbacks if isinstance(entry[1], Held)]


def _with_those_before(held: Sequence[Held]) -> list[Held]:
    """What was written to the same keys before goes ahead: what blocks have of them, and what else
    a transaction has of which a test case captures some callbacks."""
    connection = held[0].connection
    others = _in_blocks() + (_callbacks(connection) if connection else [])
    keys = {key for one in held for key in one.keys}
    last = max(one.order for one in held)
    before = []
    for one in sorted(others, key=lambda one: -one.order):
        if one.order < last and not keys.isdisjoint(one.keys):
            keys |= one.keys
            before.append(one)
    return [*before, *held]
