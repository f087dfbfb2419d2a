"""How the package is imported: by name and late, from an app of anybody's, and in no circle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import writebehind_app

ROOT = Path(__file__).parents[2]

SETTINGS = """
SECRET_KEY = "x"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["shop", "writebehind_app.meta", "writebehind_app", "django.contrib.auth",
    "django.contrib.contenttypes"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
WRITEBEHIND = {"REDIS": "redis://localhost:1/0"}
"""
MODELS = """
from django.db import models
from writebehind_app import Add, LogBuffer, MetaBuffer, Receipt, RowBuffer, batch, register

class Ticket(models.Model):
    number = models.BigIntegerField(unique=True)
    views = models.IntegerField(default=0)
    buffered = RowBuffer(key="number")
"""


def run(code: str, path: Path = ROOT) -> str:
    """What a new process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=path,
        env={"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


class TestThePackageItself:
    def test_it_imports_neither_django_nor_redis(self):
        code = "import sys, writebehind_app; print({'django', 'redis', 'asyncio'} & {*sys.modules})"
        assert run(code) == "set()"

    def test_it_has_each_of_its_names(self):
        for name in writebehind_app.__all__:
            assert getattr(writebehind_app, name) is not None
            assert name in dir(writebehind_app)

    def test_it_has_no_other_names(self):
        with pytest.raises(AttributeError, match=r"'writebehind_app' has no attribute 'Rowbuffer'"):
            writebehind_app.Rowbuffer  # noqa: B018


def test_pytest_may_import_its_plugin_before_django_is_set_up():
    assert run("import writebehind_app.testing; print('imported')") == "imported"


def test_the_app_with_the_models_may_be_listed_first(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "models.py").write_text(MODELS)
    (tmp_path / "shop_settings.py").write_text(SETTINGS)
    code = (
        "import os, sys; sys.path.insert(0, '.'); os.environ['DJANGO_SETTINGS_MODULE'] = "
        "'shop_settings'; import django; django.setup(); "
        "from django.core.management import call_command; call_command('check'); "
        "call_command('migrate', run_syncdb=True, verbosity=0); "
        "from shop.models import Ticket; Ticket.buffered.set(number=1, views=2); "
        "print(Ticket.objects.get(number=1).views)"
    )
    assert run(code, tmp_path).splitlines()[-1] == "2"
