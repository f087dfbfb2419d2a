"""Encode the values of Django's own fields as JSON texts, and decode them.

A value that the field, or its column, would refuse is refused here, at the call.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from json.encoder import encode_basestring as json_string
from numbers import Number
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connections, models
from django.db.models.fields.files import FieldFile
from django.utils import timezone

from writebehind_app.english import counted
from writebehind_app.fields.limits import (
    NUL_ERROR,
    excerpt,
    refuse_deep,
    refuse_expression,
    refuse_null,
    text_encoder,
)

Encode = Callable[[Any], str]
Decode = Callable[[str], Any]
NULL = "null"
INT64 = (-(2**63), 2**63 - 1)


class Codec(NamedTuple):
    """The codec of a field, for values that are not None."""

    encode: Encode  # takes every value that the field takes
    decode: Decode
    prepare: Decode | None = None  # decodes for the database, if that needs another value
    # Nearly all values are of one type. `text` encodes values of exactly this type, and is faster.
    plain: type | None = None
    text: Encode = str


def codec(field: models.Field[Any, Any], using: str) -> Codec | None:
    """The codec of a field; None if the field is not one of Django's own."""
    for kinds, make in _MAKERS:
        if isinstance(field, kinds):
            return make(field, using)
    return None


# Text


def _string(field: models.Field[Any, Any], using: str) -> Codec:
    text = text_encoder(field, using)

    def encode(value: Any) -> str:
        return text(value if type(value) is str else str.__str__(str(field.to_python(value))))

    return Codec(encode, _text, plain=str, text=text)


def _text(text: str) -> str:
    # The common case: nothing is escaped.
    if "\\" not in text and text[:1] == '"' == text[-1:] and len(text) > 1:
        return text[1:-1]
    value = json.loads(text)
    if not isinstance(value, str):
        raise ValueError(f"{text} is no text")
    return value


def _ip(field: models.Field[Any, Any], using: str) -> Codec:
    def encode(value: Any) -> str:
        value = field.to_python(value)
        if not value:  # the ORM does the same
            return NULL if field.null else refuse_null()
        for validate in field.default_validators:
            validate(value)
        return json_string(value)

    return Codec(encode, json.loads)


def _file(field: models.Field[Any, Any], using: str) -> Codec:
    names = _string(field, using)

    def encode(value: Any) -> str:
        if isinstance(value, FieldFile):
            if value and not getattr(value, "_committed", True):
                raise ValidationError(
                    f"The file {value.name!r} is not in the storage yet: save it there first, "
                    "then write its name.",
                    code="uncommitted",
                )
            value = value.name or ""
        if not isinstance(value, str):
            raise ValidationError(
                f"{excerpt(value)} is not the name of a file in the storage.", code="invalid"
            )
        return names.encode(value)

    return names._replace(encode=encode)


def _within(text: str, ends: str = '""') -> str:
    """The text between the quotes or brackets. A ValueError if they are missing."""
    if len(text) < 2 or text[0] + text[-1] != ends:
        raise ValueError(f"{text[:100]!r} is not between {ends[0]} and {ends[1]}")
    return text[1:-1]


# Numbers


def refuse_immense(value: Any) -> None:
    """Refuse numbers with too many digits for any field: int(Decimal("1e999999")) takes minutes."""
    if isinstance(value, decimal.Decimal) and value.is_finite() and value.adjusted() > MOST_DIGITS:
        raise ValidationError(f"{excerpt(value, str)} is more than a field can hold.", code="range")


MOST_DIGITS = 2000


def integer_range(field: models.Field[Any, Any], using: str) -> tuple[int, int]:
    """The least and the greatest whole number that a field can hold."""
    least, most = INT64
    with suppress(KeyError):  # a type of the project's own
        low, high = connections[using].ops.integer_field_range(field.get_internal_type())
        least, most = max(least, low), min(most, high)
    return least, most


