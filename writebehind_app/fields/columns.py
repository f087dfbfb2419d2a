"""How the fields of a model are checked and travel through Redis.

A value becomes a JSON text at the call, and the same Python value again when it is read or
flushed. What a field refuses is refused at the call.
"""

from __future__ import annotations

import datetime
import decimal
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.expressions import DatabaseDefault

from writebehind_app.fields.codecs import NULL, Codec, Decode, Encode, codec
from writebehind_app.fields.custom import own_codec, own_methods
from writebehind_app.fields.kinds import Kind, kind_of
from writebehind_app.fields.limits import REFUSALS, excerpt, refusal, refuse_expression, refuse_null
from writebehind_app.fields.loaders import Loader, loader
from writebehind_app.fields.operations import range_of

NOT_FOR_KEYS = (models.FloatField, models.JSONField, models.BinaryField)  # no reliable equality
_LOCAL_ONLY = ("django.contrib.postgres.", "django.contrib.gis.")  # no codec for their values


class Unsupported(Exception):
    """Says why values of a field cannot be buffered."""


@dataclass(frozen=True, slots=True)
class Column:
    """A field of a buffered row."""

    field: models.Field[Any, Any]
    name: str
    attname: str
    encode: Encode  # value → text; raises an error if the field does not take the value
    plain: type | None  # the type of nearly all values
    text: Encode  # the same as `encode`, for values of exactly the type `plain`
    decode: Decode  # text → value, as an instance holds it
    prepare: Decode  # text → value, as the database takes it
    exact: bool  # a stored value that is read and written back does not change
    kind: Kind | None  # the numbers that operations work on
    range: tuple[int, int]  # of those numbers
    loader: Loader | None  # decodes many values at once; None if only `decode` can


def column(field: models.Field[Any, Any], using: str) -> Column:
    """The column of a field in a database. Raises `Unsupported` if there can be none."""
    if isinstance(field, models.GeneratedField):
        raise Unsupported("the database computes it")
    if any(kind.__module__.startswith(_LOCAL_ONLY) for kind in type(field).__mro__):
        raise Unsupported(f"values of {type(field).__name__} cannot be carried as JSON")
    if getattr(field, "width_field", None) or getattr(field, "height_field", None):  # of an image
        raise Unsupported("to set it is to open the file, for its width and height")
    target = field
    while isinstance(target, models.ForeignKey):
        if isinstance(model := target.related_model, str):
            raise Unsupported(f"the model {model!r} that it points to is not installed")
        target = target.target_field
    django_codec = None if own_methods(target) else codec(target, using)
    encode, decode, prepare, plain, text = django_codec or Codec(*own_codec(target, using))
    prepare = prepare or decode
    if target is not field:
        encode = _related(field, encode)
    if django_codec or target is not field:
        encode, decode, prepare = _nullable(field, encode), _optional(decode), _optional(prepare)
    # JSON's null is read as if it were NULL. SQLite rounds decimals. A project's own field may do
    # anything.
    exact = bool(django_codec) and not isinstance(target, models.JSONField | models.DecimalField)
    return Column(
        field,
        field.name,
        field.attname,
        encode,
        plain,
        text,
        decode,
        prepare,
        exact,
        kind_of(field),
        range_of(field, using),
        loader(target) if django_codec else None,
    )


def encoded(column: Column, value: Any) -> str:
    """The text of a value. Raises a ValidationError that names the field."""
    try:
        return column.encode(value)
    except REFUSALS as error:
        raise refused(column, value, error) from error


def refused(column: Column, value: Any, error: Exception) -> ValidationError:
    """The ValidationError of a field that refuses a value, or an operation."""
    return ValidationError({column.name: refusal(column.field, value, error)})


def default_of(field: models.Field[Any, Any]) -> Any:
    """The value of a field in a new row, if no write gives one. It is a `DatabaseDefault` if only
    the database can compute it."""
    value = field.get_default()
    if isinstance(value, DatabaseDefault):
        (expression,) = value.get_source_expressions()
        if isinstance(expression, models.Value):
            return field.to_python(deepcopy(expression.value))
    return value


def refuse_computed(default: Any) -> None:
    if isinstance(default, DatabaseDefault):
        raise ValidationError(
            "An operation on this field needs a default that Python knows: its db_default is an "
            "expression, which only the database computes. Give the field a `default` too.",
            code="db_default",
        )


# None, expressions, and related objects

_PLAIN = frozenset({str, int, bool, float, bytes, dict, list, datetime.datetime, decimal.Decimal})


def _nullable(field: models.Field[Any, Any], encode: Encode) -> Encode:
    # save() stores a file that is None as an empty name.
    null = '""' if isinstance(field, models.FileField) else NULL
    takes_values = isinstance(field, models.JSONField)

    def encode_or_null(value: Any) -> str:
        if value is None:
            return null if field.null else refuse_null()
        if type(value) not in _PLAIN and not takes_values:
            refuse_expression(value)
        return encode(value)

    return encode_or_null


def _optional(decode: Decode) -> Decode:
    return lambda text: None if text == NULL else decode(text)


def _related(field: models.Field[Any, Any], encode: Encode) -> Encode:
    """A foreign key takes a value of its target field, or an instance of the related model."""
    assert isinstance(field, models.ForeignKey)
    related: Any = field.related_model._meta.concrete_model
    attname = field.target_field.attname

    def encode_key(value: Any) -> str:
        if isinstance(value, models.Model):
            if not isinstance(value, related):
                raise ValidationError(
                    f"{excerpt(value)} must be an instance of {related._meta.label}.",
                    code="invalid",
                )
            value = getattr(value, attname)
            if value is None:
                raise ValidationError("The related object is not saved.", code="unsaved")
        return encode(value)

    return encode_key
