"""JSON endpoints for the services. docs/endpoints.md says what they take and answer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest, JsonResponse
from django.urls import reverse

from writebehind_app import conf
from writebehind_app.exceptions import AlreadyExists
from writebehind_app.meta import payload, services
from writebehind_app.meta.json_view import JsonView
from writebehind_app.meta.models import (
    RESOLVED,
    AppointmentMeta,
    EventRegistration,
    TicketMeta,
    UserProfile,
    normalized_email,
)
from writebehind_app.meta.payload import Refused


def _fields(request: HttpRequest, model: type[models.Model], *names: str) -> dict[str, Any]:
    """Return the values in a body, for these fields of a model."""
    known = {name: model._meta.get_field(name) for name in names}
    return payload.fields(payload.read(request), known)


def _shown(row: models.Model, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _accepted() -> JsonResponse:
    return JsonResponse({"pending": True}, status=202)


def _exactly(at: datetime) -> str:
    """Return a time as a URL can have it, to the microsecond. The encoder of JSON cuts those."""
    return at.isoformat().replace("+00:00", "Z")


class ProgressView(JsonView):
    """How far the user is with a lesson."""

    def get(self, request: HttpRequest, lesson_id: int) -> JsonResponse:
        return JsonResponse(services.progress(lesson_id, self.user))

    def post(self, request: HttpRequest, lesson_id: int) -> JsonResponse:
        body = payload.read(request)
        steps = body if isinstance(body, list) else [body]
        most = conf.settings().META_MAX_KEYS
        if not 0 < len(steps) <= most:
            raise Refused(400, f"A list has 1 to {most} objects, not {len(steps)}.")
        values = map(payload.values, steps)
        services.record_progress(lesson_id, self.user, *values, once=self.once)
        return _accepted()


class RegistrationsView(JsonView):
    """Lists who is registered for an event. Registers the user, or anybody if the user may add
    registrations."""

    permissions = {"GET": "writebehind_meta.view_eventregistration"}
    shown = ("email", "name", "details", "registered_at")

    def get(self, request: HttpRequest, event_id: int) -> JsonResponse:
        asked = payload.query(
            request, {"since": payload.time, "until": payload.time, "limit": payload.limit}
        )
        found, following = services.registrations(event_id, **asked)
        return JsonResponse(
            {
                "registrations": [_shown(row, self.shown) for row in found],
                "next": following and _exactly(following),
            }
        )

    def post(self, request: HttpRequest, event_id: int) -> JsonResponse:
        meta = EventRegistration._meta
        known = {
            "email": models.CharField(),  # the buffer knows better what an address is
            "name": meta.get_field("name"),
            "details": meta.get_field("details"),
        }
        values = payload.fields(payload.read(request), known, least=0)
        own = getattr(self.user, self.user.get_email_field_name(), "")
        email = values.setdefault("email", own)
        permission = "writebehind_meta.add_eventregistration"
        others = normalized_email(email) != normalized_email(own)
        if others and not self.user.has_perm(permission):
            raise Refused(403, f"To register others needs the permission {permission}.")
        try:
            services.register(event_id, **values, once=self.once)
        except AlreadyExists:
            raise Refused(409, f"{normalized_email(email)} is registered already.") from None
        return JsonResponse({"pending": True}, status=201)


TICKET = ("customer_id", "status", "subject", "category", "assigned_to", "extra")  # writable


class TicketsView(JsonView):
    """Lists tickets, and opens one."""

    permissions = {
        "GET": "writebehind_meta.view_ticketmeta",
        "POST": "writebehind_meta.add_ticketmeta",
    }

    def get(self, request: HttpRequest) -> JsonResponse:
        asked = payload.query(request, {"after": payload.number, "limit": payload.limit})
        found, following = services.tickets(**asked)
        tickets = [_shown(row, TicketView.shown) for row in found]
        return JsonResponse({"tickets": tickets, "next": following})

    def post(self, request: HttpRequest) -> JsonResponse:
        values = _fields(request, TicketMeta, "ticket_id", *TICKET)
        ticket_id = values.pop("ticket_id", None)
        if ticket_id is None or ticket_id < 0:
            raise ValidationError({"ticket_id": "This has to be a whole number from 0 on."})
        try:
            services.open_ticket(ticket_id, **values, once=self.once)
        except AlreadyExists:
            raise Refused(409, f"There is a ticket {ticket_id} already.") from None
        response = JsonResponse({"pending": True}, status=201)
        response.headers["Location"] = reverse("writebehind_meta:ticket", args=[ticket_id])
        return response


class TicketView(JsonView):
    """A ticket."""

    permissions = {
        "GET": "writebehind_meta.view_ticketmeta",
        "PATCH": "writebehind_meta.change_ticketmeta",
    }
    shown = ("ticket_id", *TICKET, "created_at", "updated_at")

    def get(self, request: HttpRequest, ticket_id: int) -> JsonResponse:
        return JsonResponse(_shown(services.ticket(ticket_id), self.shown))

    def patch(self, request: HttpRequest, ticket_id: int) -> JsonResponse:
        values = _fields(request, TicketMeta, *TICKET)
        if values.get("status") == RESOLVED:
            services.resolve_ticket(ticket_id, **values, once=self.once)
            return JsonResponse({"pending": False})
        services.update_ticket(ticket_id, **values, once=self.once)
        return _accepted()


class AppointmentsView(JsonView):
    """Lists appointments."""

    permissions = {"GET": "writebehind_meta.view_appointmentmeta"}

    def get(self, request: HttpRequest) -> JsonResponse:
        asked = payload.query(request, {"after": payload.number, "limit": payload.limit})
        found, following = services.appointments(**asked)
        appointments = [_shown(row, AppointmentView.shown) for row in found]
        return JsonResponse({"appointments": appointments, "next": following})


class AppointmentView(JsonView):
    """An appointment. Its status is what can be changed."""

    permissions = {
        "GET": "writebehind_meta.view_appointmentmeta",
        "PATCH": "writebehind_meta.change_appointmentmeta",
    }
    shown = (
        *("appointment_id", "patient_id", "starts_at", "status", "status_at", "extra"),
        *("expires_at", "created_at", "updated_at"),
    )

    def get(self, request: HttpRequest, appointment_id: int) -> JsonResponse:
        return JsonResponse(_shown(services.appointment(appointment_id), self.shown))

    def patch(self, request: HttpRequest, appointment_id: int) -> JsonResponse:
        status = AppointmentMeta._meta.get_field("status")
        values = payload.fields(payload.read(request), {"status": status, "expected": status})
        if "status" not in values:
            raise ValidationError({"status": "This is needed."})
        if services.update_status(appointment_id, **values, once=self.once):
            return _accepted()
        services.appointment(appointment_id)  # 404, if it is not there
        raise Refused(409, "The status is not the expected one.")


class ProfileView(JsonView):
    """The profile of the user."""

    writable = ("display_name", "bio", "locale", "timezone", "preferences")

    def get(self, request: HttpRequest) -> JsonResponse:
        shown = (*self.writable, "last_seen_at", "updated_at")
        return JsonResponse(_shown(services.profile(self.user), shown))

    def patch(self, request: HttpRequest) -> JsonResponse:
        values = _fields(request, UserProfile, *self.writable)
        services.update_profile(self.user, **values, once=self.once)
        return _accepted()
