"""Ready-made models, each with its buffer."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from writebehind_app import RowBuffer


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

    buffered = RowBuffer(key="ticket_id")

    class Meta:
        verbose_name = _("ticket")
        verbose_name_plural = _("tickets")
        ordering = ("ticket_id",)

    def __str__(self) -> str:
        return f"{self.ticket_id} {self.subject}".strip()
