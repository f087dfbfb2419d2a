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

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from hashlib import sha1
from typing import TYPE_CHECKING

from django.db import InterfaceError, OperationalError, connections, models
from django.utils import timezone

from writebehind_app import conf
from writebehind_app.database.keyed import rows_by_id
from writebehind_app.fields.entry import SIGNS, Entry
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.layout import micros_of, moment
from writebehind_app.models import Fence as StoredFence
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration, KeyedDeclaration
    from writebehind_app.fields.writes import Write

_CHUNK = 2000  # digests in one statement


class Fences:
    """The fences of rows of a buffer."""

    def __init__(self, buffer: Declaration, ids: Iterable[str] = ()) -> None:
        self._buffer = buffer
        self.ids: set[str] = set()  # of which rows
        self._found: dict[str, Fence] = {}  # by digest
        self._asked: set[str] = set()  # digests
        self.load(ids)

    def load(self, ids: Iterable[str]) -> None:
        """Ask for those of many rows at once."""
        new = set(ids) - self.ids
        digests = {digest for id in new for digest in self._digests(id)} - self._asked
        self._found |= _stored(self._buffer, digests)
        self._asked |= digests
        self.ids |= new

    def of(self, id: str) -> Fence | None:
        """The fence of a row, with that of its entity."""
        self.load([id])
        own, whole = (self._found.get(digest) for digest in self._digests(id))
        if own is None or whole is None or own is whole:
            return own or whole
        return own.joined(whole)

    def left_of_all(self, entries: Sequence[Entry]) -> list[Entry]:
        """What counts of entries of rows, in the transaction that writes them."""
        layout = self._buffer.layout()
        self.load([entry.id for entry in entries])
        fenced = {entry.id: fence for entry in entries if (fence := self.of(entry.id))}
        matters = [e.id for e in entries if e.id in fenced and (e.deleted or e.operations)]
        rows = rows_by_id(layout, matters, lock=True)
        left = []
        for entry in entries:
            counts: Entry | None = entry
            if fence := fenced.get(entry.id):
                row = rows.get(entry.id)
                counts = fence.left_of(layout, entry, None if row is None else row.__dict__)
            if counts is not None:
                left.append(counts)
        return left

    def __bool__(self) -> bool:
        """Whether one of the rows has a fence."""
        return bool(self._found)

    def are_current(self) -> bool:
        """Whether nothing was written directly since they were asked for."""
        return self._found == _stored(self._buffer, self._asked)

    def _digests(self, id: str) -> tuple[str, str]:
        return _digest(id), _digest(self._buffer.entry_id(id))


def of_rows(buffer: Declaration, ids: Iterable[str] = ()) -> Fences | None:
    """The fences of rows; None where the buffer has none at all."""
    if not buffer.layout().key or not _of(buffer).exists():
        return None  # no record of a log is about another one
    return Fences(buffer, ids)


def told(buffer: KeyedDeclaration, writes: Sequence[Write]) -> list[dict[str, int]]:
    """For each write the numbers of what was written directly to fields that it has operations on:
    Redis is not to carry them out on anything older."""
    operations = [
        {
            name: buffer.place_of(write, name)
            for name, text in write.texts.items()
            if name[:1] != "&" and text[:1] in SIGNS
        }
        for write in writes
    ]
    ids = [id for places in operations for id, _ in places.values()]
    fences = None
    # Redis takes writes while the database is away, and keeps what it carries out apart.
    with suppress(OperationalError, InterfaceError):
        fences = of_rows(buffer, ids) if ids else None
    if fences is None:
        return [{} for _ in writes]
    return [
        {
            name: number
            for name, (id, name_in_row) in places.items()
            if (fence := fences.of(id)) and (number := fence.void_until(name_in_row))
        }
        for places in operations
    ]


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
        new = [
            StoredFence(buffer=buffer.label, digest=digest, marks=Fence().dumped(), at=0)
            for digest in chunk
            if digest not in known
        ]
        StoredFence.objects.using(using).bulk_create(new, ignore_conflicts=True)
        list(there.order_by("digest").select_for_update().values_list("pk"))


def leave(buffer: Declaration, entries: Sequence[Entry], at: int, *, whole: bool = False) -> None:
    """Note what was written directly to rows, or deleted of entities, in that transaction; `whole`
    if it says all there is of the rows."""
    using = buffer.layout().using
    written = {_digest(entry.id): entry for entry in entries}
    stored = _locked(buffer, written)
    new: list[StoredFence] = []
    changed: list[StoredFence] = []
    for digest, entry in written.items():
        row = stored.get(digest) or StoredFence(buffer=buffer.label, digest=digest)
        fence = Fence.loaded(row.marks) if digest in stored else Fence()
        fence = fence.with_write(entry, max(at, fence.last + 1), whole=whole)
        row.marks, row.at = fence.dumped(), fence.last
        (changed if digest in stored else new).append(row)
    StoredFence.objects.using(using).bulk_create(new)
    StoredFence.objects.using(using).bulk_update(changed, ["marks", "at"])


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


def _of(buffer: Declaration) -> models.QuerySet[StoredFence]:
    return StoredFence.objects.using(buffer.layout().using).filter(buffer=buffer.label)


def _stored(buffer: Declaration, digests: Iterable[str]) -> dict[str, Fence]:
    """By digest. Every look at what is pending asks for them, and mostly there are none: by a
    cursor, as a QuerySet takes several times as long."""
    found: dict[str, Fence] = {}
    wanted = sorted(digests)
    connection = connections[buffer.layout().using]
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        sql = (
            f"SELECT digest, marks FROM {StoredFence._meta.db_table} "
            f"WHERE buffer = %s AND digest IN ({', '.join(['%s'] * len(chunk))})"
        )
        with connection.cursor() as cursor:
            cursor.execute(sql, [buffer.label, *chunk])
            found |= {digest: Fence.loaded(text) for digest, text in cursor.fetchall()}
    return found


def _locked(buffer: Declaration, digests: Iterable[str]) -> dict[str, StoredFence]:
    wanted, found = sorted(digests), {}
    for start in range(0, len(wanted), _CHUNK):
        fences = _of(buffer).filter(digest__in=wanted[start : start + _CHUNK])
        for fence in fences.order_by("pk").select_for_update():
            found[fence.digest] = fence
    return found


def _digest(id: str) -> str:
    return sha1(id.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()
