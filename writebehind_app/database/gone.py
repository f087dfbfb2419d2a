"""Find out which rows went with a deletion.

Some entries wait although they are older than the deletion. It may delete their rows, and rows to
which they refer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from django.db import models

from writebehind_app.database.cascades import Cascades
from writebehind_app.database.halves import moves
from writebehind_app.database.lookup import rows_by_id
from writebehind_app.database.order import Step
from writebehind_app.database.parents import Row, missing_parents, row_of
from writebehind_app.fields.entry import Entry


class Gone:
    """Looks at these rows before the deletion, when it is made, and after it, in `note`."""

    def __init__(self, deletion: Step, held: Sequence[Step], later: Iterable[Step]) -> None:
        self._number = max(entry.deleted for entry in deletion.entries)
        self._held = held
        self._referring = [
            (step.written.buffer, own)
            for step in (*held, *later)
            if (own := [entry for entry in step.entries if self._refers(step, entry)])
        ]
        self._there = set(self._rows()) if held else set()
        self._missing = set(self._parents())

    def note(self, cascades: Cascades) -> set[Row]:
        """Note which rows went. Return those of entries that wait: these need not be written any
        more. Return no rows if an entry was to move its row away before the deletion."""
        for parent in set(self._parents()) - self._missing:
            cascades.note_gone(parent, self._number)
        gone = self._there - set(self._rows()) if self._there else set()
        found = [
            (step.written.buffer, entry)
            for step in self._held
            for entry in step.entries
            if row_of(step.written.buffer, entry.id) in gone
        ]
        if any(
            entry.last > self._number or moves(buffer.layout(), entry) for buffer, entry in found
        ):
            return set()
        for row in gone:
            cascades.note_gone(row, self._number)
        return gone

    def _refers(self, step: Step, entry: Entry) -> bool:
        """Whether an entry has a reference that is older than the deletion."""
        return entry.since < self._number and any(
            isinstance(column.field, models.ForeignKey)
            and 0 < entry.number_of(column.name) < self._number
            for column in step.written.buffer.layout().columns.values()
        )

    def _rows(self) -> Iterator[Row]:
        """The rows of the entries that wait, if they are stored."""
        for step in self._held:
            buffer = step.written.buffer
            if buffer.layout().key:  # records of a log are new
                ids = [entry.id for entry in step.entries]
                yield from (row_of(buffer, id) for id in rows_by_id(buffer.layout(), ids))

    def _parents(self) -> Iterator[Row]:
        """The rows to which entries refer, if they are missing."""
        for buffer, entries in self._referring:
            for orphan in missing_parents(buffer.layout(), entries):
                if orphan.parent is not None:
                    yield row_of(*orphan.parent)
