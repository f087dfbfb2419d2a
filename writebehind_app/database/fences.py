"""Fences: what a write leaves that goes around Redis, so that nothing older comes over it.

Redis may hold values of the row that are older, pending or in flight, which the direct write cannot
see. Whoever flushes or reads them compares times, field by field:

- A value that is older than one that was written directly is void.
- One that is older than an operation that was carried out directly is what that operation would
  have met: it is carried out on it again.
- An operation that is pending is carried out on what is stored, unless it is older than a value
  that was written directly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha1
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from django.db import InterfaceError, OperationalError, connections, models
from django.utils import timezone

from writebehind_app import conf
from writebehind_app.buffers.columns import Column
from writebehind_app.buffers.layout import Layout, micros_of, moment
from writebehind_app.buffers.operations import (
    is_kept_operation,
    is_operation,
    merged,
    merged_field,
    operated,
)
from writebehind_app.database.keyed import rows_by_id
from writebehind_app.models import Fence
from writebehind_app.store import shard as store
from writebehind_app.store.codec import APART, Entry
from writebehind_app.store.connection import client

if TYPE_CHECKING:
    from writebehind_app.buffers.writes import Write
    from writebehind_app.declaration import Declaration, KeyedDeclaration

_CHUNK = 2000  # digests in one statement
_MOST = 20  # operations on one field that are told apart by their time
_VALUE = ""  # stands for a value, which is in the row


@dataclass(frozen=True, slots=True)
class Marks:
    """What was written directly to a row, with the times in µs."""

    at: int = 0  # the last time
    row: int = 0  # all that was written to the row before is void
    # What was written since, by the name that it has in an entry: values, operations as Redis
    # keeps them, or what was merged; of a field, nothing that a later one makes void.
    fields: Mapping[str, Sequence[tuple[int, str]]] = field(default_factory=dict)

    def value_at(self, name: str) -> int:
        """When a field was last given a value."""
        at, text = next(iter(self.fields.get(name, ())), (0, _VALUE))
        return max(self.row, at if text == _VALUE else 0)

    def with_write(self, entry: Entry, at: int, *, whole: bool) -> Marks:
        """The marks after one more write; `whole` if it says all there is of the row."""
        if whole or entry.delete:
            return Marks(at, at)
        fields = dict(self.fields)
        for name, text in entry.texts.items():
            if is_kept_operation(text):
                fields[name] = _shortened([*fields.get(name, ()), (at, text)])
            elif merged_field(name):
                fields[name] = [(at, text)]
            else:
                fields = {n: marks for n, marks in fields.items() if merged_field(n) != name}
                fields[name] = [(at, _VALUE)]
        return Marks(at, self.row, fields)

    # What an entry comes to

    def left_of(self, layout: Layout, entry: Entry, stored: models.Model | None) -> Entry | None:
        """What is to be done of an entry of the row; None for nothing. `stored` is the row as it
        is, with what was written directly."""
        texts, relative = {}, entry.relative
        for name, text in entry.texts.items():
            at = int(entry.times.get(name) or entry.at)
            if not self._is_void(name, text, at):
                texts[name] = self._outcome(layout, name, text, at)
            elif int(entry.times.get(APART + name, 0)) > self.value_at(name):
                # Who carried them out on the value did not know that it is void.
                texts[name], relative = entry.apart[name], True
        delete, at = entry.delete and self.row < entry.gone, max(entry.at, self.at)
        if delete and self.at > entry.gone and stored is not None:
            # The row goes, and what was written directly makes a new one.
            newer = {n for n, marks in self.fields.items() if marks[-1][0] > entry.gone}
            fields = {merged_field(name) or name for name in newer}
            texts |= self._anew(layout, fields, stored, entry.gone, texts)
            return entry._replace(texts=texts, keep=True, born=self.at, at=at, relative=relative)
        keep = entry.keep and (bool(texts) or entry.at > self.at)
        if not delete and not keep:
            return None
        return entry._replace(texts=texts, delete=delete, keep=keep, at=at, relative=relative)

    def _is_void(self, name: str, text: str, at: int) -> bool:
        merged_into = merged_field(name)
        if merged_into:
            newest = max((at for at, _ in self.fields.get(name, ())), default=0)
            return at < max(self.value_at(merged_into), newest)
        return at < self.value_at(name)

    def _outcome(self, layout: Layout, name: str, text: str, at: int) -> str:
        """A text after the operations that were carried out directly since."""
        if is_kept_operation(text) or merged_field(name):
            return text
        column = layout.columns[name]
        value = column.decode(text)
        after = self._after(layout, column, value, at)
        return text if after is value else column.encode(after)

    def _after(self, layout: Layout, column: Column, value: Any, at: int) -> Any:
        for since, text in self.fields.get(column.name, ()):
            if since > at and text != _VALUE:
                value = operated(column, text, value, layout.using)
        merges = {
            name: marks[-1][1]
            for name, marks in self.fields.items()
            if merged_field(name) == column.name and marks[-1][0] > at
        }
        return merged(column, merges, value) if merges else value

    def _anew(
        self,
        layout: Layout,
        names: Iterable[str],
        stored: models.Model,
        gone: int,
        pending: Mapping[str, str],
    ) -> dict[str, str]:
        """The texts of fields that were written directly after the row went, with the operations
        that are pending."""
        new, texts = layout.model(), {}
        for name in names:
            column = layout.columns[name]
            if name in pending and not is_kept_operation(pending[name]):
                continue
            if self.value_at(name) > gone:
                value = getattr(stored, column.attname)
            else:
                value = self._after(layout, column, getattr(new, column.attname), gone)
            if name in pending:
                value = operated(column, pending[name], value, layout.using)
            texts[name] = column.encode(value)
        return texts


def _shortened(marks: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The marks of a field, sums of old ones added up where there are many."""
    if len(marks) <= _MOST:
        return marks
    for i, ((_, older), (at, newer)) in enumerate(pairwise(marks)):
        if (total := _sum(older, newer)) is not None:
            return [*marks[:i], (at, total), *marks[i + 2 :]]
    return marks


