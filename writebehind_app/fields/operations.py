"""Operations: Add, Max, Min, Merge. They change the value that is there.

Redis keeps operations and does not carry them out. A read or a flush does, by `outcome`. Operands
are numbers: a decimal in units of its last place, a time or a duration in microseconds, a date in
days. So they are exact, and the scripts need to know nothing about fields.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models

from writebehind_app.english import counted
from writebehind_app.fields.codecs import INT64, integer_range, refuse_immense
from writebehind_app.fields.entry import DIGITS, Numbered, Segment, merge_key, merge_name, number_of
from writebehind_app.fields.kinds import FLOAT, Kind, is_number
from writebehind_app.fields.limits import excerpt

if TYPE_CHECKING:
    from writebehind_app.fields.columns import Column


class Operation:
    """An operation, which a write can give in place of a value."""


@dataclass(frozen=True, slots=True)
class Add(Operation):
    """Adds to a whole number, a decimal, a duration or a number in JSON. NULL counts as 0, and so
    does JSON that is not a number."""

    amount: Any


@dataclass(frozen=True, slots=True)
class Max(Operation):
    """Replaces a smaller value, NULL, or JSON that is not a number."""

    value: Any


@dataclass(frozen=True, slots=True)
class Min(Operation):
    """Replaces a greater value, NULL, or JSON that is not a number."""

    value: Any


@dataclass(frozen=True, slots=True)
class Merge(Operation):
    """Sets keys of a JSON object and leaves its other keys. A value that is not an object is
    replaced by one."""

    values: Mapping[str, Any]


class _Deleted:
    def __repr__(self) -> str:
        return "DELETED"


DELETED = _Deleted()
"""Stands for the value of a deleted meta key, in `pending()`, in `upgrade()` and in
`assertBuffered()`."""

_SIGNS = {Add: "+", Max: ">", Min: "<"}
_OPERATIONS: dict[str, Callable[[Any], Operation]] = {"+": Add, ">": Max, "<": Min}


def operation_texts(column: Column, operation: Operation) -> dict[str, str]:
    """The texts of an operation, by name.

    A text is the sign, the kind, ":" and the operand. A Merge has one more text for each key that
    it sets.
    """
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
        operand = repr(number) if kind is FLOAT else str(number)
    assert kind is not None
    return {column.name: f"{_SIGNS[type(operation)]}{kind.code}:{operand}"}


def _json_operand(operation: Operation) -> str:
    if isinstance(operation, Add):
        number = operation.amount
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValidationError(
                f"Add needs a whole number where it adds to JSON, not {excerpt(number)}.",
                code="invalid",
            )
    else:
        assert isinstance(operation, Max | Min)
        number = operation.value
        if not is_number(number) or (isinstance(number, float) and not math.isfinite(number)):
            name = type(operation).__name__
            raise ValidationError(
                f"{name} needs a number where it is for JSON, not {excerpt(number)}.",
                code="invalid",
            )
    _within_64_bits(number)
    return json.dumps(number)


def _merge_texts(column: Column, operation: Merge) -> dict[str, str]:
    if not isinstance(column.field, models.JSONField):
        raise _refused(column, "Merge", "JSON")
    values = operation.values
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ValidationError(
            f"Merge takes a dict with text keys, not {excerpt(values)}.", code="invalid"
        )
    texts = {column.name: "&"}  # even without keys, a Merge makes the value an object
    for key, value in values.items():
        column.encode([key])  # checks the key
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
            needed = f"a timedelta, not {excerpt(amount)}"
        else:
            needed = f"an exact number, not {excerpt(amount)}: a whole number, or a Decimal"
        raise ValidationError(f"Add needs {needed}.", code="invalid")
    refuse_immense(value)
    number = int(kind.number(value))
    # The field may have rounded the value.
    if kind.value(number) != (amount if isinstance(amount, Number) else value):
        places = int(kind.code[1:] or 0)
        raise ValidationError(
            f"Ensure that there are no more than {counted(places, 'decimal place')} "
            f"(it is {excerpt(amount, str)}).",
            code="max_decimal_places",
        )
    least, most = column.range
    if abs(number) > most - least:
        message = f"{excerpt(amount, str)} is more than the field can hold."
        raise ValidationError(message, code="range")
    return number


def range_of(field: models.Field[Any, Any], using: str) -> tuple[int, int]:
    """The least and the greatest number that a field can hold."""
    if isinstance(field, models.IntegerField | models.AutoField):
        return integer_range(field, using)
    if isinstance(field, models.DecimalField) and field.max_digits is not None:
        most = 10**field.max_digits - 1
        return -most, most
    return INT64


def _refused(column: Column, name: str, what: str) -> ValidationError:
    return ValidationError(
        f"{name} needs a field that is {what}, not a {type(column.field).__name__}.",
        code="operation",
    )


def _within_64_bits(number: Any) -> None:
    least, most = INT64
    if isinstance(number, int) and not least <= number <= most:
        raise ValidationError("This is more than 64 bits hold.", code="range")


# Carrying operations out


def outcome(
    column: Column, segments: Sequence[Segment], merges: Mapping[str, Numbered], value: Any
) -> Any:
    """The value after the operations. A ValidationError if the field does not take it."""
    for segment in segments:
        if segment.sign == "&":
            value = _merged(column, segment, merges, value)
        else:
            value = _operated(column, segment, value)
    if isinstance(column.field, models.JSONField):
        _within_64_bits(value)  # everything else was checked at the call, or is stored already
    else:
        column.encode(value)
    return value


def joined(sign: str, operand: str, other: str) -> str:
    """The operand of the one operation that replaces two with the same sign and kind."""
    if sign == "&":
        return ""
    a, b = json.loads(operand), json.loads(other)
    return json.dumps(_ACT[sign](a, b))


def _merged(column: Column, segment: Segment, merges: Mapping[str, Numbered], value: Any) -> Any:
    before = value if isinstance(value, dict) else {}
    keys = keys_of(segment, merges).items()
    return {**before, **{json.loads(key): column.decode(f"[{text}]") for key, text in keys}}


def keys_of(segment: Segment, merges: Mapping[str, Numbered]) -> dict[str, str]:
    """The keys that one Merge sets, with their texts, out of all merges of the field."""
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
    operand = kind.parse(segment.operand)
    number = None if value is None else kind.number(value)
    return kind.value(operand if number is None else _ACT[segment.sign](number, operand))


def _greater(a: Any, b: Any) -> Any:
    return b if _is_less(a, b) else a


def _smaller(a: Any, b: Any) -> Any:
    return b if _is_less(b, a) else a


def _is_less(a: Any, b: Any) -> bool:
    """Compare as the scripts do: two integers exactly, anything else as doubles."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    return float(a) < float(b)


_ACT: dict[str, Callable[[Any, Any], Any]] = {"+": operator.add, ">": _greater, "<": _smaller}


def is_current(column: Column, segment: Segment) -> bool:
    """Whether the operation suits the field as it is declared now."""
    if segment.sign == "&":
        return isinstance(column.field, models.JSONField)
    return column.kind is not None and column.kind.code == segment.kind


# For people


def are_operations(value: Any) -> bool:
    """Whether this is an operation, or a tuple with some, as `described` returns them."""
    return isinstance(value, Operation) or (
        isinstance(value, tuple) and any(isinstance(each, Operation) for each in value)
    )


def described_operations(
    column: Column, segments: Sequence[Segment], merges: Mapping[str, Numbered]
) -> list[Operation]:
    """The pending operations on a field, in order."""
    found: list[Operation] = []
    for segment in segments:
        if not is_current(column, segment):
            raise ValueError(f"{segment.kind} is no kind of a {type(column.field).__name__}")
        if segment.sign == "&":
            found.append(Merge(_merged(column, segment, merges, {})))
        else:
            assert column.kind is not None
            number = column.kind.parse(segment.operand)
            found.append(_OPERATIONS[segment.sign](column.kind.value(number)))
    return found
