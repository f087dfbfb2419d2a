"""What other projects test with: assertBuffered, and docs/testing.md in a project of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.core.exceptions import FieldError
from django.db import transaction
from django.test.utils import setup_test_environment, teardown_test_environment

from tests.backdoor.batches import claim
from tests.backdoor.keyspace import OF_THE_PROJECT
from tests.models import Item, Visit
from tests.servers import lasting_keys
from writebehind_app import DELETED, Add, Max, conf, testing
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.meta.models import PostMeta
from writebehind_app.testing import assertBuffered

ROOT = Path(__file__).parents[2]


class TestAssertBuffered:
    def test_takes_what_set_takes(self, plain):
        Item.buffered.set(number=5, a=Add(1), f="1.50", d=Max(3))
        Item.buffered.set(number=5, a=Add(1))
        entry = assertBuffered(Item.buffered, number="5", a=Add(2), f="1.5", d=Max(3.0))
        assert entry == Item.buffered.pending()[0]
        assertBuffered(Item.buffered, number=5)

    def test_says_what_is_pending_instead(self, plain):
        Item.buffered.set(number=5, b="x", a=Add(1))
        with pytest.raises(AssertionError) as failure:
            assertBuffered(Item.buffered, number=5, b="y")
        assert str(failure.value).splitlines() == [
            "tests.Item: this is not pending: number=5, b='y'",
            "This is, for that key:",
            "  number=5, b='x', a=Add(amount=1)",
        ]

    def test_says_what_is_pending_for_others(self, plain):
        with pytest.raises(AssertionError, match=r"Nothing is pending in the buffer\."):
            assertBuffered(Item.buffered, number=5)
        Item.buffered.set(number=6, b="x")
        with pytest.raises(
            AssertionError, match=r"(?s)Nothing is, for that key\..*number=6, b='x'"
        ):
            assertBuffered(Item.buffered, number=5, b="x")

    def test_a_value_that_is_not_written_is_not_pending(self, plain):
        Item.buffered.set(number=5, b="x")
        with pytest.raises(AssertionError):
            assertBuffered(Item.buffered, number=5, c=None)

    def test_in_flight(self, plain, configure):
        configure(SHARDS=1)
        Item.buffered.set(number=5, b="old")
        claim(Item.buffered)
        Item.buffered.set(number=5, a=1)
        assert assertBuffered(Item.buffered, number=5, b="old").state == "in_flight"
        assert assertBuffered(Item.buffered, number=5).state == "pending"

    def test_of_metadata(self, plain):
        meta = PostMeta.buffered.of(post_id=1)
        meta.update({"views": Add(1), "buffer": [1], "gone": 1})
        meta.pop("gone")
        assertBuffered(meta, views=Add(1), buffer=[1], gone=DELETED)
        with pytest.raises(
            AssertionError, match=r"post_id=1, buffer=\[2\]\n.*\n  post_id=1, buffer="
        ):
            assertBuffered(meta, buffer=[2])

    def test_of_a_log(self, plain):
        Visit.buffered.extend([{"event": 1, "email": "a"}, {"event": 1, "email": "b", "owner": 3}])
        assertBuffered(Visit.buffered, email="b", owner_id=3)
        with pytest.raises(AssertionError, match=r"email='a', owner=3\nThis is:\n.*email='a'"):
            assertBuffered(Visit.buffered, email="a", owner=3)

    def test_refuses_what_the_call_would_refuse(self, plain):
        with pytest.raises(FieldError, match="no buffered field 'colour'"):
            assertBuffered(Item.buffered, number=5, colour="red")
        with pytest.raises(TypeError, match=r"as LessonMeta\.buffered\.of"):
            assertBuffered(PostMeta.buffered, post_id=1)

    def test_says_why_nothing_is_pending(self, plain):
        with testing.direct():
            assert Item.buffered.set(number=5).direct
            with pytest.raises(AssertionError, match="MODE is 'direct'"):
                assertBuffered(Item.buffered, number=5)


class TestBuffered:
    def test_leaves_nothing_and_touches_no_other_key(self, plain, monkeypatch):
        with plain.client() as redis:
            redis.set(OF_THE_PROJECT, "of the project")
            with testing.buffered():
                Item.buffered.set(number=5)
                Visit.buffered.append(event=1, email="a")
                claim(Item.buffered)
            assert redis.keys() == [OF_THE_PROJECT]
            monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
            Item.buffered.set(number=6)
            with testing.buffered():
                assert conf.prefix() == "wb:gw1:test"
                assert Item.buffered.count_pending() == 0
            assert Item.buffered.count_pending() == 1  # of another process

    def test_is_for_tests_alone(self, plain):
        Item.buffered.set(number=5)
        teardown_test_environment()
        try:
            # As a project that is not tested has it, once it sent a mail by the backend "locmem".
            mail.outbox = []
            with pytest.raises(RuntimeError, match="no test runner is at work"), testing.buffered():
                pass
            assert conf.prefix() == conf.settings().PREFIX
        finally:
            del mail.outbox
            setup_test_environment(debug=False)
        assert conf.prefix() == f"{conf.settings().PREFIX}:test"

    def test_goes_through_redis_where_the_tests_do_not(self, plain, configure):
        configure(MODE="direct")
        with testing.buffered():
            assert not Item.buffered.set(number=5).direct
            assert testing.flush().rows == 1
        assert Item.buffered.set(number=5).direct

    def test_says_that_redis_is_away(self, plain, configure):
        configure(WHEN_DOWN="direct")
        plain.stop()
        with pytest.raises(BufferUnavailable), testing.buffered():
            pass

    def test_a_flush_is_refused_in_a_transaction_of_the_test(self, plain):
        with testing.buffered():
            Item.buffered.set(number=5)
            with (
                pytest.raises(transaction.TransactionManagementError, match="commits by itself"),
                transaction.atomic(),
            ):
                testing.flush()


# In both orders, as pytest-django undoes changes of its own.
CHANGES = """
import pytest

