"""Turn parsed JSON into values of fields.

To parse the texts of a whole entry at once is faster than to parse the text of each field.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from django.db import models

from writebehind_app.fields.codecs import MICROSECOND, finite_decimal, finite_float


class Loader(NamedTuple):
    """How parsed JSON becomes a value."""

    read: type  # the type of the parsed JSON
    load: Callable[[Any], Any] | None  # makes a value from it; None if it is the value


def loader(field: models.Field[Any, Any]) -> Loader | None:
    """The loader of one of Django's own fields; None if only `Codec.decode` can read its text."""
    if isinstance(field, models.JSONField):
        return Loader(list, _inner) if field.decoder is None else None
    for kinds, read, load in _LOADERS:
        if isinstance(field, kinds):
            return Loader(read, load)
    return None


def _inner(value: Any) -> Any:
    (inner,) = value
    return inner


_LOADERS: tuple[tuple[Any, type, Callable[[Any], Any] | None], ...] = (
    ((models.CharField, models.TextField, models.FilePathField, models.FileField), str, None),
    (models.GenericIPAddressField, str, None),
    (models.BooleanField, bool, None),
    ((models.IntegerField, models.AutoField), int, None),
    (models.FloatField, float, finite_float),
    (models.DecimalField, str, finite_decimal),
    (models.DateTimeField, str, datetime.datetime.fromisoformat),
    (models.DateField, str, datetime.date.fromisoformat),
    (models.TimeField, str, datetime.time.fromisoformat),
    (models.DurationField, int, MICROSECOND.__mul__),
    (models.UUIDField, str, uuid.UUID),
)
