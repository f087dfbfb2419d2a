"""Settings of the demo site: everything it keeps is in one directory, `.demo/` or DEMO_DATA."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path
from urllib.parse import quote
from zlib import crc32

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("DEMO_DATA") or BASE_DIR / ".demo").resolve()
# What waits in Valkey for one database is not for the other: each has a directory.
DATABASE = os.environ.get("DEMO_DATABASE", "sqlite")  # or "postgresql": demo --database
if DATABASE != "sqlite":
    DATA_DIR = DATA_DIR / DATABASE


def _secret_key(path: Path) -> str:
    """A key that is made on first use and stays, so that sessions outlive a restart."""
    if not path.exists():
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(50))
        # A link, and not a rename: of two processes that come here at once, the first one's stays.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(fresh)
        fresh.unlink()
    return path.read_text()


def _socket_path() -> Path:
    """Where Valkey listens. The address of a socket is 104 bytes long at most on some systems."""
    path = DATA_DIR / "valkey" / "valkey.sock"
    if len(os.fsencode(path)) > 100:
        name = f"writebehind-demo-{os.getuid()}-{crc32(os.fsencode(path)):08x}"
        path = Path(tempfile.gettempdir()) / name / "valkey.sock"
    return path


if not DATA_DIR.exists():
    DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    (DATA_DIR / ".gitignore").write_text("*\n")  # none of it belongs into the checkout around it
VALKEY_SOCKET = _socket_path()

SECRET_KEY = _secret_key(DATA_DIR / "secret_key")
DEBUG = os.environ.get("DEMO_DEBUG", "") not in ("", "0")  # it slows every query down
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django_q",
    "writebehind_app",
    "writebehind_app.meta",
    "demo_site",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "demo_site.middleware.LastSeen",
    "demo_site.middleware.Strict",
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
                "demo_site.context.site",
            ]
        },
    }
]
ROOT_URLCONF = "demo_site.urls"
STATIC_URL = "static/"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "home"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES: dict[str, dict[str, object]] = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "db.sqlite3",
        "OPTIONS": {
            "timeout": 20,
            # A transaction that begins with a read and then writes cannot wait for another
            # writer: it fails at once. This one waits at its beginning.
            "transaction_mode": "IMMEDIATE",
            # Pages are read while a batch is written. Like Valkey's AOF once a second: a process
            # that is killed loses nothing, a power cut may cost the last moment.
            "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; "
            "PRAGMA journal_size_limit = 1000000",
        },
    }
}
if DATABASE == "postgresql":
    # libpq knows where it is: PGHOST, PGPORT, PGUSER and PGPASSWORD. Each demo has a database.
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": f"writebehind_demo_{crc32(os.fsencode(DATA_DIR)):08x}",
    }

# A Redis of your own in place of the embedded Valkey: DEMO_REDIS_URL=redis://127.0.0.1:6379/5
EXTERNAL_REDIS = os.environ.get("DEMO_REDIS_URL", "")
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
WRITEBEHIND = {
    "REDIS": EXTERNAL_REDIS or f"unix://{quote(str(VALKEY_SOCKET))}",
    # What a killed demo had in flight is taken over by the next one after so long.
    "LEASE": 10,
    # The history is as long as the charts of the admin go back.
    "LEDGER_DAYS": 1,
}

# One job runs at most 10 s and is given to another worker only after that: a tick takes half of
# it, which the end of the demo has to wait for. What was missed while nobody ran the cluster is not
# made up for.
Q_CLUSTER = {
    "name": "demo",
    "orm": "default",
    "workers": 1,  # SQLite takes one writer at a time
    "timeout": 10,
    "retry": 20,
    "catch_up": False,
    "log_level": "WARNING",  # no line for each job
}

# The figures of `manage.py demo` are to stay readable: requests are logged from a problem on.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"django.server": {"level": "ERROR"}},
}
