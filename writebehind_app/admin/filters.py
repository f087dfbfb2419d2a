"""Filters of the lists that are in the database of the rows, of which there may be several."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from writebehind_app import registry


def databases() -> list[str]:
    """The databases with rows of buffers."""
    return sorted({buffer.layout().using for buffer in registry.buffers().values()})


def using_of(request: HttpRequest) -> str:
    """The database that the list is about, also on the page of one of its rows."""
    found = parse_qs(request.GET.get("_changelist_filters", ""))
    asked = request.GET.get("database") or "".join(found.get("database", []))
    known = databases()
    if asked in known:
        return asked
    return "default" if "default" in known or not known else known[0]


class DatabaseFilter(admin.SimpleListFilter):
    """Which database, where there are several; see using_of()."""

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
    """Which buffer: those there are, as nobody wants to wait for a long table to name them."""

    title = _("buffer")
    parameter_name = "buffer"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(label, label) for label in registry.buffers()]

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any]:
        return queryset.filter(buffer=self.value()) if self.value() else queryset
