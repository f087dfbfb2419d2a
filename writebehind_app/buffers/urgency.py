"""Entries that are flushed at once, as the option `flush_when` says.

The entry is made due in Redis before anybody is told: whoever flushes next takes it, whether the
job that asks for it arrives or not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.db import models

from writebehind_app import jobs
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.fields.entry import SIGNS
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client

if TYPE_CHECKING:
    from writebehind_app.buffers.row import RowBuffer
    from writebehind_app.fields.writes import Write

logger = logging.getLogger("writebehind")

_LONG = 2.0  # seconds: a broker that takes longer for a job is away, or nearly so
_PAUSE = 30.0  # seconds for which this process does not ask it then
_asked_again_at = -float("inf")  # on the clock of time.monotonic()
_SILENCE = 2.0  # seconds in which nobody is told of an entry once more


def hasten(buffer: RowBuffer, writes: Iterable[Write]) -> None:
    """Of writes that Redis took, have those flushed at once whose rows are as `flush_when` says."""
    ids = list(dict.fromkeys(write.id for write in writes if _is_urgent(buffer, write)))
    if not ids:
        return
    try:
        entries = [(buffer.shard_key_of(id), id) for id in ids]
        new = store.hasten(client(), entries, silence=_SILENCE)
    except BufferUnavailable as error:
        logger.warning("%s: what is to be flushed at once waits for max_age: %s", buffer, error)
        return
    if len(new) == 1:
        _ask("flush_entry", buffer.label, *new)
    elif new:
        _ask("flush_due", buffer.label)


def _ask(task: str, *args: str) -> None:
    """Ask for a job, which is a hint: not where the last one was not taken, or took long."""
    global _asked_again_at
    started = time.monotonic()
    if started < _asked_again_at:
        return
    is_taken = jobs.enqueue(task, *args)
    now = time.monotonic()
    if not is_taken or now - started > _LONG:
        _asked_again_at = now + _PAUSE


class _NotAsked(Exception):
    """The write has nothing to do with what the predicate looks at."""


def _is_urgent(buffer: RowBuffer, write: Write) -> bool:
    if buffer.flush_when is None or write.delete:
        return False
    try:
        return bool(buffer.flush_when(_row(buffer, write)))
    except _NotAsked:
        return False
    except Exception:  # it is the project's; the write is taken already
        logger.exception("%s: flush_when failed, and the entry waits for max_age", buffer)
        return False


def _row(buffer: RowBuffer, write: Write) -> models.Model:
    """The row after the write, as far as somebody looks at it.

    What the write sets is at hand. The rest is read where it is asked for; but not where the first
    field that is asked for is none of the written ones: then nothing has changed by this write.
    """
    layout = buffer.layout()
    touched = write.fields()
    is_asked = False

    def fill(using: str | None = None, fields: Iterable[str] = (), **kwargs: Any) -> None:
        nonlocal is_asked
        (attname,) = fields  # of a field that somebody looks at
        name = layout.model._meta.get_field(attname).name
        is_asked = is_asked or name in touched
        if not is_asked:
            raise _NotAsked
        text = write.texts.get(name)
        if text is not None and text[:1] not in SIGNS:
            row.__dict__[attname] = layout.columns[name].decode(text)
            return
        found = buffer._rows([write.id]).get(write.id)
        if found is None:  # it is not there by now
            raise _NotAsked
        row.__dict__.update({f.attname: getattr(found, f.attname) for f in fields_of_row})

    fields_of_row = layout.model._meta.concrete_fields
    # A field that was left out calls refresh_from_db(), but for the primary key.
    key = {layout.model._meta.pk.attname: None, **layout.key_of(write.id)}
    names = [f.attname for f in fields_of_row if f.attname in key]
    row: models.Model = layout.model.from_db(layout.using, names, [key[n] for n in names])
    # So that it does not matter that the primary key is not known.
    vars(row).update(refresh_from_db=fill, _is_pk_set=lambda *args: True)
    return row
