"""Filters of the lists of dead letters and batches, which may be in several databases."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from writebehind_app import registry
from writebehind_app.admin.names import plural


def databases() -> list[str]:
    """The databases that have rows of buffers."""
    return sorted({buffer.layout().using for buffer in registry.buffers().values()})


def using_of(request: HttpRequest) -> str:
    """The database that the request is about: of a list, or of the page of one row."""
    found = parse_qs(request.GET.get("_changelist_filters", ""))
    asked = request.GET.get("database") or "".join(found.get("database", []))
    known = databases()
    if asked in known:
        return asked
    return "default" if "default" in known or not known else known[0]


class DatabaseFilter(admin.SimpleListFilter):
    """Choose the database, if there are several. `using_of()` applies it."""

    title = _("database")
    parameter_name = "database"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        known = databases()
        return [(using, using) for using in known] if len(known) > 1 else []

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any]:
        return queryset


class BufferFilter(admin.SimpleListFilter):
    """Choose one of the declared buffers. To collect the labels from a long table would be slow."""

    title = _("buffer")
    parameter_name = "buffer"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(label, plural(buffer)) for label, buffer in registry.buffers().items()]

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any]:
        return queryset.filter(buffer=self.value()) if self.value() else queryset
