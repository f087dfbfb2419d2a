"""Deal with children whose parent is gone, but was there when they were written.

The parent may have been made and deleted since the last flush: Redis keeps only its deletion. Or
the ORM has deleted it: then there is a fence for the reference. One by one, the children would have
been stored first, and the deletion would have deleted them or set their references to NULL. So the
flush does that itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.db import models

from writebehind_app.database import fences
from writebehind_app.database.order import Step, Written
from writebehind_app.database.parents import Orphan, Row, row_of
from writebehind_app.declaration import Declaration
from writebehind_app.fields.entry import Entry, entry_of, numbered

_DELETES = {models.CASCADE, getattr(models, "DB_CASCADE", models.CASCADE)}
_SETS_NULL = {models.SET_NULL, getattr(models, "DB_SET_NULL", models.SET_NULL)}


def references(model: type[models.Model]) -> list[Any]:
    """The foreign keys of a model by which a deletion deals with its rows."""
    every: Any = model._meta.concrete_fields
    return [
        field
        for field in every
        if isinstance(field, models.ForeignKey)
        and isinstance(field.related_model, type)
        and field.remote_field.on_delete in _DELETES | _SETS_NULL
    ]


def reference_to(field: Any, value: Any) -> str:
    """The id of the fence that the deletion of a row leaves for references to it."""
    return f"{field.name} = {field.target_field.get_prep_value(value)}"


def _reference(orphan: Orphan) -> str:
    return reference_to(orphan.column.field, orphan.value)


class Cascades:
    """Decides what to write of such children."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._fenced: dict[tuple[Declaration, str], int] = {}  # what fences say, by reference
        self._written: dict[Row, Written] = {}  # where the outcome of a row is noted
        # By row: the numbers of its first write and of its deletion.
        self._lives: dict[Row, tuple[int, int]] = {}
        for step in steps:
            for entry in step.entries:
                row = row_of(step.written.buffer, entry.id)
                self._written[row] = step.written
                if entry.deleted:
                    self._lives[row] = entry.since, entry.deleted
        self._going: dict[Row, int] = {}  # children to delete: the number of the deletion
        self._deletions: list[tuple[Written, Entry]] = []  # of these children

    def staying(self, buffer: Declaration, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Leave out the entries of children that will be deleted after them."""
        if not self._going:
            return entries
        going = self._going
        return [e for e in entries if e.last >= going.get(row_of(buffer, e.id), 0)]

    def look_for_fences(self, buffer: Declaration, orphans: Sequence[Orphan]) -> None:
        """Find out whether the ORM has deleted the parents."""
        found = fences.void_until(buffer, {*map(_reference, orphans)})
        self._fenced |= {(buffer, reference): number for reference, number in found.items()}

    def fate(self, buffer: Declaration, orphan: Orphan) -> Sequence[Entry] | None:
        """What to write of a child whose parent is missing. None if the parent was never there, or
        if the database would have refused to delete it."""
        entry, column = orphan.entry, orphan.column
        field: Any = column.field
        since = deleted = 0
        if orphan.parent is not None:
            since, deleted = self._lives.get(row_of(*orphan.parent), (0, 0))
        if not deleted:
            deleted = self._fenced.get((buffer, _reference(orphan)), 0)
        number = entry.number_of(column.name) or entry.last
        if not since < number < deleted:
            return None
        on_delete = field.remote_field.on_delete
        if on_delete in _SETS_NULL:
            text = numbered(number, column.encode(None))
            return [entry._replace(values={**entry.values, column.name: text})]
        if on_delete not in _DELETES:
            return None
        if not buffer.layout().key:  # a record, which is not stored yet
            return []
        row = row_of(buffer, entry.id)
        self._lives[row] = entry.since, deleted
        if entry.last > deleted:
            return [_anew(entry, deleted)]
        if row not in self._going:
            self._going[row] = deleted
            gone = entry_of(entry.id, {}, deleted, delete=True, version=entry.version)
            self._deletions.append((self._written[row], gone._replace(since=entry.since)))
        return []

    def note_gone(self, row: Row, deleted: int) -> None:
        """Note that a row was stored, and has gone with a deletion."""
        self._lives[row] = 0, deleted

    def due(self, step: Step) -> list[tuple[Written, Entry]]:
        """The deletions of children that belong to the deletions of a step."""
        last = max((entry.deleted for entry in step.entries), default=0) if step.deletes else 0
        found = [each for each in self._deletions if each[1].deleted <= last]
        self._deletions = [each for each in self._deletions if each[1].deleted > last]
        return found

    def rest(self) -> list[tuple[Written, Entry]]:
        """The other deletions of children, whose parents' deletions have been carried out."""
        found, self._deletions = self._deletions, []
        return found


def _anew(entry: Entry, deleted: int) -> Entry:
    """The entry of a row that was deleted with its parent, and made anew later."""
    later = entry.part(lambda number: number > deleted)
    return later._replace(first=min(later.numbers() | {entry.last}), deleted=deleted)
