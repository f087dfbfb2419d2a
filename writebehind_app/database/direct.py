"""Writes that go around Redis: each verb, directly in the database, in one transaction.

Each direct write leaves a fence in the same transaction. So no older value that Redis still holds
can overwrite it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.exceptions import ValidationError
from django.db import connections

from writebehind_app.database import fences, superseding
from writebehind_app.database.bases import passing
from writebehind_app.database.lookup import rows_by_id
from writebehind_app.database.planner import Stored, write_entries
from writebehind_app.database.transactions import committed, may_be_repeated
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fold import fold
from writebehind_app.fields.limits import out_of_range
from writebehind_app.store import clock

if TYPE_CHECKING:
    from writebehind_app.database.once import Once
    from writebehind_app.declaration import Declaration, KeyedDeclaration
    from writebehind_app.fields.writes import Write
    from writebehind_app.store.calls import Record

_Result = TypeVar("_Result")


# Rows and entities


def write(buffer: KeyedDeclaration, writes: Sequence[Write], *, once: Once | None = None) -> None:
    """Write all of these writes in order, or none."""

    def act() -> bool:
        rows: Stored | None = _rows_in(buffer, _locked(buffer, {write.id for write in writes}))
        for part in _distinct(writes):
            _write(buffer, part, stored=rows)
            rows = None  # this part has changed them
        return True

    with passing(buffer, {write.id for write in writes}):
        _commit(buffer, act, once)


def write_if(
    buffer: KeyedDeclaration,
    id: str,
    write_for: Callable[[Any | None], Write | None],
    *,
    whole: bool,
    once: Once | None = None,
) -> Write | None:
    """Lock the row, ask `write_for` for a write to it, carry it out and return it.

    `write_for` may return None: then nothing is written. `whole` says that the write makes the row.
    """

    def act() -> Write | None:
        stored = _locked(buffer, [id])
        rows = _rows_in(buffer, stored)
        write = write_for(stored.get(id))
        if write is not None:
            _write(buffer, [write], whole=whole, stored=rows)
        return write

    with passing(buffer, [id]):
        return _commit(buffer, act, once)


def _locked(buffer: KeyedDeclaration, ids: Iterable[str]) -> dict[str, Any]:
    """Lock rows or entities, and then their fences, as the ORM's writes do. Return what is stored.

    In another order, this write and a save() might deadlock.
    """
    ids = sorted(ids)
    stored = buffer.stored(ids, lock=True)
    fences.lock(buffer, ids)
    # Somebody may have made rows just now, or keys of an entity.
    again = ids if buffer.names().is_entity else [id for id in ids if id not in stored]
    if again:
        # Whoever has locked such a row may wait for its fence: do not wait for each other.
        nowait = may_be_repeated(buffer.layout().using)
        stored |= buffer.stored(again, lock=True, nowait=nowait)
    return stored


def _rows_in(buffer: KeyedDeclaration, stored: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The values of stored rows, by row id. They are copies: the rows may be changed."""
    return {row_id: dict(row.__dict__) for row_id, row in buffer.rows_in(stored).items()}


def _write(
    buffer: KeyedDeclaration,
    writes: Sequence[Write],
    *,
    whole: bool = False,
    stored: Stored | None = None,
) -> None:
    """Write to rows or entities, each at most once. `stored` are the rows if they are read and
    locked already."""
    entries = [write.entry(clock.number(buffer.shard_key_of(write.id))) for write in writes]
    rows = sorted(buffer.row_entries(entries), key=lambda entry: entry.id)
    superseding.supersede(buffer, rows, entries)
    try:
        write_entries(buffer.layout(), rows, stored, is_direct=True)
    except ValidationError:
        if not connections[buffer.layout().using].needs_rollback:  # it is not by other code
            _refuse(buffer, rows)
        raise
    deleted = [entry for entry in entries if entry.deleted]
    fences.leave(buffer, [*rows, *deleted], whole=whole)


def _refuse(buffer: KeyedDeclaration, rows: Sequence[Entry]) -> None:
    """Raise a clear error for the row whose operation leaves the range of its field."""
    layout = buffer.layout()
    stored = rows_by_id(layout, [entry.id for entry in rows])
    for entry in rows:
        try:
            fold(layout, entry, None if (row := stored.get(entry.id)) is None else row.__dict__)
        except ValidationError as error:
            codes = {each.code for errors in error.error_dict.values() for each in errors}
            if codes <= {"range", "max_whole_digits"}:
                names = buffer.refused_fields(entry, error.error_dict)
                raise out_of_range(names, "nothing was changed") from None


def _distinct(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """The writes in parts. No part has two writes to one row."""
    part: dict[str, Write] = {}
    for write in writes:
        if write.id in part:
            yield list(part.values())
            part = {}
        part[write.id] = write
    if part:
        yield list(part.values())


# Logs


def append(buffer: Declaration, records: Sequence[Record], *, once: Once | None = None) -> None:
    """Insert records, all or none."""
    now = clock.now()
    entries = [record.entry(no) for no, record in enumerate(records, now)]
    _commit(buffer, lambda: write_entries(buffer.layout(), entries), once)


# Transactions


def _commit(
    buffer: Declaration, act: Callable[[], _Result], once: Once | None = None
) -> _Result | None:
    return committed(buffer.layout().using, lambda: once.settled(act) if once else act())
