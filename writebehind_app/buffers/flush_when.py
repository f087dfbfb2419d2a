"""The option `flush_when`: flushes an entry at once if its row is as this function says.

First the entry is made due in Redis, then a job is requested. So the next flusher takes the entry
even if the job does not arrive.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from django.db import models

from writebehind_app import jobs
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.fields.entry import SIGNS
from writebehind_app.store import shard
from writebehind_app.store.connection import client

if TYPE_CHECKING:
    from writebehind_app.buffers.row import RowBuffer
    from writebehind_app.fields.writes import Write

logger = logging.getLogger("writebehind")

_LONG = 2.0  # seconds: a broker that takes longer to accept a job counts as away
_PAUSE = 30.0  # seconds without requests to it from this process then
_asked_again_at = -float("inf")  # on the clock of time.monotonic()
_SILENCE = 2.0  # seconds without a second job for one entry


def hasten(buffer: RowBuffer, writes: Iterable[Write]) -> None:
    """Of writes that Redis took, flush those entries at once that `flush_when` wants."""
    ids = list(dict.fromkeys(write.id for write in writes if _is_due_at_once(buffer, write)))
    if not ids:
        return
    try:
        entries = [(buffer.shard_key_of(id), id) for id in ids]
        new = shard.hasten(client(), entries, silence=_SILENCE)
    except BufferUnavailable as error:
        logger.warning("%s: entries to be flushed at once wait for max_age: %s", buffer, error)
        return
    if len(new) == 1:
        _ask("flush_entry", buffer.label, *new, buffer.using())
    elif new:
        _ask("flush_due", buffer.label)


def _ask(task: str, *args: str) -> None:
    """Ask the broker for a job, unless it refused the last one, or took long for it. The job is a
    hint: the entry is due anyway."""
    global _asked_again_at
    started = time.monotonic()
    if started < _asked_again_at:
        return
    is_taken = jobs.enqueue(task, *args)
    now = time.monotonic()
    if not is_taken or now - started > _LONG:
        _asked_again_at = now + _PAUSE


class _NotAsked(Exception):
    """The write changes nothing that the predicate reads."""


def _is_due_at_once(buffer: RowBuffer, write: Write) -> bool:
    if buffer.flush_when is None or write.delete:
        return False
    try:
        return bool(buffer.flush_when(_row(buffer, write)))
    except _NotAsked:
        return False
    except Exception:  # code of the project; the write is taken already
        logger.exception("%s: flush_when failed, and the entry waits for max_age", buffer)
        return False


def _row(buffer: RowBuffer, write: Write) -> models.Model:
    """Return the row after the write. Fields that are not in its key are loaded when read."""
    layout = buffer.layout()
    # Django never loads a primary key late: if it is not the key, it is None at first.
    key = {layout.model._meta.pk.attname: None, **layout.key_of(write.id)}
    names = [f.attname for f in layout.model._meta.concrete_fields if f.attname in key]
    row: Any = _lazy(layout.model).from_db(layout.using, names, [key[n] for n in names])
    row.writebehind_fields = _Fields(buffer, write)
    return row  # type: ignore[no-any-return]


class _Fields:
    """The values of a row after a write, field by field.

    A field that the write sets is at hand. For any other field, the whole row is read. But if the
    predicate first reads a field that was not written, then the write has changed nothing that
    matters, and the row is not read.
    """

    def __init__(self, buffer: RowBuffer, write: Write) -> None:
        self._buffer = buffer
        self._write = write
        self._is_asked = False

    def load(self, attname: str) -> dict[str, Any]:
        """Return the value of a field, and of the others that were read with it."""
        write, layout = self._write, self._buffer.layout()
        name = layout.model._meta.get_field(attname).name
        self._is_asked = self._is_asked or name in write.fields()
        if not self._is_asked:
            raise _NotAsked
        text = write.texts.get(name)
        if text is not None and text[:1] not in SIGNS:
            return {attname: layout.columns[name].decode(text)}
        found = self._buffer._rows([write.id]).get(write.id)
        if found is None:  # it is not there by now
            raise _NotAsked
        return {f.attname: getattr(found, f.attname) for f in layout.model._meta.concrete_fields}


class _Lazy:
    """Methods that come before those of a model: they load a field when it is read."""

    writebehind_fields: _Fields

    def refresh_from_db(self, using: Any = None, fields: Any = (), **options: Any) -> None:
        """Load a field; Django calls this when one is read."""
        (attname,) = fields
        vars(self).update(self.writebehind_fields.load(attname))

    def _is_pk_set(self, meta: Any = None) -> bool:
        return True  # or Django would load no other field


@cache
def _lazy(model: type[models.Model]) -> type[models.Model]:
    """Return the model, with fields that are loaded when they are read. Django does not make this
    class: it would list it among the models of the project."""
    return type.__new__(type(model), model.__name__, (_Lazy, model), {"__module__": __name__})
