"""What the tests of the admin share: who looks at it, and how."""

from __future__ import annotations

from html import unescape
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils.http import urlencode

ADMIN = "/admin/writebehind/"
DASHBOARD = f"{ADMIN}dashboard/"
LETTERS = f"{ADMIN}deadletter/"
HISTORY = f"{ADMIN}appliedbatch/"


def client(*permissions: str, superuser: bool = False, staff: bool = True) -> Client:
    """Somebody with these permissions, logged in."""
    name = "-".join(permissions) or ("super" if superuser else "staff" if staff else "nobody")
    user, _ = User.objects.get_or_create(
        username=name, defaults={"is_staff": staff, "is_superuser": superuser}
    )
    for codename in permissions:
        app, _, codename = codename.rpartition(".")
        user.user_permissions.add(
            Permission.objects.get(content_type__app_label=app or "writebehind", codename=codename)
        )
    found = Client(raise_request_exception=True)
    found.force_login(user)
    return found


def page(client: Client, path: str, status: int = 200, **query: Any) -> str:
    """The text of a page."""
    response = client.get(f"{path}?{urlencode(query)}" if query else path)
    assert response.status_code == status, (path, response.status_code)
    return unescape(response.content.decode())


def entries(label: str) -> str:
    return f"{DASHBOARD}{label}/"


def messages(response: Any) -> list[str]:
    """What the next page tells of an action."""
    return [unescape(str(message)) for message in response.context["messages"]]