@pytest.mark.parametrize("names", [("settings", "writebehind"), ("writebehind", "settings")])
def test_changes_settings_too(names, request):
    settings = [request.getfixturevalue(name) for name in names][names.index("settings")]
    assert settings.WRITEBEHIND["MODE"] == "buffered"
    settings.WRITEBEHIND = {**settings.WRITEBEHIND, "SHARDS": 2}

def test_finds_them_as_they_were(settings):
    assert settings.WRITEBEHIND["MODE"] == "direct"
    assert "SHARDS" not in settings.WRITEBEHIND
"""
SETTINGS = """
import os
SECRET_KEY = "x"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
INSTALLED_APPS = ["django.contrib.contenttypes", "writebehind_app", "shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
WRITEBEHIND = {"REDIS": os.environ["SHOP_REDIS"]}
WRITEBEHIND = {**WRITEBEHIND, "MODE": "direct"}
"""
MODELS = """
from django.db import models
from writebehind_app import LogBuffer, MetaBuffer, RowBuffer

class Ticket(models.Model):
    number = models.BigIntegerField(unique=True)
    status = models.CharField(max_length=20, default="open")
    views = models.IntegerField(default=0)
    buffered = RowBuffer(key="number")

class LessonMeta(models.Model):
    lesson_id = models.BigIntegerField()
    key = models.CharField(max_length=64)
    value = models.JSONField(null=True)
    buffered = MetaBuffer(entity="lesson_id", name="key", value="value")
    class Meta:
        constraints = [models.UniqueConstraint(fields=["lesson_id", "key"], name="lesson_key")]

class Registration(models.Model):
    event_id = models.BigIntegerField()
    email = models.EmailField()
    registered_at = models.DateTimeField(db_index=True)
    buffered = LogBuffer(time="registered_at")
"""


def kept_keys(redis: Any) -> set[Any]:
    """What the tests of the project have left. A thread of an earlier test of this process may
    have asked the same server something meanwhile."""
    return {key for key in lasting_keys(redis) if b":tests." not in key}


@pytest.mark.process
class TestDocument:
    """The examples of docs/testing.md, in a project that has the models of the README."""

    @pytest.fixture
    def project(self, plain, tmp_path) -> Path:
        text = (ROOT / "docs/testing.md").read_text()
        for name, code in re.findall(r"```python\n# (\w+\.py)[^\n]*\n(.*?)```", text, re.DOTALL):
            (tmp_path / name).write_text(code)
        (tmp_path / "shop").mkdir()
        (tmp_path / "shop" / "models.py").write_text(MODELS)
        (tmp_path / "shop" / "__init__.py").touch()
        (tmp_path / "shop_settings.py").write_text(SETTINGS)
        (tmp_path / "pytest.ini").write_text("[pytest]\nDJANGO_SETTINGS_MODULE = shop_settings\n")
        with plain.client() as redis:
            redis.set(OF_THE_PROJECT, "of the project")
        self.url = plain.url
        return tmp_path

    def run(self, project: Path, *args: str, path: Path | None = None) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(map(str, filter(None, [path, project, ROOT]))),
            "DJANGO_SETTINGS_MODULE": "shop_settings",
            "SHOP_REDIS": self.url,
        }
        done = subprocess.run(
            [sys.executable, *args],
            cwd=project,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def test_with_pytest(self, plain, project):
        (project / "test_settings.py").write_text(CHANGES)
        out = self.run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider")
        assert "11 passed" in out
        with plain.client() as redis:
            assert kept_keys(redis) == {OF_THE_PROJECT}

    def test_with_unittest_where_there_is_no_pytest(self, plain, project, tmp_path_factory):
        (project / "test_with_pytest.py").unlink()
        (project / "conftest.py").unlink()
        path = tmp_path_factory.mktemp("without")
        (path / "pytest.py").write_text("raise ModuleNotFoundError('No module named pytest')\n")
        out = self.run(project, "-m", "django", "test", "--parallel", "2", path=path)
        assert re.search(r"Ran 4 tests in .*\n\nOK", out)
        with plain.client() as redis:
            assert kept_keys(redis) == {OF_THE_PROJECT}
