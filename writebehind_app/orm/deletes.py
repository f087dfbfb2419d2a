"""delete() of buffered rows by the ORM is later than what Redis holds of them.

Django sends `pre_delete` in the transaction of the delete, once for each row. The first signal for
a model asks Redis about all its rows: the collector that sends the signal knows them.
"""

from __future__ import annotations

import sys
from itertools import groupby
from typing import Any

from django.apps import apps
from django.db import connections, models, transaction
from django.db.models.deletion import Collector
from django.db.models.signals import class_prepared, pre_delete

from writebehind_app import registry
from writebehind_app.buffers import outbox
from writebehind_app.database import fences, planner
from writebehind_app.database.bases import passing
from writebehind_app.database.locking import lock_rows
from writebehind_app.database.transactions import begin_writing
from writebehind_app.declaration import KeyedDeclaration
from writebehind_app.fields.entry import entry_of
from writebehind_app.orm.older import fencing, find_older, names_of, row_ids_of


def watch_deletes(model: type[models.Model]) -> None:
    """From now on, deletes of rows of a model and of its proxies leave fences."""
    for sender in with_proxies(model):
        pre_delete.connect(_before_delete, sender=sender, dispatch_uid="writebehind.orm")


def with_proxies(model: type[models.Model]) -> list[type[models.Model]]:
    """A model and its proxies: Django sends signals for the class that the instance has."""
    every = apps.get_models()
    return [model, *(m for m in every if m._meta.proxy and m._meta.concrete_model is model)]


def _proxy_prepared(sender: type[models.Model], **kwargs: Any) -> None:
    if sender._meta.proxy and registry.buffer_of(sender) is not None:
        pre_delete.connect(_before_delete, sender=sender, dispatch_uid="writebehind.orm")


class_prepared.connect(_proxy_prepared, dispatch_uid="writebehind.orm")


def _before_delete(
    sender: type[models.Model], instance: models.Model, using: str, **kwargs: Any
) -> None:
    own, buffer = planner.being_deleted(), fencing(sender, using)
    if buffer is None or not (own is None or own.is_direct or buffer.bases()):
        return
    rows = rows_to_delete(buffer.model, instance, buffer.label)
    if own is not None:
        rows = [row for row in rows if buffer.model is not own.model or row.pk not in own.pks]
    if not rows:
        return
    with buffer.in_database(using), passing(buffer) as write:
        if own is None or own.is_direct:
            _leave(buffer, rows)
        elif write is not None:  # a flush renews the bases of its own rows by itself
            write.mark(map(buffer.entry_id, row_ids_of(buffer.layout(), rows)))


def _leave(buffer: KeyedDeclaration, rows: list[models.Model]) -> None:
    layout = buffer.layout()
    # Mostly this joins the transaction of the collector.
    with transaction.atomic(using=layout.using, savepoint=False):
        begin_writing(connections[layout.using])
        # Somebody may have given a row another key. A save that comes after the look would leave a
        # fence for less than the whole row. And rows are locked before fences, as a save does.
        stored = lock_rows(layout, (row.pk for row in rows))
        ids = row_ids_of(layout, [stored.get(row.pk, row) for row in rows])
        older = find_older(buffer, ids)
        if older:
            fences.lock(buffer, older)
        numbered = sorted((each.number, id) for id, each in older.items())
        for number, pairs in groupby(numbered, key=lambda pair: pair[0]):
            gone = [entry_of(id, {}, number, delete=True) for _, id in pairs]
            fences.leave(buffer, gone)
        for id in ids:
            names = names_of(buffer, id, layout.columns) if buffer.names().is_entity else None
            outbox.strike(buffer, buffer.entry_id(id), names)


def rows_to_delete(
    model: type[models.Model], instance: models.Model, task: str
) -> list[models.Model]:
    """All rows of a model that go with this one, itself included. No rows if this was asked before
    for the same task: the signal comes once for each row."""
    collector = _collector()
    if collector is None:
        return [instance]
    done: set[str] = collector.__dict__.setdefault("_writebehind", set())
    if task in done:
        return []
    done.add(task)
    found = collector.data.items()
    return [row for m, rows in found if m._meta.concrete_model is model for row in rows]


def _collector() -> Collector | None:
    """The collector whose delete() sends the signal; None if the signal comes from other code."""
    # No signal names the collector, and a look at each row by itself would be a round trip each.
    frame = sys._getframe(2)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is Collector.delete.__code__:
            found: Collector = frame.f_locals["self"]
            return found
    return None