def _integer(field: models.Field[Any, Any], using: str) -> Codec:
    least, most = integer_range(field, using)
    is_auto = isinstance(field, models.AutoField)

    def encode(value: Any) -> str:
        if type(value) is not int:
            refuse_immense(value)
            whole = int(field.to_python(value))  # int(): it may be a bool or a member of an enum
            if whole != value and isinstance(value, Number):
                raise ValidationError(f"{value} is not a whole number.", code="invalid")
            value = whole
        return text(value)

    def text(value: int) -> str:
        if not least <= value <= most:
            raise ValidationError(
                f"Ensure this value is between {least} and {most} (it is {excerpt(value, str)}).",
                code="range",
            )
        if is_auto and value == 0:
            connections[using].ops.validate_autopk_value(value)  # MariaDB refuses 0
        return str(value)

    return Codec(encode, int, plain=int, text=text)


def finite_float(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a number a database keeps")
    return value


def finite_decimal(text: str) -> decimal.Decimal:
    value = decimal.Decimal(text)
    if not value.is_finite():
        raise ValueError(f"{text} is not a number a database keeps")
    refuse_immense(value)
    return value


_BOOLEANS = {"true": True, "false": False}


def _boolean(field: models.Field[Any, Any], using: str) -> Codec:
    text = {value: text for text, value in _BOOLEANS.items()}.__getitem__

    def encode(value: Any) -> str:
        value = field.to_python(value)
        return NULL if value is None else text(value)

    return Codec(encode, _BOOLEANS.__getitem__, plain=bool, text=text)


def _float(field: models.Field[Any, Any], using: str) -> Codec:
    def encode(value: Any) -> str:
        return text(float(field.to_python(value)))

    def text(value: float) -> str:
        if not math.isfinite(value):
            raise ValidationError(f"{value} is not a number a database keeps.", code="invalid")
        return repr(value)

    def decode(text: str) -> float:
        return finite_float(float(text))

    return Codec(encode, decode, plain=float, text=text)


def _decimal(field: models.Field[Any, Any], using: str) -> Codec:
    assert isinstance(field, models.DecimalField)
    digits, places = field.max_digits, field.decimal_places

    def decode(text: str) -> decimal.Decimal:
        return finite_decimal(_within(text))

    if digits is None or places is None:  # no limit, from Django 6.1 on
        return Codec(lambda value: f'"{field.to_python(value)}"', decode)

    whole = digits - places
    step = decimal.Decimal(1).scaleb(-places)
    # Django rounds a float for SQLite. The other databases round it themselves, in another way.
    by_database = connections[using].vendor != "sqlite"
    context = decimal.Context(
        prec=digits + 1,
        rounding=decimal.ROUND_HALF_UP if by_database else decimal.ROUND_HALF_EVEN,
        traps=[decimal.InvalidOperation],
    )

    def encode(value: Any) -> str:
        given = field.to_python(value)
        fits = not given or given.adjusted() < whole
        rounded = given.quantize(step, context=context) if fits else given
        if rounded and rounded.adjusted() >= whole:
            raise ValidationError(
                f"Ensure that there are no more than {counted(whole, 'digit')} before the "
                f"decimal point (it is {given}).",
                code="max_whole_digits",
            )
        # A float is never exact, and may be rounded. No other value may.
        if rounded != given and not isinstance(value, float):
            raise ValidationError(
                f"Ensure that there are no more than {counted(places, 'decimal place')} "
                f"(it is {given}).",
                code="max_decimal_places",
            )
        return f'"{rounded if rounded else abs(rounded):f}"'  # -0 and 0 are the same key

    return Codec(encode, decode)


# Times


def _datetime(field: models.Field[Any, Any], using: str) -> Codec:
    def encode(value: Any) -> str:
        return text(value if type(value) is datetime.datetime else field.to_python(value))

    def text(value: datetime.datetime) -> str:
        if settings.USE_TZ:
            if timezone.is_naive(value):
                # As in the ORM: the default time zone, and a warning.
                value = field.get_prep_value(value)
            value = value.astimezone(datetime.UTC)
        elif timezone.is_aware(value):
            raise ValidationError(f"{value} has a time zone, but USE_TZ is False.", code="aware")
        # Always with microseconds: so the texts sort as the times do.
        return f'"{value.isoformat(timespec="microseconds")}"'

    def decode(text: str) -> datetime.datetime:
        return datetime.datetime.fromisoformat(_within(text))

    return Codec(encode, decode, plain=datetime.datetime, text=text)


def _date(field: models.Field[Any, Any], using: str) -> Codec:
    return Codec(
        lambda value: f'"{field.to_python(value).isoformat()}"',
        lambda text: datetime.date.fromisoformat(_within(text)),
    )


def _time(field: models.Field[Any, Any], using: str) -> Codec:
    def encode(value: Any) -> str:
        value = field.to_python(value)
        if timezone.is_aware(value):
            raise ValidationError(f"{value} has a time zone; the field has none.", code="aware")
        return f'"{value.isoformat(timespec="microseconds")}"'

    return Codec(encode, lambda text: datetime.time.fromisoformat(_within(text)))


MICROSECOND = datetime.timedelta(microseconds=1)


def _duration(field: models.Field[Any, Any], using: str) -> Codec:
    def encode(value: Any) -> str:
        micros = field.to_python(value) // MICROSECOND
        if not INT64[0] <= micros <= INT64[1]:
            raise ValidationError(f"{value} is longer than a database keeps.", code="range")
        return str(micros)

    return Codec(encode, lambda text: datetime.timedelta(microseconds=int(text)))


# The rest


def _uuid(field: models.Field[Any, Any], using: str) -> Codec:
    return Codec(
        lambda value: f'"{field.to_python(value)}"',
        lambda text: uuid.UUID(_within(text)),
    )


def _binary(field: models.Field[Any, Any], using: str) -> Codec:
    def encode(value: Any) -> str:
        if not isinstance(value, BYTES):
            raise ValidationError(f"{excerpt(value)} is not bytes.", code="invalid")
        return f'"{base64.b64encode(value).decode()}"'

    return Codec(encode, lambda text: base64.b64decode(_within(text), validate=True))


BYTES = (bytes, bytearray, memoryview)
_NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _json(field: models.Field[Any, Any], using: str) -> Codec:
    """A value travels as `[value]`. So JSON's null is `[null]`, and SQL's NULL is `null`."""
    assert isinstance(field, models.JSONField)
    json_null = models.Value(None, models.JSONField())
    refuse_nul = connections[using].vendor == "postgresql"

    def encode(value: Any) -> str:
        if isinstance(value, models.Value):
            value = value.value
        else:
            refuse_expression(value)
        return of_json(value)

    def of_json(value: Any) -> str:
        try:
            text = json.dumps(
                value,
                cls=field.encoder,
                ensure_ascii=False,
                allow_nan=False,
                separators=(",", ":"),
            )
            text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValidationError(
                f"This is not JSON: {excerpt(error, str)}.", code="invalid"
            ) from None
        if refuse_nul and "\\u0000" in text and _NUL_IN_JSON.search(text):
            raise ValidationError(NUL_ERROR, code="nul")
        text = f"[{text}]"
        refuse_deep(text)
        return text

    def decode(text: str) -> Any:
        return json.loads(_within(text, "[]"), cls=field.decoder)

    def prepare(text: str) -> Any:
        return json_null if text == "[null]" else decode(text)

    return Codec(encode, decode, prepare, plain=dict, text=of_json)


_Make = Callable[["models.Field[Any, Any]", str], Codec]
_MAKERS: tuple[tuple[type | tuple[type, ...], _Make], ...] = (
    (models.FileField, _file),
    (models.GenericIPAddressField, _ip),
    ((models.CharField, models.TextField, models.FilePathField), _string),
    (models.BooleanField, _boolean),
    ((models.IntegerField, models.AutoField), _integer),
    (models.FloatField, _float),
    (models.DecimalField, _decimal),
    (models.DateTimeField, _datetime),
    (models.DateField, _date),
    (models.TimeField, _time),
    (models.DurationField, _duration),
    (models.UUIDField, _uuid),
    (models.BinaryField, _binary),
    (models.JSONField, _json),
)
