"""Limits for values of every kind of field, and the texts of refusals."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from json.encoder import encode_basestring as json_string
from typing import Any, NoReturn

from django.core.exceptions import ValidationError
from django.db import connections, models

from writebehind_app import conf
from writebehind_app.english import counted

NUL_ERROR = "PostgreSQL keeps no NUL characters."

# The errors that a field may raise for a bad value. It should always be a ValidationError.
REFUSALS = (
    ValidationError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    BufferError,  # of a memoryview
    LookupError,
    RecursionError,
)
_SHOWN = 200  # characters of a value in a message
MOST_KEYS = 10_000  # meta keys, or keys of a Merge, in one write
MOST_LEVELS = 100  # of lists and objects in JSON


def refusal(field: models.Field[Any, Any], value: Any, error: Exception) -> ValidationError:
    """The ValidationError that a field should have raised instead of this one of REFUSALS."""
    if isinstance(error, ValidationError) and excerpt(error, str) != _name_of_type(error):
        return error
    kind = type(field).__name__
    return ValidationError(f"{excerpt(value)} is not a value of a {kind}: {excerpt(error, str)}.")


def excerpt(value: Any, how: Callable[[Any], str] = repr) -> str:
    """The beginning of a value's own text, for a message."""
    try:
        text = str.__str__(how(value))
    except Exception:  # noqa: BLE001 - it is anything that a caller gave
        return _name_of_type(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _name_of_type(value: Any) -> str:
    """Stands for a value in a message if its own text cannot be had."""
    return f"<{type(value).__name__}>"


def refuse_null() -> NoReturn:
    raise ValidationError("This field cannot be null.", code="null")


def refuse_expression(value: Any) -> None:
    if hasattr(type(value), "resolve_expression"):
        raise ValidationError(
            f"{excerpt(value)} is an expression for the database; a buffered write takes values, "
            "or an operation such as Add(1).",
            code="expression",
        )


def text_encoder(field: models.Field[Any, Any], using: str) -> Callable[[str], str]:
    """A function that encodes text as JSON, and refuses text that the database would refuse."""
    # The length of a TextField is for forms.
    limit = None if isinstance(field, models.TextField) else field.max_length
    refuse_nul = connections[using].vendor == "postgresql"

    def encode(value: str) -> str:
        if limit is not None and len(value) > limit:
            raise ValidationError(
                f"Ensure this value has at most {counted(limit, 'character')} "
                f"(it has {len(value)}).",
                code="max_length",
            )
        if refuse_nul and "\0" in value:
            raise ValidationError(NUL_ERROR, code="nul")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ValidationError(f"This text is not valid Unicode: {error}.") from None
        return json_string(value)

    return encode


def refuse_oversized(texts: Mapping[str, str], named: Callable[[str], str]) -> None:
    """Refuse a write of too many texts, or of too long ones. `named` gives the caller's word for a
    name in Redis."""
    settings = conf.settings()
    # Mostly the number of characters says enough: a character has at most four bytes.
    most = min(settings.MAX_VALUE_BYTES, settings.MAX_ENTRY_BYTES)
    if len(texts) <= MOST_KEYS and sum(map(len, texts.values())) * 4 <= most:
        return
    if len(texts) > MOST_KEYS:
        keys = sum(name[:1] != "@" for name in texts)  # without the times of meta keys
        if keys > MOST_KEYS:
            raise ValidationError(
                f"Ensure that one write has at most {MOST_KEYS} keys (it has {keys}).",
                code="max_keys",
            )
    total = 0
    for name, text in texts.items():
        size = len(text) if text.isascii() else len(text.encode())
        total += size
        if size > settings.MAX_VALUE_BYTES:
            raise ValidationError(
                {
                    named(name): ValidationError(
                        f"Ensure that this value has at most {settings.MAX_VALUE_BYTES} bytes as "
                        f"JSON (it has {size}): see MAX_VALUE_BYTES in the setting {conf.NAME}.",
                        code="max_value_bytes",
                    )
                }
            )
    if total > settings.MAX_ENTRY_BYTES:
        raise ValidationError(
            f"Ensure that one write has at most {settings.MAX_ENTRY_BYTES} bytes as JSON (it has "
            f"{total}): see MAX_ENTRY_BYTES in the setting {conf.NAME}.",
            code="max_entry_bytes",
        )


def refuse_nameless(once: Any) -> None:
    if not isinstance(once, str) or not once:
        raise TypeError(f"once= takes a text that names the call, not {excerpt(once)}.")
    try:
        once.encode()
    except UnicodeEncodeError as error:
        raise TypeError(f"once= takes a text of valid Unicode: {error}.") from None


def refuse_deep(text: str) -> None:
    """Refuse JSON that is nested deeper than `MOST_LEVELS`. The text has a list around it."""
    if text.count("[") + text.count("{") <= MOST_LEVELS + 1:
        return
    level = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        level += 1 if bracket in "[{" else -1
        if level > MOST_LEVELS + 1:
            raise ValidationError(
                f"Ensure that at most {MOST_LEVELS} lists and objects are in each other.",
                code="max_depth",
            )


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(r"[][{}]")


def as_dict(values: Any) -> dict[Any, Any]:
    """The dict of a mapping or of pairs. Raises a TypeError for anything else; dict() raises other
    errors too."""
    try:
        if isinstance(values, Mapping):
            return dict(values.items())
        # One pair after the other: Python takes an F() for a sequence without an end.
        return dict(values if hasattr(values, "keys") else map(as_pair, values))
    except (ValueError, LookupError, ArithmeticError, RecursionError):
        raise TypeError(f"{excerpt(values)} is no mapping.") from None


def as_pair(pair: Any) -> tuple[Any, Any]:
    try:
        first, second = pair
    except (ValueError, LookupError, ArithmeticError, RecursionError):
        raise TypeError(f"{excerpt(pair)} is no pair.") from None
    return first, second


def out_of_range(names: Iterable[str], outcome: str) -> ValidationError:
    """The error for fields whose range an operation leaves."""
    message = f"The sum leaves the range of the field; {outcome}."
    return ValidationError({n: [ValidationError(message, code="range")] for n in names})
