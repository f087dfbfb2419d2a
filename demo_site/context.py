"""What every page needs."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from demo_site.systems import SYSTEMS


def site(request: HttpRequest) -> dict[str, Any]:
    return {"systems": SYSTEMS}
