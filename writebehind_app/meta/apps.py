from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class MetaConfig(AppConfig):
    name = "writebehind_app.meta"
    label = "writebehind_meta"
    verbose_name = _("Buffered metadata")
    default_auto_field = "django.db.models.BigAutoField"
