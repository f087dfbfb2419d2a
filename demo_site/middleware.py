"""A write on each page that somebody opens, which nobody would send to a database; and a policy by
which pages have nothing inline, and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from writebehind_app.meta import services


class LastSeen:
    """Notes when a user was last seen. What scripts fetch does not count."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        opened = request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
        if opened and request.user.is_authenticated:
            services.update_profile(request.user, last_seen_at=timezone.now())
        return self.get_response(request)


class Strict:
    """Sends a Content-Security-Policy, under which the admin of the package has to work as well."""

    POLICY = "default-src 'self'; img-src 'self' data:"

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response["Content-Security-Policy"] = self.POLICY
        return response
