"""Show times in the time zone of a database, as Django does with those that it reads."""

from __future__ import annotations

import datetime
from contextlib import suppress
from typing import Any, NamedTuple

from django.db import connections, models

from writebehind_app.fields.custom import own_methods


class Zoned(NamedTuple):
    """The fields of a model whose times are shown in a time zone other than UTC."""

    names: tuple[str, ...]  # attnames
    zone: datetime.tzinfo | None

    @classmethod
    def of(cls, model: type[models.Model], using: str) -> Zoned:
        """None of the fields, unless the settings of the database have a `TIME_ZONE`."""
        zone = connections[using].timezone
        if zone in (None, datetime.UTC):
            return cls((), None)
        fields = model._meta.concrete_fields
        times = [f for f in fields if isinstance(f, models.DateTimeField) and not own_methods(f)]
        return cls(tuple(f.attname for f in times), zone)

    def show(self, row: models.Model) -> None:
        """Change the times of a row in place. They stay the same moments."""
        values: dict[str, Any] = row.__dict__
        for name in self.names:
            value = values.get(name)
            if isinstance(value, datetime.datetime) and value.tzinfo is datetime.UTC:
                with suppress(OverflowError):  # in the years 1 and 9999
                    values[name] = value.astimezone(self.zone)
