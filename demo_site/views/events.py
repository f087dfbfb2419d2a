"""Events: a form that registers, and who did in a window of time, stored yet or not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from demo_site.systems.events import EVENTS, Event
from demo_site.views.common import page
from writebehind_app.exceptions import AlreadyExists
from writebehind_app.meta import services

_WINDOWS = {"minute": 60, "10 minutes": 600, "hour": 3600}  # in seconds
_SHOWN = 20  # registrations of an event on its page
_LISTED = 8  # and in the list of events


class RegistrationForm(forms.Form):
    name = forms.CharField(max_length=150)
    email = forms.EmailField(label="E-mail")


@require_safe
def events(request: HttpRequest) -> HttpResponse:
    since = timezone.now() - timedelta(minutes=1)
    found = [
        (event, _newest(services.registrations_between(event.id, since), _LISTED))
        for event in EVENTS.values()
    ]
    return page(request, "events", "events", events=found)


@require_http_methods(["GET", "HEAD", "POST"])
def event(request: HttpRequest, event_id: int) -> HttpResponse:
    if event_id not in EVENTS:
        raise Http404(f"There is no event {event_id}.")
    found = EVENTS[event_id]
    if request.method != "POST":
        return _show(request, found, RegistrationForm())
    form = RegistrationForm(request.POST)
    if form.is_valid():
        email = form.cleaned_data["email"]
        try:
            services.register(event_id, email, name=form.cleaned_data["name"])
        except AlreadyExists:
            form.add_error("email", f"{email} is registered for this event already.")
        else:
            messages.success(request, f"{email} is registered.")
            return redirect("event", event_id)
    return _show(request, found, form)


def _show(request: HttpRequest, event: Event, form: RegistrationForm) -> HttpResponse:
    chosen = request.GET.get("last")
    if chosen not in _WINDOWS:
        chosen = "10 minutes"
    since = timezone.now() - timedelta(seconds=_WINDOWS[chosen])
    found: list[Any] = services.registrations_between(event.id, since)
    return page(
        request,
        "events",
        "event",
        event=event,
        form=form,
        windows=_WINDOWS,
        chosen=chosen,
        count=len(found),
        registrations=_newest(found, _SHOWN),
    )


def _newest(registrations: Sequence[Any], most: int) -> list[dict[str, Any]]:
    """The newest registrations first. What has no primary key yet is in no row yet."""
    newest = registrations[: -most - 1 : -1]
    return [{"row": row, "pair": {"pending": row.pk is None}} for row in newest]
