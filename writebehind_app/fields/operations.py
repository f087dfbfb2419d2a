"""Writes that depend on the value they change: Add, Max, Min, Merge.

Redis keeps operations and carries none of them out. Whoever reads or flushes the row does, in
`outcome`. Operands are numbers: a decimal in units of its last place, a time or a duration in
microseconds, a date in days. So they are exact, and whoever keeps them needs to know no fields.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from numbers import Number
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connections, models

from writebehind_app.fields.codecs import (
    INT64,
    MICROSECOND,
    MOST_DIGITS,
    finite_float,
    refuse_immense,
)
from writebehind_app.fields.entry import DIGITS, Numbered, Segment, merge_key, merge_name, number_of
from writebehind_app.fields.limits import shown

if TYPE_CHECKING:
    from writebehind_app.fields.columns import Column


class Operation:
    """What a write can give in the place of a value."""


@dataclass(frozen=True, slots=True)
class Add(Operation):
    """Adds to a whole number, a decimal, a duration or a number within JSON. NULL counts as
    nothing, and so does JSON that is no number."""

    amount: Any


@dataclass(frozen=True, slots=True)
class Max(Operation):
    """Replaces a smaller value, NULL, or JSON that is no number."""

    value: Any


@dataclass(frozen=True, slots=True)
class Min(Operation):
    """Replaces a greater value, NULL, or JSON that is no number."""

    value: Any


@dataclass(frozen=True, slots=True)
class Merge(Operation):
    """Sets keys of a JSON object, and leaves its others; anything else becomes an object."""

    values: Mapping[str, Any]


class _Deleted:
    def __repr__(self) -> str:
        return "DELETED"


DELETED = _Deleted()  # in place of the value of a meta key that is deleted

_SIGNS = {Add: "+", Max: ">", Min: "<"}
_OPERATIONS: dict[str, Callable[[Any], Operation]] = {"+": Add, ">": Max, "<": Min}


# The numbers that a field stands for


@dataclass(frozen=True, slots=True)
class Kind:
    """How the values of a field are numbers."""

    code: str
    number: Callable[[Any], Any]  # value → number; None for a value that counts as nothing
    value: Callable[[Any], Any]  # number → value
    adds: bool = True
    parse: Callable[[str], Any] = int  # operand → number


def kind_of(field: models.Field[Any, Any]) -> Kind | None:
    """The kind of a field; None where it takes neither Add nor Max nor Min."""
    if isinstance(field, models.JSONField):
        return _JSON
    if isinstance(field, models.IntegerField | models.AutoField):
        return _WHOLE
    if isinstance(field, models.DecimalField) and field.decimal_places is not None:
        return decimal_kind(field.decimal_places)
    if isinstance(field, models.DurationField):
        return _DURATION
    if isinstance(field, models.FloatField):
        return _FLOAT
    if isinstance(field, models.DateTimeField):
        return _DATETIME
    if isinstance(field, models.DateField):
        return _DATE
    if isinstance(field, models.TimeField):
        return _TIME
    return None


# With more digits than a field takes: the default context rounds to 28.
_EXACT = decimal.Context(prec=2 * MOST_DIGITS, traps=[decimal.InvalidOperation])


def decimal_kind(places: int) -> Kind:
    """Decimals with so many places."""
    return Kind(
        f"d{places}",
        lambda value: int(Decimal(value).scaleb(places, context=_EXACT)),
        lambda number: exact_decimal(number, places),
    )


def exact_decimal(number: int, places: int) -> Decimal:
    """Without a context, which would round."""
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json_number(text: str) -> Any:
    number = json.loads(text)
    if not _is_number(number) or not math.isfinite(number):
        raise ValueError(f"{text[:100]!r} is no number")
    return number


def _float(text: str) -> float:
    return finite_float(float(text))


_WHOLE = Kind("i", int, int)
_DURATION = Kind("u", lambda value: value // MICROSECOND, lambda number: number * MICROSECOND)
_FLOAT = Kind("f", float, float, adds=False, parse=_float)
_DATETIME = Kind("t", _of_datetime, _to_datetime, adds=False)
_DATE = Kind("D", datetime.date.toordinal, datetime.date.fromordinal, adds=False)
_TIME = Kind("T", _of_time, _to_time, adds=False)
_JSON = Kind(
    "j", lambda value: value if _is_number(value) else None, lambda n: n, parse=_json_number
)


# What a caller gives


def operation_texts(column: Column, operation: Operation) -> dict[str, str]:
    """The texts of an operation, by name: sign, kind, ":" and operand. A Merge has one more for
    each key that it sets."""
    if isinstance(operation, Merge):
        return _merge_texts(column, operation)
    kind, name = column.kind, type(operation).__name__
    if isinstance(column.field, models.JSONField):
        operand = _json_operand(operation)
    elif isinstance(operation, Add):
        if kind is None or not kind.adds:
            raise _refused(column, name, "a whole number, a decimal, a duration or JSON")
        operand = str(_amount(column, operation.amount, kind))
    else:
        assert isinstance(operation, Max | Min)
        if operation.value is None:
            raise ValidationError(f"{name} needs a value.", code="null")
        if kind is None:
            raise _refused(column, name, "a number, a date, a time, a duration or JSON")
        number = kind.number(column.decode(column.encode(operation.value)))
        operand = repr(number) if kind is _FLOAT else str(number)
    assert kind is not None
    return {column.name: f"{_SIGNS[type(operation)]}{kind.code}:{operand}"}


def _json_operand(operation: Operation) -> str:
    if isinstance(operation, Add):
        number = operation.amount
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValidationError(
                f"Add needs a whole number where it adds to JSON, not {shown(number)}.",
                code="invalid",
            )
    else:
        assert isinstance(operation, Max | Min)
        number = operation.value
        if not _is_number(number) or (isinstance(number, float) and not math.isfinite(number)):
            name = type(operation).__name__
            raise ValidationError(
                f"{name} needs a number where it is for JSON, not {shown(number)}.", code="invalid"
            )
    _within_64_bits(number)
    return json.dumps(number)


def _merge_texts(column: Column, operation: Merge) -> dict[str, str]:
    if not isinstance(column.field, models.JSONField):
        raise _refused(column, "Merge", "JSON")
    values = operation.values
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ValidationError(
            f"Merge takes a dict with text keys, not {shown(values)}.", code="invalid"
        )
    texts = {column.name: "&"}  # it makes an object of whatever is there
    for key, value in values.items():
        column.encode([key])  # refuses what no key may be
        texts[merge_name(column.name, merge_key(key))] = column.encode([value])[2:-2]
    return texts


def _amount(column: Column, amount: Any, kind: Kind) -> int:
    refuse_immense(amount)
    try:
        value = None if isinstance(amount, float | bool) else column.field.to_python(amount)
    except (TypeError, ArithmeticError):
        value = None
    if value is None:
        if isinstance(column.field, models.DurationField):
            needed = f"a timedelta, not {shown(amount)}"
        else:
            needed = f"an exact number, not {shown(amount)}: a whole number, or a Decimal"
        raise ValidationError(f"Add needs {needed}.", code="invalid")
    refuse_immense(value)
    number = int(kind.number(value))
    # The field rounds some of what it takes.
    if kind.value(number) != (amount if isinstance(amount, Number) else value):
        raise ValidationError(
            f"Ensure that there are no more than {kind.code[1:] or 0} decimal places "
            f"(it is {shown(amount, str)}).",
            code="max_decimal_places",
        )
    least, most = column.range
    if abs(number) > most - least:
        message = f"{shown(amount, str)} is more than the field can hold."
        raise ValidationError(message, code="range")
    return number


def range_of(field: models.Field[Any, Any], using: str) -> tuple[int, int]:
    """The least and the greatest number that a field holds."""
    least, most = INT64
    if isinstance(field, models.IntegerField | models.AutoField):
        with suppress(KeyError):  # a type of the project's own
            low, high = connections[using].ops.integer_field_range(field.get_internal_type())
            least, most = max(least, low), min(most, high)
    elif isinstance(field, models.DecimalField) and field.max_digits is not None:
        most = 10**field.max_digits - 1
        least = -most
    return least, most


def _refused(column: Column, name: str, what: str) -> ValidationError:
    return ValidationError(
        f"{name} needs a field that is {what}, not a {type(column.field).__name__}.",
        code="operation",
    )


def _within_64_bits(number: Any) -> None:
    least, most = INT64
    if isinstance(number, int) and not least <= number <= most:
        raise ValidationError("This is more than 64 bits hold.", code="range")


# What operations come to


def outcome(
    column: Column, segments: Sequence[Segment], merges: Mapping[str, Numbered], value: Any
) -> Any:
    """The value after operations. An error where the field does not take it."""
    for segment in segments:
        if segment.sign == "&":
            value = _merged(column, segment, merges, value)
        else:
            value = _operated(column, segment, value)
    if isinstance(column.field, models.JSONField):
        _within_64_bits(value)  # all else was checked at the call, or is stored already
    else:
        column.encode(value)
    return value


def joined(sign: str, operand: str, other: str) -> str:
    """The operand of one operation in place of two of one sign and kind."""
    if sign == "&":
        return ""
    a, b = json.loads(operand), json.loads(other)
    return json.dumps(_ACT[sign](a, b))


def _merged(column: Column, segment: Segment, merges: Mapping[str, Numbered], value: Any) -> Any:
    before = value if isinstance(value, dict) else {}
    keys = keys_of(segment, merges).items()
    return {**before, **{json.loads(key): column.decode(f"[{text}]") for key, text in keys}}


def keys_of(segment: Segment, merges: Mapping[str, Numbered]) -> dict[str, str]:
    """The texts of the keys that a Merge sets, of those of all merges of a field."""
    return {
        key: value[DIGITS:]
        for key, value in merges.items()
        if segment.first <= number_of(value) <= segment.last
    }


def _operated(column: Column, segment: Segment, value: Any) -> Any:
    kind = column.kind
    if kind is None or not is_current(column, segment):
        raise ValueError(
            f"{segment.sign}{segment.kind} is no operation on a {type(column.field).__name__}"
        )
    if segment.sign == "=":
        return _by_normal_form(column, kind, segment.operand, value)
    operand = kind.parse(segment.operand)
    number = None if value is None else kind.number(value)
    return kind.value(operand if number is None else _ACT[segment.sign](number, operand))


def _greater(a: Any, b: Any) -> Any:
    return b if _is_less(a, b) else a


def _smaller(a: Any, b: Any) -> Any:
    return b if _is_less(b, a) else a


def _is_less(a: Any, b: Any) -> bool:
    """As the scripts have it, which know a fraction next to a whole number as a double alone."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    return float(a) < float(b)


