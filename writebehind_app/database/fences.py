"""Fences: a direct write leaves one, so that no older write can overwrite it.

Redis may hold older writes to the row, pending or in flight, that the direct write cannot see. The
flusher and each reader compare the numbers of both, field by field:

- A pending value that is older than a direct value is void.
- A pending value may be older than a direct operation. One by one, the value would have come first.
  So the value is taken, and the operation is carried out on it again.
- A pending operation is carried out on the stored value, unless it is older than a direct value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from hashlib import sha1
from typing import TYPE_CHECKING

from django.db import connections, models
from django.utils import timezone

from writebehind_app import conf
from writebehind_app.database.divided import renew
from writebehind_app.database.failures import InTheWay
from writebehind_app.database.lookup import rows_by_id
from writebehind_app.database.statements import placeholders
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.stamps import micros_of
from writebehind_app.models import Fence as StoredFence
from writebehind_app.store import state
from writebehind_app.store.connection import client

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration

_CHUNK = 2000  # digests in one statement


class Fences:
    """The fences of rows of a buffer.

    `lock` locks them, and shows them as they are now, even if the transaction sees older rows.
    """

    def __init__(self, buffer: Declaration, ids: Iterable[str] = (), *, lock: bool = False) -> None:
        self._buffer, self._lock = buffer, lock
        self._ids: set[str] = set()  # the rows whose fences are loaded
        self._found: dict[str, Fence] = {}  # by digest
        self._load(ids)

    @classmethod
    def found(cls, buffer: Declaration, ids: Iterable[str], found: Mapping[str, Fence]) -> Fences:
        """Fences that another statement has loaded, by digest, of these rows."""
        fences = cls(buffer)
        fences._ids, fences._found = {*ids}, {**found}
        return fences

    def of(self, id: str) -> Fence | None:
        """The fence of a row, joined with the fence of its entity."""
        self._load([id])
        own, whole = (self._found.get(digest) for digest in self._digests(id))
        if own is None or whole is None or own is whole:
            return own or whole
        return own.joined(whole)

    def _load(self, ids: Iterable[str]) -> None:
        """Load the fences of these rows with one statement."""
        new = set(ids) - self._ids
        if new:
            self._found |= _stored(self._buffer, digests(self._buffer, new), lock=self._lock)
            self._ids |= new

    def _digests(self, id: str) -> tuple[str, str]:
        return _digest(id), _digest(self._buffer.entry_id(id))


def no_fence(row_id: str) -> None:
    """Stands in for `Fences.of` where no fence counts."""


def digests(buffer: Declaration, row_ids: Iterable[str]) -> set[str]:
    """The digests under which the fences of these rows are stored."""
    return {_digest(id) for own in row_ids for id in (own, buffer.entry_id(own))}


def of_rows(buffer: Declaration, ids: Collection[str]) -> dict[str, Fence]:
    """The fences of these rows, by row id. Call it in the transaction that writes the rows.

    The rows must be locked. Then each direct write to them either came before, and its fence is
    visible, or waits until the transaction ends. A row that is not there cannot be locked: see
    `check_new`.
    """
    if not (buffer.layout().key and _of(buffer).exists()):  # records of a log have no fences
        return {}
    fences = Fences(buffer, ids)
    return {id: fence for id in ids if (fence := fences.of(id))}


def check_new(buffer: Declaration, new: Mapping[str, Fence | None]) -> None:
    """Refuse to go on if one of the `new` rows has another fence than was seen before its INSERT.

    Somebody made the row and deleted it in between. Since the INSERT, the new row is locked.
    """
    if connections[buffer.layout().using].features.has_select_for_update and new:
        now = of_rows(buffer, new)
        if any(now.get(id) != fence for id, fence in new.items()):
            raise InTheWay("Rows were made and deleted while a flusher was about to insert them.")


def left_of_all(buffer: Declaration, entries: Sequence[Entry]) -> Sequence[Entry]:
    """What the fences leave of these entries."""
    return left_of_fenced(buffer, entries, of_rows(buffer, [entry.id for entry in entries]))


def left_of_fenced(
    buffer: Declaration, entries: Sequence[Entry], fenced: Mapping[str, Fence]
) -> Sequence[Entry]:
    """What these fences leave of these entries."""
    if not fenced:
        return entries
    layout = buffer.layout()
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


def void_until(buffer: Declaration, ids: Iterable[str]) -> dict[str, int]:
    """The number up to which everything is void for each of these ids that has a fence."""
    by_digest = {_digest(id): id for id in ids}
    found = _stored(buffer, by_digest, lock=False)
    return {by_digest[digest]: fence.row for digest, fence in found.items()}


def lock(buffer: Declaration, ids: Iterable[str]) -> None:
    """Lock the fences of these rows until the end of the transaction.

    So direct writes to one row queue up, even where there is no row yet to lock.
    """
    using = buffer.layout().using
    if not connections[using].features.has_select_for_update:
        return  # SQLite has one writing transaction at a time anyway
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


def leave(buffer: Declaration, entries: Sequence[Entry], *, whole: bool = False) -> None:
    """Leave fences for what was written directly to rows, or deleted of entities.

    Call it in the transaction of the write. With `whole`, nothing older counts for these rows.
    """
    using = buffer.layout().using
    written = {_digest(entry.id): entry for entry in entries}
    stored = _locked(buffer, written)
    new: list[StoredFence] = []
    changed: list[StoredFence] = []
    for digest, entry in written.items():
        row = stored.get(digest) or StoredFence(buffer=buffer.label, digest=digest)
        fence = Fence.loaded(row.marks) if digest in stored else Fence()
        fence = fence.with_write(entry, max(entry.last, fence.last + 1), whole=whole)
        row.marks, row.at = fence.dumped(), fence.last
        (changed if digest in stored else new).append(row)
    StoredFence.objects.using(using).bulk_create(new)
    StoredFence.objects.using(using).bulk_update(changed, ["marks", "at"])


def expire(buffer: Declaration) -> None:
    """Delete old fences, if no pending entry is as old as they are."""
    days = timedelta(days=conf.settings().FENCE_DAYS)
    old = _of(buffer).filter(at__lt=micros_of(timezone.now() - days))
    if not old.exists():
        return
    renew([buffer], patient=True)
    found = state.overview(client(patient=True), buffer.shards()).values()
    if any(each.in_flight for each in found):
        return
    # The entry that is due first is at most max_age younger than the oldest one.
    waits = max((each.oldest for each in found if each.pending), default=0)
    if waits:
        first = timezone.now() - timedelta(seconds=waits + buffer.option("MAX_AGE"))
        old = old.filter(at__lt=micros_of(first))
    old.delete()


def _of(buffer: Declaration) -> models.QuerySet[StoredFence]:
    return StoredFence.objects.using(buffer.layout().using).filter(buffer=buffer.label)


def _stored(buffer: Declaration, digests: Iterable[str], *, lock: bool) -> dict[str, Fence]:
    """The fences by their digests.

    Each read asks for them, and mostly there are none. So this uses a cursor: a QuerySet takes
    several times as long.
    """
    found: dict[str, Fence] = {}
    wanted = sorted(digests)
    connection = connections[buffer.layout().using]
    end = " FOR UPDATE" if lock and connection.features.has_select_for_update else ""
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        sql = (
            f"SELECT digest, marks FROM {StoredFence._meta.db_table} "
            f"WHERE buffer = %s AND digest IN ({placeholders(len(chunk))}){end}"
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
