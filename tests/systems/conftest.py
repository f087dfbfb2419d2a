from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission, User
from django.http import HttpResponse
from django.test import Client

from tests.backdoor.batches import claim_and_die, take_over_where_waited_for
from writebehind_app.buffers.base import Buffer

STATES = ("pending", "in flight", "stored")


@pytest.fixture(params=STATES)
def bring(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Buffer], None]:
    """`bring(buffer)`: what was written so far is pending, in flight and stored in turn."""
    take_over_where_waited_for(monkeypatch)

    def act(buffer: Buffer) -> None:
        if request.param == "in flight":
            claim_and_die(buffer)
        elif request.param == "stored":
            buffer.flush()

    return act


@pytest.fixture
def user(request: pytest.FixtureRequest) -> User:
    # On the database of the test, which has to be there first.
    request.getfixturevalue("database" if "database" in request.fixturenames else "plain")
    return get_user_model().objects.create_user("anna", "Anna@Example.org", "secret")


class Api:
    """The endpoints as a browser calls them: with the session of a user, or of nobody, and with
    the CSRF token."""

    def __init__(self, user: User | None = None) -> None:
        self.client = Client(enforce_csrf_checks=True)
        if user is not None:
            self.client.force_login(user, "django.contrib.auth.backends.ModelBackend")
        self.client.cookies["csrftoken"] = "x" * 32

    def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> HttpResponse:
        """`body` is JSON, or bytes that are sent as they are."""
        if not isinstance(body, bytes):
            body = b"" if body is None else json.dumps(body).encode()
        options = {
            "content_type": "application/json",
            "headers": {"X-CSRFToken": "x" * 32},
            **options,
        }
        return self.client.generic(method, f"/meta/{path}", body, **options)


@pytest.fixture
def nobody() -> Api:
    return Api()


@pytest.fixture
def api(user: User) -> Api:
    return Api(user)


@pytest.fixture
def allow(user: User) -> Callable[[str], None]:
    """`allow("change_ticketmeta")` gives the user the permission."""

    def act(codename: str) -> None:
        user.user_permissions.add(Permission.objects.get(codename=codename))

    return act
