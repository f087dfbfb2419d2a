"""Bases, and the writes that go past Redis.

Before such a write, the bases of its rows are dropped and a mark is left in Redis. While the mark
is there, nobody makes a new base of these rows. After the commit, the bases are dropped once more,
and the mark is removed. If the process dies in between, or the transaction is rolled back, the mark
expires by itself.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from weakref import WeakKeyDictionary

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from writebehind_app import conf
from writebehind_app.conf import is_direct
from writebehind_app.database.divided import by_shard
from writebehind_app.database.snapshot import Asked, Seen, snapshot
from writebehind_app.database.transactions import autocommits
from writebehind_app.declaration import Bases, Declaration, KeyedDeclaration
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.fields.versions import upgraded
from writebehind_app.store import divisions
from writebehind_app.store.bases import Marked, mark, unmark
from writebehind_app.store.connection import client

_MOST = 4_000_000  # characters of bases that one batch renews


def may_be_read(using: str) -> bool:
    """Whether reads may use bases now.

    They may not if the open transaction wrote past Redis: bases do not know what it wrote.
    """
    connection = connections[using]
    if not connection.run_on_commit:
        return True
    ends = _ends.get(connection, [])
    while ends and not ends[-1].is_waiting():
        ends.pop()  # this write was committed, or rolled back with its savepoint
    return not ends


def is_own(using: str, token: str) -> bool:
    """Whether the token is of a mark that a write of this connection left."""
    return token in _own.get(connections[using], {})


class Passing:
    """A write past Redis that is under way."""

    def __init__(self, buffer: KeyedDeclaration) -> None:
        self.buffer = buffer
        self.token = secrets.token_hex(8)
        self.seconds = conf.settings().LEASE
        self._using = buffer.layout().using
        self._connection = connections[self._using]
        self._ids: dict[str, None] = {}
        self._at = -1  # its place among the callbacks of the transaction
        own, now = _own.setdefault(self._connection, {}), time.monotonic()
        if len(own) > 100:
            for token in [token for token, ends in own.items() if ends < now]:
                del own[token]
        own[self.token] = now + self.seconds

    def add(self, ids: Iterable[str]) -> None:
        """Note more ids that the write changes. They have its mark already, or need none."""
        self._ids |= dict.fromkeys(ids)

    def mark(self, ids: Iterable[str]) -> None:
        """Note more ids that the write changes, drop their bases, and mark them in Redis."""
        if not (ids := [*ids]):
            return
        self.add(ids)
        self._ask(lambda: mark(client(), self._by_shard(ids), self.token, seconds=self.seconds))

    def end(self) -> None:
        """Drop the bases once more and remove the marks, so that new bases can be made."""
        if self._ids:
            self._ask(lambda: unmark(client(), self._by_shard(self._ids), self.token))
        _own.get(self._connection, {}).pop(self.token, None)

    def _by_shard(self, ids: Iterable[str]) -> dict[str, list[str]]:
        with self.buffer.in_database(self._using):
            return by_shard(self.buffer, ids)

    def _ask(self, ask: Callable[[], dict[str, Marked]]) -> None:
        with suppress(BufferUnavailable):
            divisions.asked(client(), ask)

    __call__ = end  # Django calls it after the commit

    def end_with_commit(self) -> None:
        """End after the commit of the open transaction, or now if there is none."""
        connection = self._connection
        if connection.in_atomic_block:
            self._at = len(connection.run_on_commit)
            connection.on_commit(self)
            _ends.setdefault(connection, []).append(self)
        elif autocommits(connection):
            self.end()
        # With autocommit off, Django does not announce the commit: the mark expires by itself.

    def is_waiting(self) -> bool:
        """Whether the transaction of the write is still open."""
        callbacks = self._connection.run_on_commit
        return self._at < len(callbacks) and callbacks[self._at][1] is self


# By connection: the writes that end with the commit, in order; and each token, with when its mark
# expires.
_ends: WeakKeyDictionary[BaseDatabaseWrapper, list[Passing]] = WeakKeyDictionary()
_own: WeakKeyDictionary[BaseDatabaseWrapper, dict[str, float]] = WeakKeyDictionary()


@contextmanager
def passing(buffer: Declaration, ids: Iterable[str] = ()) -> Iterator[Passing | None]:
    """Enclose a write past Redis to these ids, and to those that are added. None without bases."""
    if not isinstance(buffer, KeyedDeclaration) or buffer.bases() is None or is_direct():
        yield None
        return
    write = Passing(buffer)
    write.mark(ids)
    token = _under_way.set(write)
    try:
        yield write
    except BaseException:
        write.end()
        raise
    finally:
        _under_way.reset(token)
    write.end_with_commit()


def under_way(buffer: KeyedDeclaration) -> Passing | None:
    """The write past Redis to rows of this buffer that encloses the caller, or None."""
    write = _under_way.get()
    return write if write is not None and write.buffer is buffer else None


_under_way: ContextVar[Passing | None] = ContextVar("writebehind_passing", default=None)


def fenced_rows(buffer: KeyedDeclaration, id: str, entries: Iterable[Entry]) -> set[str]:
    """The ids of the rows whose fences matter for these entries of one id."""
    found = {buffer.fenced_row(id)}
    for entry in entries:
        with suppress(*REFUSALS):  # the flush will refuse this entry
            found.update(buffer.row_ids(upgraded(buffer, entry)))
    return found


def text_of(
    buffer: KeyedDeclaration, bases: Bases, id: str, seen: Seen, row_ids: Iterable[str]
) -> str | None:
    """The base of one id, made of its stored rows; None if there can be none."""
    fences = map(seen.fence_of, row_ids)
    number = max((fence.last for fence in fences if fence is not None), default=0)
    rows = buffer.rows_in({} if seen.stored is None else {id: seen.stored})
    return bases.format.text(rows.values(), number)


def new_bases(buffer: KeyedDeclaration, entries: Mapping[str, Entry]) -> dict[str, str]:
    """The new bases of these ids. Call it in the transaction that has written the entries."""
    found: dict[str, str] = {}
    if (bases := buffer.bases()) is None:
        return found
    row_ids = {id: frozenset(fenced_rows(buffer, id, [entry])) for id, entry in entries.items()}
    size = 0
    for id, seen in snapshot(
        buffer, {id: Asked(row_ids=own) for id, own in row_ids.items()}
    ).items():
        text = text_of(buffer, bases, id, seen, row_ids[id])
        if text is not None and size + len(text) <= _MOST:
            found[id] = text
            size += len(text)
    return found
