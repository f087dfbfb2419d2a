"""A help desk's day: agents who take tickets on, and autosaved drafts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any

from django.db import models

from demo_site.systems.base import System, Write, free_ids
from writebehind_app.meta.models import TicketMeta

STATUSES = ("open", "waiting", "on hold", "resolved", "closed")
AGENTS = ("", "alma", "bruno", "chidi", "dora", "emil", "farah")
_OFTEN = (30, 30, 30, 1, 30)  # one that is resolved is flushed at once, alone
_CATEGORIES = ("account", "billing", "course", "certificate", "video")
_SUBJECTS = (
    "Cannot log in after a password reset",
    "Invoice shows the wrong address",
    "Video stops after ten seconds",
    "Certificate has my old name on it",
    "Progress of lesson 4 is gone",
    "How do I change the language?",
    "Refund for a course booked twice",
    "Quiz says 0 of 10, all were right",
    "The app is slow on my phone",
    "Übung 3: Datei lässt sich nicht öffnen",
)

QUIET = range(1, 9)  # left to whoever looks at the demo
BUSY = range(9, 301)


class Tickets(System):
    title = "Tickets"
    view = "tickets"
    model = TicketMeta
    compared = ("customer_id", "status", "subject", "category", "assigned_to", "extra")
    rate = 60

    def shown(self) -> Sequence[int]:
        return (*QUIET, *BUSY)

    def busy(self) -> Sequence[int]:
        return BUSY

    def openings(self, keys: Sequence[int]) -> Iterable[Write]:
        for ticket_id in keys:
            rng = Random(ticket_id)  # the same every time
            yield (
                ticket_id,
                {
                    "customer_id": rng.randint(1000, 1999),
                    "status": "open",
                    "subject": rng.choice(_SUBJECTS),
                    "category": rng.choice(_CATEGORIES),
                },
            )

    def changes(self, rng: Random, keys: Sequence[int]) -> Iterator[Write]:
        while True:
            values: dict[str, Any]
            match rng.randrange(4):
                case 0:
                    (status,) = rng.choices(STATUSES, _OFTEN)
                    values = {"status": status}
                case 1:
                    values = {"assigned_to": rng.choice(AGENTS), "status": "waiting"}
                case 2:
                    draft = {"draft": "…" * rng.randint(1, 9), "seen": rng.randint(1, 99)}
                    values = {"extra": draft}
                case _:
                    values = {"subject": rng.choice(_SUBJECTS), "category": rng.choice(_CATEGORIES)}
            yield rng.choice(keys), values

    def write(self, key: int, values: dict[str, Any]) -> None:
        TicketMeta.buffered.set(ticket_id=key, **values)

    def write_directly(self, key: int, values: dict[str, Any]) -> None:
        TicketMeta.objects.update_or_create(ticket_id=key, defaults=values)

    def fresh(self, count: int) -> Sequence[int]:
        return free_ids(TicketMeta, "ticket_id", count)

    def expected(self, writes: Iterable[Write]) -> dict[str, dict[str, Any]]:
        new = {name: TicketMeta._meta.get_field(name).get_default() for name in self.compared}
        tickets: dict[str, dict[str, Any]] = {}
        for ticket_id, values in writes:
            tickets.setdefault(f"ticket {ticket_id}", dict(new)).update(values)
        return tickets

    def rows(self, keys: Sequence[int]) -> models.QuerySet[Any]:
        return TicketMeta.objects.filter(ticket_id__in=keys)

    def name(self, row: TicketMeta) -> str:
        return f"ticket {row.ticket_id}"
