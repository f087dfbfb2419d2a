"""What the pages share: rows as they are and as they are stored, and the figures above them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db import models
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from demo_site import figures
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.buffers.row import RowBuffer
from writebehind_app.exceptions import WritebehindError


@dataclass(frozen=True, slots=True)
class Pair:
    """A row as readers see it, and as the database has it (None: not there yet)."""

    now: Any
    stored: Any | None

    @property
    def pending(self) -> bool:
        # Each write moves the time of the last change, also one that changes nothing else.
        return self.stored is None or self.now.updated_at != self.stored.updated_at

    def fields(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Of each field its label, what it is now and what is stored."""
        label = self.now._meta.get_field
        return [
            compared(
                label(name).verbose_name, getattr(self.now, name), getattr(self.stored, name, None)
            )
            for name in names
        ]


def compared(label: str, now: Any, stored: Any) -> dict[str, Any]:
    """A value for people, as it is and as it is stored."""
    return {"label": label, "now": _text(now), "stored": _text(stored), "pending": now != stored}


def _text(value: Any) -> str:
    if value in (None, "", {}):
        return "–"  # noqa: RUF001
    if isinstance(value, datetime):
        return f"{value:%H:%M:%S}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    return str(value)


def pairs(buffer: RowBuffer, rows: models.QuerySet[Any]) -> list[Pair]:
    """The rows of a query in its order, each stored and with what is pending over it."""
    # Stored first: a flush in between then shows a row as pending a moment too long, and never
    # one as stored that is not.
    stored = {row.pk: row for row in rows}
    return [Pair(row, stored.get(row.pk)) for row in buffer.overlay(rows.all())]


def receipt(request: HttpRequest, buffer: RowBuffer, id: str) -> str:
    """What became of the write that this page was opened after: '' without one."""
    number = request.GET.get("write", "")
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        return ""
    return Receipt(buffer.shard_key_of(id), id, int(number)).where


def page(request: HttpRequest, section: str, template: str, **context: Any) -> HttpResponse:
    """A page of a system, whose tab is marked."""
    context |= {"section": section, "figures": figures.read()}
    return render(request, f"demo_site/{template}.html", context)


@require_safe
def live_figures(request: HttpRequest) -> JsonResponse:
    try:
        return JsonResponse(asdict(figures.read()))
    except WritebehindError as error:
        return JsonResponse({"error": str(error)}, status=503)
