from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.utils.translation import gettext_lazy as _


class WritebehindConfig(AppConfig):
    name = "writebehind_app"
    label = "writebehind"
    verbose_name = _("Write-behind")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from writebehind_app import doctor
        from writebehind_app.checks import check_buffers, check_settings

        checks.register(check_settings)
        checks.register(check_buffers)
        checks.register(doctor.check, "writebehind", deploy=True)
