"""A declaration worked out against its model: which fields, which key, how they travel."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.conf import settings
from django.core.exceptions import FieldError, ValidationError
from django.db import models
from django.db.models.expressions import DatabaseDefault
from django.utils import timezone

from writebehind_app.buffers.columns import Column, column
from writebehind_app.buffers.operations import (
    Merge,
    Operation,
    described_operation,
    is_kept_operation,
    merged,
    merged_field,
    operated,
    operation_texts,
)
from writebehind_app.buffers.refusals import REFUSALS, refusal, refuse_oversized, shown
from writebehind_app.store.codec import Entry

_JSON = json.JSONDecoder()
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, eq=False)
class Layout:
    """The key and the fields of a buffer, in one database. A log has no key: each of its entries is
    a row of its own."""

    model: type[models.Model]
    using: str
    key: tuple[Column, ...]
    columns: dict[str, Column]  # the fields that may be written, by name
    insert: bool  # whether a write to a missing row makes one
    time: str | None = None  # of a log: the field that says when a record came

    # What a caller gives

    def split(self, values: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        """The id, and the text of each other field, by name."""
        aliases = self._aliases
        texts: dict[str, str] = {}
        for alias, value in values.items():
            column = aliases.get(alias) or self.column(alias)
            if column.name in texts:
                raise FieldError(self._twice(column))
            if isinstance(value, Operation):
                texts.update(self._operation(column, value))
            else:
                texts[column.name] = encoded(column, value)
        refuse_oversized(texts, lambda name: merged_field(name) or name)
        try:
            return ",".join([texts.pop(name) for name in self._key_names]), texts
        except KeyError as missing:
            raise FieldError(self._missing(missing.args[0], values)) from None

    def _operation(self, column: Column, operation: Operation) -> dict[str, str]:
        if column in self.key:
            raise ValidationError({column.name: "A key names a row: it takes a plain value."})
        try:
            return operation_texts(column, operation, self.using)
        except REFUSALS as error:
            raise ValidationError({column.name: refusal(column.field, operation, error)}) from None

    def expected(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The text of each value that a row is expected to have, by name."""
        texts = {}
        for alias, value in values.items():
            column = self.column(alias)
            texts[column.name] = encoded(column, value)
        return texts

    def column(self, alias: str) -> Column:
        """The column that a caller calls so, or a FieldError."""
        found = self._aliases.get(alias)
        if found is None:
            raise FieldError(self._unknown(alias))
        return found

    def is_as_expected(self, row: models.Model, texts: Mapping[str, str]) -> bool:
        """Whether fields of a row have these values; JSON has them where Python says so."""
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
        """The text of fields of a row."""
        columns = [self._aliases[name] for name in names]
        return {c.name: encoded(c, getattr(row, c.attname)) for c in columns}

    def id(self, key: Mapping[str, Any]) -> str:
        """The id of the row that these key fields name."""
        return self.split(key)[0]

    def only_key(self, key: Mapping[str, Any]) -> None:
        """Refuse names that are not of the key."""
        for alias in key:
            if alias not in self._key_aliases:
                raise FieldError(
                    f"{shown(alias)} is not in the key of {self.model._meta.label}; "
                    f"a row is named by {', '.join(self._key_names)}."
                )

    def id_of(self, row: models.Model) -> str:
        """The id of a row that is there."""
        return ",".join([encoded(c, getattr(row, c.attname)) for c in self.key])

    def values_of(self, row: models.Model) -> dict[str, Any]:
        """The values of an instance, as far as it has them, to be written."""
        if not isinstance(row, self.model):
            raise TypeError(f"{shown(row)} is not a {self.model._meta.label}.")
        values = {}
        for c in (*self.key, *self.columns.values()):
            if c.attname in row.__dict__:  # is not deferred
                # A related object says by itself that it is not saved, or what its key is by now.
                related = isinstance(c.field, models.ForeignKey) and c.field.is_cached(row)
                value = getattr(row, c.name if related else c.attname)
                if not isinstance(value, DatabaseDefault):
                    values[c.name] = value
        return values

    @cached_property
    def _aliases(self) -> dict[str, Column]:
        """The columns by what a caller may call them."""
        columns = self.columns.values()
        aliases = {alias: c for c in columns for alias in (c.name, c.attname)}
        pk = self.model._meta.pk
        if pk and pk.name in self.columns:  # of a record
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

    def _unknown(self, alias: str) -> str:
        key = f"the key is {', '.join(self._key_names)}, " if self.key else ""
        return (
            f"{self.model._meta.label} has no buffered field {shown(alias)}; {key}the fields are "
            f"{', '.join(self.columns) or 'none'}."
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
        return {c.attname: c.decode(text) for c, text in zip(self.key, parts_of(id), strict=True)}

    def values(self, entry: Entry) -> dict[str, Any]:
        """What an entry sets, by name: values, and operations as Redis keeps them."""
        described: dict[str, Any] = {}
        for name, text in entry.texts.items():
            field = merged_field(name)
            if field is not None:
                described[field] = Merge(merged(self.columns[field], entry.texts, None))
            elif is_kept_operation(text):
                described[name] = described_operation(self.columns[name], text, self.using)
            else:
                described[name] = self.columns[name].decode(text)
        return described

    def known(self, entry: Entry) -> Entry:
        """The entry without the fields that the model does not have any more."""
        if entry.texts.keys() <= self.columns.keys():
            return entry
        texts = {n: t for n, t in entry.texts.items() if (merged_field(n) or n) in self.columns}
        return entry._replace(texts=texts)

    def merge(
        self, entry: Entry, row: models.Model | None, *, to_store: bool = False
    ) -> models.Model | None:
        """The row as it is after the entry: changed in place, new, or None where it is no more.

        A field that the model does not have any more is read past; `to_store` it is a KeyError. So
        is what is not to be understood: the entry will not be stored.
        """
        if not to_store:
            entry = self.known(entry)
        if entry.broken:
            return row
        before = row
        if entry.delete:
            row = None
        if not entry.keep:
            return None
        if row is None and not self.insert:
            return None
        try:
            given = self._given(entry, to_store)
            key = self.key_of(entry.id) if row is None else {}
        except REFUSALS:
            if to_store:
                raise
            return before
        if row is None:
            row = self.model(**key, **given)
            _stamp(row, [f for f in self.stamped_once if f.name not in entry.texts], entry.born)
        else:
            for attname, value in given.items():
                setattr(row, attname, value)
        if entry.relative:
            self._operate(entry, row, to_store)
        _stamp(row, self.stamped, entry.at)
        return row

    def _given(self, entry: Entry, to_store: bool) -> dict[str, Any]:
        """The plain values of an entry, by attname."""
        texts = entry.texts.items()
        if entry.relative:
            texts = {
                n: t for n, t in texts if not (is_kept_operation(t) or merged_field(n))
            }.items()
        columns = self.columns
        if to_store:
            return {(c := columns[name]).attname: c.prepare(text) for name, text in texts}
        return {(c := columns[name]).attname: c.decode(text) for name, text in texts}

    def _operate(self, entry: Entry, row: models.Model, to_store: bool) -> None:
        """Carry out the operations on what is stored; values are in the row already. A field that
        does not take the outcome is read as it is: it stays so, as the entry cannot be stored."""
        for name, text in entry.texts.items():
            if not merged_field(name) and is_kept_operation(text):
                c = self.columns[name]
                try:
                    value = operated(c, text, getattr(row, c.attname), self.using)
                except REFUSALS as error:
                    if not to_store:
                        continue
                    raise ValidationError({name: refusal(c.field, text, error)}) from error
                setattr(row, c.attname, value)
        for name in {field for name in entry.texts if (field := merged_field(name))}:
            c = self.columns[name]
            try:
                value = merged(c, entry.texts, getattr(row, c.attname))
            except REFUSALS:
                if not to_store:
                    continue
                raise
            setattr(row, c.attname, value)

    @cached_property
    def required(self) -> list[Column]:
        """The fields that have to be given for a new row: there is none without."""
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
        given = {merged_field(name) or name for name in texts}
        if missing := [c.name for c in self.required if c.name not in given]:
            raise ValidationError(dict.fromkeys(missing, "This field is required."))

    def fields_of(self, entry: Entry) -> set[str]:
        """The names of the fields that an entry changes."""
        return {merged_field(name) or name for name in entry.texts}

    @cached_property
    def stamped(self) -> tuple[models.Field[Any, Any], ...]:
        """The fields that take the time of each write, as save() would set them."""
        return tuple(f for f in self.model._meta.concrete_fields if getattr(f, "auto_now", False))

    @cached_property
    def stamped_once(self) -> tuple[models.Field[Any, Any], ...]:
        """The fields that take the time at which a row comes into being."""
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
    """Whether a field is among the written ones where the declaration names none."""
    return not (
        field.primary_key
        or isinstance(field, models.GeneratedField)
        or getattr(field, "auto_now", False)
        or getattr(field, "auto_now_add", False)
    )


def moment(micros: int) -> datetime.datetime:
    """A time of an entry."""
    return _EPOCH + datetime.timedelta(microseconds=micros)


def micros_of(at: datetime.datetime) -> int:
    """A time as entries have it."""
    aware = timezone.make_aware(at) if timezone.is_naive(at) else at
    return (aware - _EPOCH) // datetime.timedelta(microseconds=1)


def encoded(column: Column, value: Any) -> str:
    """The text of a value, or a ValidationError that names the field."""
    try:
        return column.encode(value)
    except REFUSALS as error:
        raise ValidationError({column.name: refusal(column.field, value, error)}) from error


def parts_of(id: str) -> Iterator[str]:
    """The texts of the key fields: an id is a list in JSON without its brackets."""
    at = 0
    while at < len(id):
        _, end = _JSON.raw_decode(id, at)
        yield id[at:end]
        at = end + 1


def _stamp(row: models.Model, fields: Iterable[models.Field[Any, Any]], micros: int) -> None:
    for field in fields:
        at = moment(micros)
        value: datetime.datetime | datetime.date | datetime.time
        if isinstance(field, models.DateTimeField):
            value = at if settings.USE_TZ else timezone.make_naive(at)
        else:
            local = at.astimezone()  # save() takes the machine's time here, not the project's
            value = local.date() if isinstance(field, models.DateField) else local.time()
        setattr(row, field.attname, value)
