"""Values as texts that people read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.utils import formats, timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

LONGEST = 300  # characters of a value in a list
_WHOLE = 100_000  # characters of a value that is shown as a whole


def display(value: Any, longest: int = LONGEST) -> str:
    """A value as a text, cut if it is too long."""
    text = _text(value)
    return text if len(text) <= longest else f"{text[:longest]}…"


def is_long(value: Any) -> bool:
    return len(_text(value)) > LONGEST


def whole(value: Any) -> str:
    """A long value as a text, cut only where a browser would become slow."""
    return display(value, _WHOLE)


def _text(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return _("yes") if value else _("no")
        case str() | int() | float():
            return str(value)
        case datetime():
            return moment(value)
        case date():
            return formats.date_format(value)
        case time():
            return formats.time_format(value)
        case bytes() | memoryview():
            return ngettext("%d byte", "%d bytes", len(value)) % len(value)
        case dict() | list():
            return json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False, default=repr)
    return str(value)


def moment(at: datetime) -> str:
    """A time with its seconds, to find it in a log."""
    local = timezone.localtime(at) if timezone.is_aware(at) else at
    return (
        f"{formats.date_format(local, 'SHORT_DATE_FORMAT')} {formats.time_format(local, 'H:i:s')}"
    )


def inline(values: Mapping[str, Any]) -> str:
    """Names and their values on one line."""
    return ", ".join(f"{name}={display(value, 80)}" for name, value in values.items())


def duration(seconds: float) -> str:
    """A duration as a number and a unit."""
    if seconds < 1:
        return _("%d ms") % (seconds * 1000)
    if seconds < 120:
        return _("%d s") % seconds
    if seconds < 7200:
        return _("%d min") % (seconds / 60)
    if seconds < 172_800:
        return _("%d h") % (seconds / 3600)
    return _("%d days") % (seconds / 86400)