def _sum(older: str, newer: str) -> str | None:
    """Two operations in one, if they only add."""
    a, b = older.split(","), newer.split(",")
    if not (older[:1] == newer[:1] == "#" and a[1:3] == b[1:3] == ["", ""]):
        return None
    total = int(a[0][1:]) + int(b[0][1:])
    return f"#{total},,,{total},{a[4]}"


# In the database


class Fences:
    """The fences of rows of a buffer."""

    def __init__(self, buffer: Declaration, ids: Iterable[str] = ()) -> None:
        self._buffer = buffer
        self.ids: set[str] = set()  # of which rows
        self._marks: dict[str, Marks] = {}  # by digest
        self._asked: set[str] = set()  # digests
        self.load(ids)

    def load(self, ids: Iterable[str]) -> None:
        """Ask for those of many rows at once."""
        new = set(ids) - self.ids
        digests = {digest for id in new for digest in self._digests(id)} - self._asked
        self._marks |= _marks(self._buffer, digests)
        self._asked |= digests
        self.ids |= new

    def marks(self, id: str) -> Marks | None:
        """What was written directly to a row, or to all of its entity."""
        self.load([id])
        own, whole = (self._marks.get(digest) for digest in self._digests(id))
        if own is None or whole is None or own is whole:
            return own or whole
        return replace(own, at=max(own.at, whole.at), row=max(own.row, whole.row))

    def left_of(self, entry: Entry, stored: models.Model | None) -> Entry | None:
        """What is to be done of an entry of a row; None for nothing."""
        marks = self.marks(entry.id)
        return marks.left_of(self._buffer.layout(), entry, stored) if marks else entry

    def left_of_all(self, entries: Sequence[Entry]) -> list[Entry]:
        """The same of many, in the transaction that writes them."""
        layout = self._buffer.layout()
        self.load([entry.id for entry in entries])
        deleted = [entry.id for entry in entries if entry.delete and self.marks(entry.id)]
        stored = rows_by_id(layout, deleted, lock=True)
        left = (self.left_of(entry, stored.get(entry.id)) for entry in entries)
        return [entry for entry in left if entry is not None]

    def __bool__(self) -> bool:
        """Whether one of the rows has a fence."""
        return bool(self._marks)

    def are_current(self) -> bool:
        """Whether nothing was written directly since they were asked for."""
        return self._marks == _marks(self._buffer, self._asked)

    def _digests(self, id: str) -> tuple[str, str]:
        return _digest(id), _digest(self._buffer.entry_id(id))


def of_rows(buffer: Declaration, ids: Iterable[str] = ()) -> Fences | None:
    """The fences of rows; None where the buffer has none at all."""
    if not buffer.layout().key or not _of(buffer).exists():
        return None  # no record of a log is about another one
    return Fences(buffer, ids)


def told(buffer: KeyedDeclaration, writes: Sequence[Write]) -> list[Write]:
    """Writes whose operations say what was written directly before them, for Redis not to carry
    them out on anything older."""
    operations = [
        {name: buffer.place_of(write, name) for name, t in write.texts.items() if is_operation(t)}
        for write in writes
    ]
    ids = [id for places in operations for id, _ in places.values()]
    try:
        fences = of_rows(buffer, ids) if ids else None
    except (OperationalError, InterfaceError):
        # Redis takes writes while the database is away. What it carries out on something older it
        # keeps apart, too.
        fences = None
    if fences is None:
        return [*writes]
    told = []
    for write, places in zip(writes, operations, strict=True):
        texts = dict(write.texts)
        for name, (id, name_in_row) in places.items():
            if (marks := fences.marks(id)) and (at := marks.value_at(name_in_row)):
                texts[name] += f";{at}"
        told.append(write._replace(texts=texts))
    return told


