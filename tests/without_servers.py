"""Settings under which `make lint` asks whether a migration is missing: of no server."""

from __future__ import annotations

from tests.settings import *  # noqa: F403

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
