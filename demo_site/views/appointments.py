"""The board of a clinic's reception: a click moves an appointment to the next status."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from demo_site.systems.appointments import BUSY, QUIET, STATUSES, next_status
from demo_site.views.common import page, pairs
from writebehind_app.meta import services
from writebehind_app.meta.models import AppointmentMeta

_CHANGE = "writebehind_meta.change_appointmentmeta"


@require_http_methods(["GET", "HEAD", "POST"])
def board(request: HttpRequest) -> HttpResponse:
    return (_move if request.method == "POST" else _show)(request)


def _show(request: HttpRequest) -> HttpResponse:
    rows = AppointmentMeta.objects.filter(appointment_id__in=(*QUIET, *BUSY))
    found = pairs(AppointmentMeta.buffered, rows.order_by("starts_at", "appointment_id"))
    columns = [
        {
            "status": status,
            "next": next_status(status) if status != STATUSES[-1] else None,
            "pairs": [pair for pair in found if pair.now.status == status],
        }
        for status in STATUSES
    ]
    may_move = request.user.has_perm(_CHANGE)
    return page(
        request, "appointments", "appointments", columns=columns, quiet=QUIET, may_move=may_move
    )


@permission_required(_CHANGE)
def _move(request: HttpRequest) -> HttpResponse:
    """To the next status, if it has the one that was on the button."""
    id, _, seen = request.POST.get("move", "").partition(":")
    if not (id.isascii() and id.isdigit() and len(id) < 19) or seen not in STATUSES[:-1]:
        return HttpResponseBadRequest("move is <number of the appointment>:<status that it has>")
    where = reverse("appointments")
    if services.update_status(int(id), next_status(seen), expected=seen):
        return redirect(f"{where}#appointment-{id}")
    messages.warning(request, f"Appointment {id} is not {seen} any more: somebody else was faster.")
    return redirect(where)
