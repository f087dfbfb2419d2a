"""The help desk: tickets as they are with all accepted writes, and forms that write."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from demo_site.systems.tickets import AGENTS, QUIET, STATUSES
from demo_site.views.common import Pair, page, pairs, receipt
from writebehind_app.meta import services
from writebehind_app.meta.models import TicketMeta

_SHOWN = ("subject", "status", "assigned_to", "category", "updated_at")


class TicketForm(forms.Form):
    subject = forms.CharField(max_length=200)
    status = forms.ChoiceField(choices=[(name, name) for name in STATUSES])
    assigned_to = forms.ChoiceField(
        choices=[(name, name or "nobody") for name in AGENTS], required=False
    )


@require_safe
def tickets(request: HttpRequest) -> HttpResponse:
    paginator = Paginator(TicketMeta.objects.order_by("ticket_id"), 20)
    current = paginator.get_page(request.GET.get("page"))
    ids = [ticket.ticket_id for ticket in current.object_list]
    rows = TicketMeta.objects.filter(ticket_id__in=ids).order_by("ticket_id")
    found = pairs(TicketMeta.buffered, rows)
    return page(request, "tickets", "tickets", page=current, pairs=found, quiet=QUIET)


@require_http_methods(["GET", "HEAD", "POST"])
def ticket(request: HttpRequest, ticket_id: int) -> HttpResponse:
    return (_change if request.method == "POST" else _show)(request, ticket_id)


@require_POST
@permission_required("writebehind_meta.change_ticketmeta")
def resolve(request: HttpRequest, ticket_id: int) -> HttpResponse:
    """Resolved is what the database has to know at once."""
    try:
        row = services.resolve_ticket(ticket_id)
    except TicketMeta.DoesNotExist as error:
        raise Http404(str(error)) from None
    messages.success(request, f"Ticket {ticket_id} is {row.status}, and stored in the database.")
    return redirect("ticket", ticket_id)


def _show(request: HttpRequest, ticket_id: int, form: TicketForm | None = None) -> HttpResponse:
    pair = _pair(ticket_id)
    return page(
        request,
        "tickets",
        "ticket",
        pair=pair,
        fields=pair.fields(_SHOWN),
        form=form or TicketForm(initial=_initial(pair.now)),
        where=receipt(request, TicketMeta.buffered, str(ticket_id)),
        quiet=ticket_id in QUIET,
    )


@permission_required("writebehind_meta.change_ticketmeta")
def _change(request: HttpRequest, ticket_id: int) -> HttpResponse:
    form = TicketForm(request.POST, initial=_initial(_pair(ticket_id).now))
    if not form.is_valid():
        return _show(request, ticket_id, form)
    # Only what was changed: the other fields may be written by someone else in this moment.
    changed = {name: form.cleaned_data[name] for name in form.changed_data}
    where = reverse("ticket", args=[ticket_id])
    if changed:
        written = TicketMeta.buffered.set(ticket_id=ticket_id, **changed)
        where = f"{where}?write={written.number}"
    return redirect(where)


def _pair(ticket_id: int) -> Pair:
    stored = TicketMeta.objects.filter(ticket_id=ticket_id).first()
    try:
        now = TicketMeta.buffered.get(ticket_id=ticket_id)
    except TicketMeta.DoesNotExist:
        raise Http404(f"There is no ticket {ticket_id}.") from None
    return Pair(now, stored)


def _initial(ticket: TicketMeta) -> dict[str, Any]:
    return {name: getattr(ticket, name) for name in TicketForm.base_fields}
