"""The endpoints. Include them under a prefix of their own: see docs/endpoints.md."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.urls import URLPattern, path, re_path, register_converter
from django.urls.converters import IntConverter
from django.utils.decorators import decorator_from_middleware
from django.views.decorators.csrf import csrf_exempt

from writebehind_app.meta import json_view, views


class BigIntConverter(IntConverter):
    """A number that a BigIntegerField can hold; there is nothing under others."""

    def to_python(self, value: str) -> int:
        number = super().to_python(value)
        if number >= 2**63:
            raise ValueError(number)
        return number


register_converter(BigIntConverter, "writebehind_bigint")


def endpoint(route: str, view: type[json_view.JsonView], name: str) -> URLPattern:
    """Return a view that checks login and CSRF token itself: middleware would redirect, or refuse
    in HTML."""
    checked = decorator_from_middleware(json_view.CsrfCheck)(view.as_view())
    return path(route, login_not_required(csrf_exempt(checked)), name=name)


app_name = "writebehind_meta"
urlpatterns = [
    endpoint("lessons/<writebehind_bigint:lesson_id>/progress/", views.ProgressView, "progress"),
    endpoint(
        "events/<writebehind_bigint:event_id>/registrations/",
        views.RegistrationsView,
        "registrations",
    ),
    endpoint("tickets/", views.TicketsView, "tickets"),
    endpoint("tickets/<writebehind_bigint:ticket_id>/", views.TicketView, "ticket"),
    endpoint("appointments/", views.AppointmentsView, "appointments"),
    endpoint(
        "appointments/<writebehind_bigint:appointment_id>/", views.AppointmentView, "appointment"
    ),
    endpoint("profile/", views.ProfileView, "profile"),
    re_path("", login_not_required(csrf_exempt(json_view.nothing))),
]
