"""Ready-made models, each with its buffer."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from writebehind_app import LogBuffer, MetaBuffer, RowBuffer


class Exact(models.Field):  # type: ignore[type-arg]
    """Text that the database compares as Python does: MySQL and MariaDB would take "A" for "a",
    and for "á"."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        parameters: Any = super().db_parameters(connection)
        if connection.vendor == "mysql":
            is_mariadb = getattr(connection, "mysql_is_mariadb", False)
            parameters["collation"] = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
        return parameters


class KeyField(Exact, models.CharField):  # type: ignore[type-arg]
    """The key of a piece of metadata."""


class AddressField(Exact, models.EmailField):  # type: ignore[type-arg]
    """An e-mail address."""


class PostMeta(models.Model):
    """Free metadata of a post: a value for each key."""

    post_id = models.BigIntegerField(_("post"))
    meta_key = KeyField(_("key"), max_length=100)
    meta_value = models.JSONField(_("value"), null=True, blank=True)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)

    buffered = MetaBuffer(entity="post_id", name="meta_key", value="meta_value", cache_seconds=60)

    class Meta:
        verbose_name = _("post metadata")
        verbose_name_plural = _("post metadata")
        ordering = ("post_id", "meta_key")
        constraints = [
            models.UniqueConstraint(fields=["post_id", "meta_key"], name="writebehind_post_key")
        ]

    def __str__(self) -> str:
        return f"{self.post_id} {self.meta_key}"


class LessonMeta(models.Model):
    """How far a user is with a lesson: a value for each key."""

    lesson_id = models.BigIntegerField(_("lesson"))
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", verbose_name=_("user")
    )
    meta_key = KeyField(_("key"), max_length=100)
    meta_value = models.JSONField(_("value"), null=True, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)

    buffered = MetaBuffer(
        entity=("lesson_id", "user"), name="meta_key", value="meta_value", cache_seconds=60
    )

    class Meta:
        verbose_name = _("lesson metadata")
        verbose_name_plural = _("lesson metadata")
        ordering = ("lesson_id", "user_id", "meta_key")
        constraints = [
            models.UniqueConstraint(
                fields=["lesson_id", "user", "meta_key"], name="writebehind_lesson_key"
            )
        ]

    def __str__(self) -> str:
        return f"{self.lesson_id} {self.user_id} {self.meta_key}"


RESOLVED = "resolved"  # the status of a ticket that is flushed at once


def is_resolved(ticket: TicketMeta) -> bool:
    return ticket.status == RESOLVED


class TicketMeta(models.Model):
    """What a support desk changes about a ticket all the time."""

    ticket_id = models.BigIntegerField(_("ticket"), unique=True)
    customer_id = models.BigIntegerField(_("customer"), null=True, blank=True, db_index=True)
    status = models.CharField(_("status"), max_length=20, default="open", db_index=True)
    subject = models.CharField(_("subject"), max_length=200, blank=True, default="")
    category = models.CharField(_("category"), max_length=50, blank=True, default="")
    assigned_to = models.CharField(_("assigned to"), max_length=150, blank=True, default="")
    extra = models.JSONField(_("extra"), blank=True, default=dict)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)

    buffered = RowBuffer(key="ticket_id", flush_when=is_resolved, cache_seconds=60)

    class Meta:
        verbose_name = _("ticket")
        verbose_name_plural = _("tickets")
        ordering = ("ticket_id",)

    def __str__(self) -> str:
        return f"{self.ticket_id} {self.subject}".strip()


class AppointmentMeta(models.Model):
    """What a clinic changes about an appointment, until it expires."""

    appointment_id = models.BigIntegerField(_("appointment"), unique=True)
    patient_id = models.BigIntegerField(_("patient"), null=True, blank=True, db_index=True)
    starts_at = models.DateTimeField(_("starts"), null=True, blank=True, db_index=True)
    status = models.CharField(_("status"), max_length=20, default="scheduled", db_index=True)
    status_at = models.DateTimeField(_("status changed"), null=True, blank=True)
    extra = models.JSONField(_("extra"), blank=True, default=dict)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True, db_index=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)

    buffered = RowBuffer(key="appointment_id", expires="expires_at", cache_seconds=60)

    class Meta:
        verbose_name = _("appointment")
        verbose_name_plural = _("appointments")
        ordering = ("appointment_id",)

    def __str__(self) -> str:
        return f"{self.appointment_id} {self.status}"


class RegistrationBuffer(LogBuffer):
    """Takes e-mail addresses in upper and lower case for the same."""

    def clean(self, values: dict[str, Any]) -> dict[str, Any]:
        if "email" in values:
            values["email"] = normalized_email(values["email"])
            try:
                validate_email(values["email"])
            except ValidationError as error:
                raise ValidationError({"email": error}) from None
        return values


def normalized_email(email: Any) -> str:
    """Return an address as it is stored."""
    return str(email).strip().lower()


class EventRegistration(models.Model):
    """A registration of a person for an event."""

    event_id = models.BigIntegerField(_("event"))
    email = AddressField(_("e-mail address"))
    name = models.CharField(_("name"), max_length=150, blank=True, default="")
    details = models.JSONField(_("details"), blank=True, default=dict)
    registered_at = models.DateTimeField(_("registered"), default=timezone.now)

    buffered = RegistrationBuffer(time="registered_at", unique=("event_id", "email"))

    class Meta:
        verbose_name = _("registration")
        verbose_name_plural = _("registrations")
        ordering = ("event_id", "registered_at")
        constraints = [
            models.UniqueConstraint(
                fields=["event_id", "email"], name="writebehind_registration_email"
            )
        ]
        indexes = [models.Index(fields=["event_id", "registered_at"], name="writebehind_event_at")]

    def __str__(self) -> str:
        return f"{self.event_id} {self.email}"


def validate_timezone(name: str) -> None:
    """Refuse a name that is not in the database of time zones."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a folder
        raise ValidationError(
            _("“%(value)s” is not a time zone, as “Europe/Berlin” is."), params={"value": name}
        ) from None


class UserProfile(models.Model):
    """What users change about themselves, and what is often noted about them."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", verbose_name=_("user")
    )
    display_name = models.CharField(_("display name"), max_length=150, blank=True, default="")
    bio = models.TextField(_("about"), blank=True, default="")
    locale = models.CharField(_("language"), max_length=35, blank=True, default="")
    timezone = models.CharField(
        _("time zone"), max_length=63, blank=True, default="", validators=[validate_timezone]
    )
    preferences = models.JSONField(_("preferences"), blank=True, default=dict)
    last_seen_at = models.DateTimeField(_("last seen"), null=True, blank=True)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)

    buffered = RowBuffer(key="user", cache_seconds=60)

    class Meta:
        verbose_name = _("user profile")
        verbose_name_plural = _("user profiles")
        ordering = ("user_id",)

    def __str__(self) -> str:
        return self.display_name or str(self.user)
