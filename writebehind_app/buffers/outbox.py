"""Writes that this process holds back: until the end of a `batch()`, or until the commit of their
transaction.

A held call in a `batch()` is in the list of that block. A held call in a transaction is one of
Django's callbacks for the commit, and is kept nowhere else. So Django forgets it at a rollback, of
the transaction or of a savepoint, and nothing is kept of a transaction that never commits. A call
that is in both waits for the commit. It is gone if either fails.

Held calls are sent in their order. Plain calls that follow each other go in one round trip, over
all buffers. A call that depends on what is there decides once more when it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from writebehind_app.buffers.blocks import (
    add_to_block,
    current_block,
    held_in_blocks,
    innermost,
    open_block,
)
from writebehind_app.buffers.held import Held, HeldWrite, Strike, held_for_commit
from writebehind_app.buffers.held_index import HeldIndex
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.buffers.sending import send_calls
from writebehind_app.database.fences import no_fence
from writebehind_app.database.once import Once
from writebehind_app.database.transactions import (
    autocommits,
    check_commit_is_announced,
    check_outside_transaction,
)
from writebehind_app.store.connection import breaker, errors

if TYPE_CHECKING:
    from writebehind_app.buffers.base import Buffer
    from writebehind_app.buffers.plan import Plan
    from writebehind_app.declaration import Declaration, KeyedDeclaration
    from writebehind_app.fields.writes import Write


# Holding


def holds(plan: Plan) -> bool:
    """Return whether writes are held back now. Direct writes are in their transaction anyway."""
    if plan.is_direct:
        return False
    if innermost.get() is not None and current_block() is not None:
        return True
    return plan.settings.ON_COMMIT and connections[plan.using].in_atomic_block


def may_hold(plan: Plan) -> bool:
    """Return whether a read may have to show held writes, or a transaction is open."""
    connection = connections[plan.using]
    return (
        connection.in_atomic_block
        or bool(connection.run_on_commit)
        or not autocommits(connection)
        or (innermost.get() is not None and current_block() is not None)
    )


def hold(
    buffer: Buffer,
    parts: Sequence[Any],
    rows: Sequence[tuple[str, tuple[str, ...]]],
    send_parts: Callable[[Sequence[Any]], Iterable[Receipt]],
    *,
    is_plain: bool,
    once: Sequence[tuple[Once, Sequence[int]]] | None,
    check: Callable[[Sequence[Any]], None] = lambda parts: None,
) -> list[Receipt]:
    """Hold back the writes, or records, of a call. Return a receipt for each of `rows`, which are
    ids with the ids of their rows. `check` raises for a part that is refused.

    `once` is for a call with an idempotency key: the names of its parts, each with the indexes of
    the parts. Of calls with the same names, one is held. A part that was taken already is not held
    again.
    """
    visible = [*range(len(parts))]
    names = [one.digest for one, _ in once or ()]
    if once is not None:
        if earlier := held_by_name(buffer, names):
            return _receipts(earlier, rows)
        visible = [i for one, indexes in once if not one.was_taken() for i in indexes]
        if not visible:
            return [Receipt("", id, 0, of) for id, of in rows]
    check([parts[i] for i in visible])
    held = Held(buffer, parts, send_parts, visible=sorted(visible), is_plain=is_plain, names=names)
    return add(held, rows)


def add(held: Held, rows: Sequence[tuple[str, tuple[str, ...]]]) -> list[Receipt]:
    """Hold a call back, and return a receipt for each of `rows`. If Redis is known to be away, a
    call that may not go around it is refused here: the transaction can still be rolled back."""
    if held.names or held.buffer.option("WHEN_DOWN") == "raise":
        with errors:
            breaker(held.buffer.redis_key()).check(write=True)
    if (connection := _transaction(held.buffer.plan())) is not None:
        held.wait_for_commit(connection)
    if not add_to_block(current_block(), [held]) and connection is None:
        send_calls([held])  # another thread has closed the block at this moment
    return _receipts(held, rows)


def hold_for_commit(buffer: KeyedDeclaration, write: Write) -> None:
    """Hold back what a save has written, until its commit: it is sent after a delete that was held
    before. If that waits for the end of a block, so does this: the block may fail."""
    inside: Any = buffer
    held = Held(inside, [write], inside._write_now, is_plain=True)
    held.is_for_block = any(one.connection is None for one, _ in _held_at(buffer, write.id))
    held.wait_for_commit(connections[buffer.using()])


def _transaction(plan: Plan) -> BaseDatabaseWrapper | None:
    """Return the connection whose transaction the writes wait for."""
    connection = connections[plan.using]
    if not (plan.settings.ON_COMMIT and connection.in_atomic_block):
        return None
    check_commit_is_announced(connection.alias)
    return connection


def _receipts(held: Held, rows: Sequence[tuple[str, tuple[str, ...]]]) -> list[Receipt]:
    return [Receipt("", id, 0, of, HeldWrite(held, i)) for i, (id, of) in enumerate(rows)]


# Finding


def held_of(buffer: Declaration) -> list[Held]:
    """Return the held calls of a buffer for its database, in their order."""
    using = buffer.using()
    found = [*held_for_commit(connections[using]), *held_in_blocks()]
    mine = (one for one in found if one.buffer is buffer and one.using == using)
    return sorted((one for one in mine if one.state == "held"), key=lambda one: one.order)


def held_by_name(buffer: Buffer, names: Iterable[str]) -> Held | None:
    """Return the held call that has one of these names."""
    return next((held for name in names for held, _ in _held_at(buffer, f"*{name}")), None)


def writes_at(buffer: KeyedDeclaration, id: str) -> list[Write]:
    """Return the held writes to an id, as they will be sent."""
    return [part for one, i in _held_at(buffer, id) if (part := one.part(i)) is not None]


def _held_at(buffer: Declaration, place: str) -> list[tuple[Held, int]]:
    """Return the held calls that write to an id, or have a name, each with the index of the part,
    in the order of the calls."""
    using = buffer.using()
    connection = connections[using]
    found: list[tuple[Held, int]] = []
    if callbacks := connection.run_on_commit:

        def at(index: int) -> Held | None:
            callback = callbacks[index][1]
            return callback if isinstance(callback, Held) else None

        index = _indexes.setdefault(connection, HeldIndex())
        found += index.of(len(callbacks), at, buffer, place)
    block = current_block()
    while block is not None:
        held = block.held
        own = block.index.of(len(held), held.__getitem__, buffer, place)
        found += [(one, i) for one, i in own if one.connection is None and one.using == using]
        block = open_block(block.outer)
    return sorted(found, key=lambda pair: (pair[0].order, pair[1]))


_indexes: WeakKeyDictionary[BaseDatabaseWrapper, HeldIndex] = WeakKeyDictionary()


# Reading


def overlay(
    buffer: KeyedDeclaration, ids: Iterable[str], found: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what was found of these ids, with the held writes over it."""
    merged = dict(found)
    for id in ids:
        for held, i in _held_at(buffer, id):
            if (part := held.part(i)) is None:
                continue
            before = merged.pop(id, None)
            row = buffer.merged(part.entry(held.at + i), before, no_fence)
            if row is not None:
                merged[id] = row
    return merged


def count_of(buffer: Buffer) -> int:
    """Return how many entries the held calls of a buffer would make."""
    return len({id for held in held_of(buffer) for id in held.ids()})


# Taking away


def strike(buffer: KeyedDeclaration, entry_id: str, names: Set[str] | None) -> None:
    """Take fields of an id that a save has just written, those of these names or all, out of the
    writes that are held, if the save is committed."""
    if writes := _held_at(buffer, entry_id):
        Strike(connections[buffer.using()], names, writes).wait_for_commit()


def discard(buffer: Buffer, ids: Sequence[str]) -> int:
    """Throw away what is held of these ids, or all. Return how many entries went."""
    return len({id for held in held_of(buffer) for id in held.discard(ids)})


def send(buffer: Buffer | None = None) -> None:
    """Send what is held before its blocks end. For a buffer, also send what waits for the
    transaction that a test case has around it, as if that were committed."""
    held = held_in_blocks()
    if buffer is not None:
        held += held_for_commit(connections[buffer.layout().using])
        if held:
            check_outside_transaction(buffer.layout().using)
    send_calls(held)
