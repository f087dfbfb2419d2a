"""The layout of a buffer: its key, its fields, and how entries become rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.core.exceptions import FieldError, ValidationError
from django.db import models
from django.db.models.expressions import DatabaseDefault
from django.utils import timezone

from writebehind_app.fields.accepted import Check, check_of
from writebehind_app.fields.columns import (
    Column,
    column,
    default_of,
    encoded,
    refuse_computed,
    refused,
)
from writebehind_app.fields.decoding import Shape
from writebehind_app.fields.entry import Entry, field_of
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.fold import Folded, fold
from writebehind_app.fields.limits import REFUSALS, excerpt, refuse_oversized
from writebehind_app.fields.new_rows import NewRows
from writebehind_app.fields.operations import Operation, operation_texts
from writebehind_app.fields.stamps import later, stamp
from writebehind_app.fields.zones import Zoned

_JSON = json.JSONDecoder()
_MOST_SHAPES = 1000


@dataclass(frozen=True, eq=False)
class Layout:
    """The key and the fields of a buffer, in one database. A log has no key: each record makes a
    row of its own."""

    model: type[models.Model]
    using: str
    key: tuple[Column, ...]
    columns: dict[str, Column]  # the fields that may be written, by name
    insert: bool  # whether a write to a missing row makes one
    time: str | None = None  # of a log: the field that says when a record came

    # Values from the caller

    def split(self, values: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        """The id, and the text of each other field, by name."""
        aliases = self._aliases
        texts: dict[str, str] = {}
        for alias, value in values.items():
            column = aliases.get(alias) or self.column(alias)
            name = column.name
            if name in texts:
                raise FieldError(self._twice(column))
            if type(value) is column.plain:
                try:
                    texts[name] = column.text(value)
                except REFUSALS as error:
                    raise refused(column, value, error) from error
            elif isinstance(value, Operation):
                texts.update(self._operation(column, value))
            else:
                texts[name] = encoded(column, value)
        if self._checks:
            self._check(values)
        refuse_oversized(texts, field_of)
        try:
            return ",".join(map(texts.pop, self._key_names)), texts
        except KeyError as missing:
            raise FieldError(self._missing(missing.args[0], values)) from None

    def _check(self, values: Mapping[str, Any]) -> None:
        """Refuse values that are no choice of their field, or that a validator refuses."""
        for alias, check in self._checks.items():
            if alias in values and not isinstance(value := values[alias], Operation):
                try:
                    check(value)
                except REFUSALS as error:
                    raise refused(self._aliases[alias], value, error) from error

    @cached_property
    def _checks(self) -> dict[str, Check]:
        """The checks of the fields, by each name that a caller may use. The key has none: reads
        name it too."""
        found = {
            alias: check_of(c.field) for alias, c in self._aliases.items() if c not in self.key
        }
        return {alias: check for alias, check in found.items() if check}

    def _operation(self, column: Column, operation: Operation) -> dict[str, str]:
        if column in self.key:
            raise ValidationError({column.name: "A key names a row: it takes a plain value."})
        try:
            if self.insert and column.field.has_db_default():
                refuse_computed(default_of(column.field))
            return operation_texts(column, operation)
        except REFUSALS as error:
            raise refused(column, operation, error) from None

    def expected(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The texts of values that a row is expected to have, by name."""
        texts = {}
        for alias, value in values.items():
            column = self.column(alias)
            texts[column.name] = encoded(column, value)
        return texts

    def column(self, alias: str) -> Column:
        """The column with this name or attname, or a FieldError."""
        found = self._aliases.get(alias)
        if found is None:
            raise FieldError(self._unknown(alias))
        return found

    def named(self, aliases: Iterable[str]) -> set[str]:
        """The names of these buffered fields, without those of the key. FieldError if one of them
        is not buffered."""
        aliases = [*aliases]
        if unknown := [alias for alias in aliases if alias not in self._aliases]:
            raise FieldError(self._unknown(*unknown))
        return {self._aliases[alias].name for alias in aliases} - {*self._key_names}

    def is_as_expected(self, row: models.Model, texts: Mapping[str, str]) -> bool:
        """Whether fields of a row have these values. Values of JSON are compared in Python."""
        for name, text in texts.items():
            c = self._aliases[name]
            value = getattr(row, c.attname)
            if isinstance(c.field, models.JSONField):
                if value != c.decode(text):
                    return False
            elif encoded(c, value) != text:
                return False
        return True

    def texts_of(self, row: models.Model, names: Iterable[str]) -> dict[str, str]:
        """The texts of fields of a row, by name."""
        columns = [self._aliases[name] for name in names]
        return {c.name: encoded(c, getattr(row, c.attname)) for c in columns}

    def id(self, key: Mapping[str, Any]) -> str:
        """The id of the row that these key fields name. Refuses other names."""
        for alias in key:
            if alias not in self._key_aliases:
                raise FieldError(
                    f"{excerpt(alias)} is not in the key of {self.model._meta.label}; "
                    f"a row is named by {', '.join(self._key_names)}."
                )
        return self.split(key)[0]

    def id_of(self, row: models.Model) -> str:
        """The id of an instance."""
        return ",".join([encoded(c, getattr(row, c.attname)) for c in self.key])

    def values_of(self, row: models.Model) -> dict[str, Any]:
        """The values of an instance to be written: those of the fields that it has loaded."""
        if not isinstance(row, self.model):
            raise TypeError(f"{excerpt(row)} is not a {self.model._meta.label}.")
        values = {}
        for c in (*self.key, *self.columns.values()):
            if c.attname in row.__dict__:  # not deferred
                # The related object may have got its key after it was assigned.
                related = isinstance(c.field, models.ForeignKey) and c.field.is_cached(row)
                value = getattr(row, c.name if related else c.attname)
                if not isinstance(value, DatabaseDefault):
                    values[c.name] = value
        return values

    @cached_property
    def _aliases(self) -> dict[str, Column]:
        """The columns by each name that a caller may use."""
        columns = self.columns.values()
        aliases = {alias: c for c in columns for alias in (c.name, c.attname)}
        pk = self.model._meta.pk
        if pk and pk.name in self.columns:  # a log whose records give their primary key
            aliases["pk"] = self.columns[pk.name]
        return self._key_aliases | aliases

    @cached_property
    def _key_aliases(self) -> dict[str, Column]:
        aliases = {alias: c for c in self.key for alias in (c.name, c.attname)}
        if len(self.key) == 1 and self.key[0].field.primary_key:
            aliases["pk"] = self.key[0]
        return aliases

    @cached_property
    def _key_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.key)

    def _unknown(self, *aliases: str) -> str:
        key = f"the key is {', '.join(self._key_names)}, " if self.key else ""
        return (
            f"{self.model._meta.label} has no buffered field {', '.join(map(excerpt, aliases))}; "
            f"{key}the fields are {', '.join(self.columns) or 'none'}."
        )

    def _twice(self, column: Column) -> str:
        names = [alias for alias, c in self._aliases.items() if c is column]
        return f"{self.model._meta.label}: {' and '.join(names)} are the same field; give one."

    def _missing(self, name: str, values: Mapping[str, Any]) -> str:
        return (
            f"{self.model._meta.label}: the key field {name!r} is missing; a row is named by "
            f"{', '.join(self._key_names)} (given: {', '.join(map(str, values)) or 'nothing'})."
        )

    # Entries and rows

    def key_of(self, id: str) -> dict[str, Any]:
        """The values of the key, by attname."""
        if not self.key:
            return {}
        if len(self.key) == 1:
            return {self.key[0].attname: self.key[0].decode(id)}
        return {c.attname: c.decode(text) for c, text in zip(self.key, key_texts(id), strict=True)}

    def known(self, entry: Entry) -> Entry:
        """The entry without the fields that the model no longer has."""
        return entry.only(self.columns)

    def read(
        self, entry: Entry, row: models.Model | None, fence: Fence | None = None
    ) -> models.Model | None:
        """The row after the entry, for a reader: changed in place, a new one, or None.

        A value that cannot be read changes nothing: the flush will refuse it.
        """
        stored = None if row is None else row.__dict__
        found = self.applied(fold(self, self.known(entry), stored, fence, to_store=False), row)
        if self._zoned.names and found is not None:
            self._zoned.show(found)
        return found

    @cached_property
    def _zoned(self) -> Zoned:
        return Zoned.of(self.model, self.using)

    def applied(self, folded: Folded, row: models.Model | None) -> models.Model | None:
        """The row after a folded entry."""
        if folded.values is None:
            return None
        if folded.is_new:
            return self.new_rows.instance(folded)
        return None if row is None else self.changed(row, folded)

    def changed(self, row: models.Model, folded: Folded) -> models.Model:
        """The row, changed in place."""
        assert folded.values is not None
        for attname, value in folded.values.items():
            setattr(row, attname, value)
        if self.stamped and folded.last:
            stamp(row, self.stamped, folded.last, is_new=False)
        return row

    def values_to_store(self, row: Mapping[str, Any], folded: Folded) -> dict[str, Any]:
        """The values to write to a stored row, by attname."""
        assert folded.values is not None
        if not (self.stamped and folded.last):
            return folded.values
        times = {f.attname: later(row.get(f.attname), f, folded.last) for f in self.stamped}
        return {**folded.values, **times}

    @cached_property
    def new_rows(self) -> NewRows:
        """How new rows are made."""
        return NewRows(self.model, self.stamped, self.stamped_once)

    def shape(self, names: tuple[str, ...]) -> Shape:
        """The decoder of entries that set these fields."""
        found = self._shapes.get(names)
        if found is None:
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.clear()
            found = self._shapes[names] = Shape([self.columns[name] for name in names])
        return found

    @cached_property
    def _shapes(self) -> dict[tuple[str, ...], Shape]:
        return {}

    @cached_property
    def required(self) -> list[Column]:
        """The fields that a new row must be given."""
        return [
            c
            for c in self.columns.values()
            if not c.field.null
            and not c.field.has_default()
            and not c.field.has_db_default()
            and c.field.get_default() is None
            and c.field not in self.stamped_once
        ]

    def refuse_incomplete(self, texts: Iterable[str]) -> None:
        """Refuse a new row without a field that it needs."""
        given = set(texts)
        if missing := [c.name for c in self.required if c.name not in given]:
            raise ValidationError(dict.fromkeys(missing, "This field is required."))

    @cached_property
    def stamped(self) -> tuple[models.Field[Any, Any], ...]:
        """The fields that take the time of each write, as save() would set them."""
        return tuple(f for f in self.model._meta.concrete_fields if getattr(f, "auto_now", False))

    @cached_property
    def stamped_once(self) -> tuple[models.Field[Any, Any], ...]:
        """The fields that take the time when a row is created."""
        return tuple(
            field
            for field in self.model._meta.concrete_fields
            if getattr(field, "auto_now_add", False)
            or (isinstance(field, models.DateTimeField) and field.default is timezone.now)
            or field.name == self.time
        )


