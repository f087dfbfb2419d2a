"""The order in which a flush writes entries of several rows.

A deletion may delete rows of other entries too. So writes to those rows that came before the
deletion are written before it, and later writes after it. An entry with writes on both sides is cut
in pieces.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from writebehind_app.database.bisect import Refused
from writebehind_app.database.parents import Row, parents_first, refers_to, row_of
from writebehind_app.declaration import Declaration
from writebehind_app.fields.entry import Entry, combined
from writebehind_app.fields.fence import Fence


@dataclass(slots=True)
class Written:
    """What became of the entries of a batch, or of a dead letter."""

    buffer: Declaration
    rows: int = 0  # how many rows were written or deleted
    entries: list[Entry] = field(default_factory=list)  # the written entries, one for each row
    refused: list[Refused] = field(default_factory=list)
    new: dict[str, Fence | None] = field(default_factory=dict)  # see fences.check_new

    def join_pieces(self) -> None:
        """Join the pieces of each row to one entry."""
        by_row: dict[str, list[Entry]] = {}
        for entry in self.entries:
            by_row.setdefault(entry.id, []).append(entry)
        if len(by_row) < len(self.entries):
            # Each piece counts as a row, but for those that found no row to delete.
            self.rows = max(self.rows - len(self.entries) + len(by_row), 0)
            self.entries = [combined(pieces) for pieces in by_row.values()]


class Step(NamedTuple):
    """Entries of one buffer that are written together."""

    written: Written
    entries: list[Entry]
    deletes: bool = False  # whether they delete rows, and maybe rows of other entries with them


class WaitingPieces:
    """Pieces of entries that wait. A later piece of the same row must wait behind them."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], list[Entry]] = {}

    def ready(self, step: Step) -> tuple[list[Entry], list[Entry]]:
        """The entries of a step that may be written now, and those that wait behind a piece."""
        if not self._held:
            return step.entries, []
        ready: list[Entry] = []
        behind: list[Entry] = []
        for entry in step.entries:
            (behind if (id(step.written), entry.id) in self._held else ready).append(entry)
        return ready, behind

    def hold(self, step: Step) -> None:
        for entry in step.entries:
            self._held.setdefault((id(step.written), entry.id), []).append(entry)

    def without(self, steps: Sequence[Step], rows: Set[Row]) -> list[Step]:
        """The waiting steps without the pieces of these rows."""
        left: list[Step] = []
        for step in steps:
            gone = {e.id for e in step.entries if row_of(step.written.buffer, e.id) in rows}
            for id_ in gone:
                self._held.pop((id(step.written), id_), None)
            if entries := [entry for entry in step.entries if entry.id not in gone]:
                left.append(step._replace(entries=entries))
        return left

    def are_several(self) -> bool:
        """Whether several pieces of one row wait."""
        return any(len(pieces) > 1 for pieces in self._held.values())

    def whole(self, written: Written, piece: Entry) -> Entry:
        """All waiting pieces of the row, joined."""
        return combined(self._held[id(written), piece.id])

    def pass_on(self, step: Step, refused: Refused, later: Sequence[Step]) -> bool:
        """Join a refused piece with the next piece of its row; False if there is none.

        An entry keeps the last value of each field only. So the refused piece may lack a value that
        was overwritten later, and that the next piece has.
        """
        for other in later:
            for n, entry in enumerate(other.entries):
                if other.written is step.written and entry.id == refused.entry.id:
                    other.entries[n] = combined([refused.entry, entry])
                    return True
        return False


def in_order(steps: Sequence[Step]) -> list[Step]:
    """The same entries, as steps in the order in which they are to be written."""
    buffers = [step.written.buffer for step in steps]
    ordered = sorted(steps, key=lambda step: parents_first(buffers).index(step.written.buffer))
    parents = {b for b in buffers if any(refers_to(other.model, b.model) for other in buffers)}
    deletions = sorted(
        (entry.deleted, n)
        for n, step in enumerate(ordered)
        if step.written.buffer in parents
        for entry in step.entries
        if entry.deleted
    )
    if not deletions:
        return [step for step in ordered if step.entries]
    cuts = [number for number, _ in deletions]
    between: list[dict[int, list[Entry]]] = [{} for _ in range(len(cuts) + 1)]
    going: dict[tuple[int, int], list[Entry]] = {}
    for n, step in enumerate(ordered):
        for at, piece in (found for entry in step.entries for found in _pieces(entry, cuts)):
            if piece.deleted and step.written.buffer in parents:
                deletion, anew = _halved(piece)
                going.setdefault((piece.deleted, n), []).append(deletion)
                if anew is not None:
                    between[at].setdefault(n, []).append(anew)
            else:
                between[at].setdefault(n, []).append(piece)
    found: list[Step] = []

    def add(n: int, entries: list[Entry], *, deletes: bool) -> None:
        last = found[-1] if found else None
        is_like = last and last.written is ordered[n].written and last.deletes == deletes
        if last and is_like:
            last.entries.extend(entries)
        else:
            found.append(Step(ordered[n].written, [*entries], deletes))

    for at, own in enumerate(between):
        for n in sorted(own):
            add(n, own[n], deletes=False)
        if at < len(deletions):
            add(deletions[at][1], going.pop(deletions[at], []), deletes=True)
    return [step for step in found if step.entries]


def _pieces(entry: Entry, cuts: Sequence[int]) -> list[tuple[int, Entry]]:
    """Cut an entry at these numbers. Return each piece with its place between the cuts."""
    first, last = bisect(cuts, entry.since), bisect(cuts, max(entry.last, entry.deleted))
    if first == last or entry.older or entry.tombstones:
        return [(last, entry)]
    # The first and the last write count even if nothing has their numbers: they made the row.
    every = sorted(entry.numbers() | {n for n in (entry.first, entry.last, entry.deleted) if n})
    by_place: dict[int, list[int]] = {}
    for number in every:
        by_place.setdefault(bisect(cuts, number), []).append(number)
    found = []
    for at, own in by_place.items():
        deleted = entry.deleted if entry.deleted in own else 0
        writes = [number for number in own if number != deleted] or own
        piece = entry.part({*own}.__contains__)._replace(
            first=writes[0], last=writes[-1], deleted=deleted, since=own[0]
        )
        found.append((at, piece))
    return found


def _halved(piece: Entry) -> tuple[Entry, Entry | None]:
    """The deletion, and what makes the row anew after it: if this waits, rows that come after the
    deletion must not be written before it."""
    if not piece.exists:
        return piece, None
    number = piece.deleted
    gone = piece.only(())._replace(first=number, last=number)
    return gone, piece._replace(deleted=0, since=piece.first)
