"""Write batches that the database refused as a whole, or that must be written in order.

The entries between two deletions are written together, parents first. If an entry is refused
because of another entry's row or value, it waits until the others are written. A waiting entry may
be a child of the row that is deleted next. So the deletion waits too, as long as anything else can
be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from django.db import IntegrityError, connections

from writebehind_app.database.bisect import Refused, savepoint_of
from writebehind_app.database.cascades import Cascades
from writebehind_app.database.entries import EntryWriter, check_constraints
from writebehind_app.database.failures import is_duplicate, is_reference, is_refusal
from writebehind_app.database.gone import Gone
from writebehind_app.database.halves import Halves, halves_of, moving
from writebehind_app.database.holders import check_holders, check_later, without_holder
from writebehind_app.database.order import Step, WaitingPieces, Written, in_order
from writebehind_app.database.parents import Parent, Row, check_parents, row_of
from writebehind_app.declaration import Declaration
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fold import described
from writebehind_app.fields.versions import current
from writebehind_app.store.codec import understood


def write_isolating(
    batches: Sequence[tuple[Declaration, Sequence[Entry]]],
    *,
    of_rows: bool = False,
    tried: bool = False,
    insist: bool = False,
    joined: Set[Row] = frozenset(),
) -> list[Written]:
    """Write the entries that the database takes, and return the outcome of each batch.

    `tried` says that the database has refused them all at once. The entries are those of batches,
    and what is void by a fence is not written. With `of_rows`, they are those of dead letters, each
    of one row, and fences do not count. With `insist`, an unknown error counts as a refusal.

    `RowPending` is raised if an entry needs another row, or a later write to its own row, that is
    pending elsewhere. It is not raised for the `joined` rows: they were claimed often enough.
    """
    connection = connections[batches[0][0].layout().using]
    check_constraints(connection, "IMMEDIATE")  # otherwise the commit itself may be refused
    every: list[Written] = []
    left: list[Step] = []
    for buffer, entries in batches:
        # In the order of the writes: so a unique value is free before another row takes it.
        found, refused = _readable(
            buffer,
            sorted(entries, key=lambda entry: entry.last),
            of_rows=of_rows,
            insist=insist,
        )
        every.append(Written(buffer, refused=refused))
        left.append(Step(every[-1], found))
    rows = {
        row_of(step.written.buffer, step.written.buffer.entry_id(entry.id))
        for step in left
        for entry in step.entries
    }
    cascades = Cascades(left)
    entry_writer = EntryWriter(connection, cascades, of_rows=of_rows, tried=tried, insist=insist)
    writer = _Writer(entry_writer, rows)
    # A dead letter is stored as a whole, or stays as it is.
    steps = left if of_rows else in_order(left)
    writer.refuse(writer.write_detached(writer.write_in_order(steps)))
    writer.delete_children(cascades.rest())
    check_parents(_missing(every), rows, joined)
    if not of_rows:
        for written in every:
            duplicates = [each.entry for each in written.refused if is_duplicate(each.error)]
            check_holders(written.buffer, duplicates, rows, joined)
    writer.write_last_time(every)
    # An entry may lack two parents, of which one was stored meanwhile.
    check_parents(_missing(every), rows, joined)
    if not of_rows:
        for written in every:
            because_of_others = [
                each.entry for each in written.refused if each.parent or is_duplicate(each.error)
            ]
            check_later(written.buffer, because_of_others, rows, joined)
    for written in every:
        written.join_pieces()
        if not of_rows:
            written.refused = entry_writer.without_void(written)
    return every


def _missing(every: Sequence[Written]) -> set[Parent]:
    return {each.parent for written in every for each in written.refused if each.parent}


_FEW = 50  # duplicates; if there are more, no other flusher has just freed their values


class _Writer:
    """Writes steps in order, and collects the entries that are refused."""

    def __init__(self, entries: EntryWriter, rows: Set[Row]) -> None:
        self.entries = entries
        self.rows = rows  # the rows of all these entries

    def write_in_order(self, steps: Sequence[Step]) -> list[tuple[Written, Refused]]:
        """Write the steps in order, again and again, as long as anything more can be written.

        Return the entries that wait for each other.
        """
        left, forced = [*steps], False
        self.entries.frees |= len(left) > 1
        while True:
            held: list[Step] = []
            waiting: list[tuple[Written, Refused]] = []
            pieces = WaitingPieces()
            progress = delayed = False
            for n, step in enumerate(left):
                if step.deletes and held:
                    if not forced:
                        delayed = True
                        break
                    forced = False  # one deletion at a time: it may be what the others wait for
                entries, behind = pieces.ready(step)
                self.delete_children(self.entries.cascades.due(step))
                gone = Gone(step, held, left[n + 1 :]) if step.deletes else None
                refused = self.entries.write(step.written, entries)
                if gone is not None and (lost := gone.note(self.entries.cascades)):
                    held = pieces.without(held, lost)
                    waiting = [each for each in waiting if _is_held(held, *each)]
                progress |= len(refused) < len(entries)
                again = [each for each in refused if self._waits(step, each)]
                if again or behind:
                    held.append(step._replace(entries=[*(each.entry for each in again), *behind]))
                    pieces.hold(held[-1])
                waiting += [(step.written, each) for each in again]
                for each in refused:
                    if not self._waits(step, each) and not pieces.pass_on(
                        step, each, left[n + 1 :]
                    ):
                        step.written.refused.append(each)
            if not held or not (progress or delayed):
                if not pieces.are_several():
                    return waiting
                # The first piece of a row may lack a value that the last one has: write it whole.
                wholes = [(written, pieces.whole(written, each.entry)) for written, each in waiting]
                left, forced = [Step(of, [whole], whole.deleted > 0) for of, whole in wholes], False
                continue
            if delayed and not progress:
                # These may be rows that go with the row that is deleted next.
                still = self.write_detached(waiting)
                progress = len(still) < len(waiting)
                held = _without(held, _entries(waiting) - _entries(still))
                if not progress:
                    held = self._write_moves(held, waiting)
            # What came after the deletion must not go with it.
            left, forced = [*held, *(left[n:] if delayed else ())], not progress

    def _write_moves(
        self, held: Sequence[Step], waiting: Sequence[tuple[Written, Refused]]
    ) -> list[Step]:
        """Write rows without the unique values for which they wait, if their references change: so
        the deletion of the row that they leave does not delete them. Return what still waits."""
        values: dict[int, Entry] = {}
        for written, each in waiting:
            if is_duplicate(each.error) and (parts := moving(written.buffer.layout(), each.entry)):
                move, values_later = parts
                if not self.entries.write(written, [move]):
                    values[id(each.entry)] = values_later
        return [
            step._replace(entries=[values.get(id(entry), entry) for entry in step.entries])
            for step in held
        ]

    def write_last_time(self, every: Sequence[Written]) -> None:
        """Write once more what was refused because of other rows. Before Redis said that these are
        not pending, another flusher may have stored them. Or somebody deleted a parent after it was
        looked for: what becomes of its children is known only now."""
        if not self.entries.connection.features.has_select_for_update:
            return  # SQLite has one writing transaction at a time
        steps: list[Step] = []
        for written in every:
            again = [e.entry for e in written.refused if e.parent or is_reference(e.error)]
            duplicates = [each.entry for each in written.refused if is_duplicate(each.error)]
            if len(duplicates) <= _FEW:
                again += without_holder(written.buffer, duplicates)
            if again:
                tried = {id(entry) for entry in again}
                written.refused = [e for e in written.refused if id(e.entry) not in tried]
                steps.append(Step(written, again))
        if steps:
            self.refuse(self.write_in_order(steps))

    def refuse(self, waiting: Sequence[tuple[Written, Refused]]) -> None:
        for written, each in waiting:
            written.refused.append(each)

    def delete_children(self, found: Sequence[tuple[Written, Entry]]) -> None:
        """Delete children of rows that were made and deleted."""
        for written, entry in found:
            written.refused += self.entries.write(written, [entry])

    def _waits(self, step: Step, refused: Refused) -> bool:
        """Whether another entry may remove the reason of a refusal."""
        if refused.parent:
            return row_of(*refused.parent) in self.rows
        if not isinstance(refused.error, IntegrityError):
            return False
        return step.deletes or (self.entries.frees and is_duplicate(refused.error))

    def write_detached(
        self, waiting: Sequence[tuple[Written, Refused]]
    ) -> Sequence[tuple[Written, Refused]]:
        """Write rows that wait for each other; return those that are refused.

        First, some are written without their references and unique values; then the others; then
        these references and values.
        """
        every = {
            _row(written, each): halves
            for written, each in waiting
            if (halves := halves_of(written.buffer.layout(), each.entry))
        }
        if len(every) == 1 and not any(each.parent for _, each in waiting):  # nobody to swap with
            every = {}
        why: dict[_Row, Refused] = {}
        while every:
            savepoint = savepoint_of(self.entries.connection)
            trials = {id(own): Written(own.buffer, new=own.new) for own, _ in waiting}
            left: list[tuple[Written, Refused]] = []
            failed = self._write_halves(0, trials, every)
            if not failed:
                others = [
                    Step(trials[id(written)], [each.entry])
                    for written, each in waiting
                    if _row(written, each) not in every
                ]
                left = self.write_in_order(others)
                failed = self._write_halves(1, trials, every)
            if not failed:
                return _noted(waiting, trials, left)
            self.entries.connection.savepoint_rollback(savepoint)
            every = {row: halves for row, halves in every.items() if row not in failed}
            why |= failed
        return [
            (written, _because(each, why.get(_row(written, each)))) for written, each in waiting
        ]

    def _write_halves(
        self, n: int, trials: Mapping[int, Written], every: Mapping[_Row, Halves]
    ) -> dict[_Row, Refused]:
        """Write the first halves (n = 0) or the second (n = 1); return those that are refused."""
        steps = {key: Step(trial, []) for key, trial in trials.items()}
        for (key, _), halves in every.items():
            steps[key].entries.append(halves[n])
        left = self.write_in_order([step for step in steps.values() if step.entries])
        return {row: why for row, why in _refused(trials, left).items() if row in every}


_Row = tuple[int, str]
"""A row of a batch: the id() of its `Written`, and the id of the row."""


def _row(written: Written, refused: Refused) -> _Row:
    return id(written), refused.entry.id


def _refused(
    trials: Mapping[int, Written], left: Sequence[tuple[Written, Refused]]
) -> dict[_Row, Refused]:
    """What is refused in a trial, by row. The keys of `trials` are the id() of each `Written`."""
    keys = {id(trial): key for key, trial in trials.items()}
    found = {(keys[id(trial)], each.entry.id): each for trial, each in left}
    for key, trial in trials.items():
        found |= {(key, each.entry.id): each for each in trial.refused}
    return found


def _noted(
    waiting: Sequence[tuple[Written, Refused]],
    trials: Mapping[int, Written],
    left: Sequence[tuple[Written, Refused]],
) -> list[tuple[Written, Refused]]:
    """Note what was written in a trial; return what was refused in it."""
    refused = _refused(trials, left)
    for written in {id(written): written for written, _ in waiting}.values():
        trial = trials[id(written)]
        trial.join_pieces()
        written.rows += trial.rows
        written.entries += trial.entries
    return [
        (written, _because(each, why))
        for written, each in waiting
        if (why := refused.get(_row(written, each)))
    ]


def _because(refused: Refused, why: Refused | None) -> Refused:
    """The refused entry, with the reason of its last trial."""
    return refused._replace(error=why.error, parent=why.parent) if why else refused


def _entries(waiting: Sequence[tuple[Written, Refused]]) -> set[int]:
    return {id(each.entry) for _, each in waiting}


def _is_held(held: Sequence[Step], written: Written, refused: Refused) -> bool:
    entry = refused.entry
    return any(step.written is written and entry in step.entries for step in held)


def _without(steps: Sequence[Step], written: Set[int]) -> list[Step]:
    """The steps without the entries that were written."""
    left = [
        step._replace(entries=[entry for entry in step.entries if id(entry) not in written])
        for step in steps
    ]
    return [step for step in left if step.entries]


def _readable(
    buffer: Declaration, entries: Sequence[Entry], *, of_rows: bool, insist: bool
) -> tuple[list[Entry], list[Refused]]:
    """The entries split into rows, and those that cannot be read."""
    layout = buffer.layout()

    def expand(found: Sequence[Entry]) -> Sequence[Entry]:
        if of_rows:
            if all(entry.version == buffer.version and not entry.older for entry in found):
                return found
            found = [buffer.whole(entry) for entry in found]
        return buffer.row_entries(current(buffer, found))

    found: list[Entry] = []
    refused: list[Refused] = []
    for entry in entries:
        try:
            its_rows = expand(understood([entry]))
            for of_row in its_rows:
                layout.key_of(of_row.id)
                described(layout, of_row)
        except Exception as error:
            if not is_refusal(error, insist=insist):
                raise
            refused.append(Refused(entry, error, is_readable=False))
        else:
            found += its_rows
    return found, refused
