"""How stored rows look in a base: a copy in Redis, from which reads are answered.

A base is `prefix,number,rows`. The prefix says which columns it has: code with other columns does
not read it. The number is that of the last fence of the rows: entries that began before it are not
read over the base. The rows are JSON: a list of lists, with a value for each column.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from hashlib import sha1
from json import JSONDecoder
from json.encoder import encode_basestring as json_string
from typing import Any

from django.db import models

from writebehind_app.fields.codecs import NULL
from writebehind_app.fields.columns import Column, Unsupported, column
from writebehind_app.fields.instances import maker
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.fields.zones import Zoned

_scan = JSONDecoder().scan_once  # type: ignore[attr-defined]
_DIGITS = 12  # of a prefix
_LONGEST = 100_000  # characters; longer rows have no bases


class BaseFormat:
    """Writes and reads the bases of a model. Raises `Unsupported` if it can have none."""

    def __init__(self, model: type[models.Model], using: str) -> None:
        fields = model._meta.concrete_fields
        self._columns = [_column(field, using) for field in fields]
        self._names = [field.attname for field in fields]
        self._loads = [
            (at, load) for at, c in enumerate(self._columns) if (load := _load(c)) is not None
        ]
        self._make = maker(model, using, self._names)
        self._zoned = Zoned.of(model, using)
        kinds = [(f.attname, f"{type(f).__module__}.{type(f).__qualname__}") for f in fields]
        digest = sha1(repr(kinds).encode(), usedforsecurity=False).hexdigest()
        self.prefix = f"{digest[:_DIGITS]},"

    def text(self, rows: Iterable[Any], number: int) -> str | None:
        """The base of stored rows; None if there can be none."""
        try:
            texts = [
                "[" + ",".join(map(_text, self._columns, map(row.__dict__.get, self._names))) + "]"
                for row in rows
            ]
        except REFUSALS:  # the database has what the field would not take
            return None
        text = f"{self.prefix}{number},[{','.join(texts)}]"
        return text if len(text) <= _LONGEST else None

    def rows(self, text: str) -> tuple[int, list[Any]] | None:
        """The number and the stored rows in a base; None if the text is no base."""
        at = text.find(",", len(self.prefix))
        try:
            number = int(text[len(self.prefix) : at])
            found, end = _scan(text, at + 1)
            if end != len(text):
                return None
            loads, width = self._loads, len(self._names)
            for values in found:
                for i, load in loads:
                    if values[i] is not None:
                        values[i] = load(values[i])
                if len(values) != width:
                    return None
            rows = [*map(self._make, found)]
            if self._zoned.names:
                for row in rows:
                    self._zoned.show(row)
            return number, rows
        except (StopIteration, IndexError, *REFUSALS):  # somebody else wrote it
            return None


def _column(field: models.Field[Any, Any], using: str) -> Column:
    kind: Any = field
    if isinstance(field, models.GeneratedField):
        kind = copy.copy(field.output_field)
        kind.name = kind.attname = field.attname
    try:
        return column(kind, using)
    except Unsupported as reason:
        raise Unsupported(f"of the field {field.name!r}, {reason}") from None


def _text(column: Column, value: Any) -> str:
    if value is None:
        return NULL
    text = column.text(value) if type(value) is column.plain else column.encode(value)
    return text if column.loader is not None else json_string(text)


def _load(column: Column) -> Callable[[Any], Any] | None:
    """A function that makes a value of the field from parsed JSON; None if it is the value."""
    return column.decode if column.loader is None else column.loader.load
