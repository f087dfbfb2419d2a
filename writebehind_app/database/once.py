"""`once`: a call that comes again under the same key changes nothing, wherever the first one went.

Redis and the database each remember a key, for ONCE_DAYS:

Redis         that a call was taken under it, and by which entry. An entry carries the keys of the
              calls that are in it.
the database  how many calls have set out under it that Redis may have taken; and, from the
              transaction on in which that is stored, that it is done.

So a call that comes again is told by one of them that it is done, or is the first to be taken.
Around Redis it goes only if no other call under its key can be in there: where that is not known it
raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from hashlib import sha1
from typing import TYPE_CHECKING, TypeVar

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.db.models import F
from django.utils import timezone

from writebehind_app import conf
from writebehind_app.conf import is_direct
from writebehind_app.exceptions import (
    AlreadyExists,
    BufferFull,
    BufferUnavailable,
    WriteUncertain,
)
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.layout import micros_of
from writebehind_app.fields.limits import refuse_nameless
from writebehind_app.models import OnceKey
from writebehind_app.store import delivery
from writebehind_app.store.connection import client

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration

_Result = TypeVar("_Result")
_CHUNK = 2000  # keys in one statement
_MAY_BE_PENDING = (
    "An earlier call under the same key may be pending in Redis, which cannot be asked: repeat it "
    "when Redis is back."
)


class _Done(Exception):
    """What the call is to do is in the database already."""


class Once:
    """One write, or one part of those, of a call with a key."""

    def __init__(self, buffer: Declaration, key: str, part: int, shard: str) -> None:
        refuse_nameless(key)
        self.digest = sha1(f"{part} {key}".encode(), usedforsecurity=False).hexdigest()
        self._buffer = buffer
        self._shard = shard

    def carry_out(
        self,
        buffered: Callable[[], _Result | None],
        directly: Callable[[], _Result | None],
        done: _Result,
        goes_around: Callable[[Exception], bool],
    ) -> _Result | None:
        """What the call comes to, through Redis or around it; `done` where it came to that before.
        None is nothing: the call was not taken. `goes_around` says whether a call that Redis did
        not take for this error may go around it."""
        if not self._begin():
            return done
        try:
            found = self._taken(buffered, directly, goes_around)
        except _Done:
            return done
        except AlreadyExists:
            if self.was_taken():
                return done
            raise
        return done if found is None and self.was_taken() else found

    def _taken(
        self,
        buffered: Callable[[], _Result | None],
        directly: Callable[[], _Result | None],
        goes_around: Callable[[Exception], bool],
    ) -> _Result | None:
        may_be_in_redis = False
        try:
            if not is_direct():
                may_be_in_redis = True
                try:
                    found = buffered()
                    may_be_in_redis = found is not None
                    return found
                except (AlreadyExists, ValidationError):
                    may_be_in_redis = False
                    raise
                except (BufferUnavailable, BufferFull, WriteUncertain) as error:
                    may_be_in_redis = isinstance(error, WriteUncertain)
                    if not goes_around(error):
                        raise
            return directly()
        finally:
            if not may_be_in_redis:
                self._note.filter(done=False).update(calls=F("calls") - 1)

    def settled(self, act: Callable[[], _Result | None]) -> _Result | None:
        """Act, in the transaction of a write that goes around Redis."""
        for done, calls in self._note.select_for_update().values_list("done", "calls"):
            if done:
                raise _Done
            if calls > 1:
                raise WriteUncertain(_MAY_BE_PENDING)
        found = act()
        if found is not None:
            self._note.update(done=True)
        return found

    # In the database

    @property
    def _note(self) -> models.QuerySet[OnceKey]:
        return _of(self._buffer).filter(digest=self.digest)

    def _begin(self) -> bool:
        """Note that a call sets out; False where it is done already."""
        using = self._buffer.layout().using
        new = OnceKey(buffer=self._buffer.label, digest=self.digest, calls=1, at=_now())
        while not self._note.filter(done=False).update(calls=F("calls") + 1):
            try:
                with transaction.atomic(using=using):
                    new.save(using=using, force_insert=True)
                return True
            except IntegrityError as error:
                match list(self._note.values_list("done", flat=True)):
                    case [True]:
                        return False
                    case []:  # it was refused for something else
                        raise error from None
        return True

    def was_taken(self) -> bool:
        """Whether a call under the key was carried out; `WriteUncertain` where nobody can tell."""
        may_be_in_redis = False
        for done, calls in self._note.values_list("done", "calls"):
            if done:
                return True
            may_be_in_redis = calls > 0
        if is_direct():
            return False
        try:
            return delivery.was_taken(client(), self._shard, self.digest)
        except BufferUnavailable as error:
            if may_be_in_redis:
                raise WriteUncertain(_MAY_BE_PENDING) from error
            return False


def settle(buffer: Declaration, entries: Iterable[Entry]) -> None:
    """Note, in the transaction of a flush, that what the entries carry is done."""
    digests = sorted({digest for entry in entries for digest in entry.once})
    for start in range(0, len(digests), _CHUNK):
        chunk = digests[start : start + _CHUNK]
        known = {*_of(buffer).filter(digest__in=chunk).values_list("digest", flat=True)}
        new = [OnceKey(buffer=buffer.label, digest=d, at=_now()) for d in chunk if d not in known]
        # There is one for each, but where it went with a transaction that was rolled back.
        OnceKey.objects.using(buffer.layout().using).bulk_create(new, ignore_conflicts=True)
        _of(buffer).filter(digest__in=chunk).update(done=True)


def expire(buffer: Declaration) -> None:
    """Forget old keys."""
    days = timedelta(days=conf.settings().ONCE_DAYS)
    old = _of(buffer).filter(at__lt=micros_of(timezone.now() - days))
    if old.exists():  # a statement that writes waits for others, on SQLite
        old.delete()


def _of(buffer: Declaration) -> models.QuerySet[OnceKey]:
    return OnceKey.objects.using(buffer.layout().using).filter(buffer=buffer.label)


def _now() -> int:
    return micros_of(timezone.now())
