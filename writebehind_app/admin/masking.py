"""A dead letter as a page or a file shows it: values that the user may not see are masked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from django.http import HttpRequest, HttpResponse

from writebehind_app import registry
from writebehind_app.admin.access import hidden_names, hides, masked
from writebehind_app.admin.display import inline
from writebehind_app.buffers.base import Raw
from writebehind_app.database import edits
from writebehind_app.database.letters import Encoder, described
from writebehind_app.declaration import MASK, Declaration
from writebehind_app.models import DeadLetter

EXPORTED = (
    "id",
    "buffer",
    "key",
    "values",
    "delete",
    "superseded",
    "error",
    "reason",
    "attempts",
    "first_seen",
    "last_seen",
)


def parts_of(letter: DeadLetter) -> tuple[dict[str, Any], dict[str, Any]]:
    """The key and the values of a letter."""
    found = described(letter)
    key = found["key"]
    return key if isinstance(key, dict) else Raw(id=key), dict(found["values"])


def masked_parts(request: HttpRequest, letter: DeadLetter) -> tuple[dict[str, Any], dict[str, Any]]:
    """The key and the values of a letter, masked for the user."""
    return masked(request, registry.buffers().get(letter.buffer), *parts_of(letter))


def masked_texts(request: HttpRequest, letter: DeadLetter) -> dict[str, str]:
    """The key and the values of a letter, on one line each, masked for the user."""
    key, values = masked_parts(request, letter)
    return {"key": inline(key), "values": inline(values)}


class Edits(NamedTuple):
    """The edits that a retry would overwrite, masked for the user, and their digest."""

    rows: Sequence[edits.Edit]
    digest: str


def masked_edits(request: HttpRequest, buffer: Declaration, letter: DeadLetter) -> Edits | None:
    found = edits.edits_since(buffer, letter)
    hidden = hidden_names(request, buffer, parts_of(letter)[0])
    rows = [
        edit._replace(letter=MASK, then=MASK, now=MASK)
        if hides(buffer, hidden, edit.name)
        else edit
        for edit in found
    ]
    return Edits(rows, edits.digest_of(found)) if found else None


def exported(request: HttpRequest, letter: DeadLetter) -> dict[str, Any]:
    key, values = masked_parts(request, letter)
    return {**described(letter), "key": key, "values": values}


_FORMULA = tuple("=+-@")


def cell(value: Any) -> str:
    """A value in a CSV file. A text that a spreadsheet would take for a formula gets a quote."""
    if not isinstance(value, str):
        value = json.dumps(value, cls=Encoder, ensure_ascii=False).strip('"')
    return f"'{value}" if value.lstrip()[:1] in _FORMULA else value


def file(kind: str, ending: str) -> HttpResponse:
    response = HttpResponse(content_type=f"{kind}; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="dead_letters.{ending}"'
    return response
