from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from writebehind_app.admin import register


class OtherSite(admin.AdminSite):
    """A second site of a project, of a class of its own."""

    site_header = "The other site"


other_site = OtherSite(name="other")
register(other_site)

urlpatterns = [
    path("admin/", admin.site.urls),
    path("other/", other_site.urls),
    path("health/", include("writebehind_app.health")),
    path("metrics/", include("writebehind_app.contrib.prometheus")),
    path("meta/", include("writebehind_app.meta.urls")),
]
