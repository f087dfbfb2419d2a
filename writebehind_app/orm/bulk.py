"""Writes of a queryset to many rows. As with save(), they are later than what Redis holds.

Redis is not asked about every row. If few entries are pending, their ids are fetched, and the
queryset says which of them match. If there are many, or Redis is away, the rows' own ids are used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from django.db import connections, models

from writebehind_app.buffers import outbox
from writebehind_app.database.bases import passing
from writebehind_app.database.locking import locked_for_update
from writebehind_app.database.lookup import all_rows, matching_keys
from writebehind_app.database.statements import parts, size_of
from writebehind_app.declaration import KeyedDeclaration
from writebehind_app.fields.layout import Layout
from writebehind_app.orm.older import ids_in_redis, row_ids_of
from writebehind_app.orm.overwrite import overwriting

_Result = TypeVar("_Result")


def update(
    buffer: KeyedDeclaration,
    rows: models.QuerySet[Any],
    values: Mapping[str, Any],
    act: Callable[[], _Result],
) -> _Result:
    """Call `act`, which writes these values to the rows of a queryset, and leave fences."""
    with passing(buffer) as write:
        if write is not None:
            rows_now = [*_with_keys_only(buffer, rows)]
            write.mark(buffer.entry_id(buffer.layout().id_of(row)) for row in rows_now)
        return _update(buffer, rows, values, act)


def _update(
    buffer: KeyedDeclaration,
    rows: models.QuerySet[Any],
    values: Mapping[str, Any],
    act: Callable[[], _Result],
) -> _Result:
    layout = buffer.layout()
    fields = {_field(layout, name): value for name, value in values.items()}
    given = {c.name: fields[c.field] for c in layout.columns.values() if c.field in fields}
    is_renamed = any(c.field in fields for c in layout.key)
    if not (given or is_renamed):
        return act()
    lock = locked_for_update(layout, rows)
    with overwriting(buffer, _ids_of(buffer, rows), lock) as written:
        for each in written:
            if is_renamed or each.is_gone():
                each.settle()
            else:
                each.note_values(each.note_expressions(given, rows.query.chain()))
        return act()


def create(
    buffer: KeyedDeclaration,
    rows: Iterable[models.Model],
    act: Callable[[], _Result],
    *,
    ignore: bool,
    update: Collection[str],
) -> _Result:
    """Call `act`, which inserts rows, and leave fences.

    With `ignore`, `act` leaves stored rows alone. With `update`, it writes these fields of them.
    """
    with passing(buffer) as write:
        result = _create(buffer, rows := [*rows], act, ignore=ignore, update=update)
        if write is not None:
            write.add(map(buffer.entry_id, row_ids_of(buffer.layout(), rows)))
        return result


def _create(
    buffer: KeyedDeclaration,
    rows: Iterable[models.Model],
    act: Callable[[], _Result],
    *,
    ignore: bool,
    update: Collection[str],
) -> _Result:
    layout = buffer.layout()
    with overwriting(buffer, row_ids_of(layout, rows)) as written:
        for each in written:
            if not (ignore or update):
                each.remove_if_gone()
                each.is_whole = True
            elif not each.settle():
                each.note_values(
                    c.name for c in layout.columns.values() if {c.name, c.attname} & {*update}
                )
        return act()


def _field(layout: Layout, name: str) -> Any:
    meta = layout.model._meta
    return meta.pk if name == "pk" else meta.get_field(name)


def _with_keys_only(buffer: KeyedDeclaration, rows: models.QuerySet[Any]) -> models.QuerySet[Any]:
    """The stored rows of a queryset, loaded with the fields of their key only."""
    layout = buffer.layout()
    stored = all_rows(layout).filter(pk__in=rows.order_by().values("pk"))
    return stored.only(*(c.name for c in layout.key))


def _ids_of(buffer: KeyedDeclaration, rows: models.QuerySet[Any]) -> list[str]:
    """The ids of the rows of which Redis, or this process, may hold something older."""
    layout, entities = buffer.layout(), buffer.key_layout()
    found = ids_in_redis(buffer)
    stored = _with_keys_only(buffer, rows)
    if found is None:
        return [layout.id_of(row) for row in stored]
    found |= {part.id for one in outbox.held_of(buffer) for part in one.parts.values()}
    ids: list[str] = []
    for chunk in parts(connections[layout.using], [*found], size_of):
        ids += map(layout.id_of, matching_keys(stored, entities, chunk))
    return ids
