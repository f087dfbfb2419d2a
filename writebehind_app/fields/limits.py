"""What is refused whatever kind of field it is for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from json.encoder import encode_basestring as json_string
from typing import Any, NoReturn

from django.core.exceptions import ValidationError
from django.db import connections, models

from writebehind_app import conf

NUL_ERROR = "PostgreSQL keeps no NUL characters."

# What a field raises for a value: fields do not refuse every one as they should.
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


def refusal(field: models.Field[Any, Any], value: Any, error: Exception) -> ValidationError:
    """One of REFUSALS, as a field should have raised it."""
    if isinstance(error, ValidationError) and shown(error, str) != _unshown(error):
        return error
    kind = type(field).__name__
    return ValidationError(f"{shown(value)} is not a value of a {kind}: {shown(error, str)}.")


def shown(value: Any, how: Callable[[Any], str] = repr) -> str:
    """A value in a message: the beginning of what it says of itself, where it does."""
    try:
        text = str.__str__(how(value))
    except Exception:  # noqa: BLE001 - it is anything that a caller gave
        return _unshown(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _unshown(value: Any) -> str:
    """In place of one that cannot say what it is."""
    return f"<{type(value).__name__}>"


def refuse_null() -> NoReturn:
    raise ValidationError("This field cannot be null.", code="null")


def refuse_expression(value: Any) -> None:
    if hasattr(type(value), "resolve_expression"):
        raise ValidationError(
            f"{shown(value)} is an expression for the database; a buffered write takes values.",
            code="expression",
        )


def text_encoder(field: models.Field[Any, Any], using: str) -> Callable[[str], str]:
    """Makes JSON of text, and refuses what the database would."""
    # The length of a TextField is for forms.
    limit = None if isinstance(field, models.TextField) else field.max_length
    refuse_nul = connections[using].vendor == "postgresql"

    def encode(value: str) -> str:
        if limit is not None and len(value) > limit:
            raise ValidationError(
                f"Ensure this value has at most {limit} characters (it has {len(value)}).",
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
    """Refuses a write of too many texts, or too long ones; `named` says of a name in Redis what
    the caller calls that."""
    settings = conf.settings()
    # Mostly a glance is enough: no character has more than four bytes.
    most = min(settings.MAX_VALUE_BYTES, settings.MAX_ENTRY_BYTES)
    if len(texts) <= settings.MAX_KEYS and sum(map(len, texts.values())) * 4 <= most:
        return
    if len(texts) > settings.MAX_KEYS:
        keys = sum(name[:1] != "@" for name in texts)  # without the times of meta keys
        if keys > settings.MAX_KEYS:
            raise ValidationError(
                f"Ensure that one write has at most {settings.MAX_KEYS} keys (it has {keys}): see "
                f"MAX_KEYS in the setting {conf.NAME}.",
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
        raise TypeError(f"once= takes a text that names the call, not {shown(once)}.")
    try:
        once.encode()
    except UnicodeEncodeError as error:
        raise TypeError(f"once= takes a text of valid Unicode: {error}.") from None


def refuse_deep(text: str) -> None:
    """Refuses JSON, within a list, of more levels than are allowed."""
    most = conf.settings().MAX_DEPTH
    if text.count("[") + text.count("{") <= most + 1:
        return
    level = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        level += 1 if bracket in "[{" else -1
        if level > most + 1:
            raise ValidationError(
                f"Ensure that at most {most} lists and objects are in each other: see MAX_DEPTH in "
                f"the setting {conf.NAME}.",
                code="max_depth",
            )


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(r"[][{}]")


def as_dict(values: Any) -> dict[Any, Any]:
    """As dict() does, which raises a ValueError for some of what it does not take."""
    try:
        # Pair by pair: an F() within is a sequence without an end to Python.
        return dict(values if hasattr(values, "keys") else map(as_pair, values))
    except (ValueError, LookupError, ArithmeticError, RecursionError):
        raise TypeError(f"{shown(values)} is no mapping.") from None


def as_pair(pair: Any) -> tuple[Any, Any]:
    try:
        first, second = pair
    except (ValueError, LookupError, ArithmeticError, RecursionError):
        raise TypeError(f"{shown(pair)} is no pair.") from None
    return first, second


def out_of_range(names: Iterable[str], outcome: str) -> ValidationError:
    """The error for fields whose range an operation leaves."""
    message = f"The sum leaves the range of the field; {outcome}."
    return ValidationError({n: [ValidationError(message, code="range")] for n in names})
