"""A clinic's reception: appointments that move from status to status, and notes about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from random import Random
from typing import Any

from django.db import models, transaction
from django.utils import timezone

from demo_site.systems.base import System, Write, free_ids
from demo_site.systems.people import NAMES
from writebehind_app import Merge
from writebehind_app.meta import services
from writebehind_app.meta.models import AppointmentMeta

STATUSES = ("scheduled", "confirmed", "arrived", "done")
_REASONS = ("Check-up", "Vaccination", "Blood test", "X-ray", "Prescription", "First visit")

QUIET = range(1, 5)  # left to whoever looks at the demo
BUSY = range(5, 17)
WALK_INS = range(17, 25)  # who comes without an appointment, and may not wait for long


def next_status(status: str) -> str:
    """After the last one comes the first again: the load never ends."""
    return STATUSES[(STATUSES.index(status) + 1) % len(STATUSES)]


class Appointments(System):
    title = "Appointments"
    view = "appointments"
    model = AppointmentMeta
    compared = ("patient_id", "starts_at", "status", "extra", "expires_at")
    rate = 6

    def shown(self) -> Sequence[int]:
        return (*QUIET, *BUSY)

    def busy(self) -> Sequence[int]:
        return BUSY

    def openings(self, keys: Sequence[int]) -> Iterable[Write]:
        morning = datetime.combine(timezone.now(), time(8), UTC)
        for appointment_id in keys:
            rng = Random(appointment_id)
            yield (
                appointment_id,
                {
                    "patient_id": rng.randint(1, 9999),
                    "starts_at": morning + timedelta(minutes=15 * (appointment_id % 32)),
                    "extra": {"patient": rng.choice(NAMES), "reason": rng.choice(_REASONS)},
                },
            )

    def changes(self, rng: Random, keys: Sequence[int]) -> Iterator[Write]:
        while True:
            values: dict[str, Any]
            if rng.randrange(4):
                # The status is a guess: where it is another one, nothing may change.
                expected = rng.choice(STATUSES)
                values = {"status": next_status(expected), "expected": expected}
            else:
                values = {"extra": {rng.choice(("room", "nurse")): rng.randint(1, 9)}}
            yield rng.choice(keys), values

    def write(self, key: int, values: dict[str, Any]) -> None:
        if "starts_at" in values:
            services.schedule(key, **values)
        elif "status" in values:
            services.update_status(key, values["status"], expected=values["expected"])
        else:
            AppointmentMeta.buffered.set(appointment_id=key, extra=Merge(values["extra"]))

    def write_directly(self, key: int, values: dict[str, Any]) -> None:
        rows, now = AppointmentMeta.objects.filter(appointment_id=key), timezone.now()
        if "starts_at" in values:
            AppointmentMeta.objects.create(appointment_id=key, status_at=now, **values)
        elif "status" in values:
            rows.filter(status=values["expected"]).update(
                status=values["status"], status_at=now, updated_at=now
            )
        else:
            with transaction.atomic():
                row = rows.select_for_update().get()
                row.extra |= values["extra"]
                row.save(update_fields=["extra", "updated_at"])

    def fresh(self, count: int) -> Sequence[int]:
        return free_ids(AppointmentMeta, "appointment_id", count)

    def expected(self, writes: Iterable[Write]) -> dict[str, dict[str, Any]]:
        appointments: dict[str, dict[str, Any]] = {}
        for appointment_id, values in writes:
            name = f"appointment {appointment_id}"
            if "starts_at" in values:
                appointments[name] = {"status": "scheduled", "expires_at": None, **values}
            elif "extra" in values:
                row = appointments[name]
                row["extra"] = row["extra"] | values["extra"]
            elif appointments[name]["status"] == values["expected"]:
                appointments[name]["status"] = values["status"]
        return appointments

    def rows(self, keys: Sequence[int]) -> models.QuerySet[Any]:
        return AppointmentMeta.objects.filter(appointment_id__in=keys)

    def name(self, row: AppointmentMeta) -> str:
        return f"appointment {row.appointment_id}"
