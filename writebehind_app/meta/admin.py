from __future__ import annotations

from django.contrib import admin

from writebehind_app.meta.models import TicketMeta


@admin.register(TicketMeta)
class TicketMetaAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("ticket_id", "subject", "status", "category", "assigned_to", "updated_at")
    list_filter = ("status", "category")
    search_fields = ("=ticket_id", "subject", "assigned_to")
    readonly_fields = ("created_at", "updated_at")
