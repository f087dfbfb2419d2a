"""The examples of docs/ that no other test carries out, in a project of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT, blocks
from tests.servers import RedisServer

SETTINGS = """
import os

SECRET_KEY = "tests"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "writebehind_app",
    "writebehind_app.meta",
    "shop",
    *os.environ["APPS"].split(),
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
WRITEBEHIND = {"REDIS": os.environ["REDIS_URL"]}
"""
HEADER = """
from types import SimpleNamespace

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from writebehind_app import Add, LogBuffer, MetaBuffer, RowBuffer

indexed = []
search = SimpleNamespace(index=indexed.extend)
"""
FIELDS = """
    number = models.BigIntegerField(unique=True)
    status = models.CharField(max_length=20, default="open")
    state = models.CharField(max_length=20, default="open")
    solution = models.CharField(max_length=100, default="")
"""
TICKET = f"class Ticket(models.Model):\n{FIELDS}\n    buffered = TicketBuffer(key='number')\n"
# What the examples say of a shop that they do not show.
SHOP = """
class Ticket(models.Model):
    number = models.BigIntegerField(unique=True)
    status = models.CharField(max_length=20, default="open")
    views = models.IntegerField(default=0)
    position = models.IntegerField(default=0)
    extra = models.JSONField(default=dict)

    buffered = RowBuffer(key="number")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~models.Q(status="refused"), name="not_refused")
        ]


class Account(models.Model):
    number = models.BigIntegerField(unique=True)
    credit = models.DecimalField(max_digits=10, decimal_places=2, default=0)

    buffered = RowBuffer(key="number")


class Line(models.Model):
    text = models.TextField()
    at = models.DateTimeField()

    buffered = LogBuffer(time="at")
"""
# Pages that declare models: how their example begins, and what it leaves out.
PAGES = {
    "deploys": ("class TicketBuffer", ""),
    "django_q2": ("def is_resolved", ""),
    "flushing": ("class TicketBuffer", TICKET),
    "log": ("class Registration", ""),
    "metadata": ("class LessonMeta", ""),
    "reading": ("class Ticket", ""),
    "writing": ("class TicketBuffer", TICKET),
}


def models_of(page: str) -> str:
    """The models of a page, without what it does with them."""
    start, more = PAGES[page]
    path = ROOT / "docs" / f"{page.replace('_', '-')}.md"
    [code] = [code for _, code in blocks(path) if code.startswith(start)]
    declared = code.split("\n\n\nmeta = ")[0].replace("\n    ...\n", FIELDS)
    return f"{HEADER}\n\n{declared}\n\n{more}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    models = {"shop": HEADER + SHOP, **{page: models_of(page) for page in PAGES}}
    for name, code in models.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "models.py").write_text(code)
    (tmp_path / "project_settings.py").write_text(SETTINGS)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["writebehind_app.testing"]\n')
    (tmp_path / "pytest.ini").write_text("[pytest]\nDJANGO_SETTINGS_MODULE = project_settings\n")
    examples = (Path(__file__).parent / "examples.py").read_text()
    (tmp_path / "test_examples.py").write_text(examples)
    return tmp_path


@pytest.mark.process
def test_the_examples(plain: RedisServer, project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(map(str, (project, ROOT))),
            "REDIS_URL": plain.url,
            "APPS": " ".join(PAGES),
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
