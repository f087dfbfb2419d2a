"""Times of writes, and the fields that take them: `auto_now` and the like."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def moment(micros: int) -> datetime.datetime:
    """The time of a number of µs since 1970."""
    return _EPOCH + datetime.timedelta(microseconds=micros)


def micros_of(at: datetime.datetime) -> int:
    """A time in µs since 1970, as entries have it."""
    aware = timezone.make_aware(at) if timezone.is_naive(at) else at
    return (aware - _EPOCH) // datetime.timedelta(microseconds=1)


def stamp(
    row: models.Model,
    fields: Iterable[models.Field[Any, Any]],
    micros: int,
    *,
    is_new: bool = True,
) -> None:
    for field in fields:
        stored = None if is_new else row.__dict__.get(field.attname)
        setattr(row, field.attname, later(stored, field, micros))


def later(stored: Any, field: models.Field[Any, Any], micros: int) -> Any:
    """The time of an entry as a value of the field; or the stored value if that is later, because
    the row was saved past Redis since. Of two times of day, nobody knows which is later."""
    at = moment(micros)
    value: datetime.datetime | datetime.date | datetime.time
    if isinstance(field, models.DateTimeField):
        value = at if settings.USE_TZ else timezone.make_naive(at)
    else:
        local = at.astimezone()  # save() takes the machine's time here, not the project's
        value = local.date() if isinstance(field, models.DateField) else local.time()
    return value if stored is None or isinstance(value, datetime.time) else max(stored, value)
