"""Events that people register for, some of them twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Any, NamedTuple

from django.db import IntegrityError, models, transaction
from django.utils import timezone

from demo_site.systems.base import System, Write, free_ids
from demo_site.systems.people import NAMES
from writebehind_app.exceptions import AlreadyExists
from writebehind_app.meta import services
from writebehind_app.meta.models import EventRegistration


class Event(NamedTuple):
    id: int
    title: str
    where: str


EVENTS = {
    event.id: event
    for event in (
        Event(1, "Databases at midnight", "Main hall"),
        Event(2, "Queues, buffers and other lines", "Room 2"),
        Event(3, "Breakfast with the maintainers", "Courtyard"),
    )
}


class Events(System):
    title = "Events"
    view = "events"
    model = EventRegistration
    compared = ("name", "details")
    dated = ("registered_at",)
    ordered = True
    rate = 1.5

    def tidy(self) -> None:
        """The longest window of a page is an hour."""
        old = timezone.now() - timedelta(hours=1)
        EventRegistration.objects.filter(event_id__in=EVENTS, registered_at__lt=old).delete()

    def busy(self) -> Sequence[int]:
        return tuple(EVENTS)

    def changes(self, rng: Random, keys: Sequence[int]) -> Iterator[Write]:
        write: Write | None = None
        while True:
            if write is None or rng.randrange(10):
                name = rng.choice(NAMES)
                email = f"{rng.getrandbits(32):08x}@example.org"
                values = {"email": email, "name": name, "details": {"seats": rng.randint(1, 4)}}
                write = rng.choice(keys), values
            else:  # the same address once more, for other seats: refused
                key, values = write
                write = key, {**values, "details": {"seats": 9}}
            yield write

    def write(self, key: int, values: dict[str, Any]) -> None:
        with suppress(AlreadyExists):
            services.register(key, **values)

    def write_directly(self, key: int, values: dict[str, Any]) -> None:
        with suppress(IntegrityError), transaction.atomic():
            EventRegistration.objects.create(event_id=key, **values)

    def fresh(self, count: int) -> Sequence[int]:
        return free_ids(EventRegistration, "event_id", count)

    def expected(self, writes: Iterable[Write]) -> dict[str, dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for event_id, values in writes:
            row = {"name": values["name"], "details": values["details"]}
            rows.setdefault(f"event {event_id}: {values['email']}", row)
        return rows

    def rows(self, keys: Sequence[int]) -> models.QuerySet[Any]:
        rows = EventRegistration.objects.filter(event_id__in=keys)
        return rows.order_by("registered_at", "pk")

    def name(self, row: EventRegistration) -> str:
        return f"event {row.event_id}: {row.email}"
