"""What every page needs."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.http import HttpRequest


class System(NamedTuple):
    """A part of the site that writes through a buffer, with a tab of its own.

    Its views name it to their templates as `section`.
    """

    title: str
    view: str  # the name of the page that its tab opens


SYSTEMS = (System("Tickets", "tickets"),)


def site(request: HttpRequest) -> dict[str, Any]:
    return {"systems": SYSTEMS}