def layout(
    model: type[models.Model],
    using: str,
    *,
    key: Iterable[str],
    fields: Iterable[str] | None,
    insert: bool,
    time: str | None = None,
) -> Layout:
    """The layout of a declaration that passed its checks."""
    meta = model._meta
    key_fields = [meta.pk if name == "pk" else meta.get_field(name) for name in key]
    if fields is None:
        written = [f for f in meta.concrete_fields if may_be_written(f) and f not in key_fields]
    else:
        written = [meta.get_field(name) for name in fields]  # type: ignore[misc]
    return Layout(
        model,
        using,
        tuple(column(f, using) for f in key_fields),  # type: ignore[arg-type]
        {f.name: column(f, using) for f in written},
        insert,
        time,
    )


def may_be_written(field: models.Field[Any, Any]) -> bool:
    """Whether a field is written if the declaration names no `fields`."""
    return not (
        field.primary_key
        or isinstance(field, models.GeneratedField)
        or getattr(field, "auto_now", False)
        or getattr(field, "auto_now_add", False)
    )


def key_texts(id: str) -> Iterator[str]:
    """The texts of the key fields in an id. An id is a JSON list without its brackets."""
    at = 0
    while at < len(id):
        _, end = _JSON.raw_decode(id, at)
        yield id[at:end]
        at = end + 1
