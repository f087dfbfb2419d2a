"""The JSON that the endpoints take: read within limits, with operations in the place of values."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest, UnreadablePostError

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
    """A request that gets another answer than the one it asked for."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


def read(request: HttpRequest) -> Any:
    """The JSON in the body of a request, which is read no further than the limit."""
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
    limit = conf.settings().META_MAX_BODY
    length = request.META.get("CONTENT_LENGTH") or "0"
    too_long = length.isdecimal() and int(length[:20]) > limit
    try:
        raw = b"" if too_long else request.read(limit + 1)
    except UnreadablePostError:
        raise Refused(400, "The body ended early.") from None
    if too_long or len(raw) > limit:
        raise Refused(413, f"The body is longer than {limit} bytes.")
    return raw


def values(body: Any, *, least: int = 1) -> dict[str, Any]:
    """An object of a body, with operations where it has operation objects, as `{"$add": 1}`, and
    at least so many keys."""
    if not isinstance(body, dict):
        raise Refused(400, "Send an object.")
    if len(body) < least:
        raise Refused(400, "The object is empty: there is nothing to write.")
    _limit_keys(body)
    return {key: _value(key, value) for key, value in body.items()}


def fields(body: Any, known: Mapping[str, Any], *, least: int = 1) -> dict[str, Any]:
    """As `values()`, where each key has a field by which its value is checked."""
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
    """A field by itself would take a number for a text, and true for a number."""
    kind: type
    kind, noun = str, "a text"
    if isinstance(field, models.IntegerField):
        kind, noun = int, "a whole number"
    elif isinstance(field, models.JSONField):  # all of them here are empty objects at first
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


# JSON as RFC 8259 has it, without what databases refuse or readers disagree on

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
