"""save() of a buffered row is a direct write, later than what Redis holds of the row.

The package wraps `_save_table` of the model. At that point the `pre_save` receivers have run,
parents and `raw` have been dealt with, and one or two statements are left. The fence goes into a
transaction around these. The signals of the save are sent as always.

A save leaves out the values that its row was loaded with. `refresh_from_db()` is wrapped, too: from
then on, these are the stored values.

The UPDATE of a save finds the row by its key as well as by its primary key. If it finds nothing,
the row may have had another key before. Only then that other key is looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

from django.db import models
from django.db.models.sql import Query
from django.db.models.sql.where import AND

from writebehind_app.database.bases import Passing, passing
from writebehind_app.database.lookup import HasKey, all_rows
from writebehind_app.declaration import KeyedDeclaration
from writebehind_app.fields.columns import Column
from writebehind_app.fields.layout import Layout
from writebehind_app.orm.loading import forget_loaded, loaded_texts
from writebehind_app.orm.older import fencing, row_id
from writebehind_app.orm.overwrite import VALUE, Overwrite, is_as, overwriting


def watch_saves(model: type[models.Model]) -> None:
    """From now on, save() of a model and of its proxies leaves fences."""
    if getattr(vars(model).get("_save_table"), "is_watched", False):
        return  # tests may declare a second buffer
    inside: Any = model  # the stubs do not know these methods
    save_table: Callable[..., bool] = inside._save_table
    do_update: Callable[..., Any] = inside._do_update
    refresh: Callable[..., None] = inside.refresh_from_db

    @wraps(save_table)
    def watched(
        row: models.Model,
        raw: bool = False,
        cls: type[models.Model] | None = None,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: frozenset[str] | None = None,
    ) -> bool:
        act = partial(save_table, row, raw, cls, force_insert, force_update, using, update_fields)
        buffer = None if raw or cls is not model or using is None else fencing(model, using)
        if buffer is None:
            return act()
        assert using is not None
        with buffer.in_database(using), passing(buffer) as write:
            is_updated = _saved(buffer, row, act, update_fields, write)
            if write is not None and (id := row_id(buffer.layout(), row)) is not None:
                write.add([buffer.entry_id(id)])  # only now a new row may have its primary key
            return is_updated

    @wraps(do_update)
    def updating(row: models.Model, rows: Any, using: str, pk: Any, values: Any, *args: Any) -> Any:
        def update(rows: Any, values: Any) -> Any:
            return do_update(row, rows, using, pk, values, *args)

        save = _under_way.get()
        if save is None or save.row is not row or rows.model is not save.buffer.model:
            return update(rows, values)
        return save.update(update, rows, pk, values)

    @wraps(refresh)
    def refreshed(
        row: models.Model, using: Any = None, fields: Any = None, *args: Any, **options: Any
    ) -> None:
        fields = None if fields is None else [*fields]  # it may be an iterator
        refresh(row, using, fields, *args, **options)
        every: Any = row._meta.concrete_fields
        named = frozenset(fields or ())
        forget_loaded(row, (f.name for f in every if fields is None or _is_named(f, named)), ())

    watched.is_watched = True  # type: ignore[attr-defined]
    inside._save_table = watched
    inside._do_update = updating
    inside.refresh_from_db = refreshed


def _saved(
    buffer: KeyedDeclaration,
    row: models.Model,
    act: Callable[[], bool],
    update_fields: frozenset[str] | None,
    write: Passing | None,
) -> bool:
    layout = buffer.layout()
    columns, is_key_written = layout.columns, True
    if update_fields:
        columns = {name: c for name, c in columns.items() if _is_named(c, update_fields)}
        is_key_written = any(_is_named(c, update_fields) for c in layout.key)
    if not (columns or is_key_written or write):
        return act()
    save = _Save(buffer, row, *_key(layout, row), columns, _is_full(row, update_fields))
    token = _under_way.set(save)
    try:
        return save.act(act)
    finally:
        _under_way.reset(token)


def _key(layout: Layout, row: models.Model) -> tuple[str | None, Sequence[tuple[Column, Any]]]:
    """The id of the row, and its key as columns and values, without the primary key."""
    values = row.__dict__
    key = [(c, values.get(c.attname)) for c in layout.key if not c.field.primary_key]
    return row_id(layout, row), key


def _restricted(
    layout: Layout, rows: models.QuerySet[Any], key: Sequence[tuple[Column, Any]]
) -> models.QuerySet[Any]:
    """Restrict a queryset to the rows with this key.

    It is changed in place, as nobody else uses it.
    """
    if any(value is None or hasattr(value, "resolve_expression") for _, value in key):
        return rows.filter(**{c.attname: value for c, value in key})
    columns = tuple(c for c, _ in key)
    condition: Any = HasKey(layout, columns, {c.attname: value for c, value in key})
    rows.query.where.add(condition, AND)
    return rows


def _stored_id(layout: Layout, pk: Any) -> str | None:
    rows = all_rows(layout).only(*(c.name for c in layout.key))
    row = rows.filter(pk=pk).first()
    return None if row is None else layout.id_of(row)


def _is_named(column: Column | models.Field[Any, Any], names: frozenset[str]) -> bool:
    return not names.isdisjoint((column.name, column.attname))


def _is_full(row: models.Model, update_fields: frozenset[str] | None) -> bool:
    """Whether the caller named no `update_fields`. If some fields of the row are deferred, Django
    itself names the other ones."""
    if not update_fields:
        return True
    deferred = _deferred(row)
    loaded = {f.attname for f in row._meta.concrete_fields if not f.primary_key} - deferred
    return bool(deferred) and update_fields == loaded


def _deferred(row: models.Model) -> set[str]:
    """The fields that the row was loaded without. One that the database computes is none."""
    fields = row._meta.concrete_fields
    return {f.attname for f in fields if f.attname not in row.__dict__ and not f.generated}


@dataclass
class _Save:
    """A save in progress."""

    buffer: KeyedDeclaration
    row: models.Model
    id: str | None  # of the instance; None if nothing can be pending under its key
    key: Sequence[tuple[Column, Any]]
    columns: Mapping[str, Column]  # the buffered fields that the save writes
    is_full: bool
    over: Overwrite | None = None  # set if something older is there under this key
    is_other: bool = False  # the stored row has another key, and the save does not change it
    unwritten: frozenset[str] = frozenset()  # fields that the save leaves as they are stored

    def act(self, act: Callable[[], bool]) -> bool:
        with overwriting(self.buffer, [] if self.id is None else [self.id]) as found:
            if not found:
                is_updated = act()
            else:
                (self.over,) = found
                if self.is_full and not _deferred(self.row):  # it makes the row anew
                    self.over.remove_if_gone()
                names = self._begin(self.over)
                is_updated = act()
                if self.is_other:
                    self.over.texts = dict.fromkeys(self.over.settled, VALUE)
                else:
                    self._end(self.over, names)
        forget_loaded(self.row, self.columns, self.unwritten)
        return is_updated

    def update(
        self, act: Callable[[Any, Any], Any], rows: Any, pk: Any, values: Sequence[Any]
    ) -> Any:
        """Carry out the UPDATE of the save. `act` updates the row with the primary key among these
        rows, and says whether there was one."""
        if self.over is not None:
            values = self._changed(self.over, values)
        if not self.key:
            return act(rows, values)
        if found := act(_restricted(self.buffer.layout(), rows, self.key), values):
            return found
        rows = rows.model._base_manager.using(rows.db)
        id = _stored_id(self.buffer.layout(), pk)
        if id is None:
            return found
        if id == self.id:  # another process has just given the row this key
            return act(rows, values)
        return self._update_other(id, partial(act, rows), values)

    def _update_other(self, id: str, act: Callable[[Any], Any], values: Sequence[Any]) -> Any:
        """Carry out the UPDATE of a stored row that has another key.

        If the save changes the key, pending writes under the old key are stored first: they belong
        to this row.
        """
        buffer = self.buffer
        key = {c.name for c in buffer.layout().key}
        is_renamed = any(field.name in key for field, *_ in values)
        self.is_other = not is_renamed
        if is_renamed and self.over is not None:
            self.over.is_whole = True
        with overwriting(buffer, [id]) as written:
            if not written:
                return act(values)
            (over,) = written
            values = self._changed(over, values)
            if is_renamed:
                over.settle()
                found = act(values)
            else:
                names = self._begin(over)
                found = act(values)
                self._end(over, names)
        return found

    def _begin(self, over: Overwrite) -> list[str]:
        given = {name: self.row.__dict__.get(c.attname) for name, c in self.columns.items()}
        return over.note_expressions(given, Query(self.buffer.layout().model))

    def _end(self, over: Overwrite, names: Iterable[str]) -> None:
        is_anew = over.is_to_go() and not _deferred(self.row)
        if self.is_full and (over.stored is None or is_anew):
            over.is_whole = True
        over.note_values(name for name in names if name not in self.unwritten)

    def _changed(self, over: Overwrite, values: Sequence[Any]) -> Sequence[Any]:
        """The values to write, without the fields that this save did not change.

        A field counts as not changed if nobody named it in `update_fields`, and it still has the
        value that was loaded with it, or else the stored value. A form saves all fields, and its
        row may have been loaded long ago.
        """
        if not self.is_full or over.stored is None or over.is_to_go():
            return values
        layout, row, loaded = self.buffer.layout(), self.row, loaded_texts(self.row)
        self.unwritten = frozenset(
            name
            for name, column in self.columns.items()
            if is_as(layout, row, column, loaded.get(name) or over.stored)
        )
        return [each for each in values if each[0].name not in self.unwritten]


_under_way: ContextVar[_Save | None] = ContextVar("writebehind_save", default=None)
