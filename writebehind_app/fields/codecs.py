"""How the values of Django's own fields become text, and values again.

A text is JSON. What a field, or its type in the database, refuses is refused at the call.
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

from writebehind_app.fields.limits import (
    NUL_ERROR,
    refuse_deep,
    refuse_expression,
    refuse_null,
    shown,
    text_encoder,
)

Encode = Callable[[Any], str]
Decode = Callable[[str], Any]
NULL = "null"
INT64 = (-(2**63), 2**63 - 1)


class Codec(NamedTuple):
    """How values that are not None travel."""

    encode: Encode  # of every value that the field takes
    decode: Decode
    prepare: Decode | None = None  # for the database, where `decode` does not do
    # Nearly all values are of one type. `text` encodes those of exactly this type, and no others.
    plain: type | None = None
    text: Encode = str


def codec(field: models.Field[Any, Any], using: str) -> Codec | None:
    """The codec of a field; None for a field that is none of Django's."""
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
    # As almost always, nothing is escaped.
    if "\\" not in text and text[:1] == '"' == text[-1:] and len(text) > 1:
        return text[1:-1]
    value = json.loads(text)
    if not isinstance(value, str):
        raise ValueError(f"{text} is no text")
    return value


def _ip(field: models.Field[Any, Any], using: str) -> Codec:
    def encode(value: Any) -> str:
        value = field.to_python(value)
        if not value:  # as in the ORM
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
                f"{shown(value)} is not the name of a file in the storage.", code="invalid"
            )
        return names.encode(value)

    return names._replace(encode=encode)


def _within(text: str, ends: str = '""') -> str:
    """What is between the ends, which somebody else may not have written."""
    if len(text) < 2 or text[0] + text[-1] != ends:
        raise ValueError(f"{text[:100]!r} is not between {ends[0]} and {ends[1]}")
    return text[1:-1]


# Numbers


def refuse_immense(value: Any) -> None:
    """No field has so many digits, and int() takes minutes for Decimal("1e999999")."""
    if isinstance(value, decimal.Decimal) and value.is_finite() and value.adjusted() > MOST_DIGITS:
        raise ValidationError(f"{shown(value, str)} is more than a field can hold.", code="range")


MOST_DIGITS = 2000


def _integer(field: models.Field[Any, Any], using: str) -> Codec:
    least, most = INT64
    with suppress(KeyError):  # a type of the project's own
        low, high = connections[using].ops.integer_field_range(field.get_internal_type())
        least, most = max(least, low), min(most, high)
    is_auto = isinstance(field, models.AutoField)

    def encode(value: Any) -> str:
        if type(value) is not int:
            refuse_immense(value)
            whole = int(field.to_python(value))  # of a member of an enum, or a bool
            if whole != value and isinstance(value, Number):
                raise ValidationError(f"{value} is not a whole number.", code="invalid")
            value = whole
        return text(value)

    def text(value: int) -> str:
        if not least <= value <= most:
            raise ValidationError(
                f"Ensure this value is between {least} and {most} (it is {shown(value, str)}).",
                code="range",
            )
        if is_auto and value == 0:
            connections[using].ops.validate_autopk_value(value)  # MariaDB's take none
        return str(value)

    return Codec(encode, int, plain=int, text=text)


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
        return _finite_decimal(_within(text))

    if digits is None or places is None:  # as many as the value has; from Django 6.1 on
        return Codec(lambda value: f'"{field.to_python(value)}"', decode)

    whole = digits - places
    step = decimal.Decimal(1).scaleb(-places)
    # The ORM leaves a float to the database to round; only SQLite's is rounded by Django.
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
                f"Ensure that there are no more than {whole} digits before the decimal point "
                f"(it is {given}).",
                code="max_whole_digits",
            )
        # A float is never exact; of everything else, nothing is rounded away.
        if rounded != given and not isinstance(value, float):
            raise ValidationError(
                f"Ensure that there are no more than {places} decimal places (it is {given}).",
                code="max_decimal_places",
            )
        return f'"{rounded if rounded else abs(rounded):f}"'  # -0 is 0, in a key too

    return Codec(encode, decode)


# Times


def _datetime(field: models.Field[Any, Any], using: str) -> Codec:
    def encode(value: Any) -> str:
        return text(value if type(value) is datetime.datetime else field.to_python(value))

    def text(value: datetime.datetime) -> str:
        if settings.USE_TZ:
            if timezone.is_naive(value):
                # It gets the time zone as it would in the ORM, warning included.
                value = field.get_prep_value(value)
            value = value.astimezone(datetime.UTC)
        elif timezone.is_aware(value):
            raise ValidationError(f"{value} has a time zone, but USE_TZ is False.", code="aware")
        # Always as long, so that texts are in the order of the times.
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
            raise ValidationError(f"{shown(value)} is not bytes.", code="invalid")
        return f'"{base64.b64encode(value).decode()}"'

    return Codec(encode, lambda text: base64.b64decode(_within(text), validate=True))


BYTES = (bytes, bytearray, memoryview)
_NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _json(field: models.Field[Any, Any], using: str) -> Codec:
    """`[value]` for a value, so that it can be JSON's null, which is not SQL's NULL."""
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
                f"This is not JSON: {shown(error, str)}.", code="invalid"
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


# Many at once
#
# JSON reads the texts of a whole entry faster than those of each field.


class Loader(NamedTuple):
    """How what JSON has read becomes a value."""

    read: type  # what JSON reads of a value
    load: Callable[[Any], Any] | None  # what makes a value of that; None where it is the value


def loader(field: models.Field[Any, Any], using: str) -> Loader | None:
    """The loader of a field of Django's own; None where only the text can tell."""
    if isinstance(field, models.JSONField):
        return Loader(list, _inner) if field.decoder is None else None
    for kinds, read, load in _LOADERS:
        if isinstance(field, kinds):
            return Loader(read, load)
    return None


def finite_float(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a number a database keeps")
    return value


def _finite_decimal(text: str) -> decimal.Decimal:
    value = decimal.Decimal(text)
    if not value.is_finite():
        raise ValueError(f"{text} is not a number a database keeps")
    refuse_immense(value)
    return value


def _inner(value: Any) -> Any:
    (inner,) = value
    return inner


_LOADERS: tuple[tuple[Any, type, Callable[[Any], Any] | None], ...] = (
    ((models.CharField, models.TextField, models.FilePathField, models.FileField), str, None),
    (models.GenericIPAddressField, str, None),
    (models.BooleanField, bool, None),
    ((models.IntegerField, models.AutoField), int, None),
    (models.FloatField, float, finite_float),
    (models.DecimalField, str, _finite_decimal),
    (models.DateTimeField, str, datetime.datetime.fromisoformat),
    (models.DateField, str, datetime.date.fromisoformat),
    (models.TimeField, str, datetime.time.fromisoformat),
    (models.DurationField, int, MICROSECOND.__mul__),
    (models.UUIDField, str, uuid.UUID),
)
