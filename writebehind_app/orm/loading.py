"""Load the instances of a queryset with their pending values.

The queryset runs first. Then one call asks Redis which of its rows have entries. These rows are
read again by their keys. If a batch of a shard was acknowledged meanwhile, all rows of that shard
are read again: the queryset may have missed the values of the batch, and Redis no longer holds
them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models.query import ModelIterable

from writebehind_app import registry
from writebehind_app.buffers import outbox
from writebehind_app.buffers.coalescing import CoalescingBuffer
from writebehind_app.buffers.fallback import with_fallback
from writebehind_app.buffers.reading import database_of, with_keys
from writebehind_app.database.divided import by_shard
from writebehind_app.fields.columns import encoded
from writebehind_app.store import divisions, reads
from writebehind_app.store.connection import client

if TYPE_CHECKING:
    _Iterable = ModelIterable[Any]
else:
    _Iterable = ModelIterable

_LOADED = "_writebehind_loaded"  # an attribute of an instance: the texts of pending values

# By shard, the token of the last acknowledged batch that this process knows of.
_acked: dict[str, str] = {}


class BufferedIterable(_Iterable):
    """Makes the instances of a BufferedQuerySet."""

    def __iter__(self) -> Iterator[Any]:
        rows = super().__iter__()
        overlay = _overlay(self.queryset)
        if overlay is None:
            return rows
        return overlay.over(rows, self.chunk_size if self.chunked_fetch else None)


def _overlay(queryset: models.QuerySet[Any]) -> _Overlay | None:
    buffer = buffer_of(queryset.model)
    return None if buffer is None else _Overlay(buffer, queryset)


def buffer_of(model: type[models.Model]) -> CoalescingBuffer | None:
    """The buffer of a model, or of one of its parent models."""
    for each in (model, *model._meta.get_parent_list()):
        if isinstance(buffer := registry.buffer_of(each), CoalescingBuffer):
            return buffer
    return None


class _Overlay:
    """Puts pending values over the rows of a queryset. Make it before the queryset runs."""

    def __init__(self, buffer: CoalescingBuffer, queryset: models.QuerySet[Any]) -> None:
        self._buffer, self._queryset = buffer, queryset
        self._using = database_of(buffer, queryset)
        with buffer.in_database(self._using):
            self._before = {key: _acked.get(key) for key in buffer.shard_keys()}

    def over(self, rows: Iterator[Any], size: int | None) -> Iterator[Any]:
        """The rows with their pending values, `size` at a time, or all at once."""
        if size is None:
            yield from self._shown([*rows])
        else:
            while chunk := [*islice(rows, size)]:
                yield from self._shown(chunk)

    def _shown(self, rows: list[Any]) -> list[Any]:
        buffer = self._buffer
        if not rows:
            return rows
        with buffer.in_database(self._using):
            layout = buffer.layout()
            rows = with_keys(layout, rows)
            row_ids = [layout.id_of(row) for row in rows]
            ids = [*map(buffer.entry_id, row_ids)] if buffer.names().is_entity else row_ids
            nothing: set[str] = set()
            changed = with_fallback(buffer, lambda: self._changed(ids), lambda: nothing)
            changed |= {part.id for one in outbox.held_of(buffer) for part in one.parts.values()}
            changed &= {*ids}
            if not changed:
                return rows
            fresh = buffer.rows_in(buffer._rows([*changed]))
        shown = []
        for row, row_id, id in zip(rows, row_ids, ids, strict=True):
            if id not in changed:
                shown.append(row)
            elif (now := fresh.get(row_id)) is not None:
                _renew(buffer, row, now)
                shown.append(row)
        return _of_parents(shown, self._queryset)

    def _changed(self, ids: Sequence[str]) -> set[str]:
        """The ids that have entries in Redis, or had some that the queryset may have missed."""
        asked: dict[str, list[str]] = {}

        def ask() -> dict[str, reads.Waiting]:
            nonlocal asked
            asked = by_shard(self._buffer, dict.fromkeys(ids))
            return reads.waiting(client(), asked)

        changed = set()
        for key, found in divisions.asked(client(), ask).items():
            is_as_before = found.acked == (self._before.get(key) or "")
            changed |= {*(found.ids if is_as_before else asked[key])}
            _acked[key] = found.acked
        return changed


def _renew(buffer: CoalescingBuffer, row: models.Model, now: Any) -> None:
    """Set the fields that an instance has loaded to their values with all pending writes."""
    layout, loaded = buffer.layout(), {}
    for field in layout.model._meta.concrete_fields:
        name = field.attname
        if name not in row.__dict__ or (field.primary_key and now.pk is None):
            continue
        value = getattr(now, name)
        # In Python, `True` is equal to 1. In JSON it is not.
        if row.__dict__[name] != value or isinstance(field, models.JSONField):
            setattr(row, name, value)
            if column := layout.columns.get(field.name):
                loaded[field.name] = encoded(column, value)
    if loaded:
        row.__dict__[_LOADED] = loaded


def _of_parents(rows: list[Any], queryset: models.QuerySet[Any]) -> list[Any]:
    """The rows that Django can give to a parent.

    `prefetch_related()` looks up the parent of each row. A pending value may name a parent that was
    not asked for: without this, Django would fail.
    """
    # A queryset is not told that it is a prefetch, and has the same filter as any other.
    frame = sys._getframe(2)
    while not frame.f_code.co_name.startswith("get_prefetch_queryset"):
        if frame.f_back is None:
            return rows
        frame = frame.f_back
    of = frame.f_locals
    if of.get("queryset") is not queryset or "instances_dict" not in of:
        return rows
    parents, parent_of = of["instances_dict"], of["rel_obj_attr"]
    return [row for row in rows if parent_of(row) in parents]


# When a loaded instance is saved


def loaded_texts(row: models.Model) -> Mapping[str, str]:
    """The values that were pending when the row was loaded, as texts, by field."""
    found: Mapping[str, str] = row.__dict__.get(_LOADED, {})
    return found


def forget_loaded(row: models.Model, names: Iterable[str], but: Collection[str]) -> None:
    """Forget the loaded texts of these fields, `but` some: they have been saved by now."""
    if loaded := row.__dict__.get(_LOADED):
        written = {*names}.difference(but)
        row.__dict__[_LOADED] = {n: text for n, text in loaded.items() if n not in written}
