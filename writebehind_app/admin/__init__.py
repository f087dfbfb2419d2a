"""The admin section: pending entries, dead letters, the flush history, and health.

It registers itself with the default site of the project. For another site, call `register(site)`.
"""

from __future__ import annotations

from django.contrib import admin

from writebehind_app.admin.dashboard import DashboardAdmin
from writebehind_app.admin.deadletters import DeadLetterAdmin
from writebehind_app.admin.history import AppliedBatchAdmin
from writebehind_app.models import AppliedBatch, Dashboard, DeadLetter


def register(site: admin.AdminSite) -> None:
    """Add the section to an admin site."""
    site.register(Dashboard, DashboardAdmin)
    site.register(DeadLetter, DeadLetterAdmin)
    site.register(AppliedBatch, AppliedBatchAdmin)


register(admin.site)
