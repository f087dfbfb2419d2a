"""The admin: what is pending and since when, what the database refused, and what to do about it.

It registers itself with the default site, also where that is one of the project's own. For another
one, call `register(site)`.
"""

from __future__ import annotations

from django.contrib import admin

from writebehind_app.admin.dashboard import DashboardAdmin
from writebehind_app.admin.deadletters import DeadLetterAdmin
from writebehind_app.admin.history import AppliedBatchAdmin
from writebehind_app.models import AppliedBatch, Dashboard, DeadLetter


def register(site: admin.AdminSite) -> None:
    """Give the pages to a site."""
    site.register(Dashboard, DashboardAdmin)
    site.register(DeadLetter, DeadLetterAdmin)
    site.register(AppliedBatch, AppliedBatchAdmin)


register(admin.site)
