"""The kinds of operands. They travel as numbers that Redis can add and compare."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import models

from writebehind_app.fields.codecs import MICROSECOND, MOST_DIGITS, finite_float


@dataclass(frozen=True, slots=True)
class Kind:
    """How values of a field become numbers, and numbers become values."""

    code: str
    number: Callable[[Any], Any]  # value → number; None for JSON that is not a number
    value: Callable[[Any], Any]  # number → value
    adds: bool = True
    parse: Callable[[str], Any] = int  # operand → number


def kind_of(field: models.Field[Any, Any]) -> Kind | None:
    """The kind of a field; None if it takes neither Add nor Max nor Min."""
    if isinstance(field, models.JSONField):
        return _JSON
    if isinstance(field, models.IntegerField | models.AutoField):
        return _WHOLE
    if isinstance(field, models.DecimalField) and field.decimal_places is not None:
        return decimal_kind(field.decimal_places)
    if isinstance(field, models.DurationField):
        return _DURATION
    if isinstance(field, models.FloatField):
        return FLOAT
    if isinstance(field, models.DateTimeField):
        return _DATETIME
    if isinstance(field, models.DateField):
        return _DATE
    if isinstance(field, models.TimeField):
        return _TIME
    return None


# This has more digits than any field takes. The default context would round to 28 digits.
_EXACT = decimal.Context(prec=2 * MOST_DIGITS, traps=[decimal.InvalidOperation])


def decimal_kind(places: int) -> Kind:
    """The kind of decimals with so many places."""
    return Kind(
        f"d{places}",
        lambda value: int(Decimal(value).scaleb(places, context=_EXACT)),
        lambda number: exact_decimal(number, places),
    )


def exact_decimal(number: int, places: int) -> Decimal:
    """The decimal of a number in units of its last place. No context is used: it would round."""
    digits = Decimal(number).as_tuple()
    return Decimal((digits.sign, digits.digits, -places))


_EPOCH = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - of fields without a time zone
_AWARE_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _of_datetime(value: datetime.datetime) -> int:
    return (value - (_AWARE_EPOCH if value.tzinfo else _EPOCH)) // MICROSECOND


def _to_datetime(number: int) -> datetime.datetime:
    from_epoch = datetime.timedelta(microseconds=number)
    return _AWARE_EPOCH + from_epoch if settings.USE_TZ else _EPOCH + from_epoch


def _of_time(value: datetime.time) -> int:
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return seconds * 1_000_000 + value.microsecond


def _to_time(number: int) -> datetime.time:
    return (_EPOCH + datetime.timedelta(microseconds=number)).time()


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json_number(text: str) -> Any:
    number = json.loads(text)
    if not is_number(number) or not math.isfinite(number):
        raise ValueError(f"{text[:100]!r} is no number")
    return number


def _float(text: str) -> float:
    return finite_float(float(text))


_WHOLE = Kind("i", int, int)
_DURATION = Kind("u", lambda value: value // MICROSECOND, lambda number: number * MICROSECOND)
FLOAT = Kind("f", float, float, adds=False, parse=_float)
_DATETIME = Kind("t", _of_datetime, _to_datetime, adds=False)
_DATE = Kind("D", datetime.date.toordinal, datetime.date.fromordinal, adds=False)
_TIME = Kind("T", _of_time, _to_time, adds=False)
_JSON = Kind(
    "j", lambda value: value if is_number(value) else None, lambda n: n, parse=_json_number
)

MOMENTS = {kind.code: kind for kind in (_DATETIME, _DATE, _TIME)}
