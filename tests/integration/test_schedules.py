"""The schedules of Django-Q2: made once, and left to whoever changes or removes them."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django_q.conf import Conf
from django_q.models import Schedule

from tests.backdoor.declarations import hide_table
from tests.integration.test_doctor import without_table
from writebehind_app import jobs, schedules
from writebehind_app.models import MadeSchedule

NAMES = ["writebehind: flush", "writebehind: prune"]


def migrate(using: str) -> None:
    call_command("migrate", database=using, verbosity=0, interactive=False)


def command(*args: str) -> str:
    out = StringIO()
    call_command("writebehind_schedule", *args, stdout=out)
    return out.getvalue()


def names() -> list[str]:
    return sorted(Schedule.objects.values_list("name", flat=True))


# In children


def make_when_told(how: str, using: str) -> None:
    print("ready")
    input()
    if how == "migrate":
        migrate(using)
    else:
        command()
    print("done")


class TestMade:
    def test_by_migrate_and_by_the_command_once(self, database):
        migrate(database)
        assert names() == NAMES
        migrate(database)
        assert command() == "".join(f"{name}: is there, and left as it is\n" for name in NAMES)
        assert command() == command()
        assert names() == NAMES
        flush = Schedule.objects.get(name=NAMES[0])
        assert (flush.func, flush.schedule_type, flush.minutes, flush.repeats) == (
            "writebehind_app.tasks.flush_due",
            Schedule.MINUTES,
            1,
            -1,
        )

    def test_by_the_command_without_migrate(self, database):
        assert command() == "".join(f"{name}: made\n" for name in NAMES)
        assert names() == NAMES
        migrate(database)
        assert names() == NAMES

    @pytest.mark.process
    @pytest.mark.parametrize("how", ["migrate", "command"])
    def test_by_two_processes_at_once(self, database, redis_server, start_child, how):
        children = [start_child(make_when_told, how, database) for _ in range(3)]
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("\n")
            child.stdin.flush()
        for child in children:
            assert child.stdout.readline() == "done\n"
        assert names() == NAMES

    def test_what_a_person_changed_stays(self, database):
        migrate(database)
        Schedule.objects.filter(name=NAMES[0]).update(minutes=7, kwargs="{'seconds': 3}")
        migrate(database)
        command()
        changed = Schedule.objects.get(name=NAMES[0])
        assert (changed.minutes, changed.kwargs) == (7, "{'seconds': 3}")

    def test_when_the_database_that_the_router_says_is_migrated(self, plain):
        schedules.make_after_migrate(using="other")
        assert names() == []
        schedules.make_after_migrate(using="default")
        assert names() == NAMES

    def test_not_without_the_tables_of_both(self, plain, monkeypatch):
        hide_table(monkeypatch, Schedule)
        migrate("default")
        assert not MadeSchedule.objects.exists()

    @pytest.mark.parametrize("args", [(), ("--remove",)])
    @pytest.mark.parametrize("model", [MadeSchedule, Schedule])
    def test_the_command_before_migrate_says_what_to_do(self, plain, args, model):
        with (
            without_table("default", model),
            pytest.raises(CommandError, match=r"run manage\.py migrate first"),
        ):
            command(*args)


class TestRemoved:
    def test_for_good_until_they_are_asked_for(self, database):
        migrate(database)
        assert command("--remove") == "".join(f"{name}: removed\n" for name in NAMES)
        assert names() == []
        migrate(database)
        assert names() == []
        assert command("--remove") == "".join(f"{name}: was not there\n" for name in NAMES)
        command()
        assert names() == NAMES

    def test_before_they_were_ever_made(self, database):
        command("--remove")
        migrate(database)
        assert names() == []

    def test_by_a_person_in_the_admin(self, database):
        migrate(database)
        Schedule.objects.filter(name=NAMES[1]).delete()
        migrate(database)
        assert names() == NAMES[:1]

    def test_nothing_of_the_project(self, plain):
        Schedule.objects.create(name="theirs", func="math.floor")
        migrate("default")
        command("--remove")
        assert names() == ["theirs"]


class TestOn:
    def test_while_one_is_there_that_runs(self, plain):
        assert not schedules.is_on()
        command()
        assert schedules.is_on()
        Schedule.objects.filter(name=NAMES[0]).update(repeats=0)
        assert not schedules.is_on()

    def test_not_for_what_a_project_schedules_by_itself(self, plain):
        own = Schedule.objects.create(
            func="django.core.management.call_command", args="'flush_writebehind'"
        )
        assert not schedules.is_on()
        assert schedules.flushes(own)  # as the doctor asks
        Schedule.objects.create(func="writebehind_app.tasks.flush_due", kwargs="seconds=5")
        assert not schedules.is_on()

    def test_in_the_cluster_that_carries_it_out(self, plain, monkeypatch):
        command()
        monkeypatch.setattr(Conf, "CLUSTER_NAME", "other")
        assert not schedules.is_on()
        Schedule.objects.filter(name=NAMES[0]).update(cluster="other")
        assert schedules.is_on()
        monkeypatch.undo()
        assert not schedules.is_on()


class TestWithoutDjangoQ:
    @pytest.fixture(autouse=True)
    def without(self, monkeypatch):
        monkeypatch.setattr(jobs, "is_installed", lambda: False)

    def test_nothing_happens(self, plain):
        schedules.make_after_migrate(using="default")
        assert not MadeSchedule.objects.exists()
        assert not schedules.is_on()

    def test_the_command_says_so(self, plain):
        with pytest.raises(CommandError, match="django_q is not in INSTALLED_APPS"):
            command()
