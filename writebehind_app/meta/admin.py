from __future__ import annotations

from django.contrib import admin

from writebehind_app import BufferedAdmin
from writebehind_app.meta.models import (
    AppointmentMeta,
    EventRegistration,
    LessonMeta,
    PostMeta,
    TicketMeta,
    UserProfile,
)


class _Admin(admin.ModelAdmin):  # type: ignore[type-arg]
    class Media:
        css = {"all": ["writebehind/admin.css"]}


@admin.register(PostMeta)
class PostMetaAdmin(BufferedAdmin, _Admin):
    list_display = ("post_id", "meta_key", "meta_value", "updated_at")
    search_fields = ("=post_id", "meta_key")
    readonly_fields = ("updated_at",)


@admin.register(LessonMeta)
class LessonMetaAdmin(BufferedAdmin, _Admin):
    list_display = ("lesson_id", "user", "meta_key", "meta_value", "updated_at")
    list_select_related = ("user",)
    search_fields = ("=lesson_id", "meta_key")
    raw_id_fields = ("user",)
    readonly_fields = ("created_at", "updated_at")


@admin.register(TicketMeta)
class TicketMetaAdmin(BufferedAdmin, _Admin):
    list_display = ("ticket_id", "subject", "status", "category", "assigned_to", "updated_at")
    list_filter = ("status", "category")
    search_fields = ("=ticket_id", "subject", "assigned_to")
    readonly_fields = ("created_at", "updated_at")


@admin.register(AppointmentMeta)
class AppointmentMetaAdmin(BufferedAdmin, _Admin):
    list_display = ("appointment_id", "patient_id", "starts_at", "status", "expires_at")
    list_filter = ("status", "starts_at")
    search_fields = ("=appointment_id", "=patient_id")
    readonly_fields = ("created_at", "updated_at")


@admin.register(EventRegistration)
class EventRegistrationAdmin(_Admin):
    list_display = ("event_id", "email", "name", "registered_at")
    list_filter = ("registered_at",)
    search_fields = ("=event_id", "email", "name")


@admin.register(UserProfile)
class UserProfileAdmin(BufferedAdmin, _Admin):
    list_display = ("user", "display_name", "locale", "timezone", "last_seen_at")
    list_select_related = ("user",)
    search_fields = ("display_name",)
    raw_id_fields = ("user",)
    readonly_fields = ("updated_at",)
