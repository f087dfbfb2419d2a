"""delete() of a row by the ORM is later than pending writes that refer to the row.

One by one, these writes would have been stored before, and the delete would have dealt with their
rows as their foreign keys say. Redis cannot find them by the row. So the delete leaves a fence for
references to the row, in each buffer that has something pending. A flush that misses the row looks
for the fence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from django.db import connections, models, transaction
from django.db.models.signals import pre_delete

from writebehind_app import registry
from writebehind_app.database import fences, planner
from writebehind_app.database.cascades import reference_to, references
from writebehind_app.database.transactions import begin_writing
from writebehind_app.declaration import Declaration
from writebehind_app.fields.entry import entry_of
from writebehind_app.orm.deletes import rows_to_delete, with_proxies
from writebehind_app.orm.older import answer_or_none
from writebehind_app.store import clock, state
from writebehind_app.store.connection import client
from writebehind_app.store.shard import Shard

_fields: dict[Any, list[Any]] = defaultdict(list)  # by model, the foreign keys to it


def watch_references(model: type[models.Model]) -> None:
    """From now on, deletes of rows to which rows of a buffered model refer leave fences."""
    for field in references(model):
        parent = field.related_model._meta.concrete_model
        if field not in _fields[parent]:
            _fields[parent].append(field)
        for sender in with_proxies(parent):
            pre_delete.connect(
                _before_delete_of_parent, sender=sender, dispatch_uid="writebehind.references"
            )


def _before_delete_of_parent(
    sender: type[models.Model], instance: models.Model, using: str, **kwargs: Any
) -> None:
    own = planner.being_deleted()
    if own is not None and not own.is_direct:
        return  # a flush deletes rows in the order of the writes; a write around Redis does not
    parent = sender._meta.concrete_model
    assert parent is not None
    fields = _buffered_references(parent, using)
    if not fields:
        return
    rows = rows_to_delete(parent, instance, f"references to {parent._meta.label}")
    pending = _with_something_pending([*fields], using) if rows else []
    if not pending:
        return
    with transaction.atomic(using=using, savepoint=False):
        begin_writing(connections[using])
        for buffer in pending:
            with buffer.in_database(using):
                number = max(map(clock.number, buffer.shard_keys()))
                ids = {
                    reference_to(field, getattr(row, field.target_field.attname))
                    for field in fields[buffer]
                    for row in rows
                }
                fences.lock(buffer, ids)
                fences.leave(buffer, [entry_of(id, {}, number, delete=True) for id in ids])


def _buffered_references(parent: type[models.Model], using: str) -> dict[Declaration, list[Any]]:
    """The foreign keys to a model that pending writes may set, by buffer."""
    found: dict[Declaration, list[Any]] = defaultdict(list)
    for field in _fields[parent]:
        buffer = registry.buffer_of(field.model)
        if buffer is None or buffer.option("ORM") == "ignore" or using not in buffer.databases():
            continue
        layout = buffer.layout()
        if any(field == column.field for column in (*layout.key, *layout.columns.values())):
            found[buffer].append(field)
    return found


def _with_something_pending(buffers: Sequence[Declaration], using: str) -> Sequence[Declaration]:
    """The buffers of which Redis holds something for a database, in one round trip; all if it
    cannot be asked."""
    shards: list[tuple[Declaration, Shard]] = []
    for buffer in buffers:
        with buffer.in_database(using):
            shards += [(buffer, shard) for shard in buffer.shards()]
    found = answer_or_none(lambda: state.overview(client(), [shard for _, shard in shards]))
    if found is None:
        return buffers
    waiting = {key for key, each in found.items() if each.pending or each.in_flight}
    return [*dict.fromkeys(buffer for buffer, shard in shards if shard.key in waiting)]
