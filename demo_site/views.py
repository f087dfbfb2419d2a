"""The help desk: tickets as they are with all accepted writes, and a form that writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from django import forms
from django.contrib.auth.decorators import permission_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from demo_site import figures
from demo_site.load import AGENTS, QUIET, STATUSES
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.meta.models import TicketMeta

_SHOWN = ("subject", "status", "assigned_to", "category", "updated_at")


@dataclass(frozen=True, slots=True)
class Pair:
    """A ticket as readers see it, and as the database has it (None: not there yet)."""

    now: TicketMeta
    stored: TicketMeta | None

    @property
    def pending(self) -> bool:
        # Each write moves the time of the last change, also one that changes nothing else.
        return self.stored is None or self.now.updated_at != self.stored.updated_at

    @property
    def fields(self) -> list[dict[str, Any]]:
        """Each shown field: its label, what it is now and what is stored."""
        return [
            {
                "label": TicketMeta._meta.get_field(name).verbose_name,
                "now": getattr(self.now, name),
                "stored": getattr(self.stored, name, None),
                "pending": self.stored is None
                or getattr(self.now, name) != getattr(self.stored, name),
            }
            for name in _SHOWN
        ]


class TicketForm(forms.Form):
    subject = forms.CharField(max_length=200)
    status = forms.ChoiceField(choices=[(name, name) for name in STATUSES])
    assigned_to = forms.ChoiceField(
        choices=[(name, name or "nobody") for name in AGENTS], required=False
    )


@require_safe
def tickets(request: HttpRequest) -> HttpResponse:
    page = Paginator(TicketMeta.objects.order_by("ticket_id"), 20).get_page(request.GET.get("page"))
    ids = [ticket.ticket_id for ticket in page.object_list]
    # Stored first: a flush in between then shows a row as pending a moment too long, and never
    # one as stored that is not.
    stored = TicketMeta.objects.in_bulk(ids, field_name="ticket_id")
    rows = TicketMeta.buffered.overlay(
        TicketMeta.objects.filter(ticket_id__in=ids).order_by("ticket_id")
    )
    pairs = [Pair(row, stored.get(row.ticket_id)) for row in rows]
    return render(
        request,
        "demo_site/tickets.html",
        {
            "section": "tickets",
            "figures": figures.read(),
            "page": page,
            "pairs": pairs,
            "quiet": QUIET,
        },
    )


def ticket(request: HttpRequest, ticket_id: int) -> HttpResponse:
    return (_change if request.method == "POST" else _show)(request, ticket_id)


@require_safe
def live_figures(request: HttpRequest) -> JsonResponse:
    try:
        return JsonResponse(asdict(figures.read()))
    except BufferUnavailable as error:
        return JsonResponse({"error": str(error)}, status=503)


def _show(request: HttpRequest, ticket_id: int, form: TicketForm | None = None) -> HttpResponse:
    pair = _pair(ticket_id)
    return render(
        request,
        "demo_site/ticket.html",
        {
            "section": "tickets",
            "figures": figures.read(),
            "pair": pair,
            "form": form or TicketForm(initial=_initial(pair.now)),
            "where": _where(request, ticket_id),
            "quiet": ticket_id in QUIET,
        },
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
        receipt = TicketMeta.buffered.set(ticket_id=ticket_id, **changed)
        where = f"{where}?write={receipt.no}"
    return redirect(where)


def _pair(ticket_id: int) -> Pair:
    stored = TicketMeta.objects.filter(ticket_id=ticket_id).first()
    try:
        now: Any = TicketMeta.buffered.get(ticket_id=ticket_id)
    except TicketMeta.DoesNotExist:
        raise Http404(f"There is no ticket {ticket_id}.") from None
    return Pair(now, stored)


def _initial(ticket: TicketMeta) -> dict[str, Any]:
    return {name: getattr(ticket, name) for name in TicketForm.base_fields}


def _where(request: HttpRequest, ticket_id: int) -> str:
    """What became of the write that this page was opened after: '' without one."""
    number = request.GET.get("write", "")
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        return ""
    id = str(ticket_id)
    return Receipt(TicketMeta.buffered.shard_key_of(id), id, int(number)).where
