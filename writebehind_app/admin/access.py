"""Who may do what: the permissions of `Dashboard`, whichever model a page is about."""

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
    """Whether the user may do that; whoever may not see anything may do nothing."""
    user = request.user
    return user.has_perm("writebehind.view") and user.has_perm(f"writebehind.{what}")


class Guarded(admin.ModelAdmin):  # type: ignore[type-arg]
    """A section of the admin with those permissions, in place of the model's own."""

    lookups: tuple[str, ...] = ()  # what the URL of the list may ask for

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
        """Those of the filters alone: with others, values could be guessed that are not shown."""
        return lookup.split("__")[0] in self.lookups and lookup.count("__") <= 1

    def guarded(self, view: _View, what: str = "view") -> _View:
        """A view for those who may do that."""

        def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not may(request, what):
                raise PermissionDenied
            request.current_app = self.admin_site.name
            return view(request, *args, **kwargs)

        found = self.admin_site.admin_view(update_wrapper(wrapper, view))
        # Flushes have transactions of their own, also where ATOMIC_REQUESTS is on.
        found._non_atomic_requests = set(connections)  # type: ignore[attr-defined]
        return found

    def context(self, request: HttpRequest, title: str, **more: Any) -> dict[str, Any]:
        """What the templates of the admin need, and whether the user may do each thing."""
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
    """A key and values as the user may see them."""
    hidden = hidden_names(request, buffer, key)

    def visible(found: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: MASK if hides(buffer, hidden, name) else value for name, value in found.items()
        }

    return visible(key), visible(values)


def hidden_names(
    request: HttpRequest, buffer: Declaration | None, key: Mapping[str, Any]
) -> set[str]:
    """The names of values that the user may not see, of an entry or a row of that key."""
    if may(request, "reveal"):
        return set()
    if buffer is None or (buffer.sensitive and isinstance(key, Raw)):
        return _Everything()
    return buffer.secret_names(key)


class _Everything(set[str]):
    """All names: nobody knows what is sensitive."""

    def __contains__(self, name: object) -> bool:
        return True


def hides(buffer: Declaration | None, hidden: set[str], name: str) -> bool:
    """Whether a name is among those, or nobody knows what it means to a buffer that has some: it is
    that of a field that went, or what is not to be understood has it in Redis."""
    if name in hidden or not hidden or buffer is None:
        return name in hidden
    layout = buffer.layout()
    known = {"id", *layout.columns, *(n for c in layout.key for n in (c.name, c.attname))}
    is_free = isinstance(buffer, MetaBuffer) and name[:1] not in ('"', "&", "@")
    return not is_free and name not in known


def log(
    request: HttpRequest, about: type[models.Model], objects: Sequence[tuple[str, str]], what: str
) -> None:
    """Enter into the log of the admin what was done to objects, which are given by id and name."""
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
