"""One Redis of several is away: what people and monitors are told."""

from __future__ import annotations

import io
import json
import re

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from tests.admin import DASHBOARD, client, messages, page
from tests.backdoor.declarations import declare_only
from tests.backdoor.shards import are_paused
from tests.integration.test_doctor import without_table
from tests.models import Counter, Item, Setting
from tests.servers import RedisServer
from tests.several import moved
from writebehind_app import doctor
from writebehind_app.models import DeadLetter

pytestmark = pytest.mark.outage


@pytest.fixture(scope="module")
def second():
    with RedisServer("valkey") as server:
        yield server


@pytest.fixture
def gone(plain, second, monkeypatch):
    """Has the buffers of Item and Setting, and is away; `plain` has that of Counter."""
    declare_only(monkeypatch, Counter, Item, Setting)
    with moved(second.url.replace("//", "//:geheim@"), Item, Setting):
        with second.client() as redis:
            redis.config_set("requirepass", "geheim")
        Counter.buffered.set_many([{"name": "a"}, {"name": "b"}])
        Item.buffered.set(number=1)
        second.kill()
        yield second
    second.start()
    second.clear()


def run(command, *args):
    """What a command prints, its errors, and its exit code."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        call_command(command, *args, stdout=out, stderr=err, no_color=True)
    except SystemExit as end:
        code = end.code
    return out.getvalue(), err.getvalue(), code


class TestStatus:
    def test_for_people(self, gone):
        out, err, code = run("writebehind_status")
        assert code == 1
        assert [line.split()[:2] for line in out.splitlines()[1:]] == [["tests.Counter", "2"]]
        [line] = err.splitlines()
        assert line.startswith(
            f"Redis at 127.0.0.1:{gone.port}, database 0 cannot be used for tests.Item, "
            "tests.Setting: Error 111 connecting to "
        )
        assert "geheim" not in line

    def test_for_programs(self, plain, gone):
        out, _, code = run("writebehind_status", "--json")
        assert code == 1
        found = json.loads(out)
        assert [(one["label"], one["pending"]) for one in found["buffers"]] == [
            ("tests.Counter", 2)
        ]
        redis = found["redis"]
        assert redis["address"] == f"127.0.0.1:{plain.port}, database 0"
        assert redis["used_memory"] > 0
        [away] = redis["away"]
        assert away["address"] == f"127.0.0.1:{gone.port}, database 0"
        assert away["buffers"] == ["tests.Item", "tests.Setting"]
        assert away["problem"].startswith("Redis: Error 111 connecting to ")
        assert "geheim" not in out

    def test_of_buffers_on_the_other_one(self, gone):
        out, err, code = run("writebehind_status", "tests.Counter", "--json")
        assert (err, code) == ("", 0)
        assert "away" not in json.loads(out)["redis"]

    def test_of_none_but_those_that_are_on_it(self, gone):
        with pytest.raises(CommandError, match=rf"^Redis at .*:{gone.port}, .* for tests\.Item: "):
            run("writebehind_status", "tests.Item", "--json")

    def test_a_database_that_cannot_be_used_is_told_of_too(self, gone):
        with without_table("default", DeadLetter):
            _, err, code = run("writebehind_status")
        assert code == 1
        assert [line.partition(" ")[0] for line in err.splitlines()] == ["Redis", "The"]

    def test_each_is_away(self, plain, gone):
        plain.kill()
        with pytest.raises(CommandError) as error:
            run("writebehind_status")
        first, then = str(error.value).splitlines()
        assert f":{plain.port}, database 0 cannot be used for tests.Counter: " in first
        assert f":{gone.port}, database 0 cannot be used for tests.Item, tests.Setting: " in then


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_the_others_are_paused(gone, verb):
    run("writebehind_pause", "tests.Counter")
    run(f"writebehind_{'resume' if verb == 'pause' else 'pause'}", "tests.Counter")
    with pytest.raises(CommandError, match=r" cannot be used for tests\.Item, tests\.Setting: "):
        run(f"writebehind_{verb}")
    assert are_paused(Counter.buffered) is (verb == "pause")


class TestHealth:
    def get(self):
        response = Client().get("/health/")
        return response.status_code, response.json(), response.content.decode()

    def test_names_the_buffers(self, gone):
        code, found, text = self.get()
        assert (code, found["status"]) == (503, "failing")
        assert found["problems"] == ["The Redis of tests.Item, tests.Setting cannot be used."]
        assert [(one["label"], one["pending"]) for one in found["buffers"]] == [
            ("tests.Counter", 2)
        ]
        assert str(gone.port) not in text

    def test_each_is_away(self, plain, gone):
        plain.kill()
        _, found, _ = self.get()
        assert found["problems"] == ["Redis cannot be used."]

    def test_nobody_needs_it(self, gone, configure):
        configure(MODE="direct")
        assert self.get()[0] == 200


def test_metrics(gone):
    text = Client().get("/metrics/").content.decode()
    found = dict(re.findall(r"^writebehind_(\S+) (\S+)$", text, re.M))
    assert found["up"] == "0.0"
    assert found['buffer_up{buffer="tests.Counter"}'] == "1.0"
    assert found['buffer_up{buffer="tests.Item"}'] == "0.0"
    assert found['pending{buffer="tests.Counter"}'] == "2.0"
    assert 'pending{buffer="tests.Item"}' not in found
    assert "redis_used_memory_bytes" not in found
    assert str(gone.port) not in text


def test_the_doctor(gone):
    [finding] = [each for each in doctor.examine() if each.id == "writebehind.E101"]
    assert f":{gone.port}, database 0 cannot be used: " in finding.what
    assert finding.why.endswith("On it: tests.Item, tests.Setting.")
    assert "geheim" not in str(finding)


class TestAdmin:
    @pytest.fixture
    def admin(self, gone):
        return client(superuser=True)

    @pytest.mark.parametrize("path", [DASHBOARD, f"{DASHBOARD}status/"])
    def test_the_dashboard(self, gone, admin, path):
        text = page(admin, path)
        assert (
            f"Redis at 127.0.0.1:{gone.port}, database 0 does not answer, so what is pending there "
            "cannot be shown: Items, Settings."
        ) in text
        assert "so what is pending cannot be shown" not in text
        assert text.count("<dt>Pending</dt><dd>2</dd>") == text.count("<dt>Pending</dt>") == 1
        assert text.count("<dt>Dead letters</dt>") == 3
        assert "geheim" not in text

    def test_each_is_away(self, plain, gone, admin):
        plain.kill()
        assert "so what is pending cannot be shown." in page(admin, DASHBOARD)

    def test_everything_is_flushed_that_can_be(self, admin):
        response = admin.post(f"{DASHBOARD}flush/", {"begin": ""}, follow=True)
        [told] = messages(response)
        assert told.startswith("Redis does not answer: Redis: Error 111 connecting to ")
        admin.post(f"{DASHBOARD}flush/")
        assert Counter.objects.count() == 2

    def test_everything_is_paused_that_can_be(self, admin):
        first, then = messages(admin.post(f"{DASHBOARD}pause/", follow=True))
        assert first.startswith("Redis does not answer: ")
        assert then == "Paused, and writes go on: Counters."
        assert are_paused(Counter.buffered)
