"""The endpoints, to be included under any prefix: see docs/endpoints.md."""

from __future__ import annotations

from django.urls import path, register_converter
from django.urls.converters import IntConverter

from writebehind_app.meta import views


class BigIntConverter(IntConverter):
    """A number that a BigIntegerField holds; there is nothing under another."""

    def to_python(self, value: str) -> int:
        number = super().to_python(value)
        if number >= 2**63:
            raise ValueError(number)
        return number


register_converter(BigIntConverter, "writebehind_bigint")

app_name = "writebehind_meta"
urlpatterns = [
    path(
        "lessons/<writebehind_bigint:lesson_id>/progress/",
        views.ProgressView.as_view(),
        name="progress",
    ),
    path(
        "events/<writebehind_bigint:event_id>/registrations/",
        views.RegistrationsView.as_view(),
        name="registrations",
    ),
    path("tickets/<writebehind_bigint:ticket_id>/", views.TicketView.as_view(), name="ticket"),
    path(
        "appointments/<writebehind_bigint:appointment_id>/",
        views.AppointmentView.as_view(),
        name="appointment",
    ),
    path("profile/", views.ProfileView.as_view(), name="profile"),
]
