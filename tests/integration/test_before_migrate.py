"""The commands on a database that was not migrated."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections

import writebehind_app.management.commands
from tests import servers
from tests.backdoor.divisions import shards_in_force
from tests.integration.test_doctor import without_table
from tests.models import Item
from tests.router import CurrentDatabase
from writebehind_app import tasks

# Each names the command that makes the tables, and exits with 1.
NEED_TABLES = [
    ("flush_writebehind", "--all"),
    ("writebehind_bench", "--no-input"),
    ("writebehind_deadletters", "list"),
    ("writebehind_deadletters", "show", "1"),
    ("writebehind_deadletters", "retry", "--all"),
    ("writebehind_deadletters", "discard", "--all"),
    ("writebehind_deadletters", "export", "--json"),
    ("writebehind_doctor",),
    ("writebehind_schedule",),
    ("writebehind_schedule", "--remove"),
    ("writebehind_status",),
    ("writebehind_status", "--json"),
]
# These ask Redis alone: a deploy pauses, migrates and resumes.
NEED_NONE = [
    ("flush_writebehind", "--dry-run"),
    ("writebehind_pause",),
    ("writebehind_resume",),
    ("writebehind_shards",),  # where no number changes
]

OWN = [m for m in apps.get_app_config("writebehind").get_models() if m._meta.managed]
TABLES = sorted(model._meta.db_table for model in OWN)


def run(*args: str) -> tuple[int, str]:
    """The exit code of a command in this process, and what it says."""
    said = io.StringIO()
    try:
        call_command(*args, stdout=said, stderr=said, no_color=True)
    except CommandError as error:
        return error.returncode, f"{said.getvalue()}{error}\n"
    except SystemExit as end:
        return end.code, said.getvalue()
    return 0, said.getvalue()


@pytest.fixture
def unmigrated(database: str, redis_server: object) -> Iterator[str]:
    with ExitStack() as tables:
        for model in OWN:
            tables.enter_context(without_table(database, model))
        yield database


def migrate(database: str) -> str:
    return "run manage.py migrate" + ("" if database == "default" else f" --database={database}")


def test_each_command_is_here():
    folder = Path(writebehind_app.management.commands.__path__[0])
    names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert names == {command for command, *_ in [*NEED_TABLES, *NEED_NONE]}


@pytest.mark.parametrize("args", [a for a in NEED_TABLES if a[0] == "writebehind_deadletters"])
def test_the_dead_letters(unmigrated, args):
    """One line, and no traceback."""
    assert run(*args) == (
        1,
        f"The database {unmigrated!r} has no {', '.join(TABLES[:3])}, …: {migrate(unmigrated)}.\n",
    )


def test_a_flush(unmigrated, monkeypatch):
    """One line in place of the failed batches. What is pending waits, and counts as left."""
    only = staticmethod(lambda db, *args, **hints: db == unmigrated)
    monkeypatch.setattr(CurrentDatabase, "allow_migrate", only, raising=False)
    Item.buffered.set(number=1)
    said = (
        f"The database {unmigrated!r} has no {', '.join(TABLES[:3])}, …: {migrate(unmigrated)}. "
        "What is pending stays in Redis.\n"
    )
    assert run("flush_writebehind", "--all") == (1, said)
    code, both = run("flush_writebehind", "--all", "--json", "tests.Item")
    first, report = both.splitlines(keepends=True)
    assert (code, first, json.loads(report)["remaining"]) == (1, said, 1)


@pytest.mark.parametrize("pending", [0, 1])
def test_a_change_of_the_number_of_shards(unmigrated, configure, monkeypatch, pending):
    """One line at once, and the number stays. The change has an entry in the ledger."""
    only = staticmethod(lambda db, *args, **hints: db == unmigrated)
    monkeypatch.setattr(CurrentDatabase, "allow_migrate", only, raising=False)
    configure(SHARDS=1)
    Item.buffered.set(number=1)
    if not pending:
        Item.buffered.discard()
    configure(SHARDS=2)
    began = time.monotonic()
    assert run("writebehind_shards", "tests.Item") == (
        1,
        f"The database {unmigrated!r} has no {', '.join(TABLES[:3])}, …: {migrate(unmigrated)}.\n",
    )
    assert time.monotonic() - began < 10
    assert shards_in_force(Item.buffered) == 1
    Item.buffered.set(number=2)
    assert Item.buffered.count_pending() == pending + 1


def test_a_task_that_prunes(unmigrated, caplog):
    """It logs the line that a flush logs, and does not fail."""
    assert tasks.prune() == tasks.prune() == 0
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert migrate(unmigrated) in said


def test_a_task_that_prunes_fails_for_any_other_reason(plain):
    def full(*args):
        raise OperationalError("database or disk is full")

    with connections["default"].execute_wrapper(full), pytest.raises(OperationalError):
        tasks.prune()


def test_the_status_says_what_waits_and_one_line(unmigrated):
    Item.buffered.set(number=1)
    code, said = run("writebehind_status")
    assert code == 1
    assert said.count("manage.py migrate") == said.count(migrate(unmigrated)) == 1
    code, said = run("writebehind_status", "tests.Item", "--json")
    (found,) = json.loads(said.splitlines()[0])["buffers"]
    assert (code, found["pending"], found["dead_letters"]) == (1, 1, None)


def test_a_benchmark_makes_no_table(unmigrated):
    code, said = run("writebehind_bench", "--no-input", f"--database={unmigrated}")
    assert (code, said.count("\n")) == (1, 1)
    assert said.endswith(f"{migrate(unmigrated)}.\n")


@pytest.mark.process
def test_every_command_on_an_empty_database(plain, tmp_path):
    """With its exit code, as a shell sees it."""
    found = json.loads(os.environ[servers.ENVIRONMENT])
    environment = {
        **os.environ,
        servers.ENVIRONMENT: json.dumps({**found, "directory": str(tmp_path)}),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    for args in {args[0]: args for args in [*NEED_NONE, *NEED_TABLES]}.values():
        done = subprocess.run(
            [sys.executable, "-m", "django", *args],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        said = done.stdout + done.stderr
        assert "Traceback" not in said, args
        needs_tables = args in NEED_TABLES
        assert (done.returncode, "manage.py migrate" in said) == (needs_tables, needs_tables), args
