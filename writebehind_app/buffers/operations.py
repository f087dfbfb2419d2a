"""Writes that depend on the value they change: Add, Max, Min, Merge.

Redis carries an operation out on a value that is pending. On one that is stored it keeps the
operation, and whoever reads or flushes the row carries it out; see scripts/write.lua for how they
look there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from numbers import Number
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connections, models

from writebehind_app.buffers.columns import Column
from writebehind_app.buffers.refusals import shown
from writebehind_app.buffers.values import INT64, MICROSECOND, refuse_immense

_TIMES = (models.DateField, models.TimeField)  # compared as text


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


@dataclass(frozen=True, slots=True)
class Scale:
    """A field as whole numbers, exact and of any length."""

    number: Callable[[Any], int]
    value: Callable[[int], Any]
    least: int
    most: int
    places: str  # of a decimal; '' for what is a whole number already


def operation_texts(column: Column, operation: Operation, using: str) -> dict[str, str]:
    """What goes to Redis, by name."""
    if isinstance(operation, Merge):
        return _merge_texts(column, operation)
    if isinstance(column.field, models.JSONField):
        return {column.name: _on_json(operation)}
    if isinstance(operation, Add):
        scale = _scale(column.field, using)
        if scale is None:
            raise _refused(column, "Add", "a whole number, a decimal, a duration or JSON")
        amount = _amount(column, operation.amount, scale)
        return {column.name: f"+#{amount},{scale.places},{scale.least},{scale.most}"}
    assert isinstance(operation, Max | Min)
    sign, name = (">", "Max") if isinstance(operation, Max) else ("<", "Min")
    if operation.value is None:
        raise ValidationError(f"{name} needs a value.", code="null")
    if scale := _scale(column.field, using):
        number = scale.number(column.decode(column.encode(operation.value)))
        return {column.name: f"{sign}#{number},{scale.places},{scale.least},{scale.most}"}
    kind = "%" if isinstance(column.field, models.FloatField) else "~"
    if kind == "~" and not isinstance(column.field, _TIMES):
        raise _refused(column, name, "a number, a date, a time, a duration or JSON")
    return {column.name: f"{sign}{kind}{column.encode(operation.value)}"}


def operated(column: Column, text: str, value: Any, using: str) -> Any:
    """The value after an operation that Redis kept; an error where the field does not take it, as
    Redis refuses it on a value that is pending."""
    outcome = _outcome(column, text, value, using)
    column.encode(outcome)
    return outcome


def _outcome(column: Column, text: str, value: Any, using: str) -> Any:
    kind, parts = _parsed(column, text, using)
    if kind == "$":
        return _on_stored_json(parts, value)
    if kind == "#":
        scale = _scale(column.field, using)
        assert scale is not None
        add, low, high, null, _ = parts
        if value is None:
            return scale.value(int(null))
        number = scale.number(value) + int(add)
        if low:
            number = max(number, int(low))
        if high:
            number = min(number, int(high))
        return scale.value(number)
    low, high, null = parts
    if value is None:
        return column.decode(null)
    if low:
        value = max(value, column.decode(low))
    if high:
        value = min(value, column.decode(high))
    return value


def described_operation(column: Column, text: str, using: str) -> tuple[Operation, ...] | Operation:
    """An operation that Redis kept, for people: one, or several in the order they apply."""
    kind, parts = _parsed(column, text, using)
    operations: list[Operation] = []
    scale = _scale(column.field, using) if kind == "#" else None

    def convert(part: str) -> Any:
        if kind == "$":
            return json.loads(part)
        return scale.value(int(part)) if scale else column.decode(part)

    if kind in "#$":
        add, *parts = parts
        if add != "0":
            operations.append(Add(convert(add)))
    low, high, *_ = parts
    operations += [Max(convert(low))] if low else []
    operations += [Min(convert(high))] if high else []
    return operations[0] if len(operations) == 1 else tuple(operations)


def _parsed(column: Column, text: str, using: str) -> tuple[str, list[str]]:
    """The kind of an operation that Redis kept, and what comes after it."""
    kind = text[0]
    if isinstance(column.field, models.JSONField):
        right = "$"
    elif _scale(column.field, using):
        right = "#"
    else:
        right = "%" if isinstance(column.field, models.FloatField) else "~"
    if kind != right or (kind == "~" and not isinstance(column.field, _TIMES)):
        raise ValueError(f"{text[:100]!r} is no operation on a {type(column.field).__name__}")
    return kind, text[1:].split(",")


def is_current(column: Column, text: str, using: str) -> bool:
    """Whether an operation that Redis kept is one on the field as it is declared now."""
    kind, parts = _parsed(column, text, using)
    scale = _scale(column.field, using) if kind == "#" else None
    return scale is None or parts[-1] == scale.places


def is_operation(text: str) -> bool:
    """Whether a text that is on its way to Redis is an operation, not a value."""
    return text[:1] in ("+", ">", "<")


def kept(text: str) -> str:
    """An operation as Redis would keep it for a stored value; see scripts/write.lua."""
    sign, kind = text[0], text[1]
    amount, *rest = text[2:].split(",")
    add, low, high = (amount if sign == each else "" for each in "+><")
    if kind in "#$":
        return f"{kind}{add or 0},{low},{high},{amount},{rest[0]}"
    return f"{kind}{low},{high},{amount}"


def is_kept_operation(text: str) -> bool:
    """Whether a text of an entry is an operation, not a value."""
    return text[:1] in ("#", "$", "~", "%")


# Numbers within JSON: whole ones, which stay exact, or floats. A whole outcome has 64 bits at most,
# as Redis has it in scripts/write.lua.


def _on_json(operation: Operation) -> str:
    if isinstance(operation, Add):
        number, sign = operation.amount, "+"
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValidationError(
                f"Add needs a whole number where it adds to JSON, not {shown(number)}.",
                code="invalid",
            )
    else:
        assert isinstance(operation, Max | Min)
        number, sign = operation.value, ">" if isinstance(operation, Max) else "<"
        if not _is_number(number) or (isinstance(number, float) and not math.isfinite(number)):
            name = type(operation).__name__
            raise ValidationError(
                f"{name} needs a number where it is for JSON, not {shown(number)}.", code="invalid"
            )
    least, most = INT64
    _within_64_bits(number)
    return f"{sign}${json.dumps(number)},,{least},{most}"


def _on_stored_json(parts: Sequence[str], value: Any) -> Any:
    add, low, high, null, _ = parts
    if not _is_number(value):
        value = json.loads(null)
    else:
        if add != "0":
            value += int(add)
        if low and _is_less(value, bound := json.loads(low)):
            value = bound
        if high and _is_less(bound := json.loads(high), value):
            value = bound
    if not _is_number(value):
        raise ValueError(f"{shown(value)} is no number, and so no outcome of an operation")
    _within_64_bits(value)
    return value


def _is_less(a: Any, b: Any) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    return float(a) < float(b)


def _within_64_bits(number: Any) -> None:
    least, most = INT64
    if isinstance(number, int) and not least <= number <= most:
        raise ValidationError("This is more than 64 bits hold.", code="range")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Merge: a key of the object is a field of the entry of its own, '&name:"key"'.


def _merge_texts(column: Column, operation: Merge) -> dict[str, str]:
    if not isinstance(column.field, models.JSONField):
        raise _refused(column, "Merge", "JSON")
    values = operation.values
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ValidationError(
            f"Merge takes a dict with text keys, not {shown(values)}.", code="invalid"
        )
    texts = {f"&{column.name}:": ""}  # that there is an object, if it has no key
    for key, value in values.items():
        quoted, text = (column.encode([part])[2:-2] for part in (key, value))
        texts[f"&{column.name}:{quoted}"] = text
    return texts


def merged(column: Column, texts: Mapping[str, str], value: Any) -> Any:
    """The object after the merges among the texts of an entry."""
    result = dict(value) if isinstance(value, dict) else {}
    prefix = f"&{column.name}:"
    for name, text in texts.items():
        if name.startswith(prefix) and text:
            result[json.loads(name[len(prefix) :])] = column.decode(f"[{text}]")
    return result


def merged_field(name: str) -> str | None:
    """The field that a name of an entry merges into, None for a field itself."""
    if not name.startswith("&"):
        return None
    field, colon, _ = name[1:].partition(":")
    return field if colon else None


# Numbers


def _scale(field: models.Field[Any, Any], using: str) -> Scale | None:
    if isinstance(field, models.IntegerField | models.AutoField):
        least, most = INT64
        with suppress(KeyError):
            low, high = connections[using].ops.integer_field_range(field.get_internal_type())
            least, most = max(least, low), min(most, high)
        return Scale(int, int, least, most, "")
    if isinstance(field, models.DecimalField) and field.decimal_places is not None:
        places = field.decimal_places
        bound = 10**field.max_digits - 1
        return Scale(
            lambda value: int(Decimal(value).scaleb(places)),
            lambda number: exact_decimal(number, places),
            -bound,
            bound,
            str(places),
        )
    if isinstance(field, models.DurationField):
        return Scale(lambda v: v // MICROSECOND, lambda n: n * MICROSECOND, *INT64, "")
    return None


def exact_decimal(number: int, places: int) -> Decimal:
    """Without a context, which would round."""
    digits = Decimal(number).as_tuple()
    return Decimal((digits.sign, digits.digits, -places))


def _amount(column: Column, amount: Any, scale: Scale) -> int:
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
    number = scale.number(value)
    # The field rounds some of what it takes.
    if scale.value(number) != (amount if isinstance(amount, Number) else value):
        raise ValidationError(
            f"Ensure that there are no more than {scale.places or 0} decimal places "
            f"(it is {shown(amount, str)}).",
            code="max_decimal_places",
        )
    if abs(number) > scale.most - scale.least:
        message = f"{shown(amount, str)} is more than the field can hold."
        raise ValidationError(message, code="range")
    return number


def _refused(column: Column, name: str, what: str) -> ValidationError:
    return ValidationError(
        f"{name} needs a field that is {what}, not a {type(column.field).__name__}.",
        code="operation",
    )
