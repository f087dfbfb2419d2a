"""`manage.py writebehind_doctor` finds what was planted, and nothing else."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core import checks
from django.core.cache import caches
from django.core.management import call_command
from django.db import DatabaseError, connections, models
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Schedule
from redis.exceptions import ResponseError

from tests.backdoor.declarations import declare_only, declare_too
from tests.backdoor.entries import make_older
from tests.backdoor.keyspace import is_doctors_key_there
from tests.backdoor.limits import limit
from tests.cluster import cluster_that_runs
from tests.models import Item, Note, Pair, Visit
from tests.router import CurrentDatabase
from tests.servers import RedisServer
from tests.servers.process import free_port
from writebehind_app import conf, doctor, jobs, schedules
from writebehind_app.doctor import databases
from writebehind_app.doctor.redis_server import BY_INFO, Examined, memory, version
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.models import AppliedBatch, DeadLetter

SHARED = {"BACKEND": "django.core.cache.backends.redis.RedisCache"}
MODELS = (Item, Note, Visit)
LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
LOCAL = {"default": LOCMEM, "writebehind": LOCMEM}  # the fixtures want the second


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """A project of three buffers, with nothing wrong in its settings."""
    declare_only(monkeypatch, *MODELS)
    settings.CACHES = LOCAL
    limit(monkeypatch, doctor_slow_redis=1.0)  # the machine may be busy


def found() -> set[str]:
    """The numbers of the findings, 'E101'."""
    return {f.id.removeprefix("writebehind.") for f in doctor.examine() if f.level != "ok"}


def only() -> doctor.Finding:
    """The finding that is the only one."""
    (finding,) = [f for f in doctor.examine() if f.level != "ok"]
    return finding


@pytest.fixture
def served(plain: RedisServer, configure: Callable[..., None]) -> Callable[..., Any]:
    """`with served("redis", appendonly="no") as server:`: the Redis of the settings, for a time."""

    @contextmanager
    def use(kind: str, **config: str) -> Iterator[RedisServer]:
        with RedisServer(kind, **config) as other:
            configure(REDIS=other.url)
            yield other

    return use


kinds = pytest.mark.parametrize("kind", RedisServer.KINDS)


class TestSound:
    def test_nothing_is_found(self, database, redis_server):
        Item.buffered.set(number=1, a=1)
        Visit.buffered.append(event=1, email="a")
        assert found() == set()

        Item.buffered.flush()
        Visit.buffered.flush()
        assert found() == set()
        with redis_server.client() as redis:
            assert not is_doctors_key_there(redis)

    def test_a_look_leaves_redis_as_it_was(self, plain):
        with plain.client() as redis:
            before = {*redis.scan_iter()}
            doctor.examine()
            call_command("writebehind_status", stdout=StringIO())
            call_command("flush_writebehind", "--dry-run", stdout=StringIO())
            assert {*redis.scan_iter()} == before

    def test_each_examination_says_that_it_took_place(self, plain):
        examined = {f.what for f in doctor.examine()}
        assert "Redis: persistence" in examined
        assert "The database 'default': unique constraints" in examined
        assert "Buffers: oldest entries" in examined
        assert "Django-Q2: timeouts" in examined

    def test_the_command_is_brief(self, plain):
        lines = run().splitlines()
        assert lines[0].startswith("sound    Redis: latency, ")
        assert lines[-1] == "errors: 0, warnings: 0"
        assert json.loads(run("--json")) == {"findings": [], "errors": 0, "warnings": 0}


def run(*args: str) -> str:
    out = StringIO()
    call_command("writebehind_doctor", *args, stdout=out, no_color=True)
    return out.getvalue()


class TestCommand:
    def test_an_error_is_told_with_reason_and_remedy(self, plain):
        with plain.client() as redis:
            redis.config_set("appendonly", "no")
        try:
            out = StringIO()
            with pytest.raises(SystemExit) as exit:
                call_command("writebehind_doctor", stdout=out, no_color=True)
        finally:
            with plain.client() as redis:
                redis.config_set("appendonly", "yes")
        assert exit.value.code == 1
        lines = out.getvalue().splitlines()
        assert lines[0].startswith("ERROR    Redis writes nothing to disk")
        assert lines[0].endswith("(writebehind.E108)")
        assert lines[1].startswith("   why:  A restart of Redis loses")
        assert lines[2].startswith("   do:   Set appendonly yes")
        assert lines[-1] == "errors: 1, warnings: 0"

    def test_a_warning_is_no_failure(self, plain, monkeypatch):
        monkeypatch.setattr(Conf, "SYNC", True)
        report = json.loads(run("--json"))
        assert (report["errors"], report["warnings"]) == (0, 1)
        assert report["findings"][0].keys() == {"id", "level", "what", "why", "do"}
        assert report["findings"][0]["id"] == "writebehind.W142"
        assert report["findings"][0]["level"] == "warning"


def test_each_finding_is_in_the_documentation():
    modules = Path(doctor.__file__).parent.glob("*.py")
    text = "".join(module.read_text() for module in modules)
    letters = {"error": "E", "_away": "E", "warning": "W"}
    calls = re.findall(r"\b(error|warning|_away)\(\s*(\d+)", text)
    page = Path(__file__).parents[2] / "docs" / "doctor.md"
    listed = re.findall(r"^\| ([EW]\d+) ", page.read_text(), re.MULTILINE)
    assert sorted(listed) == sorted({letters[kind] + number for kind, number in calls})


class TestCheck:
    def test_says_the_same_with_deploy_only(self, served):
        with served("redis", appendonly="no"):
            ids = {m.id for m in checks.run_checks(include_deployment_checks=True)}
            assert "writebehind.E108" in ids
            others = checks.run_checks(tags=["security"], include_deployment_checks=True)
            assert "writebehind.E108" not in {m.id for m in others}
            assert "writebehind.E108" not in {m.id for m in checks.run_checks()}

    def test_without_deploy_nothing_is_asked(self, plain, settings):
        settings.SILENCED_SYSTEM_CHECKS = ["writebehind.E030"]  # Ware's buffer is not declared here
        plain.stop()
        call_command("check")  # Django itself asks a database once what it can do
        asked = []
        with connections["default"].execute_wrapper(lambda *args: asked.append(args)):
            call_command("check")
        assert asked == []

    def test_wrong_settings_are_left_to_the_static_checks(self, plain, settings):
        settings.WRITEBEHIND = {**settings.WRITEBEHIND, "LEASE": "long"}
        assert only().id == "writebehind.E100"
        assert "writebehind.E002" in only().what
        assert doctor.check() == []


@kinds
class TestRedis:
    def test_that_is_away(self, served, kind):
        with served(kind) as redis:
            redis.kill()
            assert found() == {"E101"}

    def test_that_is_frozen(self, served, kind):
        with served(kind) as redis:
            redis.pause()
            started = time.monotonic()
            assert found() == {"E101"}
            assert time.monotonic() - started < 5

    def test_with_a_wrong_password_which_is_not_shown(self, served, configure, kind):
        with served(kind) as redis, redis.client() as admin:
            admin.config_set("requirepass", "right-one")
            configure(REDIS=redis.url.replace("//", "//:wrong-one@"))
            finding = only()
            assert finding.id == "writebehind.E101"
            assert "-one" not in str(finding)

    def test_without_a_database_of_that_number(self, served, configure, kind):
        with served(kind) as redis:
            configure(REDIS=redis.url.removesuffix("/0") + "/99")
            finding = only()
            assert finding.id == "writebehind.E101"
            assert "database 99 cannot be used: it has no database of that number" in finding.what
            assert "Choose a number that exists" in finding.do
            assert not [f.what for f in doctor.examine() if f.what.startswith(("Redis:", "Buf"))]

    def test_that_refuses_each_connection(self, served, configure, kind):
        with served(kind) as redis:
            configure(REDIS=user(redis, "~* +@all -select").removesuffix("/0") + "/1")
            finding = only()
            assert finding.id == "writebehind.E101"
            assert "select" in finding.what.lower()

    @pytest.mark.parametrize("rights", ["+@all -@scripting", "+@all -evalsha", "+@all -script"])
    def test_without_scripts(self, served, configure, kind, rights):
        with served(kind) as redis:
            configure(REDIS=user(redis, f"~* {rights}"))
            assert found() == {"E102"}
            with pytest.raises(BufferUnavailable):
                Item.buffered.count_pending()

    def test_without_its_keys(self, served, configure, kind):
        with served(kind) as redis:
            configure(REDIS=user(redis, "~others:* +@all"))
            finding = only()
            assert finding.id == "writebehind.E103"
            assert "~{" + conf.prefix() + ":*" in finding.do

    def test_without_some_commands(self, served, configure, kind):
        with served(kind) as redis:
            configure(REDIS=user(redis, "~* +@all -xtrim -hset"))
            finding = only()
            assert finding.id == "writebehind.E104"
            assert "HSET, XTRIM." in finding.what
            assert "secret" not in str(doctor.examine())

    @pytest.mark.parametrize(
        ("command", "number"), [("xtrim", "E104"), ("evalsha", "E102"), ("script", "E102")]
    )
    def test_whose_commands_were_renamed(self, served, tmp_path, kind, command, number):
        (tmp_path / "renamed").write_text(f'rename-command {command} ""\n')
        with served(kind, include=str(tmp_path / "renamed")):
            assert found() == {number}

    def test_without_info(self, served, configure, kind):
        with served(kind) as redis:
            configure(REDIS=user(redis, "~* +@all -info"))
            assert found() == {"W101"}
            examined = {f.what for f in doctor.examine()}
            assert "Redis: latency" in examined
            assert not examined & {f"Redis: {name}" for name in BY_INFO}

    def test_that_is_a_replica(self, served, kind):
        with (
            RedisServer(kind, **{"repl-diskless-sync-delay": "0"}) as primary,
            served(kind, replicaof=f"127.0.0.1 {primary.port}") as redis,
            redis.client() as replica,
        ):
            until(lambda: replica.info()["master_link_status"] == "up")
            finding = only()
            assert finding.id == "writebehind.E105"
            assert "primary" in finding.do

    def test_that_cannot_save(self, served, kind):
        with served(kind, save="3600 1", dbfilename="taken") as redis, redis.client() as saving:
            (redis.directory / "taken").mkdir()
            saving.bgsave()
            until(lambda: saving.info()["rdb_last_bgsave_status"] == "err")
            finding = only()
            assert finding.id == "writebehind.E105"
            assert "MISCONF" in finding.what
            with pytest.raises(BufferUnavailable):
                Item.buffered.set(number=1)

    def test_that_evicts(self, served, kind):
        """SCENARIOS 36: said before the memory is full."""
        config = {"maxmemory": "200mb", "maxmemory-policy": "allkeys-lru"}
        with served(kind, **config):
            finding = only()
            assert finding.id == "writebehind.E107"
            assert "allkeys-lru" in finding.what
            Item.buffered.set(number=1)
            make_older(Item.buffered, 600)
            assert found() == {"E107", "W130", "W148"}  # one does not hide the other

    def test_that_evicts_what_expires(self, served, kind):
        with served(kind, **{"maxmemory-policy": "volatile-ttl"}):
            assert found() == {"W103"}

    def test_that_is_nearly_full(self, served, kind):
        """SCENARIOS 36."""
        with served(kind) as redis, redis.client() as filling:
            filling.set("other", "x" * 50_000_000)
            until(lambda: filling.info()["used_memory"] < 60_000_000)  # without its buffers
            used = filling.info()["used_memory"]
            filling.config_set("maxmemory", int(used / 0.88))
            assert found() == {"W106"}
            filling.config_set("maxmemory", int(used / 0.98))
            finding = only()
            assert finding.id == "writebehind.E109"
            assert "% of the memory of Redis is used" in finding.what

    def test_that_writes_nothing_to_disk(self, served, kind):
        with served(kind, appendonly="no"):
            assert found() == {"E108"}

    def test_that_only_takes_snapshots(self, served, kind):
        with served(kind, appendonly="no", save="3600 1"):
            assert found() == {"W104"}

    def test_that_leaves_it_to_the_system(self, served, kind):
        with served(kind, appendfsync="no"):
            assert found() == {"W105"}

    def test_that_is_a_cluster(self, served, kind):
        options = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
        with served(kind, **options) as redis, redis.client() as cluster:
            assert found() == {"E110"}
            cluster.execute_command("CLUSTER ADDSLOTS", *range(16384))
            until(lambda: found() == {"W108"})  # it takes a moment to serve them

    def test_that_is_slow(self, served, kind, monkeypatch):
        with served(kind):
            limit(monkeypatch, doctor_slow_redis=1e-7)
            assert found() == {"W102"}


def user(redis: RedisServer, rights: str) -> str:
    """The URL of a user with these rights."""
    with redis.client() as admin:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">secret", *rights.split())
    return redis.url.replace("//", "//limited:secret@")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class TestMemory:
    """What the growth of a server says takes hours to see; its INFO is made up here."""

    def findings(self, **info: Any) -> list[doctor.Finding]:
        known = {"used_memory": 300, "used_memory_startup": 100, "maxmemory": 1000}
        return list(memory(Examined(None, {**known, **info}, [])))

    def test_that_will_not_last_for_a_day(self):
        (finding,) = self.findings(uptime_in_seconds=2 * 3600)
        assert finding.id == "writebehind.W107"
        assert "lasts for 7.0 hours" in finding.what
        assert "2.0 hours ago" in finding.what

    def test_that_lasts(self):
        assert self.findings(uptime_in_seconds=20 * 3600) == []

    def test_of_a_server_that_was_just_started(self):
        assert self.findings(uptime_in_seconds=60) == []

    def test_of_the_machine_where_there_is_no_limit(self):
        found = self.findings(uptime_in_seconds=20 * 3600, maxmemory=0, total_system_memory=310)
        assert [finding.id for finding in found] == ["writebehind.E109"]


def test_a_server_that_is_too_old():
    """None is at hand: this is what one before 6.2 answers to XTRIM MINID."""

    class Old:
        def xtrim(self, name: str, minid: str) -> int:
            raise ResponseError("syntax error")

    assert [finding.id for finding in version(Examined(Old(), {}, []))] == ["writebehind.E106"]


class TestCache:
    """SCENARIOS 37: `cache.clear()` is FLUSHDB."""

    BACKENDS = (
        "django.core.cache.backends.redis.RedisCache",
        "django_redis.cache.RedisCache",
    )

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_in_the_same_database(self, plain, settings, backend):
        location = plain.url.replace("127.0.0.1", "localhost")
        settings.CACHES = {**LOCAL, "pages": {"BACKEND": backend, "LOCATION": location}}
        assert only().id == "writebehind.E113"
        assert "'pages'" in only().what

        Item.buffered.set(number=1, a=1)
        caches["pages"].clear()
        assert Item.buffered.count_pending() == 0  # it is no false alarm

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_in_another_database(self, plain, settings, backend):
        location = plain.url.replace("/0", "/1")
        settings.CACHES = {**LOCAL, "pages": {"BACKEND": backend, "LOCATION": location}}
        assert found() == set()

        Item.buffered.set(number=1, a=1)
        caches["pages"].clear()
        assert Item.buffered.count_pending() == 1

    def test_on_another_server_that_is_away(self, plain, settings):
        location = "redis://127.0.0.1:1/0"
        settings.CACHES = {**LOCAL, "pages": {"BACKEND": self.BACKENDS[0], "LOCATION": location}}
        assert found() == set()

    def test_that_the_settings_name(self, plain, settings):
        one = {"BACKEND": self.BACKENDS[1], "LOCATION": plain.url}
        settings.CACHES = {**LOCAL, "writes": one}
        settings.WRITEBEHIND = {**settings.WRITEBEHIND, "REDIS": "writes"}
        assert found() == {"W110"}

        settings.CACHES = {"default": one}
        settings.WRITEBEHIND = {**settings.WRITEBEHIND, "REDIS": "default"}
        assert found() == {"E113"}


valkey_only = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


@valkey_only
class TestClocks:
    @pytest.mark.parametrize(("ahead", "number"), [(5, "W109"), (-5, "W109"), (90, "E112")])
    def test_that_differ(self, database, redis_server, monkeypatch, ahead, number):
        """The clock of this machine is moved, as one cannot move those of the servers."""
        now = time.time
        clock = SimpleNamespace(time=lambda: now() + ahead)
        monkeypatch.setattr("writebehind_app.doctor.redis_server.time", clock)
        monkeypatch.setattr(databases, "time", clock)
        findings = [f for f in doctor.examine() if f.level != "ok"]
        assert {f.id for f in findings} == {f"writebehind.{number}"}
        whose = ["Redis"] if database == "default" else ["Redis", f"database {database!r}"]
        assert all(any(w in f.what for f in findings) for w in whose)
        assert len(findings) == len(whose)
        assert ("behind" if ahead > 0 else "ahead") in findings[0].what


def only_on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("database", names, indirect=True)


servers_only, mariadb_only = only_on("postgresql", "mariadb"), only_on("mariadb")


class TestOneDatabase:
    def test_that_is_away(self, plain, settings, monkeypatch):
        options = {**connections.settings["default"], "NAME": "/nowhere/db.sqlite3"}
        monkeypatch.setitem(connections.settings, "default", options)
        assert found() == {"E120", "W146"}

    def test_that_hangs(self, plain, monkeypatch):
        limit(monkeypatch, doctor_examination=0.5)
        monkeypatch.setattr(databases, "EXAMINATIONS", {"": lambda examined: time.sleep(2)})
        started = time.monotonic()
        assert only().id == "writebehind.E120"
        assert time.monotonic() - started < 1.9

    def test_whose_router_does_not_let_the_ledger_in(self, plain, monkeypatch):
        monkeypatch.setattr(
            CurrentDatabase, "allow_migrate", lambda *args, **hints: False, raising=False
        )
        with without_table("default", DeadLetter):
            assert only().id == "writebehind.E121"
            assert "DATABASE_ROUTERS" in only().do

    def test_with_dead_letters(self, plain):
        Visit.buffered.append(event=1, email="a", owner=404404)
        Visit.buffered.flush()
        finding = only()
        assert finding.id == "writebehind.W131"
        assert finding.what == "tests.Visit: 1 dead letter."


@valkey_only
class TestDatabase:
    @servers_only
    def test_whose_password_is_wrong_and_not_shown(self, database, redis_server, monkeypatch):
        options = {**connections.settings[database], "USER": "nobody", "PASSWORD": "secret-one"}
        monkeypatch.setitem(connections.settings, database, options)
        findings = [f for f in doctor.examine() if f.level == "error"]
        assert [f.id for f in findings] == ["writebehind.E120"]
        assert "secret-one" not in str(findings)

    def test_that_takes_no_writes(self, database, redis_server, monkeypatch):
        known = connections.settings[database]
        read_only = {
            "default": {"NAME": f"file:{known['NAME']}?mode=ro", "OPTIONS": {"uri": True}},
            "postgresql": {"OPTIONS": {"options": "-c default_transaction_read_only=on"}},
            "mariadb": {"OPTIONS": {"init_command": "SET SESSION TRANSACTION READ ONLY"}},
        }
        monkeypatch.setitem(connections.settings, database, {**known, **read_only[database]})
        assert found() == {"E126"}

    @servers_only
    def test_of_which_there_are_several(self, database, redis_server, monkeypatch):
        monkeypatch.setattr(
            CurrentDatabase,
            "db_for_write",
            lambda self, model, **hints: "default" if model is Item else database,
        )
        assert found() == set()
        with without_table("default", AppliedBatch):
            assert "'default'" in only().what
        with without_table(database, AppliedBatch):
            assert f"{database!r}" in only().what

    def test_without_the_ledger(self, database, redis_server):
        with without_table(database, AppliedBatch):
            finding = only()
            assert finding.id == "writebehind.E121"
            assert finding.do == f"manage.py migrate writebehind --database={database}"

    def test_what_needs_a_table_that_is_not_there_is_not_sound(self, database, redis_server):
        def sound() -> set[str]:
            return {f.what for f in doctor.examine() if f.level == "ok"}

        before = sound()
        with without_table(database, AppliedBatch):
            lost = before - sound()
        names = ("own tables", "writing", "length of batches", "ledger")
        assert lost == {f"The database {database!r}: {name}" for name in names}

    def test_without_the_table_of_a_buffer(self, database, redis_server):
        with without_table(database, Item):
            assert found() == {"E122"}

    def test_without_a_column(self, database, redis_server):
        field = Item._meta.get_field("c")
        with connections[database].schema_editor() as editor:
            editor.remove_field(Item, field)
        try:
            finding = only()
        finally:
            with connections[database].schema_editor() as editor:
                editor.add_field(Item, field)
        assert finding.id == "writebehind.E122"
        assert "column 'tests_item.c'" in finding.what

    @pytest.mark.parametrize("model", [Note, Visit])
    def test_without_the_unique_constraint_of_a_key(
        self, database, redis_server, monkeypatch, model
    ):
        (constraint,) = model._meta.constraints
        monkeypatch.setattr(model._meta, "constraints", [])  # which SQLite makes the table by
        with connections[database].schema_editor() as editor:
            editor.remove_constraint(model, constraint)
        monkeypatch.setattr(model._meta, "constraints", [constraint])
        try:
            finding = only()
        finally:
            with connections[database].schema_editor() as editor:
                editor.add_constraint(model, constraint)
        assert finding.id == "writebehind.E123"
        assert model._meta.label in finding.what

    def test_without_the_unique_index_of_a_field(self, database, redis_server):
        old = Item._meta.get_field("number")
        new = models.BigIntegerField()
        new.set_attributes_from_name("number")
        new.model = Item
        with connections[database].schema_editor() as editor:
            editor.alter_field(Item, old, new)
        try:
            finding = only()
        finally:
            with connections[database].schema_editor() as editor:
                editor.alter_field(Item, new, old)
        assert finding.id == "writebehind.E123"

    def test_with_a_second_unique_key(self, database, redis_server, monkeypatch):
        declare_too(monkeypatch, Pair)
        assert found() == ({"W121"} if database == "mariadb" else set())

    def test_with_a_unique_key_that_the_model_does_not_know(self, database, redis_server):
        index = models.UniqueConstraint(fields=["b"], name="by_hand")
        with connections[database].schema_editor() as editor:
            editor.add_constraint(Item, index)
        try:
            assert found() == ({"E124"} if database == "mariadb" else set())
        finally:
            with connections[database].schema_editor() as editor:
                editor.remove_constraint(Item, index)

    @mariadb_only
    def test_whose_engine_has_no_transactions(self, database, redis_server):
        with connections[database].cursor() as cursor:
            cursor.execute("ALTER TABLE tests_item ENGINE=MyISAM")
            try:
                assert found() == {"E125"}
            finally:
                cursor.execute("ALTER TABLE tests_item ENGINE=InnoDB")

    def test_with_batches_longer_than_their_lease(self, database, redis_server, configure):
        Item.buffered.set(number=1)
        Item.buffered.flush()
        AppliedBatch.objects.update(duration=timedelta(seconds=90))
        assert found() == {"W132"}
        configure(LEASE=100)
        assert found() == set()

    def test_a_ledger_that_is_kept_for_ever(self, database, redis_server, configure):
        configure(LEDGER_DAYS=0)
        enter(1, days=29)
        assert found() == set()
        enter(1, days=31)
        assert "31 days old" in only().what
        configure(LEDGER_DAYS=7)
        assert found() == set()

    def test_old_rows_of_the_ledger_that_nobody_deletes(self, database, redis_server):
        enter(999, days=8.1)
        assert found() == set()
        enter(1, days=8.1, buffer="shop.Gone")
        finding = only()
        assert finding.id == "writebehind.W135"
        assert "gone (shop.Gone)" in finding.what
        Item.buffered.flush()
        assert found() == set()


def enter(count: int, *, days: float, buffer: str = Item.buffered.label) -> None:
    """Rows into the ledger, of so many days ago."""
    then = timezone.now() - timedelta(days=days)
    AppliedBatch.objects.bulk_create(
        AppliedBatch(
            token=secrets.token_hex(16),
            buffer=buffer,
            shard=0,
            entries=1,
            oldest_at=then,
            applied_at=then,
        )
        for _ in range(count)
    )


@contextmanager
def without_table(using: str, model: type[models.Model]) -> Iterator[None]:
    name, away = model._meta.db_table, f"{model._meta.db_table}_away"
    with connections[using].schema_editor() as editor:
        editor.alter_db_table(model, name, away)
    try:
        yield
    finally:
        with connections[using].schema_editor() as editor:
            editor.alter_db_table(model, away, name)


class TestBacklog:
    @pytest.fixture(autouse=True)
    def without_django_q(self, monkeypatch):
        monkeypatch.setattr(jobs, "is_installed", lambda: False)

    def test_that_nobody_flushes(self, plain, configure):
        configure(LEASE=0.001, MAX_AGE=0.001)
        Item.buffered.set(number=1)
        assert found() == set()
        make_older(Item.buffered, 120)
        finding = only()
        assert finding.id == "writebehind.W130"
        assert "tests.Item: the oldest pending entry is 2 minutes old" in finding.what
        assert "flush_writebehind --loop" in finding.do

    def test_that_somebody_paused(self, plain, configure):
        configure(LEASE=0.001, MAX_AGE=0.001)
        Item.buffered.set(number=1)
        make_older(Item.buffered, 120)
        call_command("writebehind_pause", "tests.Item", verbosity=0)
        finding = only()
        assert finding.id == "writebehind.W137"
        assert "writebehind_resume tests.Item" in finding.do

    def test_of_a_log(self, plain, configure, monkeypatch):
        configure(LEASE=0.001, MAX_AGE=0.001)
        Visit.buffered.append(event=1, email="a")
        assert found() == set()
        limit(monkeypatch, overdue_slack=-1.0)
        assert found() == {"W130"}

    def test_that_fails(self, plain, configure):
        configure(SHARDS=1)
        Item.buffered.set(number=1)
        with without_table("default", AppliedBatch), pytest.raises(DatabaseError):
            Item.buffered.flush()
        finding = only()
        assert finding.id == "writebehind.W133"
        assert "tries so far: 1. The last one: OperationalError" in finding.what
        assert "no such table" in finding.what

    @pytest.mark.parametrize(("wished", "shards"), [(1, "1 shard"), (2, "2 shards")])
    def test_more_shards_than_the_settings_say(self, plain, configure, wished, shards):
        configure(SHARDS=8)
        Item.buffered.set_many([{"number": n} for n in range(50)])
        configure(SHARDS=wished)
        finding = only()
        assert finding.id == "writebehind.W136"
        assert f"is to have {shards} by these settings, and has 8" in finding.what
        assert finding.do.startswith("Run manage.py writebehind_shards tests.Item.")


class TestDjangoQ:
    @pytest.fixture(autouse=True)
    def q2(self, plain, monkeypatch):
        self.set = lambda **values: [
            monkeypatch.setattr(Conf, name, value) for name, value in values.items()
        ]
        self.set(TIMEOUT=60, RETRY=120, SYNC=False, CATCH_UP=False, WORKERS=1)
        yield
        Schedule.objects.all().delete()

    def test_that_redelivers(self):
        self.set(TIMEOUT=60, RETRY=60)
        assert found() == {"W141"}

    def test_that_never_times_out(self):
        self.set(TIMEOUT=None)
        assert found() == {"W140"}

    def test_that_runs_in_the_request(self):
        self.set(SYNC=True)
        assert found() == {"W142"}

    def test_that_catches_up(self):
        self.set(CATCH_UP=True)
        assert found() == set()  # nothing of ours is scheduled
        schedule()
        assert found() == {"W143"}

    def test_with_several_workers_on_sqlite(self):
        self.set(WORKERS=4)
        assert found() == set()
        schedule()
        assert found() == {"W144"}

    def test_without_a_cluster(self, plain, settings):
        schedule()
        assert found() == set()  # a cache of one process cannot tell
        location = plain.url.replace("/0", "/3")
        settings.CACHES = {"default": {**SHARED, "LOCATION": location}}
        assert found() == {"W145"}

    def test_with_a_cluster(self, plain, settings):
        schedule()
        with cluster_that_runs(plain, settings):
            assert found() == set()

    def test_without_a_schedule(self, configure):
        configure(LEASE=0.001, MAX_AGE=0.001)
        Item.buffered.set(number=1)
        assert found() == set()
        make_older(Item.buffered, 120)
        assert found() == {"W130", "W148"}
        schedule()
        assert found() == {"W130"}

    def test_that_runs_and_flushes_nothing(self, plain, settings, configure):
        schedules.make()
        configure(SHARDS=1)
        Item.buffered.set(number=1)
        with cluster_that_runs(plain, settings):
            make_older(Item.buffered, 29)
            assert found() == set()
            make_older(Item.buffered, 2)
            assert found() == {"W130", "W149"}
            with without_table("default", AppliedBatch), pytest.raises(DatabaseError):
                Item.buffered.flush()
            assert found() == {"W130", "W133"}
        assert found() == {"W130", "W133", "W145"}

    def test_whose_cache_is_away(self, settings):
        schedule()
        settings.CACHES = {"default": {**SHARED, "LOCATION": "redis://127.0.0.1:1/0"}}
        assert found() == {"W147"}

    def test_without_its_tables(self):
        with without_table("default", Schedule):
            assert found() == {"W146"}

    def test_that_is_not_installed(self, monkeypatch):
        monkeypatch.setattr(jobs, "is_installed", lambda: False)
        self.set(TIMEOUT=None)
        assert found() == set()


def schedule() -> None:
    Schedule.objects.create(
        func="django.core.management.call_command",
        args="'flush_writebehind'",
        schedule_type=Schedule.MINUTES,
        next_run=timezone.now(),
    )
