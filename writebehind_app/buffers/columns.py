"""How the values of each kind of model field are checked and travel through Redis.

A value becomes a JSON text at the call, and the same Python value again when it is read or
flushed. What a field refuses is refused at the call.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from json.encoder import encode_basestring as json_string
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connections, models
from django.db.models.fields.files import FieldFile
from django.utils import timezone

Encode = Callable[[Any], str]
Decode = Callable[[str], Any]
NULL = "null"
INT64 = (-(2**63), 2**63 - 1)
LOCAL_ONLY = ("django.contrib.postgres.", "django.contrib.gis.")  # no codec for their values


class Unsupported(Exception):
    """Says why values of a field cannot be buffered."""


@dataclass(frozen=True, slots=True)
class Column:
    """A field of a buffered row."""

    field: models.Field[Any, Any]
    name: str
    attname: str
    encode: Encode  # value → text; raises ValidationError
    decode: Decode  # text → value, as an instance holds it
    prepare: Decode  # text → value, as it is handed to the database


def column(field: models.Field[Any, Any], using: str) -> Column:
    """The column of a field in that database, or Unsupported."""
    if isinstance(field, models.GeneratedField):
        raise Unsupported("the database computes it")
    if type(field).__module__.startswith(LOCAL_ONLY):
        raise Unsupported(f"values of {type(field).__name__} cannot be carried as JSON")
    target = field
    while isinstance(target, models.ForeignKey):
        target = target.target_field
    encode, decode, prepare = _codec(target, using)
    if target is not field:
        encode = _related(field, encode)
    return Column(
        field,
        field.name,
        field.attname,
        _nullable(field, encode),
        lambda text: None if text == NULL else decode(text),
        lambda text: None if text == NULL else prepare(text),
    )


def _nullable(field: models.Field[Any, Any], encode: Encode) -> Encode:
    def encoded(value: Any) -> str:
        if value is None:
            if field.null:
                return NULL
            raise ValidationError("This field cannot be null.", code="null")
        if hasattr(value, "resolve_expression") and not isinstance(field, models.JSONField):
            raise ValidationError(
                f"{value!r} is an expression for the database; a buffered write takes values.",
                code="expression",
            )
        return encode(value)

    return encoded


def _related(field: models.Field[Any, Any], encode: Encode) -> Encode:
    """A foreign key takes what the key it points to takes, or an instance that has one."""
    related: type[models.Model] = field.remote_field.model
    attnames = [to.attname for to in field.foreign_related_fields]  # type: ignore[attr-defined]

    def encoded(value: Any) -> str:
        if isinstance(value, models.Model):
            if not isinstance(value, related):
                raise ValidationError(
                    f"{value!r} must be an instance of {related._meta.label}.", code="invalid"
                )
            value = getattr(value, attnames[0])
            if value is None:
                raise ValidationError("The related object is not saved.", code="unsaved")
        return encode(value)

    return encoded


def _codec(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode, Decode]:
    make = _custom
    if not _is_custom(field):
        make = next((make for kinds, make in _CODECS if isinstance(field, kinds)), _custom)
    encode, decode, *prepare = make(field, using)
    return encode, decode, prepare[0] if prepare else decode


_CUSTOM_METHODS = ("from_db_value", "get_prep_value", "get_db_prep_value", "to_python")


def _is_custom(field: models.Field[Any, Any]) -> bool:
    """Whether the field converts values in a way of its own."""
    for owner in type(field).__mro__:
        if owner.__module__.startswith("django.db.models."):
            return False
        if any(name in vars(owner) for name in _CUSTOM_METHODS):
            return True
    return True


# Text


def _string(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    # Only a CharField's length is a limit of the database; a TextField's is for forms.
    limit = field.max_length if isinstance(field, models.CharField) else None
    is_ip = isinstance(field, models.GenericIPAddressField)

    def encode(value: Any) -> str:
        if type(value) is not str or is_ip:
            value = str(field.to_python(value))
        if limit is not None and len(value) > limit:
            raise ValidationError(
                f"Ensure this value has at most {limit} characters (it has {len(value)}).",
                code="max_length",
            )
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ValidationError(f"This text is not valid Unicode: {error}.") from None
        return json_string(value)

    return encode, json.loads


def _ip(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    encode, decode = _string(field, using)

    def checked(value: Any) -> str:
        field.run_validators(value := field.to_python(value))
        return encode(value)

    return checked, decode


def _file(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    encode, decode = _string(field, using)

    def encode_name(value: Any) -> str:
        if isinstance(value, FieldFile):
            if value and not value._committed:
                raise ValidationError(
                    f"The file {value.name!r} is not in the storage yet: save it there first, "
                    "then write its name.",
                    code="uncommitted",
                )
            value = value.name or ""
        if not isinstance(value, str):
            raise ValidationError(
                f"{value!r} is not the name of a file in the storage.", code="invalid"
            )
        return encode(value)

    return encode_name, decode


# Numbers


def _integer(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    try:
        least, most = connections[using].ops.integer_field_range(field.get_internal_type())
    except KeyError:  # a type of the project's own
        least = most = None
    least = INT64[0] if least is None else max(least, INT64[0])
    most = INT64[1] if most is None else min(most, INT64[1])

    def encode(value: Any) -> str:
        if type(value) is not int:
            value = field.to_python(value)
            value = int(value)  # a member of an enum, a bool
        if not least <= value <= most:
            raise ValidationError(
                f"Ensure this value is between {least} and {most} (it is {value}).", code="range"
            )
        return str(value)

    return encode, int


def _boolean(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    def encode(value: Any) -> str:
        if type(value) is not bool:
            value = field.to_python(value)
            if value is None:
                return NULL
        return "true" if value else "false"

    return encode, lambda text: text == "true"


def _float(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    def encode(value: Any) -> str:
        value = float(field.to_python(value))
        if not math.isfinite(value):
            raise ValidationError(f"{value} is not a number a database keeps.", code="invalid")
        return repr(value)

    return encode, float


def _decimal(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    assert isinstance(field, models.DecimalField)
    places = field.decimal_places
    whole = field.max_digits - places
    step = decimal.Decimal(1).scaleb(-places)
    exact = decimal.Context(prec=max(field.max_digits, 1) + 50, traps=[decimal.InvalidOperation])

    def encode(value: Any) -> str:
        given = field.to_python(value)
        if not given.is_finite():
            raise ValidationError(f"{given} is not a number a database keeps.", code="invalid")
        if given and given.adjusted() >= whole:
            raise ValidationError(
                f"Ensure that there are no more than {whole} digits before the decimal point "
                f"(it is {given}).",
                code="max_whole_digits",
            )
        rounded = given.quantize(step, context=exact)
        # A float is never exact; of everything else, nothing is rounded away.
        if rounded != given and not isinstance(value, float):
            raise ValidationError(
                f"Ensure that there are no more than {places} decimal places (it is {given}).",
                code="max_decimal_places",
            )
        return f'"{rounded:f}"'

    return encode, lambda text: decimal.Decimal(text[1:-1])


# Times


def _datetime(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    def encode(value: Any) -> str:
        value = field.to_python(value)
        if settings.USE_TZ:
            # A naive value gets the time zone as it would in the ORM, warning included.
            value = field.get_prep_value(value).astimezone(datetime.UTC)
        elif timezone.is_aware(value):
            raise ValidationError(f"{value} has a time zone, but USE_TZ is False.", code="aware")
        return f'"{value.isoformat()}"'

    return encode, lambda text: datetime.datetime.fromisoformat(text[1:-1])


def _date(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    return (
        lambda value: f'"{field.to_python(value).isoformat()}"',
        lambda text: datetime.date.fromisoformat(text[1:-1]),
    )


def _time(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    def encode(value: Any) -> str:
        value = field.to_python(value)
        if timezone.is_aware(value):
            raise ValidationError(f"{value} has a time zone; the field has none.", code="aware")
        return f'"{value.isoformat()}"'

    return encode, lambda text: datetime.time.fromisoformat(text[1:-1])


_MICROSECOND = datetime.timedelta(microseconds=1)


def _duration(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    def encode(value: Any) -> str:
        micros = field.to_python(value) // _MICROSECOND
        if not INT64[0] <= micros <= INT64[1]:
            raise ValidationError(f"{value} is longer than a database keeps.", code="range")
        return str(micros)

    return encode, lambda text: datetime.timedelta(microseconds=int(text))


# The rest


def _uuid(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    return (
        lambda value: f'"{field.to_python(value)}"',
        lambda text: uuid.UUID(text[1:-1]),
    )


def _binary(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    def encode(value: Any) -> str:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise ValidationError(f"{value!r} is not bytes.", code="invalid")
        if field.max_length is not None and len(value) > field.max_length:
            raise ValidationError(
                f"Ensure this value has at most {field.max_length} bytes (it has {len(value)}).",
                code="max_length",
            )
        return f'"{base64.b64encode(value).decode()}"'

    return encode, lambda text: base64.b64decode(text[1:-1])


def _json(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode, Decode]:
    """`[value]` for a value, so that it can be JSON's null, which is not SQL's NULL."""
    assert isinstance(field, models.JSONField)
    json_null = models.Value(None, models.JSONField())

    def encode(value: Any) -> str:
        if isinstance(value, models.Value) or type(value).__name__ == "JSONNull":
            value = getattr(value, "value", None)
        elif hasattr(value, "resolve_expression"):
            raise ValidationError(
                f"{value!r} is an expression for the database; a buffered write takes values.",
                code="expression",
            )
        try:
            text = json.dumps(
                [value],
                cls=field.encoder,
                ensure_ascii=False,
                allow_nan=False,
                separators=(",", ":"),
            )
            text.encode()
        except (TypeError, ValueError) as error:
            raise ValidationError(f"This is not JSON: {error}.", code="invalid") from None
        return text

    def decode(text: str) -> Any:
        return json.loads(text, cls=field.decoder)[0]

    def prepare(text: str) -> Any:
        return json_null if text == "[null]" else decode(text)

    return encode, decode, prepare


def _custom(field: models.Field[Any, Any], using: str) -> tuple[Encode, Decode]:
    """A field of one's own: what it prepares for the database travels, and comes back as it
    would from the database."""

    def encode(value: Any) -> str:
        prepared = field.get_prep_value(field.to_python(value))
        try:
            return json.dumps(_tag(prepared), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValidationError(
                f"{type(field).__name__} prepares {prepared!r}, which cannot be carried as "
                f"JSON: {error}.",
                code="invalid",
            ) from None

    def decode(text: str) -> Any:
        value = _untag(json.loads(text))
        if hasattr(field, "from_db_value"):
            return field.from_db_value(value, None, connections[using])
        return field.to_python(value)

    return encode, decode


_TAGS: tuple[tuple[str, type, Callable[[Any], Any], Callable[[Any], Any]], ...] = (
    ("decimal", decimal.Decimal, str, decimal.Decimal),
    ("datetime", datetime.datetime, str, datetime.datetime.fromisoformat),
    ("date", datetime.date, str, datetime.date.fromisoformat),
    ("time", datetime.time, str, datetime.time.fromisoformat),
    ("duration", datetime.timedelta, lambda v: v // _MICROSECOND, lambda n: n * _MICROSECOND),
    ("uuid", uuid.UUID, str, uuid.UUID),
    ("bytes", bytes, lambda v: base64.b64encode(v).decode(), base64.b64decode),
)


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
        for name, _, _, load in _TAGS:
            if tag == name:
                return load(inner)
        return inner
    return value


_Codec = tuple[Encode, Decode] | tuple[Encode, Decode, Decode]
_Make = Callable[["models.Field[Any, Any]", str], _Codec]
_CODECS: tuple[tuple[tuple[type, ...] | type, _Make], ...] = (
    (models.FileField, _file),
    (models.GenericIPAddressField, _ip),
    ((models.CharField, models.TextField, models.FilePathField, models.IPAddressField), _string),
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
NOT_FOR_KEYS = (models.FloatField, models.JSONField, models.BinaryField)  # no reliable equality
