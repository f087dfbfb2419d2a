"""Settings of the tests, of processes that tests start, and of mypy's plugin.

Importing them starts nothing: the servers are those that tests/servers left in the environment.
Without it there is SQLite alone, and a Redis that never answers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.servers import ENVIRONMENT

if importlib.util.find_spec("MySQLdb") is None and importlib.util.find_spec("pymysql") is not None:
    import pymysql

    pymysql.install_as_MySQLdb()

_servers: dict[str, Any] = json.loads(os.environ.get(ENVIRONMENT, "{}"))
_name = _servers.get("database_name", "writebehind_test")
_directory = Path(_servers.get("directory", tempfile.gettempdir()))

# The test database has the name of the configured one, so that a process that a test starts is on
# the very database of the test by importing this.
DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(_directory / f"{_name}.sqlite3"),
        # Without a sync of the disk at each commit: the data outlive a process, not the machine.
        "OPTIONS": {"timeout": 20, "init_command": "PRAGMA synchronous=OFF"},
    },
    **_servers.get("databases", {}),
}
for _database in DATABASES.values():
    _database.setdefault("NAME", _name)
    _database["TEST"] = {"NAME": _database["NAME"]}
if "mariadb" in DATABASES:
    DATABASES["mariadb"]["OPTIONS"] = {"charset": "utf8mb4"}
    DATABASES["mariadb"]["TEST"]["CHARSET"] = "utf8mb4"
DATABASE_ROUTERS = ["tests.router.CurrentDatabase"]

# The fixture of a test on the other kind of Redis says so here to the processes of that test.
_redis = os.environ.get("WRITEBEHIND_TEST_REDIS") or _servers.get("redis", {}).get(
    "valkey", "redis://127.0.0.1:1/0"
)
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "writebehind": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": _redis},
}
# And what else of the settings a test changes for its processes.
# A Redis that is away is an error where a test does not say otherwise: nothing goes around it. On a
# machine that is busy with tests, one that is there may take seconds to answer.
WRITEBEHIND = {
    "REDIS": _redis,
    "WHEN_DOWN": "raise",
    "CONNECT_TIMEOUT": 5.0,
    "SOCKET_TIMEOUT": 5.0,
    **json.loads(os.environ.get("WRITEBEHIND_TEST_OPTIONS", "{}")),
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_q",
    "writebehind_app",
    "writebehind_app.meta",
    "tests",
]
# The tables of others are made straight from their models: that is faster, and lets the models of
# the tests, which have no migrations, refer to them.
MIGRATION_MODULES = dict.fromkeys(("admin", "auth", "contenttypes", "django_q", "sessions"))
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"
USE_TZ = True
SECRET_KEY = "tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # fast
# Without a timeout below its retry, Django-Q2 warns at import.
Q_CLUSTER = {
    "name": "writebehind-tests",
    "orm": "default",
    "timeout": 60,
    "retry": 120,
    # What a test wants of the clusters that it starts: they read this when they are imported.
    **json.loads(os.environ.get("WRITEBEHIND_TEST_CLUSTER", "{}")),
}
