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
from django.utils import timezone

from writebehind_app.buffers.columns import Column, column
from writebehind_app.store.codec import Entry

_JSON = json.JSONDecoder()
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Layout:
    """The key and the fields of a row buffer, in one database."""

    model: type[models.Model]
    using: str
    key: tuple[Column, ...]
    columns: dict[str, Column]  # the fields that may be written, by name
    insert: bool  # whether a write to a missing row makes one

    @cached_property
    def _names(self) -> dict[str, str]:
        """What a caller may call a field, to its name."""
        return {alias: c.name for c in self.columns.values() for alias in (c.name, c.attname)}

    @cached_property
    def _key_aliases(self) -> dict[str, Column]:
        aliases = {alias: c for c in self.key for alias in (c.name, c.attname)}
        if len(self.key) == 1 and self.key[0].field.primary_key:
            aliases["pk"] = self.key[0]
        return aliases

    # What a caller gives

    def id(self, values: Mapping[str, Any]) -> str:
        """The id of the row that the key fields among the values name."""
        return ",".join(self._key_texts(values))

    def only_key(self, values: Mapping[str, Any]) -> None:
        """Refuse names that are not of the key."""
        for alias in values:
            if alias not in self._key_aliases:
                raise FieldError(
                    f"{alias!r} is not in the key of {self.model._meta.label}; a row is named by "
                    f"{', '.join(c.name for c in self.key)}."
                )

    def id_of(self, row: models.Model) -> str:
        """The id of a row that is there."""
        return ",".join(_encoded(c, getattr(row, c.attname)) for c in self.key)

    def split(self, values: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        """The id, and the text of each other field, by name."""
        id = self.id(values)
        texts = {}
        for alias, value in values.items():
            name = self._names.get(alias)
            if name is not None:
                texts[name] = _encoded(self.columns[name], value)
            elif alias not in self._key_aliases:
                raise FieldError(self._unknown(alias))
        return id, texts

    def values_of(self, row: models.Model) -> dict[str, Any]:
        """The values of an instance, as far as they are loaded, to be written."""
        deferred = row.get_deferred_fields()
        return {
            c.attname: getattr(row, c.attname)
            for c in (*self.key, *self.columns.values())
            if c.attname not in deferred
        }

    def _key_texts(self, values: Mapping[str, Any]) -> Iterator[str]:
        for c in self.key:
            for alias, of in self._key_aliases.items():
                if of is c and alias in values:
                    if values[alias] is None:
                        raise ValidationError({c.name: "A key cannot be null."})
                    yield _encoded(c, values[alias])
                    break
            else:
                given = ", ".join(values) or "nothing"
                raise FieldError(
                    f"{self.model._meta.label}: the key field {c.name!r} is missing; a row is "
                    f"named by {', '.join(c.name for c in self.key)} (given: {given})."
                )

    def _unknown(self, alias: str) -> str:
        return (
            f"{self.model._meta.label} has no buffered field {alias!r}; the key is "
            f"{', '.join(c.name for c in self.key)}, the fields are "
            f"{', '.join(self.columns) or 'none'}."
        )

    # Entries and rows

    def key_of(self, id: str) -> dict[str, Any]:
        """The values of the key, by attname."""
        return {c.attname: c.decode(text) for c, text in zip(self.key, _parts(id), strict=True)}

    def values(self, entry: Entry) -> dict[str, Any]:
        """What an entry sets, by name."""
        return {name: self.columns[name].decode(text) for name, text in entry.texts.items()}

    def merge(
        self, entry: Entry, row: models.Model | None, *, to_store: bool = False
    ) -> models.Model | None:
        """The row as it is after the entry: changed in place, new, or None where it is no more."""
        if entry.delete:
            row = None
        if not entry.keep:
            return None
        if row is None:
            if not self.insert:
                return None
            row = self.model(**self.key_of(entry.id))
            _stamp(row, self.stamped_once, entry.since)
        for name, text in entry.texts.items():
            c = self.columns[name]
            setattr(row, c.attname, c.prepare(text) if to_store else c.decode(text))
        _stamp(row, self.stamped, entry.at)
        return row

    @cached_property
    def stamped(self) -> tuple[models.Field[Any, Any], ...]:
        """The fields that take the time of each write, as save() would set them."""
        return self._auto("auto_now")

    @cached_property
    def stamped_once(self) -> tuple[models.Field[Any, Any], ...]:
        return self._auto("auto_now_add")

    def _auto(self, option: str) -> tuple[models.Field[Any, Any], ...]:
        return tuple(f for f in self.model._meta.concrete_fields if getattr(f, option, False))


def layout(
    model: type[models.Model],
    using: str,
    *,
    key: Iterable[str],
    fields: Iterable[str] | None,
    insert: bool,
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


def _encoded(column: Column, value: Any) -> str:
    try:
        return column.encode(value)
    except ValidationError as error:
        raise ValidationError({column.name: error.error_list}) from None


def _parts(id: str) -> Iterator[str]:
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
