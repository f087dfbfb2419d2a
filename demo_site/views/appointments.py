"""The board of a clinic's reception: a click moves an appointment to the next status."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from demo_site.systems.appointments import BUSY, QUIET, STATUSES, WALK_INS, next_status
from demo_site.views.common import Pair, page
from writebehind_app.exceptions import AlreadyExists
from writebehind_app.meta import services
from writebehind_app.meta.models import AppointmentMeta

_CHANGE = "writebehind_meta.change_appointmentmeta"
_PATIENCE = 60  # seconds that a walk-in waits


@require_http_methods(["GET", "HEAD", "POST"])
def board(request: HttpRequest) -> HttpResponse:
    return (_change if request.method == "POST" else _show)(request)


def _show(request: HttpRequest) -> HttpResponse:
    pairs = _pairs()
    columns = [
        {
            "status": status,
            "next": next_status(status) if status != STATUSES[-1] else None,
            "pairs": [pair for pair in pairs if pair.now.status == status],
        }
        for status in STATUSES
    ]
    return page(
        request,
        "appointments",
        "appointments",
        columns=columns,
        quiet=QUIET,
        patience=_PATIENCE,
        may_move=request.user.has_perm(_CHANGE),
    )


def _pairs() -> list[Pair]:
    """By id, as a walk-in that is not stored yet is to be found as well."""
    ids = (*QUIET, *BUSY, *WALK_INS)
    stored = AppointmentMeta.objects.in_bulk(ids, field_name="appointment_id")
    found = AppointmentMeta.buffered.get_many(ids)
    now = timezone.now()
    return sorted(
        (
            Pair(row, stored.get(id))
            for id, row in found.items()
            if row.expires_at is None or row.expires_at > now
        ),
        key=lambda pair: (pair.now.starts_at, pair.now.appointment_id),
    )


@permission_required(_CHANGE)
def _change(request: HttpRequest) -> HttpResponse:
    if patient := request.POST.get("walk_in", "")[:80].strip():
        return _add(request, patient)
    return _move(request)


def _add(request: HttpRequest, patient: str) -> HttpResponse:
    """Somebody who is gone after a while, from the board and from the database."""
    now = timezone.now()
    for id in WALK_INS:
        with suppress(AlreadyExists):
            AppointmentMeta.buffered.create(
                appointment_id=id,
                starts_at=now,
                status_at=now,
                expires_at=now + timedelta(seconds=_PATIENCE),
                extra={"patient": patient, "reason": "Walk-in"},
            )
            return redirect(f"{reverse('appointments')}#appointment-{id}")
    messages.warning(request, "There is no seat left for a walk-in. Seats get free by themselves.")
    return redirect("appointments")


def _move(request: HttpRequest) -> HttpResponse:
    """To the next status, if it has the one that was on the button."""
    id, _, seen = request.POST.get("move", "").partition(":")
    if not (id.isascii() and id.isdigit() and len(id) < 19) or seen not in STATUSES[:-1]:
        raise BadRequest("move is <number of the appointment>:<status that it has>")
    where = reverse("appointments")
    if services.update_status(int(id), next_status(seen), expected=seen):
        return redirect(f"{where}#appointment-{id}")
    messages.warning(request, f"Appointment {id} is not {seen} any more: somebody else was faster.")
    return redirect(where)
