"""What the endpoints take: JSON, within limits, with operations in place of values; and parameters
of a URL."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest, UnreadablePostError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from writebehind_app import conf
from writebehind_app.fields.codecs import INT64
from writebehind_app.fields.operations import Add, Max, Merge, Min

MAX_DEPTH = 20  # of lists and objects in each other; MariaDB keeps a few more, Python hundreds

_OPERATIONS: dict[str, type[Add | Max | Min | Merge]] = {
    "$add": Add,
    "$max": Max,
    "$min": Min,
    "$merge": Merge,
}


class Refused(Exception):
    """The answer to a request that is refused."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


def read(request: HttpRequest) -> Any:
    """Return the JSON in the body of a request. No more than the limit is read."""
    charset = (request.content_params or {}).get("charset", "utf-8")
    if request.content_type != "application/json" or charset.lower() not in ("utf-8", "utf8"):
        raise Refused(415, "Send application/json, in UTF-8.")
    try:
        value = json.loads(
            _body(request).decode(),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise Refused(400, _TOO_DEEP) from None
    except ValueError as error:
        raise Refused(400, f"This is not JSON: {error}.") from None
    _inspect(value, MAX_DEPTH)
    return value


def _body(request: HttpRequest) -> bytes:
    most = conf.settings().META_MAX_BODY
    length = request.META.get("CONTENT_LENGTH") or "0"
    too_long = length.isdecimal() and int(length[:20]) > most
    try:
        raw = b"" if too_long else request.read(most + 1)
    except UnreadablePostError:
        raise Refused(400, "The body ended early.") from None
    if too_long or len(raw) > most:
        raise Refused(413, f"The body is longer than {most} bytes.")
    return raw


def values(body: Any, *, least: int = 1) -> dict[str, Any]:
    """Return an object of a body, with at least so many keys. Operation objects, as `{"$add": 1}`,
    become operations."""
    if not isinstance(body, dict):
        raise Refused(400, "Send an object.")
    if len(body) < least:
        raise Refused(400, "The object is empty: there is nothing to write.")
    _limit_keys(body)
    return {key: _value(key, value) for key, value in body.items()}


def fields(body: Any, known: Mapping[str, Any], *, least: int = 1) -> dict[str, Any]:
    """Do the same as `values()`, and check each value by the field of its key."""
    found, errors = values(body, least=least), {}
    for name, value in found.items():
        try:
            if name not in known:
                raise ValidationError(f"There is no such field; there are: {', '.join(known)}.")
            found[name] = _clean(known[name], value)
        except ValidationError as error:
            errors[name] = error.messages
    if errors:
        raise ValidationError(errors)
    return found


def _clean(field: Any, value: Any) -> Any:
    """Check the type first: a field would take a number for a text, and true for a number."""
    kind: type
    kind, noun = str, "a text"
    if isinstance(field, models.IntegerField):
        kind, noun = int, "a whole number"
    elif isinstance(field, models.JSONField):  # here, each is an empty object by default
        kind, noun = dict, "an object"
    if isinstance(value, Merge) and kind is dict:
        return value
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise ValidationError(f"This has to be {noun}.", code="invalid")
    return field.clean(value, None)


def _value(key: str, value: Any) -> Any:
    marks = [name for name in value if name[:1] == "$"] if isinstance(value, dict) else []
    if not marks:
        return value
    if len(value) > 1 or marks[0] not in _OPERATIONS:
        raise ValidationError(
            {key: f"An operation is an object with one key: {', '.join(_OPERATIONS)}."}
        )
    operation, operand = _OPERATIONS[marks[0]], value[marks[0]]
    if operation is Merge:
        if not isinstance(operand, dict):
            raise ValidationError({key: "$merge takes an object."})
        _limit_keys(operand)
    elif not isinstance(operand, int | float) or isinstance(operand, bool):
        raise ValidationError({key: f"{marks[0]} takes a number."})
    return operation(operand)


def _limit_keys(given: dict[str, Any]) -> None:
    limits = conf.settings()
    if len(given) > limits.META_MAX_KEYS:
        raise Refused(400, f"There are {len(given)} keys, and {limits.META_MAX_KEYS} at most.")
    for key in given:
        if not key or key[0] == "$" or len(key) > limits.META_MAX_KEY_LENGTH:
            raise Refused(
                400,
                f"The key {key[:100]!r} is refused: a key has 1 to {limits.META_MAX_KEY_LENGTH} "
                "characters, of which the first is no '$'.",
            )


# Parameters of a URL

MAX_PAGE = 500  # rows of a list


def query(request: HttpRequest, known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Return the parameters of a URL, each read by its function."""
    found, errors = {}, {}
    for name, texts in request.GET.lists():
        try:
            if name not in known:
                raise ValidationError(f"There is no such parameter; there are: {', '.join(known)}.")
            if len(texts) > 1:
                raise ValidationError("This is there twice.")
            found[name] = known[name](texts[0])
        except ValidationError as error:
            errors[name[:100]] = error.messages
    if errors:
        raise ValidationError(errors)
    return found


def number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= INT64[1]):
        raise ValidationError("This has to be a whole number from 0 on, of at most 63 bits.")
    return int(text)


def limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 0 < int(text) <= MAX_PAGE):
        raise ValidationError(f"This has to be a whole number from 1 to {MAX_PAGE}.")
    return int(text)


def time(text: str) -> datetime:
    """Return a time as the fields of models have it. Without an offset, it is of the time zone of
    the project."""
    try:
        at = parse_datetime(text)
        if at is not None and timezone.is_naive(at):
            at = timezone.make_aware(at, timezone.get_default_timezone())
        at = at and at.astimezone(UTC)
    except (ValueError, OverflowError):  # as of a 30 February, or before the year 1
        at = None
    if at is None:
        raise ValidationError("This has to be a time, as 2026-01-31T12:00:00Z.")
    return at if settings.USE_TZ else timezone.make_naive(at, timezone.get_default_timezone())


# JSON of RFC 8259, without what databases refuse or readers disagree about

_TOO_DEEP = f"More than {MAX_DEPTH} lists and objects are in each other."


def _inspect(value: Any, depth: int) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise Refused(400, "There is a NUL character, which not every database keeps.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Refused(400, f"There is a text that is not valid Unicode: {error}.") from None
    elif isinstance(value, dict | list):
        if depth == 0:
            raise Refused(400, _TOO_DEEP)
        for part in value:
            _inspect(part, depth - 1)
        for part in value.values() if isinstance(value, dict) else ():
            _inspect(part, depth - 1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:100]!r} is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _whole(text: str) -> int:
    least, most = INT64
    if len(text) > 20 or not least <= int(text) <= most:
        raise ValueError(f"{text[:100]} is more than 64 bits hold")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:100]} is too large a number")
    return number
