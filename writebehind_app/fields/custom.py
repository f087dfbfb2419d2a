"""Encode and decode the values of a project's own fields, by the conversions of the field."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import uuid
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connections, models

from writebehind_app.fields.codecs import BYTES, MICROSECOND, NULL, Decode, Encode
from writebehind_app.fields.limits import excerpt, refuse_expression, refuse_null, text_encoder


def own_codec(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    """Encode what the field prepares for the database, and decode it as if it came from there. The
    field itself decides about None."""
    connection = connections[using]
    by_backend = not own_methods(field).isdisjoint(("get_db_prep_value", "get_db_prep_save"))
    from_db_value = getattr(field, "from_db_value", None)
    encode_text = text_encoder(field, using)

    def encode(value: Any) -> str:
        refuse_expression(value)
        value = field.to_python(value)
        prepared = (
            field.get_db_prep_save(value, connection) if by_backend else field.get_prep_value(value)
        )
        if prepared is None:
            return NULL if field.null else refuse_null()
        try:
            if isinstance(field, models.JSONField) and not by_backend:
                prepared = json.dumps(prepared, cls=field.encoder)  # the database gives text back
            text = json.dumps(_tag(prepared), ensure_ascii=False, allow_nan=False)
            text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValidationError(
                f"{type(field).__name__} prepares {excerpt(prepared)}, which cannot be carried as "
                f"JSON: {excerpt(error, str)}.",
                code="invalid",
            ) from None
        if isinstance(prepared, str):
            encode_text(prepared)  # refuses what the database would
        return text

    def decode(text: str) -> Any:
        value = _untag(json.loads(text))
        if from_db_value is not None:
            return from_db_value(value, None, connection)
        return field.to_python(value)

    return encode, decode


def own_methods(field: models.Field[Any, Any]) -> set[str]:
    """The methods for converting values that a project has overridden in its field class."""
    own: set[str] = set()
    for kind in type(field).__mro__:
        if kind.__module__.startswith("django.db.models."):
            break
        own.update(_CONVERSIONS & vars(kind).keys())
    return own


_CONVERSIONS = {
    "from_db_value",
    "get_db_prep_save",
    "get_db_prep_value",
    "get_prep_value",
    "to_python",
}
_TAGS: tuple[
    tuple[str, type | tuple[type, ...], Callable[[Any], Any], Callable[[Any], Any]], ...
] = (
    ("decimal", decimal.Decimal, str, decimal.Decimal),
    ("datetime", datetime.datetime, str, datetime.datetime.fromisoformat),
    ("date", datetime.date, str, datetime.date.fromisoformat),
    ("time", datetime.time, str, datetime.time.fromisoformat),
    ("duration", datetime.timedelta, lambda v: v // MICROSECOND, lambda n: n * MICROSECOND),
    ("uuid", uuid.UUID, str, uuid.UUID),
    ("bytes", BYTES, lambda v: base64.b64encode(v).decode(), base64.b64decode),
)
_LOAD = {tag: load for tag, _, _, load in _TAGS}


def _tag(value: Any) -> Any:
    """A value of a type that JSON lacks, as {type: text}; other values as they are."""
    for tag, kind, dump, _ in _TAGS:
        if isinstance(value, kind):
            return {tag: dump(value)}
    if isinstance(value, dict | list | tuple):
        return {"json": value}
    return value


def _untag(value: Any) -> Any:
    if isinstance(value, dict):
        ((tag, inner),) = value.items()
        return _LOAD[tag](inner) if tag in _LOAD else inner
    return value
