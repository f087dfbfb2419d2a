"""The flush history: a list of the ledger."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from writebehind_app import registry
from writebehind_app.admin.access import Guarded
from writebehind_app.admin.display import display, duration, moment
from writebehind_app.admin.filters import BufferFilter, DatabaseFilter, using_of
from writebehind_app.admin.names import named
from writebehind_app.models import AppliedBatch


class _SomeFilter(admin.SimpleListFilter):
    """Choose rows in which a counter is zero, or is not."""

    field: str

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("some", gettext_lazy("some")), ("none", gettext_lazy("none"))]

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any]:
        match self.value():
            case "some":
                return queryset.filter(**{f"{self.field}__gt": 0})
            case "none":
                return queryset.filter(**{self.field: 0})
        return queryset


class DeadLettersFilter(_SomeFilter):
    title = gettext_lazy("dead letters")
    parameter_name = "letters"
    field = "dead_letters"


class FailuresFilter(_SomeFilter):
    title = gettext_lazy("failed attempts")
    parameter_name = "failures"
    field = "attempts"


class _Newest(Paginator):  # type: ignore[type-arg]
    """Pages of the newest rows. To count a whole long ledger would take longer than a page."""

    MOST = 10_000

    @cached_property
    def count(self) -> int:
        batches: Any = self.object_list
        found: int = batches[: self.MOST].count()
        return found


class AppliedBatchAdmin(Guarded):
    paginator = _Newest
    list_display = (
        "applied",
        "rows_of",
        "shard",
        "entries",
        "rows",
        "dead_letters",
        "statements",
        "failures",
        "took",
        "waited",
    )
    list_display_links = None
    list_filter = (DatabaseFilter, BufferFilter, "applied_at", DeadLettersFilter, FailuresFilter)
    lookups = ("database", "buffer", "applied_at", "letters", "failures")
    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each facet would count the whole ledger
    actions = None

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[AppliedBatch]:
        # A row without a duration is a void token, not an applied batch.
        batches = AppliedBatch.objects.using(using_of(request))
        return batches.filter(duration__isnull=False).order_by("-applied_at")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().changelist_view(
            request, {"title": _("Flush history"), **(extra_context or {})}
        )

    def get_list_display(self, request: HttpRequest) -> Any:
        if any(len(buffer.shard_keys()) > 1 for buffer in registry.buffers().values()):
            return self.list_display
        return [name for name in self.list_display if name != "shard"]

    @admin.display(description=gettext_lazy("buffer"), ordering="buffer")
    def rows_of(self, batch: AppliedBatch) -> str:
        return named(batch.buffer)

    @admin.display(description=gettext_lazy("applied"), ordering="applied_at")
    def applied(self, batch: AppliedBatch) -> str:
        return moment(batch.applied_at)

    @admin.display(description=gettext_lazy("failed attempts"), ordering="attempts")
    def failures(self, batch: AppliedBatch) -> str:
        """How often the batch had failed before, and the last error."""
        return f"{batch.attempts}: {display(batch.error, 120)}" if batch.attempts else "0"

    @admin.display(description=gettext_lazy("took"), ordering="duration")
    def took(self, batch: AppliedBatch) -> str:
        return duration(batch.duration.total_seconds()) if batch.duration else ""

    @admin.display(description=gettext_lazy("oldest write had waited"))
    def waited(self, batch: AppliedBatch) -> str:
        return duration(max((batch.applied_at - batch.oldest_at).total_seconds(), 0))
