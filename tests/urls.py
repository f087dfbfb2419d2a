from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("health/", include("writebehind_app.health")),
    path("meta/", include("writebehind_app.meta.urls")),
]
