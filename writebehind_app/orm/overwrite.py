"""A write of the ORM to a row that has older writes: pending, in flight or held back."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from django.db import connections, models, transaction
from django.db.models import Value
from django.db.models.expressions import Col, CombinedExpression, RawSQL, Subquery
from django.db.models.sql import Query

from writebehind_app.buffers import outbox
from writebehind_app.database import fences, planner
from writebehind_app.database.failures import is_refusal
from writebehind_app.database.lookup import all_rows, rows_by_id
from writebehind_app.database.transactions import begin_writing
from writebehind_app.declaration import KeyedDeclaration
from writebehind_app.exceptions import NewerVersion
from writebehind_app.fields.columns import Column, encoded
from writebehind_app.fields.entry import Entry, entry_of
from writebehind_app.fields.layout import Layout
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.fields.operations import Add, operation_texts
from writebehind_app.fields.versions import current
from writebehind_app.fields.writes import Write
from writebehind_app.flush.ledger import state_of
from writebehind_app.orm.older import Older, find_older, names_of
from writebehind_app.store.codec import understood

VALUE = "null"  # stands for any value: a fence notes which fields were written, not the values


@dataclass
class Overwrite:
    """The write of one statement of the ORM to such a row. The row is locked."""

    buffer: KeyedDeclaration
    id: str
    stored: Any | None  # the row before the write
    older: Older | None  # what Redis holds of the row
    held: Sequence[Write]  # what this process holds back for the row
    # What the statement writes to buffered fields, by name: VALUE, or the text of a sum.
    texts: dict[str, str] = field(default_factory=dict)
    is_whole: bool = False  # after the write, nothing older counts for the row
    settled: frozenset[str] = frozenset()  # fields whose older writes have been stored

    def note_expressions(self, given: Mapping[str, Any], query: Query) -> list[str]:
        """Prepare the expressions among the given values. Return the names of the fields that get
        plain values.

        The database computes an expression from the stored row. So what is pending of the fields
        that it reads is stored first; if the row is to go, all that is pending is. Otherwise a sum
        needs nothing stored: it is noted, and added to the pending value later.
        """
        layout = self.buffer.layout()
        expressions = {n: v for n, v in given.items() if hasattr(v, "resolve_expression")}
        names = [name for name in given if name not in expressions]
        if self.stored is None:
            return [*given]
        named: set[str] = set()
        sums: dict[str, str] = {}
        of_nullable: dict[str, str] = {}  # NULL + 1 is NULL in SQL, but 1 with an Add
        for name, expression in expressions.items():
            resolved = expression.resolve_expression(query, allow_joins=False, for_save=True)
            found = None if self.held else _sum(layout.columns[name], resolved)
            if found is not None and not layout.columns[name].field.null:
                sums[name] = found
                continue
            self.texts[name] = VALUE
            named |= _names_in(layout, resolved)
            if found is not None:
                of_nullable[name] = found
        if (named or sums) and self.is_to_go() and self.settle():
            return names
        if named and not (self.is_to_go() or self._is_unknown()) and self.store(named):
            self.settled = frozenset(named)
            self.texts |= dict.fromkeys(named, VALUE)
        else:  # the pending values stay in Redis, and must not be lost
            stored = self.stored.__dict__
            sums |= {
                name: text
                for name, text in of_nullable.items()
                if stored[layout.columns[name].attname] is not None
            }
            self.texts = {name: text for name, text in self.texts.items() if name not in sums}
        self.texts = sums | self.texts
        return names

    def note_values(self, names: Iterable[str]) -> None:
        self.texts |= dict.fromkeys(names, VALUE)

    def is_to_go(self) -> bool:
        """Whether something older, which is not stored yet, deletes the row."""
        if self.is_whole:
            return False
        entries = [*(self.older.entries if self.older else ()), *(w.entry(1) for w in self.held)]
        names = names_of(self.buffer, self.id, self.buffer.layout().columns)
        return any(
            layer.deleted or not names.isdisjoint(layer.tombstones)
            for entry in entries
            for layer in (*entry.older, entry)
        )

    def remove_if_gone(self) -> None:
        """Delete the row now, if something older deletes it, and nothing makes it anew. This is a
        delete() of the ORM: it takes the rows that refer to the row, and leaves fences for them."""
        if self.stored is not None and self.is_gone():
            all_rows(self.buffer.layout()).filter(pk=self.stored.pk).delete()
            self.stored = None

    def is_gone(self) -> bool:
        """Whether something older deletes the row, and nothing makes it anew. False where Redis
        cannot be asked: the database refuses a new row."""
        if self.stored is None or not self.is_to_go():
            return False
        layout = self.buffer.layout()
        row: Any | None = copy.copy(self.stored)
        fence = fences.Fences(self.buffer, [self.id], lock=True).of(self.id)
        for entry in self._in_redis():
            row = layout.read(entry, row, fence)
        for entry in self._held():
            row = layout.read(entry, row)
        return row is None

    def settle(self) -> bool:
        """Store everything older, with deletes: then nothing older counts for the row any more.

        False if that fails, or if Redis could not be asked. A row that is deleted and made anew
        keeps its primary key: by it, the statement finds its rows.
        """
        if self._is_unknown():
            return False
        layout = self.buffer.layout()
        self.is_whole = self.store([*layout.columns])
        if self.is_whole:
            before, self.stored = self.stored, rows_by_id(layout, [self.id], lock=True).get(self.id)
            if before is not None and self.stored is not None and self.stored.pk != before.pk:
                pk = layout.model._meta.pk.attname
                all_rows(layout).filter(pk=self.stored.pk).update(**{pk: before.pk})
                self.stored.pk = before.pk
        return self.is_whole

    def _is_unknown(self) -> bool:
        """Whether Redis could not be asked: then what is older is not known."""
        return self.older is not None and not self.older.entries

    def store(self, names: Iterable[str]) -> bool:
        """Store the older writes to some fields. False if the database refuses them: then they stay
        in Redis, and the flush makes a dead letter."""
        buffer, layout = self.buffer, self.buffer.layout()
        names = {*names}
        try:
            with transaction.atomic(using=layout.using):
                fence = fences.Fences(buffer, [self.id], lock=True).of(self.id)
                for entry in self._in_redis():
                    counts: Entry | None = entry.only(names)
                    if fence is not None:
                        stored = rows_by_id(layout, [self.id], lock=True).get(self.id)
                        row = None if stored is None else stored.__dict__
                        counts = fence.left_of(layout, entry.only(names), row)
                    if counts is not None:
                        planner.write_entries(layout, [counts], is_direct=True)
                for entry in self._held():
                    planner.write_entries(layout, [entry.only(names)], is_direct=True)
        except NewerVersion:
            return False
        except Exception as error:
            if not (isinstance(error, REFUSALS) or is_refusal(error)):
                raise
            return False
        return True

    def _in_redis(self) -> list[Entry]:
        """The entries of the row that are not stored yet."""
        if self.older is None:
            return []
        entries, layout = self.older.entries, self.buffer.layout()
        in_flight, token = self.older.in_flight, self.older.token
        if in_flight is not None and state_of(layout, token, lock=True) == "applied":
            entries = entries[1:]  # a flusher has committed the batch, and did not say so yet
        return self._of_row(entries)

    def _held(self) -> list[Entry]:
        """What this process holds back, as one entry for each write."""
        number = self.older.number if self.older else 1
        version = self.buffer.version
        return self._of_row([w.entry(number)._replace(version=version) for w in self.held])

    def _of_row(self, entries: Sequence[Entry]) -> list[Entry]:
        of_rows = self.buffer.row_entries(current(self.buffer, understood(entries)))
        return [entry for entry in of_rows if entry.id == self.id]


@contextmanager
def overwriting(
    buffer: KeyedDeclaration, ids: Collection[str], lock: AbstractContextManager[None] | None = None
) -> Iterator[list[Overwrite]]:
    """Within it, the ORM writes to these rows. Gives an `Overwrite` for each row of which something
    is older, and leaves fences at the end. With `lock`, these are some of the stored rows that one
    statement changes, and it locks all of them.

    If nothing is older, there is no transaction, and Redis is asked once.
    """
    older, held = find_older(buffer, ids), held_back(buffer, ids)
    if not (older or held):
        yield []
        return
    using = buffer.layout().using
    with transaction.atomic(using=using, savepoint=False):
        if older:
            begin_writing(connections[using])
        with lock or nullcontext():
            found = overwrites(buffer, older, held)
            written = found if lock is None else [each for each in found if each.stored is not None]
            yield written
        leave(buffer, written)


def overwrites(
    buffer: KeyedDeclaration, older: Mapping[str, Older], held: Mapping[str, Sequence[Write]]
) -> list[Overwrite]:
    """Lock the rows of which something is older; return one `Overwrite` for each.

    The look before the lock says which rows these are. Once they are locked, Redis is asked again:
    flushers and other writes past Redis may have stored something meanwhile. From now on none can.
    The write gets the number of the second look, which is greater than that of each of them.

    Rows are locked before their fences, as the caller may have locked the rows already.
    """
    layout = buffer.layout()
    ids = [*dict.fromkeys((*older, *held))]
    stored = rows_by_id(layout, ids, lock=True)
    if older:
        fences.lock(buffer, older)
        if absent := [id for id in ids if id not in stored]:  # somebody may have made them just now
            stored |= rows_by_id(layout, absent, lock=True)
        older = find_older(buffer, older)
    return [Overwrite(buffer, id, stored.get(id), older.get(id), held.get(id, ())) for id in ids]


def held_back(buffer: KeyedDeclaration, ids: Iterable[str]) -> dict[str, list[Write]]:
    """The writes that this process holds back for these rows, by row id."""
    found = {id: outbox.writes_at(buffer, buffer.entry_id(id)) for id in ids}
    return {id: writes for id, writes in found.items() if writes}


def leave(buffer: KeyedDeclaration, written: Sequence[Overwrite]) -> None:
    """Leave fences after the write, in its transaction: nothing older can overwrite it then. What
    is held back of the same fields goes. A delete that is held back stays, and is sent after the
    write: then what was written is sent once more, after the delete."""
    layout = buffer.layout()
    for whole in (False, True):
        entries = [
            entry_of(each.id, each.texts, each.older.number)
            for each in written
            if each.older and each.is_whole == whole and (whole or each.texts)
        ]
        if entries:
            fences.leave(buffer, entries, whole=whole)
    for each in written:
        if each.held:
            names = layout.columns if each.is_whole else each.texts
            everything = each.is_whole and not buffer.names().is_entity
            struck = None if everything else names_of(buffer, each.id, names)
            outbox.strike(buffer, buffer.entry_id(each.id), struck)
            if names and not everything and any(write.delete for write in each.held):
                _write_again(buffer, each.id, names)


def _write_again(buffer: KeyedDeclaration, id: str, names: Iterable[str]) -> None:
    layout = buffer.layout()
    if row := rows_by_id(layout, [id], lock=True).get(id):
        columns = {name: layout.columns[name] for name in names}
        texts = {name: encoded(c, getattr(row, c.attname)) for name, c in columns.items()}
        whole = buffer.whole(entry_of(id, texts, 1))
        outbox.hold_for_commit(buffer, Write(whole.id, whole.texts()))


def _sum(column: Column, expression: Any) -> str | None:
    """The text of an Add that does the same as the expression; None if there is none."""
    if not isinstance(expression, CombinedExpression):
        return None
    left, right, sign = expression.lhs, expression.rhs, expression.connector
    if sign == "+" and isinstance(left, Value):
        left, right = right, left
    if not (isinstance(left, Col) and left.target == column.field and isinstance(right, Value)):
        return None
    if sign not in ("+", "-"):
        return None
    try:
        amount = right.value if sign == "+" else -right.value
        return operation_texts(column, Add(amount))[column.name]
    except REFUSALS:
        return None


def _names_in(layout: Layout, expression: Any) -> set[str]:
    """The buffered fields that an expression reads; all of them if that cannot be known."""
    found = set()
    for part in _parts(expression):
        if isinstance(part, Subquery | RawSQL):
            return {*layout.columns}
        if isinstance(part, Col) and part.target.name in layout.columns:
            found.add(part.target.name)
    return found


def _parts(expression: Any) -> Iterator[Any]:
    """An expression and all expressions in it. flatten() would leave out those in conditions."""
    yield expression
    if hasattr(expression, "get_source_expressions"):
        for part in expression.get_source_expressions():
            yield from _parts(part)


def is_as(layout: Layout, row: models.Model, column: Column, other: str | models.Model) -> bool:
    """Whether a field of a row has the value that `other` has: a text, or another row.

    Values of JSON are compared as JSON: `1`, `1.0` and `true` are three.
    """
    try:
        text = encoded(column, getattr(row, column.attname))
        if not isinstance(other, str):
            other = encoded(column, getattr(other, column.attname))
        if isinstance(column.field, models.JSONField) and text != other:
            return _sorted(text) == _sorted(other)
    except REFUSALS:
        return False
    return text == other


def _sorted(text: str) -> str:
    """JSON with its keys in order: PostgreSQL does not keep their order."""
    return json.dumps(json.loads(text), sort_keys=True)
