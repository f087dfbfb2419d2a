"""`once`: a call that is repeated under the same name changes nothing.

The script that takes the write also keeps the name in Redis, for ONCE_DAYS. The transaction that
stores the write also stores the name in the database. The database is asked first: a Redis that
lost everything must not take a stored write again.

A call with a name never goes around Redis. While Redis is away, nobody knows whether an earlier
call under the name is pending there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from hashlib import sha1
from typing import TYPE_CHECKING, TypeVar

from django.db import IntegrityError, models, transaction
from django.utils import timezone

from writebehind_app import conf
from writebehind_app.conf import is_direct
from writebehind_app.exceptions import AlreadyExists, BufferUnavailable, WriteUncertain
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.limits import refuse_nameless
from writebehind_app.fields.stamps import micros_of
from writebehind_app.models import OnceKey
from writebehind_app.store import reads
from writebehind_app.store.connection import client

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration

_Result = TypeVar("_Result")
_CHUNK = 2000  # names in one statement


class _Done(Exception):
    """The call was carried out before: its name is in the database."""


class Once:
    """One write of a call with a name; of a log, one part of the records."""

    def __init__(self, buffer: Declaration, name: str, place: str, shard: str) -> None:
        """`place` says which write of the call this is. The same name with another place is another
        call."""
        refuse_nameless(name)
        self.name = name
        self.digest = sha1(f"{place} {name}".encode(), usedforsecurity=False).hexdigest()
        self._buffer = buffer
        self._shard = shard

    def carry_out(
        self,
        buffered: Callable[[], _Result | None],
        directly: Callable[[], _Result | None],
        done: _Result,
        *,
        is_decided: bool = False,
    ) -> _Result | None:
        """Carry out the call unless it was carried out before; then return `done`.

        None means that the call was not taken. `is_decided` says that the call decides by the row,
        as `set_if` does. Such a call asks Redis for its name first: its own earlier write may be in
        flight, and the call would wait for it.
        """
        if self.is_stored():
            return done
        if is_direct():
            try:
                return directly()
            except _Done:
                return done
        try:
            if is_decided and self._is_in_redis():
                return done
            found = buffered()
        except AlreadyExists:
            if self._is_in_redis():
                return done
            raise
        except BufferUnavailable as error:
            if self._buffer.option("WHEN_DOWN") == "raise":
                raise
            raise WriteUncertain(
                "Redis is away, and may hold an earlier call under the same name: this one was not "
                "taken. Repeat it when Redis is back."
            ) from error
        return done if found is None and self._is_in_redis() else found

    def settled(self, act: Callable[[], _Result | None]) -> _Result | None:
        """Carry out a direct write, and store the name in the same transaction."""
        using = self._buffer.layout().using
        try:
            with transaction.atomic(using=using):
                _key(self._buffer, self.digest).save(using=using, force_insert=True)
        except IntegrityError as error:
            if not self.is_stored():  # the database refused it for another reason
                raise error from None
            raise _Done from None
        found = act()
        if found is None:
            self._stored.delete()
        return found

    def is_stored(self) -> bool:
        """Whether the name is in the database."""
        return self._stored.exists()

    def remember(self) -> None:
        """Store the name of a call of which nothing is left to be written, as later writes have
        replaced it: a repeat of the call must not come over these."""
        _store(self._buffer, [self.digest])

    def was_taken(self) -> bool:
        """Whether a call under the name was taken. False also if Redis cannot be asked."""
        if self.is_stored():
            return True
        try:
            return not is_direct() and self._is_in_redis()
        except BufferUnavailable:
            return False

    def _is_in_redis(self) -> bool:
        return reads.is_known(client(), self._shard, self.digest)

    @property
    def _stored(self) -> models.QuerySet[OnceKey]:
        return _of(self._buffer).filter(digest=self.digest)


def settle(buffer: Declaration, entries: Iterable[Entry]) -> None:
    """Store the names of calls that the entries carry, in the transaction of their batch."""
    digests = sorted({digest for entry in entries for digest in entry.once})
    for start in range(0, len(digests), _CHUNK):
        _store(buffer, digests[start : start + _CHUNK])


def expire(buffer: Declaration) -> None:
    """Forget old names."""
    days = timedelta(days=conf.settings().ONCE_DAYS)
    old = _of(buffer).filter(at__lt=micros_of(timezone.now() - days))
    if old.exists():  # on SQLite, a DELETE waits for other writers even if it deletes nothing
        old.delete()


def _store(buffer: Declaration, digests: Iterable[str]) -> None:
    new = [_key(buffer, digest) for digest in digests]
    OnceKey.objects.using(buffer.layout().using).bulk_create(new, ignore_conflicts=True)


def _of(buffer: Declaration) -> models.QuerySet[OnceKey]:
    return OnceKey.objects.using(buffer.layout().using).filter(buffer=buffer.label)


def _key(buffer: Declaration, digest: str) -> OnceKey:
    return OnceKey(buffer=buffer.label, digest=digest, at=micros_of(timezone.now()))
