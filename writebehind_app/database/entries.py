"""Write entries of one buffer, and find those that the database refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from django.db.backends.base.base import BaseDatabaseWrapper

from writebehind_app.database import fences
from writebehind_app.database.bisect import Refused, isolate, savepoint_of
from writebehind_app.database.cascades import Cascades
from writebehind_app.database.failures import is_refusal
from writebehind_app.database.order import Written
from writebehind_app.database.parents import Orphan, unique_fields, without_parent
from writebehind_app.database.planner import Counting, what_counts, write_counting
from writebehind_app.declaration import Declaration
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.layout import Layout


class EntryWriter:
    """Writes entries of one buffer. Those that are refused are returned unchanged: they may be
    written again later, and fences are applied each time."""

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        cascades: Cascades,
        *,
        of_rows: bool,
        tried: bool,
        insist: bool,
    ) -> None:
        self.connection = connection
        self.cascades = cascades
        self.of_rows = of_rows
        self.tried = tried  # the database has refused what is written next, all at once
        self.insist = insist
        self.frees = False  # whether an entry may free a unique value
        self.is_fenced = False  # whether fences may have made something void

    def write(self, written: Written, entries: Sequence[Entry]) -> list[Refused]:
        """Write entries, at most one for each row; return those that are refused."""
        buffer, layout = written.buffer, written.buffer.layout()
        found, refused = self._with_parents(buffer, self.cascades.staying(buffer, entries))
        if not found:
            return refused
        every = None if self.of_rows else self._counting(buffer, found)
        if every is not None:
            counts = {entry.id for entry in every.entries}
            found = [entry for entry in found if entry.id in counts]
        stored = None if every is None else every.stored
        self.frees |= stored is None or any(
            entry.id in stored and (entry.deleted or _unique(layout, entry)) for entry in found
        )

        def write_part(part: Sequence[Entry]) -> None:
            if self.of_rows:
                own = Counting(part)
            elif every is not None and len(part) > 1:
                own = every.of(part)
            else:
                # A single entry may be refused because its row was made meanwhile, perhaps by this
                # very batch under a key that the database takes for equal: look again.
                own = what_counts(buffer, part, every)
                self.is_fenced |= [*own.entries] != [*part]
            deletes = any(entry.deleted for entry in own.entries)
            if deletes:  # Django may delete rows that refer to each other in the wrong order
                check_constraints(self.connection, "DEFERRED")
            rows = write_counting(buffer, own, written.new)
            if deletes:
                check_constraints(self.connection, "IMMEDIATE")
            written.rows += rows
            written.entries.extend(own.entries)

        if found:
            tried, self.tried = self.tried and not refused, False
            anew = every is not None and any(e.deleted and e.exists for e in every.entries)
            # A row that a write past Redis made anew may go with the row that is deleted next.
            for part in [[entry] for entry in found] if anew else [found]:
                refused += isolate(
                    self.connection, part, write_part, tried=tried, insist=self.insist
                )
        return refused

    def _with_parents(
        self, buffer: Declaration, entries: Sequence[Entry]
    ) -> tuple[Sequence[Entry], list[Refused]]:
        """The entries to write, and those that are refused because a parent was never there."""
        orphans = self._orphans(buffer, entries)
        if not orphans:
            return entries, []
        if not self.of_rows:
            self.cascades.look_for_fences(buffer, orphans)
        refused: list[Refused] = []
        left: list[Entry] = []
        for orphan in orphans:
            if (fate := self.cascades.fate(buffer, orphan)) is None:
                refused.append(Refused(orphan.entry, orphan.error, parent=orphan.parent))
            else:
                left += fate
        found, more = self._with_parents(buffer, left) if left else ([], [])
        return [*_others(entries, orphans), *found], refused + more

    def _orphans(self, buffer: Declaration, entries: Sequence[Entry]) -> Sequence[Orphan]:
        layout = buffer.layout()
        found = without_parent(layout, entries)
        if not found or self.of_rows:
            return found
        every = {each.entry.id: each.entry for each in found}
        alone = [*every.values()]
        left = fences.left_of_all(buffer, alone)
        if left is alone:
            return found
        self.is_fenced = True  # a fence may have made a reference void
        return [each._replace(entry=every[each.entry.id]) for each in without_parent(layout, left)]

    def _counting(self, buffer: Declaration, entries: Sequence[Entry]) -> Counting | None:
        """What counts of all these entries. None if the database refuses one of the keys: then each
        part is looked at by itself."""
        savepoint = savepoint_of(self.connection)
        try:
            counting = what_counts(buffer, entries)
        except Exception as error:
            if not is_refusal(error, insist=self.insist):
                raise
            self.is_fenced = True  # perhaps
            self.connection.set_rollback(False)
            self.connection.savepoint_rollback(savepoint)
            return None
        self.is_fenced |= counting.entries is not entries
        return counting

    def without_void(self, written: Written) -> list[Refused]:
        """The refused entries, without what is void by a fence: a retry of the letter asks no
        fences."""
        if not self.is_fenced:
            return written.refused
        left: dict[int, Entry] = {}  # by the id() of what was refused
        found = [each.entry for each in written.refused if each.is_readable]
        while found:
            of_row = {entry.id: entry for entry in found}  # of several pieces the last one
            counting = self._counting(written.buffer, [*of_row.values()])
            if counting is None:
                return written.refused
            left |= {id(of_row[entry.id]): entry for entry in counting.entries}
            found = [entry for entry in found if entry is not of_row[entry.id]]
        return [
            each._replace(entry=left.get(id(each.entry), each.entry))
            for each in written.refused
            if not each.is_readable or id(each.entry) in left
        ]


def check_constraints(
    connection: BaseDatabaseWrapper, when: Literal["DEFERRED", "IMMEDIATE"]
) -> None:
    """Have PostgreSQL check foreign keys at the commit ("DEFERRED"), or at once ("IMMEDIATE")."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SET CONSTRAINTS ALL {when}")


def _unique(layout: Layout, entry: Entry) -> bool:
    """Whether an entry changes a unique value."""
    return not unique_fields(layout.model).isdisjoint(
        layout.columns[name].field for name in entry.names()
    )


def _others(entries: Sequence[Entry], orphans: Sequence[Orphan]) -> list[Entry]:
    found = {id(each.entry) for each in orphans}
    return [entry for entry in entries if id(entry) not in found]
