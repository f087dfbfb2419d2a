"""`manage.py writebehind_deadletters`."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections
from django.utils import timezone

from tests.integration.test_doctor import without_table
from tests.models import Item, Owner, Pair, Tick, Visit
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
    Pair.buffered.set(owner=404404, name="y", value=3)
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
    assert lines[1].endswith("owner: there is no tests.Owner 404404.")
    assert lines[-1] == "2 dead letters."
    assert run("list", str(orphan)).splitlines()[-1] == "1 dead letter."
    assert run("list", "tests.pair", "--limit", "1").splitlines()[-1] == "1 dead letter."
    assert run("list", "--error", "ValueError").splitlines() == ["0 dead letters."]


def test_records_are_told_apart_by_what_is_unique_or_by_their_time(plain, configure):
    configure(SHARDS=1)
    before = timezone.now()
    for email in ("a", "b"):
        Visit.buffered.append(event=1, email=email, owner=404404)
    after = timezone.now()
    given = before - timedelta(days=1)
    Visit.buffered.append(event=2, email="a", owner=404404, registered_at=given)
    Visit.buffered.flush()
    lines = run("list").splitlines()
    for line, key in zip(
        lines, ("event=1, email='a'", "event=1, email='b'", "event=2, email='a'"), strict=False
    ):
        assert line[8:].startswith(f"tests.Visit  {key}  IntegrityError: owner: "), line
    *appended, of_yesterday = json.loads(run("list", "--json"))["dead_letters"]
    for letter in appended:
        at = datetime.fromisoformat(letter["values"]["registered_at"])
        assert before - timedelta(milliseconds=2) <= at <= after
    assert datetime.fromisoformat(of_yesterday["values"]["registered_at"]).day == given.day

    call_command("writebehind_deadletters", "discard", "--all", stdout=StringIO())
    Tick.buffered.append(id=uuid.UUID(int=1), value=1)
    Tick.buffered.flush()
    Tick.buffered.append(id=uuid.UUID(int=1), value=2)
    Tick.buffered.flush()
    (tick,) = json.loads(run("list", "--json"))["dead_letters"]
    assert set(tick["key"]) == {"at"}


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
    assert json.loads(run("retry", str(letters[0].pk), "--json")) == {
        "stored": 1,
        "refused": 0,
        "edited": 0,
    }
    assert Pair.objects.get(name="x").value == 2
    assert DeadLetter.objects.get().attempts == 2


def test_a_database_without_the_table_of_a_buffer(letters):
    with without_table("default", Pair):
        error = fails("retry", "--all")
    assert str(error) == (
        "A database cannot be used: no such table: tests_pair. Run manage.py migrate."
    )
    assert DeadLetter.objects.count() == 2


@pytest.mark.parametrize("action", ["list", "export", "discard --all", "retry --all"])
def test_a_database_that_is_away(letters, action):
    def away(*args):
        raise OperationalError("unable to open database file")

    with connections["default"].execute_wrapper(away):
        error = fails(*action.split())
    assert str(error) == "A database cannot be used: unable to open database file."
    assert error.returncode == 1


def test_what_was_edited_since_is_written_over_on_demand(letters):
    first = str(letters[0].pk)
    Pair.objects.update(note=None)
    Pair.objects.create(owner=Owner.objects.get(), name="x", note="mine")
    with pytest.raises(SystemExit) as refused:
        call_command(
            "writebehind_deadletters", "retry", first, stdout=(out := StringIO()), stderr=out
        )
    assert refused.value.code == 1
    said = out.getvalue()
    assert "note is 'mine' now, was no row when it died, and would be 'taken'" in said
    assert "To write it all the same, pass --over." in said
    assert "0 are refused again, 1 is kept as it would undo an edit." in said
    assert Pair.objects.get(name="x").note == "mine"
    assert run("retry", first, "--over") == "1 dead letter is stored, 0 are refused again.\n"
    assert Pair.objects.get(name="x").note == "taken"


def test_discard(letters):
    assert run("discard", str(letters[0].pk)) == "Discarded 1 dead letter.\n"
    assert json.loads(run("discard", "--all", "--json")) == {"discarded": 1}
    assert not DeadLetter.objects.exists()


def test_of_a_model_that_is_gone(letters):
    DeadLetter.objects.update(buffer="gone.Model")
    assert "gone.Model" in run("list")
    assert "has no buffer any more" in str(fails("retry", "--all"))
    assert run("discard", "gone.model") == "Discarded 2 dead letters.\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["retry"], "Say which to retry"),
        (["discard", "5", "--all"], "Say which to discard"),
        (["list", "999999"], "There is no dead letter 999999."),
        (["discard", "--all", "--over"], "--over is for retry."),
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
    Pair.buffered.set(owner=404404, name="x")
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
        assert run("discard", "tests.Pair", str(letter.pk)) == "Discarded 1 dead letter.\n"
        assert not DeadLetter.objects.exists()
        assert DeadLetter.objects.using("default").get() == copy
    finally:
        DeadLetter.objects.using("default").all().delete()