_ACT: dict[str, Callable[[Any, Any], Any]] = {"+": operator.add, ">": _greater, "<": _smaller}


def is_current(column: Column, segment: Segment) -> bool:
    """Whether an operation is one on the field as it is declared now."""
    if segment.sign == "&":
        return isinstance(column.field, models.JSONField)
    if segment.sign == "=":
        return column.kind is not None and _normal_kind(column.kind) == segment.kind
    return column.kind is not None and column.kind.code == segment.kind


def _by_normal_form(column: Column, kind: Kind, operand: str, value: Any) -> Any:
    """What the scripts keep of several operations: add first, then keep within the bounds; the
    outcome for a value that counts as nothing stands by itself."""

    def parse(text: str) -> Any:
        return kind.number(column.decode(text)) if kind.code in "tDT" else kind.parse(text)

    add, low, high, null = operand.split(",")
    number = None if value is None else kind.number(value)
    if number is None:
        return kind.value(parse(null))
    if add:
        number += parse(add)
    if low:
        number = _greater(number, parse(low))
    if high:
        number = _smaller(number, parse(high))
    return kind.value(number)


def _normal_kind(kind: Kind) -> str:
    if kind.code in "tDT":
        return "~"
    return {"f": "%", "j": "$"}.get(kind.code, f"#{kind.code[1:]}")


