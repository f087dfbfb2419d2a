from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class WritebehindConfig(AppConfig):
    name = "writebehind_app"
    label = "writebehind"
    verbose_name = _("Write-behind")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from writebehind_app import doctor, jobs, registry, schedules
        from writebehind_app.checks import check_admins, check_buffers, check_settings
        from writebehind_app.orm.deletes import watch_deletes
        from writebehind_app.orm.references import watch_references
        from writebehind_app.orm.saves import watch_saves

        registry.watch(watch_saves)
        registry.watch(watch_deletes)
        registry.watch(watch_references)
        checks.register(check_settings)
        checks.register(check_buffers)
        checks.register(check_admins)
        checks.register(doctor.check, "writebehind", deploy=True)
        if jobs.is_installed():
            from django_q.signals import post_spawn

            from writebehind_app.tasks import tick_at_once

            post_migrate.connect(schedules.make_after_migrate, sender=self)
            post_spawn.connect(tick_at_once, dispatch_uid="writebehind.tick")
