"""Whether the buffers are well, for a load balancer or a monitor: a view to include in a urlconf.

    path("health/writebehind/", include("writebehind_app.health"))

200 where all is well, 503 where something is not, and both with JSON that says what. Nothing in it
is secret: no address, no user, no value of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from writebehind_app import conf, registry, sampling, status
from writebehind_app.conf import is_direct
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.status import Status
from writebehind_app.store.connection import client


@never_cache
@require_safe
def health(request: HttpRequest) -> JsonResponse:
    found, problems = look()
    report: dict[str, Any] = {
        "status": "failing" if problems else "ok",
        "problems": problems,
        "buffers": [asdict(one) for one in found],
    }
    return JsonResponse(report, status=503 if problems else 200)


def look() -> tuple[list[Status], list[str]]:
    """How the buffers are, and what is wrong with them as the settings HEALTH_… see it."""
    try:
        found = status.read(client(), list(registry.buffers().values()))
        sampling.take(client())
    except BufferUnavailable:
        return [], [] if is_direct() else ["Redis cannot be used."]
    return found, [problem for one in found for problem in _problems(one)]


def _problems(one: Status) -> Iterator[str]:
    settings = conf.settings()
    if one.oldest_seconds > settings.HEALTH_OLDEST and not one.paused:
        yield f"{one.label}: the oldest entry has waited for {one.oldest_seconds:.0f} s."
    waiting = one.pending + one.in_flight
    if settings.HEALTH_PENDING and waiting > settings.HEALTH_PENDING:
        yield f"{one.label}: {waiting} entries wait."
    if one.dead_letters is None:
        yield status.no_database(one)
    elif settings.HEALTH_DEAD_LETTERS and one.dead_letters > settings.HEALTH_DEAD_LETTERS:
        yield f"{one.label}: there are {one.dead_letters} dead letters."


urlpatterns = [path("", health, name="writebehind-health")]