def hold(buffer: Declaration, ids: Iterable[str]) -> None:
    """Have whoever else writes directly to those ids wait for the end of the transaction: there may
    be no row yet for him to wait at."""
    using = buffer.layout().using
    if not connections[using].features.has_select_for_update:
        return  # a transaction that writes is the only one
    digests = sorted(map(_digest, ids))
    for start in range(0, len(digests), _CHUNK):
        chunk = digests[start : start + _CHUNK]
        there = _of(buffer).filter(digest__in=chunk)
        known = {*there.values_list("digest", flat=True)}
        empty = json.dumps([0, {}])
        new = [
            Fence(buffer=buffer.label, digest=digest, marks=empty, at=0)
            for digest in chunk
            if digest not in known
        ]
        Fence.objects.using(using).bulk_create(new, ignore_conflicts=True)
        list(there.order_by("digest").select_for_update().values_list("pk"))


def leave(buffer: Declaration, entries: Sequence[Entry], at: int, *, whole: bool = False) -> None:
    """Note what was written directly to rows, or deleted of entities, in that transaction; `whole`
    if it says all there is of the rows."""
    using = buffer.layout().using
    written = {_digest(entry.id): entry for entry in entries}
    stored = _locked(buffer, written)
    new: list[Fence] = []
    changed: list[Fence] = []
    for digest, entry in written.items():
        fence, marks = stored.get(digest, (Fence(buffer=buffer.label, digest=digest), Marks()))
        marks = marks.with_write(entry, max(at, marks.at + 1), whole=whole)
        fence.marks, fence.at = json.dumps([marks.row, marks.fields]), marks.at
        (changed if digest in stored else new).append(fence)
    Fence.objects.using(using).bulk_create(new)
    Fence.objects.using(using).bulk_update(changed, ["marks", "at"])


def expire(buffer: Declaration) -> None:
    """Delete old fences, if nothing is pending that is as old."""
    days = timedelta(days=conf.settings().FENCE_DAYS)
    old = _of(buffer).filter(at__lt=micros_of(timezone.now() - days))
    if not buffer.layout().key or not old.exists():
        return
    counts = store.count(client(patient=True), buffer.shard_keys()).values()
    if any(count.in_flight for count in counts):
        return
    waiting: list[Entry] = []
    for shard in buffer.shards():
        _, in_flight, pending = shard.pending(1)
        waiting += [*in_flight, *pending]
    if waiting:  # of a shard's entries, what is due first came first, but for max_age
        oldest = moment(min(entry.since for entry in waiting))
        first = oldest - timedelta(seconds=buffer.option("MAX_AGE"))
        old = old.filter(at__lt=micros_of(first))
    old.delete()


def _of(buffer: Declaration) -> models.QuerySet[Fence]:
    return Fence.objects.using(buffer.layout().using).filter(buffer=buffer.label)


def _marks(buffer: Declaration, digests: Iterable[str]) -> dict[str, Marks]:
    """By digest. Every look at what is pending asks for them, and mostly there are none: by a
    cursor, as a QuerySet takes several times as long."""
    found: dict[str, Marks] = {}
    wanted = sorted(digests)
    connection = connections[buffer.layout().using]
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        sql = (
            f"SELECT digest, marks, at FROM {Fence._meta.db_table} "
            f"WHERE buffer = %s AND digest IN ({', '.join(['%s'] * len(chunk))})"
        )
        with connection.cursor() as cursor:
            cursor.execute(sql, [buffer.label, *chunk])
            found |= {digest: _parsed(at, text) for digest, text, at in cursor.fetchall()}
    return found


def _locked(buffer: Declaration, digests: Iterable[str]) -> dict[str, tuple[Fence, Marks]]:
    wanted, found = sorted(digests), {}
    for start in range(0, len(wanted), _CHUNK):
        fences = _of(buffer).filter(digest__in=wanted[start : start + _CHUNK])
        for fence in fences.order_by("pk").select_for_update():
            found[fence.digest] = fence, _parsed(fence.at, fence.marks)
    return found


def _parsed(at: int, text: str) -> Marks:
    row, fields = json.loads(text)
    return Marks(
        at, row, {name: [(at, text) for at, text in given] for name, given in fields.items()}
    )


def _digest(id: str) -> str:
    return sha1(id.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()
