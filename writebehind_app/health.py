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

from writebehind_app import conf, registry, schedules, status
from writebehind_app.conf import is_direct
from writebehind_app.english import be, counted
from writebehind_app.status import Look, Status


@never_cache
@require_safe
def health(request: HttpRequest) -> JsonResponse:
    found, problems = assess()
    report: dict[str, Any] = {
        "status": "failing" if problems else "ok",
        "problems": problems,
        "buffers": [asdict(one) for one in found],
    }
    return JsonResponse(report, status=503 if problems else 200)


def assess() -> tuple[list[Status], list[str]]:
    """How the buffers are, and what is wrong with them as the settings HEALTH_… see it."""
    seen = status.look(list(registry.buffers().values()))
    found = [*seen.found]
    problems = [] if is_direct() else [*_away(seen)]
    problems += [problem for one in found for problem in _problems(one)]
    if any(map(_is_left_out, found)) and schedules.is_stuck():
        problems.append(schedules.STUCK)
    return found, problems


def _away(seen: Look) -> Iterator[str]:
    if seen.away and not seen.answering:
        yield "Redis cannot be used."
    else:
        for each in seen.away:
            labels = ", ".join(buffer.label for buffer in each.buffers)
            yield f"The Redis of {labels} cannot be used."


def _is_left_out(one: Status) -> bool:
    """Whether no tick of Django-Q2 has taken up what waits."""
    is_touched = one.paused or one.in_flight or one.attempts
    return not is_touched and schedules.is_overdue(one.oldest_seconds, _max_age(one))


def _problems(one: Status) -> Iterator[str]:
    settings = conf.settings()
    if one.oldest_seconds > _max_age(one) + settings.HEALTH_OLDEST and not one.paused:
        yield f"{one.label}: the oldest entry has waited for {one.oldest_seconds:.0f} s."
    waiting = one.pending + one.in_flight
    if settings.HEALTH_PENDING and waiting > settings.HEALTH_PENDING:
        verb = "waits" if waiting == 1 else "wait"
        yield f"{one.label}: {counted(waiting, 'entry', 'entries')} {verb}."
    if one.dead_letters is None:
        yield status.no_database(one)
    elif settings.HEALTH_DEAD_LETTERS and one.dead_letters > settings.HEALTH_DEAD_LETTERS:
        letters = counted(one.dead_letters, "dead letter")
        yield f"{one.label}: there {be(one.dead_letters)} {letters}."


def _max_age(one: Status) -> float:
    seconds: float = registry.buffers()[one.label].option("MAX_AGE")
    return seconds


urlpatterns = [path("", health, name="writebehind-health")]
