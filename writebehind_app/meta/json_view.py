"""What all endpoints share: who is admitted, and errors in JSON."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from django.conf import settings
from django.core.exceptions import (
    BadRequest,
    FieldError,
    ObjectDoesNotExist,
    PermissionDenied,
    SuspiciousOperation,
    ValidationError,
)
from django.core.signals import got_request_exception
from django.db import (
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    transaction,
)
from django.http import Http404, HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.log import log_response
from django.views import View

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
from writebehind_app.meta.payload import Refused

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractUser

logger = logging.getLogger("django.request")

NOTHING = "There is nothing here."  # of a row, and of a path
RETRY_AFTER = 5  # seconds
MAX_KEY = 255  # characters of an Idempotency-Key


class JsonView(View):
    """Admits users who are logged in and have the permission for the method. Answers every error in
    JSON."""

    http_method_names = ["get", "head", "post", "patch"]
    permissions: ClassVar[dict[str, str]] = {}  # by method; without one, a login is enough

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
            send()  # what a batch() of the request holds: the answer says that Redis took it
        except Exception as error:  # noqa: BLE001 - an unknown one is logged, as Django does it
            response = _answer(error) or _failed(request, error)
        response.headers["Cache-Control"] = "no-store"
        return response

    def _admit(self, request: HttpRequest) -> None:
        method = str(request.method)
        if method not in self._allowed():
            return  # dispatch() refuses it
        self.user = cast("AbstractUser", request.user)
        if not (self.user.is_authenticated and self.user.is_active):
            raise Refused(401, "Log in first.")
        permission = self.permissions.get("GET" if method == "HEAD" else method)
        if permission and not self.user.has_perm(permission):
            raise Refused(403, f"This needs the permission {permission}.")
        self.once = self._once(request)

    def _once(self, request: HttpRequest) -> str | None:
        """Return the idempotency key of the call, for this user and path."""
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


def nothing(request: HttpRequest) -> JsonResponse:
    """Answer a path that does not exist."""
    response = _error(404, NOTHING)
    response.headers["Cache-Control"] = "no-store"
    return response


class CsrfCheck(CsrfViewMiddleware):
    """Django's check of the CSRF token, which refuses in JSON."""

    def _reject(self, request: HttpRequest, reason: str) -> JsonResponse:
        response = _error(403, f"The CSRF token is missing or wrong: {reason}")
        response.headers["Cache-Control"] = "no-store"
        return response


def _answer(error: Exception) -> JsonResponse | None:
    """Return the answer to a request that this error ended; None if nobody foresaw the error."""
    match error:
        case Refused():
            return _error(error.status, str(error))
        case ValidationError():
            fields = error.message_dict if hasattr(error, "error_dict") else {}
            text = "Some values are refused." if fields else " ".join(error.messages)
            return _error(400, text, fields)
        case FieldError():
            return _error(400, str(error))
        case BadRequest() | SuspiciousOperation():
            return _error(400, "This is no request that can be answered.")
        case PermissionDenied():
            return _error(403, "This is not allowed.")
        case ObjectDoesNotExist() | Http404():
            return _error(404, NOTHING)
        case AlreadyExists():
            return _error(409, "This is there already.")
        case Overtaken():
            return _error(409, "Somebody else was quicker: nothing was written.")
        case DataError() | IntegrityError():  # of a flush, or of a write while Redis is away
            return _error(409, "The database refuses this. It is not stored.")
        case BufferUnavailable() | BufferFull():
            return _later("Try again later.")
        case BufferPaused() | WriteUncertain() | NotDurable():
            return _later("It may have been done all the same.")
        case InterfaceError() | OperationalError():
            logger.error("The database cannot be used: %s", error, exc_info=error)
            return _later("It may have been done all the same.")
    return None


def _failed(request: HttpRequest, error: Exception) -> JsonResponse:
    """Answer a request that failed for a reason nobody foresaw. Those who watch for errors are
    told, as by Django."""
    if settings.DEBUG_PROPAGATE_EXCEPTIONS:
        raise error
    got_request_exception.send(sender=None, request=request)
    response = _error(500, "This failed. It may have been done all the same.")
    log_response(
        "Internal Server Error: %s",
        request.path,
        response=response,
        request=request,
        exception=error,
    )
    return response


def _later(outcome: str) -> JsonResponse:
    response = _error(503, f"This cannot be done at the moment. {outcome}")
    response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _error(status: int, error: str, fields: dict[str, list[str]] | None = None) -> JsonResponse:
    return JsonResponse({"error": error, **({"fields": fields} if fields else {})}, status=status)
