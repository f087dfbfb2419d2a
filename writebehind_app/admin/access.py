"""Permissions, masks and the log of the admin section.

All its pages use the permissions of the model `Dashboard`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from typing import Any, cast

from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.core.exceptions import PermissionDenied
from django.db import connections, models
from django.http import HttpRequest, HttpResponse

from writebehind_app.buffers.base import Raw
from writebehind_app.buffers.meta import MetaBuffer
from writebehind_app.declaration import MASK, Declaration
from writebehind_app.models import Dashboard

_View = Callable[..., HttpResponse]


def may(request: HttpRequest, what: str) -> bool:
    """Whether the user has this permission. Without `view`, a user has none of the others."""
    user = request.user
    return user.has_perm("writebehind.view") and user.has_perm(f"writebehind.{what}")


class Guarded(admin.ModelAdmin):  # type: ignore[type-arg]
    """A ModelAdmin with the permissions of `Dashboard` in place of those of its model."""

    lookups: tuple[str, ...] = ()  # the filters that the URL of the list may name

    class Media:
        css = {"all": ["writebehind/admin.css"]}

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request, "view")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may(request, "view")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Allow the filters only: with other lookups, a user could guess hidden values."""
        return lookup.split("__")[0] in self.lookups and lookup.count("__") <= 1

    def guarded(self, view: _View, what: str = "view") -> _View:
        """Wrap a view, so that it needs this permission."""

        def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not may(request, what):
                raise PermissionDenied
            request.current_app = self.admin_site.name
            return view(request, *args, **kwargs)

        found = self.admin_site.admin_view(update_wrapper(wrapper, view))
        # A flush commits its own transactions, even with ATOMIC_REQUESTS.
        found._non_atomic_requests = set(connections)  # type: ignore[attr-defined]
        return found

    def context(self, request: HttpRequest, title: str, **more: Any) -> dict[str, Any]:
        """The context that the templates need, with the permissions of the user."""
        actions = ("flush", "discard", "retry", "pause")
        return {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "may": {what: may(request, what) for what in actions},
            **more,
        }


def masked(
    request: HttpRequest,
    buffer: Declaration | None,
    key: Mapping[str, Any],
    values: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A key and values, with masks for those that the user may not see."""
    hidden = hidden_names(request, buffer, key)

    def visible(found: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: MASK if hides(buffer, hidden, name) else value for name, value in found.items()
        }

    return visible(key), visible(values)


def hidden_names(
    request: HttpRequest, buffer: Declaration | None, key: Mapping[str, Any]
) -> set[str]:
    """The names of the values that the user may not see in the row with this key."""
    if may(request, "reveal"):
        return set()
    if buffer is None or (buffer.sensitive and isinstance(key, Raw)):
        return _Everything()
    return buffer.secret_names(key)


class _Everything(set[str]):
    """Contains every name. Used if it is not known which values are sensitive."""

    def __contains__(self, name: object) -> bool:
        return True


def hides(buffer: Declaration | None, hidden: set[str], name: str) -> bool:
    """Whether a value must be masked.

    It must if its name is among the hidden ones. It also must if the buffer has hidden names and
    does not know this one: the field was removed, or the entry in Redis cannot be read.
    """
    if name in hidden or not hidden or buffer is None:
        return name in hidden
    layout = buffer.layout()
    known = {"id", *layout.columns, *(n for c in layout.key for n in (c.name, c.attname))}
    is_free = isinstance(buffer, MetaBuffer) and name[:1] not in ('"', "&", "@")
    return not is_free and name not in known


def log(
    request: HttpRequest, about: type[models.Model], objects: Sequence[tuple[str, str]], what: str
) -> None:
    """Write to the log of the admin what was done to objects. Objects are given by id and name."""
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=cast(int, request.user.pk),
            content_type=get_content_type_for_model(about),
            object_id=id,
            object_repr=name[:200],
            action_flag=CHANGE,
            change_message=what,
        )
        for id, name in objects
    )


def log_buffers(request: HttpRequest, buffers: Sequence[Declaration], what: str) -> None:
    log(request, Dashboard, [(buffer.label, buffer.label) for buffer in buffers], what)
