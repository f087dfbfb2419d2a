"""Each way of flushing in docs/schedulers.md, in a fresh project."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from tests.demo import rows
from tests.documents import ROOT, blocks
from tests.keeper import keeper
from tests.servers import RedisServer

SCHEDULERS = ROOT / "docs" / "schedulers.md"

SETTINGS = """
SECRET_KEY = "tests"
INSTALLED_APPS = ["django.contrib.contenttypes", "writebehind_app", "shop"]
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "db.sqlite3",
        "OPTIONS": {{"timeout": 20}},
    }}
}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
WRITEBEHIND = {{"REDIS": "{redis}", "MAX_AGE": 0.1}}
CELERY_BROKER_URL = "{redis}"
"""
MODELS = """
from django.db import models

from writebehind_app import RowBuffer


class Ticket(models.Model):
    number = models.BigIntegerField(unique=True)
    buffered = RowBuffer(key="number")
"""
WRITE = "from shop.models import Ticket; Ticket.buffered.set(number=5)"


class Project:
    """What `startproject` and a model make."""

    def __init__(self, directory: Path, redis: str) -> None:
        self.directory = directory
        self.redis = redis
        self.started: list[subprocess.Popen[Any]] = []
        self.write("myproject/__init__.py", "")
        self.write("myproject/settings.py", SETTINGS.format(redis=redis))
        self.write("shop/__init__.py", "")
        self.write("shop/models.py", MODELS)
        self.write("manage.py", (ROOT / "manage.py").read_text())

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def append(self, name: str, text: str) -> None:
        self.write(name, (self.directory / name).read_text() + text)

    def follow(self, heading: str) -> list[str]:
        """Write the files of a section, and say what it has one enter."""
        lines: list[str] = []
        for language, block in blocks(SCHEDULERS, heading):
            if language == "python" and (said := re.match(r"# (Append to )?(\S+\.py)\n", block)):
                (self.append if said[1] else self.write)(said[2], block)
            elif language == "sh":
                lines += block.splitlines()
        return lines

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{self.directory}:{ROOT}",
            "DJANGO_SETTINGS_MODULE": "myproject.settings",
            "RQ_REDIS_URL": self.redis,
            "HOME": str(self.directory),
            "C_FORCE_ROOT": "1",
        }

    def start(self, line: str) -> None:
        """A command that runs until the end."""
        with (self.directory / "log").open("a") as log:
            self.started.append(
                keeper().start(
                    shlex.split(line),
                    cwd=self.directory,
                    env=self.environment(),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def run(self, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *args],
            cwd=self.directory,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def migrate(self) -> None:
        self.run("makemigrations", "shop", "--verbosity=0")
        self.run("migrate", "--verbosity=0")

    def is_stored(self) -> bool:
        return rows(self.directory, "SELECT number FROM shop_ticket") == [(5,)]

    def wait_until_stored(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.is_stored():
            assert time.monotonic() < until, (self.directory / "log").read_text()
            time.sleep(0.1)


@pytest.fixture
def project(plain: RedisServer, tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path, plain.url)
    yield made
    for process in made.started:
        keeper().end(process)
        end_session(process.pid)
    with plain.client() as client:
        client.flushdb()  # the brokers leave keys of their own


def end_session(leader: int) -> None:
    """What a scheduler has started would go on, and flush what the next test writes."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it is gone
            session = stat.read_text().rpartition(")")[2].split()[3]
            if int(session) == leader:
                os.kill(int(stat.parent.name), signal.SIGKILL)


def needs(*modules: str) -> Callable[[Any], Any]:
    absent = [name for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


@needs("celery")
@pytest.mark.slow
def test_celery_beat(project):
    (command,) = project.follow("Celery beat")
    project.migrate()
    project.run("shell", "-v", "0", "-c", WRITE)
    project.start(f"{command} --pool solo")
    project.wait_until_stored(40)


@needs("rq")
@pytest.mark.slow
def test_rq(project):
    commands = project.follow("RQ")
    project.migrate()
    project.run("shell", "-v", "0", "-c", WRITE)
    for command in commands:
        project.start(command)
    project.wait_until_stored(40)


@pytest.mark.slow
def test_cron(project):
    ((_, block),) = blocks(SCHEDULERS, "cron")
    command = re.sub(r"^\* \* \* \* \* cd \S+ && \S+", "", block).strip()
    project.migrate()
    project.run("shell", "-v", "0", "-c", WRITE)
    project.run(*command.removeprefix("manage.py ").replace("58", "4").split())
    assert project.is_stored()


class TestDjangoTasks:
    def test_before_django_6_it_is_said(self):
        if find_spec("django.tasks"):
            pytest.skip("Django has it")
        with pytest.raises(ImproperlyConfigured, match=r"needs Django 6\.0 or later"):
            __import__("writebehind_app.contrib.tasks")

    @needs("django.tasks")
    @pytest.mark.slow
    def test_at_once(self, project):
        """By the backend that is Django's default."""
        project.migrate()
        said = project.run(
            "shell", "-v", "0", "-c", f"{WRITE}\nimport time; time.sleep(0.2)\n{ENQUEUE}"
        )
        assert "SUCCESSFUL {'rows': 1, 'batches': 1, 'dead_letters': 0, 'errors': 0}" in said
        assert project.is_stored()

    @needs("django.tasks", "django_tasks_db")
    @pytest.mark.slow
    def test_by_a_worker(self, project):
        project.append("myproject/settings.py", DATABASE_BACKEND)
        project.migrate()
        project.run("shell", "-v", "0", "-c", WRITE)
        ((_, _), (_, block)) = blocks(SCHEDULERS, "django.tasks")
        command = re.search(r'-c "(.*)"', block)
        assert command
        project.run("shell", "-v", "0", "-c", command[1].replace("55", "2"))
        assert not project.is_stored()
        project.run("db_worker", "--batch")
        assert project.is_stored()

    @needs("django.tasks", "django_tasks_db")
    @pytest.mark.slow
    def test_each_of_them_by_a_worker(self, project):
        project.append("myproject/settings.py", DATABASE_BACKEND)
        project.migrate()
        project.run("shell", "-v", "0", "-c", EACH)
        project.run("db_worker", "--batch")
        found = rows(
            project.directory,
            "SELECT task_path, status FROM django_tasks_database_dbtaskresult ORDER BY task_path",
        )
        assert found == [
            (f"writebehind_app.contrib.tasks.{name}", "SUCCESSFUL")
            for name in ("flush_due", "flush_entry", "prune")
        ]
        assert project.is_stored()


ENQUEUE = """
from writebehind_app.contrib.tasks import flush_due
done = flush_due.enqueue("shop.Ticket")
print(done.status, done.return_value)
"""
EACH = """
from shop.models import Ticket
from writebehind_app.contrib.tasks import flush_due, flush_entry, prune
receipt = Ticket.buffered.set(number=5)
flush_entry.enqueue("shop.Ticket", receipt.id)
flush_due.enqueue("shop.Ticket", seconds=0.1)
prune.enqueue()
"""
DATABASE_BACKEND = """
INSTALLED_APPS += ["django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
"""
