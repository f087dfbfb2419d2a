"""JSON endpoints over the services. What they take and answer is in docs/endpoints.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from django.core.exceptions import FieldError, ObjectDoesNotExist, ValidationError
from django.db import connections, models, transaction
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.views import View

from writebehind_app import conf
from writebehind_app.buffers.outbox import send
from writebehind_app.exceptions import (
    AlreadyExists,
    BufferFull,
    BufferPaused,
    BufferUnavailable,
    NotDurable,
    Overtaken,
    WriteUncertain,
)
from writebehind_app.meta import payload, services
from writebehind_app.meta.models import (
    RESOLVED,
    AppointmentMeta,
    EventRegistration,
    TicketMeta,
    UserProfile,
    normalized_email,
)
from writebehind_app.meta.payload import Refused

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractUser

RETRY_AFTER = 5  # seconds
MAX_KEY = 255  # characters of an Idempotency-Key


class JsonView(View):
    """Lets in who is logged in and has the permission for the method, and answers every refusal
    in JSON."""

    http_method_names = ["get", "head", "post", "patch"]
    permissions: ClassVar[dict[str, str]] = {}  # by method; without one, to be logged in is enough

    @classmethod
    def as_view(cls, **options: Any) -> Callable[..., HttpResponseBase]:
        view = super().as_view(**options)
        for alias in connections:  # a flush commits by itself
            view = transaction.non_atomic_requests(using=alias)(view)
        return view

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            self._admit(request)
            response = super().dispatch(request, *args, **kwargs)
            send()  # what a batch() of the request holds: the answer says that it was taken
        except Refused as error:
            response = _error(error.status, str(error))
        except ValidationError as error:
            fields = error.message_dict if hasattr(error, "error_dict") else {}
            text = "Some values are refused." if fields else " ".join(error.messages)
            response = _error(400, text, fields)
        except FieldError as error:
            response = _error(400, str(error))
        except ObjectDoesNotExist as error:
            response = _error(404, str(error))
        except (AlreadyExists, Overtaken) as error:
            response = _error(409, str(error))
        except (BufferUnavailable, BufferFull, BufferPaused, WriteUncertain, NotDurable) as error:
            not_taken = isinstance(error, BufferUnavailable | BufferFull)
            outcome = "Try again later." if not_taken else "It may have been done all the same."
            response = _error(503, f"This cannot be done at the moment. {outcome}")
            response.headers["Retry-After"] = str(RETRY_AFTER)
        response.headers["Cache-Control"] = "no-store"
        return response

    def _admit(self, request: HttpRequest) -> None:
        method = str(request.method)
        if method not in self._allowed():
            return  # and is refused for it
        self.user = cast("AbstractUser", request.user)
        if not (self.user.is_authenticated and self.user.is_active):
            raise Refused(401, "Log in first.")
        permission = self.permissions.get("GET" if method == "HEAD" else method)
        if permission and not self.user.has_perm(permission):
            raise Refused(403, f"This needs the permission {permission}.")
        self.once = self._once(request)

    def _once(self, request: HttpRequest) -> str | None:
        """What makes a call that comes again change nothing: of this user, here."""
        key = request.headers.get("Idempotency-Key")
        if key is None or request.method not in ("POST", "PATCH"):
            return None
        if not 0 < len(key) <= MAX_KEY:
            raise Refused(400, f"An Idempotency-Key has 1 to {MAX_KEY} characters.")
        return f"{self.user.pk} {request.method} {request.path} {key}"

    def http_method_not_allowed(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> JsonResponse:
        response = _error(405, f"{request.method} is not possible here.")
        response.headers["Allow"] = ", ".join(self._allowed())
        return response

    def _allowed(self) -> list[str]:
        return [name.upper() for name in self.http_method_names if hasattr(self, name)]


class RowView(JsonView):
    """Shows and changes fields of a row."""

    writable: ClassVar[tuple[str, ...]]

    def values(self, request: HttpRequest, model: type[models.Model]) -> dict[str, Any]:
        known = {name: model._meta.get_field(name) for name in self.writable}
        return payload.fields(payload.read(request), known)

    def show(self, row: models.Model, *others: str) -> JsonResponse:
        return JsonResponse({name: getattr(row, name) for name in (*self.writable, *others)})


def _error(status: int, error: str, fields: dict[str, list[str]] | None = None) -> JsonResponse:
    return JsonResponse({"error": error, **({"fields": fields} if fields else {})}, status=status)


def _accepted() -> JsonResponse:
    return JsonResponse({"pending": True}, status=202)


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
    """Registers the user for an event; or anybody, for who may add registrations."""

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
        services.register(event_id, **values, once=self.once)
        return JsonResponse({"pending": True}, status=201)


class TicketView(RowView):
    """A ticket."""

    permissions = {
        "GET": "writebehind_meta.view_ticketmeta",
        "PATCH": "writebehind_meta.change_ticketmeta",
    }
    writable = ("customer_id", "status", "subject", "category", "assigned_to", "extra")

    def get(self, request: HttpRequest, ticket_id: int) -> JsonResponse:
        return self.show(services.ticket(ticket_id), "ticket_id", "created_at", "updated_at")

    def patch(self, request: HttpRequest, ticket_id: int) -> JsonResponse:
        values = self.values(request, TicketMeta)
        if values.get("status") == RESOLVED:
            services.resolve_ticket(ticket_id, **values, once=self.once)
            return JsonResponse({"pending": False})
        services.update_ticket(ticket_id, **values, once=self.once)
        return _accepted()


class AppointmentView(JsonView):
    """The status of an appointment."""

    permissions = {"PATCH": "writebehind_meta.change_appointmentmeta"}

    def patch(self, request: HttpRequest, appointment_id: int) -> JsonResponse:
        status = AppointmentMeta._meta.get_field("status")
        values = payload.fields(payload.read(request), {"status": status, "expected": status})
        if "status" not in values:
            raise ValidationError({"status": "This is needed."})
        if services.update_status(appointment_id, **values, once=self.once):
            return _accepted()
        services.appointment(appointment_id)  # 404, if it is not there
        raise Refused(409, "The status is not the expected one.")


class ProfileView(RowView):
    """The profile of the user."""

    writable = ("display_name", "bio", "locale", "timezone", "preferences")

    def get(self, request: HttpRequest) -> JsonResponse:
        return self.show(services.profile(self.user), "last_seen_at", "updated_at")

    def patch(self, request: HttpRequest) -> JsonResponse:
        values = self.values(request, UserProfile)
        services.update_profile(self.user, **values, once=self.once)
        return _accepted()