def script_text(column: Column, text: str) -> str:
    """The text of an operation as scripts/write.lua takes it."""
    sign, kind = text[0], column.kind
    assert kind is not None
    operand = text.partition(":")[2]
    if kind.code == "f":
        return f"{sign}%{operand}"
    if kind.code in "tDT":
        return f"{sign}~{column.encode(kind.value(int(operand)))}"
    least, most = column.range
    places = kind.code[1:]
    return f"{sign}{'$' if kind.code == 'j' else '#'}{operand},{places},{least},{most}"


# For people


def are_operations(value: Any) -> bool:
    """Whether this is an operation, or several in a tuple, as `described` has them."""
    return isinstance(value, Operation) or (
        isinstance(value, tuple) and any(isinstance(each, Operation) for each in value)
    )


def described_operations(
    column: Column, segments: Sequence[Segment], merges: Mapping[str, Numbered]
) -> list[Operation]:
    """Operations that were kept, in the order in which they apply."""
    found: list[Operation] = []
    for segment in segments:
        if not is_current(column, segment):
            raise ValueError(f"{segment.kind} is no kind of a {type(column.field).__name__}")
        if segment.sign == "&":
            found.append(Merge(_merged(column, segment, merges, {})))
        elif segment.sign == "=":
            found += _described_normal_form(column, segment.operand)
        else:
            assert column.kind is not None
            number = column.kind.parse(segment.operand)
            found.append(_OPERATIONS[segment.sign](column.kind.value(number)))
    return found


def _described_normal_form(column: Column, operand: str) -> list[Operation]:
    kind = column.kind
    assert kind is not None
    add, *bounds, _ = operand.split(",")

    def value(text: str) -> Any:
        return column.decode(text) if kind.code in "tDT" else kind.value(kind.parse(text))

    found: list[Operation] = []
    if add and add != "0":
        found.append(Add(value(add)))
    for operation, bound in zip((Max, Min), bounds, strict=True):
        if bound:
            found.append(operation(value(bound)))
    return found or [Add(value("0"))]
