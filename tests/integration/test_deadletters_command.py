"""`manage.py writebehind_deadletters`."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.models import Item, Owner, Pair
from tests.router import CurrentDatabase
from writebehind_app import Add
from writebehind_app.models import DeadLetter


@pytest.fixture
def letters(plain) -> list[DeadLetter]:
    """Two letters, for two reasons."""
    owner = Owner.objects.create(name="anna")
    Pair.objects.create(owner=owner, name="other", note="taken")
    Pair.buffered.set(owner=owner, name="x", note="taken", value=Add(2))
    Pair.buffered.flush()
    Pair.buffered.set(owner=404, name="y", value=3)
    Pair.buffered.flush()
    return list(DeadLetter.objects.all())


def run(*args: str) -> str:
    out = StringIO()
    call_command("writebehind_deadletters", *args, stdout=out, stderr=out)
    return out.getvalue()


def fails(*args: str) -> Any:
    with pytest.raises((CommandError, SystemExit)) as error:
        run(*args)
    return error.value


def test_list(letters):
    duplicate, orphan = (letter.pk for letter in letters)
    lines = run("list").splitlines()
    assert lines[0].startswith(f"{duplicate:>6}  tests.Pair  owner_id=")
    assert "name='x'  IntegrityError: UNIQUE constraint failed" in lines[0]
    assert lines[1].endswith("owner: there is no tests.Owner 404.")
    assert lines[-1] == "2 dead letters."
    assert run("list", str(orphan)).splitlines()[-1] == "1 dead letters."
    assert run("list", "tests.pair", "--limit", "1").splitlines()[-1] == "1 dead letters."
    assert run("list", "--error", "ValueError").splitlines() == ["0 dead letters."]


def test_list_as_json(letters):
    first, second = json.loads(run("list", "--json"))["dead_letters"]
    assert first["key"]["name"] == "x"
    assert first["values"] == {"note": "taken", "value": "Add(amount=2)"}
    assert second["values"] == {"value": 3}
    assert (second["error"], second["attempts"], second["delete"]) == ("IntegrityError", 1, False)


def test_show(letters):
    text = run("show", str(letters[1].pk))
    assert "values:      value=3" in text
    assert "first_seen:  20" in text


def test_export(letters):
    lines = [json.loads(line) for line in run("export").splitlines()]
    assert [line["id"] for line in lines] == [letter.pk for letter in letters]
    assert lines[0]["entry"] == json.loads(letters[0].entry)


def test_retry(letters):
    assert fails("retry", "--all").code == 1
    Pair.objects.update(note=None)
    assert json.loads(run("retry", str(letters[0].pk), "--json")) == {"stored": 1, "refused": 0}
    assert Pair.objects.get(name="x").value == 2
    assert DeadLetter.objects.get().attempts == 2


def test_discard(letters):
    assert run("discard", str(letters[0].pk)) == "1 dead letters were discarded.\n"
    assert json.loads(run("discard", "--all", "--json")) == {"discarded": 1}
    assert not DeadLetter.objects.exists()


def test_of_a_model_that_is_gone(letters):
    DeadLetter.objects.update(buffer="gone.Model")
    assert "gone.Model" in run("list")
    assert "has no buffer any more" in str(fails("retry", "--all"))
    assert run("discard", "gone.model") == "2 dead letters were discarded.\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["retry"], "Say which to retry"),
        (["discard", "5", "--all"], "Say which to discard"),
        (["list", "999999"], "There is no dead letter 999999."),
        (["list", "²"], "No buffer is called '²'."),
        (["list", "9" * 30], "No buffer is called '9999"),
        (["list", "tests.Nothing"], "No buffer is called 'tests.nothing'. There are: "),
    ],
)
def test_a_wrong_call(letters, args, message):
    error = fails(*args)
    assert message in str(error)
    assert error.returncode == 2


@pytest.mark.parametrize("limit", ["-1", "0", "x"])
def test_a_wrong_limit_discards_nothing(letters, limit):
    with pytest.raises(CommandError, match="argument --limit: invalid positive int value"):
        run("discard", "--limit", limit)
    assert DeadLetter.objects.count() == 2


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_an_id_that_letters_in_two_databases_have(database, redis_server, monkeypatch):
    """Each database counts its own; SQLite is the other one."""
    Pair.buffered.set(owner=404, name="x")
    Pair.buffered.flush()
    letter = DeadLetter.objects.get()
    here = CurrentDatabase.db_for_write
    monkeypatch.setattr(
        CurrentDatabase,
        "db_for_write",
        lambda self, model, **hints: "default" if model is Item else here(self, model, **hints),
    )
    copy = DeadLetter.objects.get()
    copy.buffer = "tests.Item"
    copy.save(using="default", force_insert=True)
    try:
        error = fails("discard", str(letter.pk))
        assert error.returncode == 2
        assert "in 2 databases: name the buffer as well, tests.Item or tests.Pair." in str(error)
        assert run("discard", "tests.Pair", str(letter.pk)) == "1 dead letters were discarded.\n"
        assert not DeadLetter.objects.exists()
        assert DeadLetter.objects.using("default").get() == copy
    finally:
        DeadLetter.objects.using("default").all().delete()
