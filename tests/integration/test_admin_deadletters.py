"""Dead letters in the admin: read, corrected, retried, discarded and exported."""

from __future__ import annotations

import csv
import json
import re
import time
from datetime import timedelta
from io import StringIO
from types import SimpleNamespace

import pytest
from django.contrib.admin.models import LogEntry
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from tests.admin import HISTORY, LETTERS, client, messages, page
from tests.models import Everything, Item, Note, Owner, Pair, Place, Seat, Venue, Visit
from writebehind_app import Add, registry
from writebehind_app.admin.correction import rendered
from writebehind_app.database import deadletters
from writebehind_app.database.letters import described, entry_in
from writebehind_app.models import DeadLetter

UUID = "00000000-0000-0000-0000-000000000001"


@pytest.fixture
def admin(plain) -> Client:
    return client(superuser=True)


@pytest.fixture
def letters(admin) -> list[DeadLetter]:
    """Two letters, for two reasons."""
    owner = Owner.objects.create(name="anna")
    Pair.objects.create(owner=owner, name="other", note="taken")
    Pair.buffered.set(owner=owner, name="x", note="taken", value=Add(2))
    Pair.buffered.flush()
    Pair.buffered.set(owner=404404, name="y", value=3)
    Pair.buffered.flush()
    return list(DeadLetter.objects.order_by("pk"))


def change(letter: DeadLetter) -> str:
    return f"{LETTERS}{letter.pk}/change/"


def form_of(admin: Client, letter: DeadLetter) -> dict[str, str]:
    """What a browser would send back unchanged."""
    form = admin.get(change(letter)).context["form"]
    return {bound.name: rendered(bound.field, bound.initial) for bound in form}


def sent(admin: Client, letter: DeadLetter, button: str = "_retry", **values: object) -> list[str]:
    data = {**form_of(admin, letter), **values, button: ""}
    return messages(admin.post(change(letter), data, follow=True))


def acted(admin: Client, action: str, *letters: DeadLetter, **data: object) -> list[str]:
    ids = [letter.pk for letter in letters]
    if "confirmation" in data:
        chosen = {"action": action, "_selected_action": ids}
        data["shown_set"] = admin.post(LETTERS, chosen).context["shown_set"]
    response = admin.post(LETTERS, {"action": action, "_selected_action": ids, **data}, follow=True)
    return messages(response)


def test_a_record_is_known_by_what_is_unique_and_keeps_the_time_of_its_append(admin, plain):
    before = timezone.now() - timedelta(milliseconds=2)
    Visit.buffered.append(event=7, email="anna", owner=404404)
    after = timezone.now()
    time.sleep(1.1)
    Visit.buffered.flush()
    letter = DeadLetter.objects.get()
    assert "event=7, email=anna" in page(admin, LETTERS)
    assert "<h1>Visit: event 7, email anna</h1>" in page(admin, change(letter))
    owner = Owner.objects.create(name="o")
    sent(admin, letter, owner=owner.pk)
    visit = Visit.objects.get()
    assert (visit.event, visit.email, visit.owner) == (7, "anna", owner)
    assert before <= visit.registered_at <= after


def test_the_list_and_its_filters(admin, letters):
    text = page(admin, LETTERS)
    assert "name=x" in text
    assert "owner: there is no tests.Owner 404404." in text
    assert "IntegrityError: UNIQUE constraint failed" in text
    assert admin.get(LETTERS).context["cl"].result_count == 2
    assert "name=y" not in page(admin, LETTERS, q="UNIQUE")
    assert "name=x" in page(admin, LETTERS, buffer="tests.Pair")
    assert "name=x" in page(admin, LETTERS, error="IntegrityError")
    assert "name=x" not in page(admin, LETTERS, buffer="tests.Item")
    assert "name=x" in page(admin, LETTERS, last_seen__gte="2020-01-01 00:00:00+00:00")


@pytest.mark.parametrize("path", [LETTERS, HISTORY])
def test_the_list_cannot_be_asked_for_what_it_does_not_show(admin, letters, path):
    for lookup in ("entry__contains", "digest", "error__in__x", "number__gt"):
        assert admin.get(path, {lookup: "1"}).status_code == 400


def test_a_letter_says_what_was_refused_and_why(admin, letters):
    text = page(admin, change(letters[0]))
    assert "UNIQUE constraint failed" in text
    assert "Add(amount=2)" in text
    assert "taken" in text
    assert "Refused once, on" in text
    response = admin.get(f"{LETTERS}99999999/change/", follow=True)
    assert messages(response) == ["This dead letter is gone: it was stored or discarded."]
    assert admin.get(f"{LETTERS}x/change/", follow=True).status_code == 200


def test_a_foreign_key_is_corrected_and_the_letter_stored(admin):
    """As somebody on call would: see the letter, correct it, retry it, see the row."""
    Everything.buffered.set(key=UUID, owner=404404, text="kept", boolean=True)
    Everything.buffered.flush()
    letter = DeadLetter.objects.get()
    assert "there is no tests.Owner 404404" in page(admin, change(letter))

    (message,) = sent(admin, letter)  # as it is
    assert message == "1 refused again: see why below."
    assert DeadLetter.objects.get().attempts == 2
    owner = Owner.objects.create(name="anna")
    assert sent(admin, letter, "_save", owner=owner.pk) == [
        "The values are kept for the next retry."
    ]
    assert f"owner</th><td>{owner.pk}</td>" in page(admin, change(letter))
    assert sent(admin, letter) == ["1 stored."]
    row = Everything.objects.get()
    assert (row.owner_id, row.text, row.boolean) == (owner.pk, "kept", True)
    done = list(LogEntry.objects.order_by("pk").values_list("change_message", flat=True))
    assert done == ["Retried: refused.", "Corrected: owner.", "Retried: stored."]


def test_a_missing_value_is_added(admin):
    Venue.objects.create(slug="here")
    Place.buffered.set(number=1)
    Place.buffered.flush()
    letter = DeadLetter.objects.get()
    assert sent(admin, letter, venue="here") == ["1 stored."]
    assert Place.objects.get().venue_id == "here"


def test_an_operation_stays_or_is_replaced(admin, letters):
    assert "Now: Add(amount=2)" in page(admin, change(letters[0]))
    assert sent(admin, letters[0], note="free") == ["1 stored."]
    assert Pair.objects.get(name="x").value == 2
    Owner.objects.create(pk=404404, name="bert")
    assert sent(admin, letters[1], value="7") == ["1 stored."]
    assert Pair.objects.get(name="y").value == 7


def test_a_wrong_value_is_refused_with_the_field(admin, letters):
    for value, message in (("x", "Enter a whole number"), ("", "cannot be null")):
        data = {**form_of(admin, letters[1]), "value": value, "_retry": ""}
        assert message in admin.post(change(letters[1]), data).content.decode()
    assert DeadLetter.objects.get(pk=letters[1].pk).attempts == 1
    Everything.buffered.set(key=UUID, owner=404404)
    Everything.buffered.flush()
    letter = DeadLetter.objects.latest("pk")
    data = {**form_of(admin, letter), "owner": "999999", "_retry": ""}
    assert "Select a valid choice" in admin.post(change(letter), data).content.decode()


def test_every_kind_of_field_is_in_the_form_and_unchanged_if_sent_back(admin):
    Everything.buffered.set(
        key=UUID,
        owner=404404,
        boolean=False,
        datetime="2026-01-02T03:04:05.678901+00:00",
        time="01:02:03.000004",
        duration="1 00:00:01",
        decimal="1.5",
        json={"a": [1, None]},
        color="red",
        level=2,
        binary=b"x",
        file="a/b.txt",
        float=0.1,
    )
    Everything.buffered.flush()
    letter = DeadLetter.objects.get()
    before = letter.entry
    assert sent(admin, letter, "_save") == ["The values are kept for the next retry."]
    assert DeadLetter.objects.get().entry == before
    named = set(admin.get(change(letter)).context["form"].fields)
    assert {c.name for c in Everything.buffered.layout().columns.values()} - named == {"binary"}
    sent(
        admin,
        letter,
        "_save",
        boolean="true",
        color="blue",
        level="1",
        json='{"b": 2}',
        date="2026-05-06",
        file="c.txt",
        owner="",
    )
    values = described(DeadLetter.objects.get())["values"]
    assert values["boolean"] is True
    assert (values["color"], values["level"], values["file"]) == ("blue", 1, "c.txt")
    assert values["json"] == {"b": 2}
    assert values["owner"] is None
    assert str(values["datetime"]) == "2026-01-02 03:04:05.678901+00:00"


def texts_of(letter: DeadLetter) -> dict[str, str]:
    return entry_in(letter).texts()


@pytest.mark.parametrize(
    "values",
    [
        {"text": " kept\n\nas it is "},
        {"color": "mauve"},
        {"datetime": "2026-10-25T00:30:00+00:00"},
        {"datetime": "2026-10-25T01:30:00.5+00:00"},
    ],
)
def test_what_nobody_touched_stays_as_it_is(admin, settings, values):
    settings.TIME_ZONE = "Europe/Berlin"
    of_older_code = values.get("color")  # which had another choice
    values = {"color": "red"} if of_older_code else values
    Everything.buffered.set(key=UUID, owner=404404, **values)
    Everything.buffered.flush()
    letter = DeadLetter.objects.get()
    if of_older_code:
        letter.entry = letter.entry.replace("red", of_older_code)
        letter.save()
    before = texts_of(letter)
    data = {name: text.replace("\n", "\r\n") for name, text in form_of(admin, letter).items()}
    data |= {"float": "0.5", "_save": ""}
    assert admin.post(change(letter), data).status_code == 302
    assert texts_of(DeadLetter.objects.get()) == before | {"float": "0.5"}
    for value in values.values():
        assert value != "mauve" or 'value="mauve" selected' in page(admin, change(letter))


def test_what_is_too_long_to_be_sent_back_is_not_in_the_form(admin):
    Everything.buffered.set(key=UUID, owner=404404, text="x" * 100_001)
    Everything.buffered.flush()
    letter = DeadLetter.objects.get()
    assert "text" not in form_of(admin, letter)
    assert "Too long to be corrected here: text" in page(admin, change(letter))


def test_letters_of_meta_keys_and_of_logs(admin):
    Note.buffered.of(page="p", owner=404404)["color"] = "red"
    Note.buffered.flush()
    letter = DeadLetter.objects.get()
    assert "page=p, owner_id=404404, key=color" in page(admin, change(letter))
    Owner.objects.create(pk=404404, name="anna")
    assert sent(admin, letter, value='"blue"') == ["1 stored."]
    assert Note.objects.get().value == "blue"
    receipt = Seat.buffered.append(number=1)
    Seat.objects.create(number=1, at="2026-01-01T00:00:00Z")
    Seat.buffered.flush()
    letter = DeadLetter.objects.get()
    assert not receipt.persisted
    assert sent(admin, letter, number="2") == ["1 stored."]
    assert Seat.objects.filter(number=2).exists()


def test_retry_in_bulk(admin, letters):
    Owner.objects.create(pk=404404, name="bert")
    (message,) = acted(admin, "retry", *letters)
    assert message == "1 refused again: see why below, 1 stored."
    assert DeadLetter.objects.get().pk == letters[0].pk
    assert LogEntry.objects.count() == 2


def test_a_second_retry_goes_on_where_the_first_stopped(admin, letters, monkeypatch):
    Owner.objects.create(pk=404404, name="bert")  # the second could be stored
    moments = iter([0.0, 1.0, 99.0] * 2)
    clock = SimpleNamespace(monotonic=lambda: next(moments))
    monkeypatch.setattr("writebehind_app.admin.deadletters.time", clock)
    (message,) = acted(admin, "retry", *letters)
    assert message == "1 refused again: see why below, 1 was not tried yet: retry once more."
    (message,) = acted(admin, "retry", *letters)
    assert message == "1 stored, 1 was not tried yet: retry once more."


def test_a_number_that_is_a_value_has_no_separators(admin, letters, settings):
    settings.USE_THOUSAND_SEPARATOR = True
    DeadLetter.objects.filter(pk=letters[0].pk).update(id=1234567)
    letter = DeadLetter.objects.get(pk=1234567)
    assert 'name="_selected_action" value="1234567"' in page(admin, change(letter))


def test_what_was_not_discarded_is_not_in_the_log(admin, letters, monkeypatch):
    def locked(*args):
        raise OperationalError("locked")

    monkeypatch.setattr(deadletters, "discard_all", locked)
    with pytest.raises(OperationalError):
        acted(admin, "discard", *letters, confirmation="2")
    assert not LogEntry.objects.exists()


@pytest.fixture
def edited(letters) -> DeadLetter:
    """A letter that could be stored now, but for an edit."""
    Pair.objects.update(note=None)
    Pair.objects.create(owner=Owner.objects.get(), name="x", note="mine")
    return letters[0]


def cells(text: str) -> list[str]:
    [table] = re.findall(r'<table id="wb-edited"[^>]*>.*?</table>', text, re.DOTALL)
    return re.findall(r"<td[^>]*>(.*?)</td>", table)


def test_a_retry_asks_before_it_undoes_an_edit(admin, edited):
    text = page(admin, change(edited))
    assert cells(text) == ["taken", "no row", "mine"]
    (message,) = sent(admin, edited)
    assert message == "1 not written: its row was edited since; open it to decide."
    assert acted(admin, "retry", edited) == [message]
    assert Pair.objects.get(name="x").note == "mine"
    [over] = re.findall(r'name="over" id="wb-over" value="(\w+)"', text)
    assert sent(admin, edited, over=over) == ["1 stored."]
    assert Pair.objects.get(name="x").note == "taken"


def test_it_asks_again_where_the_edit_was_edited(admin, edited):
    [over] = re.findall(r'name="over" id="wb-over" value="(\w+)"', page(admin, change(edited)))
    Pair.objects.filter(name="x").update(note="yours")
    (message,) = sent(admin, edited, over=over)
    assert message.startswith("1 not written")
    assert Pair.objects.get(name="x").note == "yours"
    assert cells(page(admin, change(edited))) == ["taken", "no row", "yours"]


def test_a_correction_and_the_answer_come_in_one_step(admin, edited):
    [over] = re.findall(r'name="over" id="wb-over" value="(\w+)"', page(admin, change(edited)))
    assert sent(admin, edited, note="better", over=over) == ["1 stored."]
    assert Pair.objects.get(name="x").note == "better"


def test_nothing_is_asked_where_nothing_was_edited(admin, letters):
    assert "wb-over" not in page(admin, change(letters[0]))


def test_a_sensitive_edit_is_masked(edited, monkeypatch):
    monkeypatch.setattr(Pair.buffered, "sensitive", ("note",))
    assert cells(page(client("view", "retry"), change(edited))) == ["•••"] * 3
    assert "mine" in cells(page(client("view", "retry", "reveal"), change(edited)))


def test_a_letter_of_a_model_that_is_gone(admin, letters, monkeypatch):
    DeadLetter.objects.update(buffer="gone.Model")
    assert "gone.Model" in page(admin, LETTERS)
    assert "Save and retry" not in page(admin, change(letters[0]))
    assert admin.post(change(letters[0]), {"_retry": ""}).status_code == 403
    (message,) = acted(admin, "retry", *letters)
    assert message == "2 are of a model without a buffer: export, then discard them."
    assert acted(admin, "discard", *letters, confirmation="2") == ["2 dead letters discarded."]


def test_a_letter_of_a_model_that_was_changed(admin, letters):
    entry = json.loads(letters[0].entry)
    entry["values"] = {"gone": "00000000000000011"}
    DeadLetter.objects.filter(pk=letters[0].pk).update(entry=json.dumps(entry))
    assert "gone" in page(admin, change(letters[0]))
    page(admin, LETTERS)
    assert len(acted(admin, "retry", letters[0])) == 1


def test_a_letter_that_cannot_be_read(admin, letters):
    good = json.loads(letters[0].entry)
    odd = [[], {**good, "unknown": 1}, None, {}, {**good, "values": {"value": 5}}, "x"]
    for entry in [*map(json.dumps, odd), "no JSON"]:
        DeadLetter.objects.filter(pk=letters[0].pk).update(entry=entry)
        assert "name=y" in page(admin, LETTERS)
        page(admin, change(letters[0]))
        for action in ("export_csv", "export_json"):
            data = {"action": action, "_selected_action": letters[0].pk}
            assert admin.post(LETTERS, data).status_code == 200
        assert acted(admin, "retry", letters[0]) == ["1 refused again: see why below."]
        assert "cannot be read" in DeadLetter.objects.get(pk=letters[0].pk).reason
    Pair.buffered.set(owner=Owner.objects.get(), name="x", value=1)
    Pair.buffered.flush()  # and strikes what it writes out of the others
    assert acted(admin, "discard", letters[0], confirmation="1") == ["1 dead letter discarded."]


def test_a_receipt_of_a_letter_that_cannot_be_read(admin):
    """Of metadata, a letter is about some of the rows of an entry."""
    receipt = Note.buffered.of(page="p", owner=404404).update(color="red")
    Note.buffered.flush()
    assert "404" in receipt.dead
    DeadLetter.objects.update(entry="no JSON")
    assert receipt.where == "dead"


@pytest.mark.parametrize("missing", ["since", "once"])
def test_a_letter_of_another_release(admin, letters, missing):
    entry = {**json.loads(letters[1].entry), "unknown": []}
    entry.pop(missing, None)
    DeadLetter.objects.filter(pk=letters[1].pk).update(entry=json.dumps(entry))
    Owner.objects.create(pk=404404, name="bert")
    assert acted(admin, "retry", letters[1]) == ["1 stored."]


def test_discard_in_bulk_is_confirmed_by_their_number(admin, letters):
    response = admin.post(
        LETTERS, {"action": "discard", "_selected_action": [letters[0].pk, letters[1].pk]}
    )
    text = response.content.decode()
    assert "2 entries would be lost" in text
    assert "there is no" not in text
    assert "value=3" in text
    acted(admin, "discard", *letters, confirmation="3")
    assert DeadLetter.objects.count() == 2
    assert acted(admin, "discard", *letters, confirmation="2") == ["2 dead letters discarded."]
    assert not DeadLetter.objects.exists()
    assert LogEntry.objects.count() == 2


def test_only_the_letters_that_were_shown_are_discarded(admin, letters):
    data = {"action": "discard", "_selected_action": letters[0].pk, "select_across": "1"}
    shown_set = admin.post(f"{LETTERS}?q=there", data).context["shown_set"]
    DeadLetter.objects.filter(pk=letters[0].pk).update(reason="there")
    DeadLetter.objects.filter(pk=letters[1].pk).update(reason="gone")
    data |= {"confirmation": "1", "shown_set": shown_set}
    response = admin.post(f"{LETTERS}?q=there", data)
    assert "These are not the letters that were shown" in response.content.decode()
    assert DeadLetter.objects.count() == 2
    data["shown_set"] = response.context["shown_set"]
    admin.post(f"{LETTERS}?q=there", data)
    assert DeadLetter.objects.get() == letters[1]


def test_a_letter_that_its_filter_hides_is_discarded_from_its_page(admin, letters):
    context = admin.get(change(letters[0]), {"_changelist_filters": "q=else"}).context
    data = {"action": "discard", "_selected_action": letters[0].pk}
    response = admin.post(context["discarding"], data)
    assert "1 entry would be lost" in response.content.decode()
    letters[0].delete()
    response = admin.post(context["discarding"], data, follow=True)
    assert messages(response) == ["These dead letters are gone: they were stored or discarded."]


def test_all_that_a_filter_chooses_are_discarded(admin, letters):
    DeadLetter.objects.bulk_create(
        DeadLetter(**{f.name: getattr(letters[1], f.name) for f in DeadLetter._meta.fields[1:]})
        for _ in range(1200)
    )
    path = f"{LETTERS}?q=there+is+no"
    data = {"action": "discard", "_selected_action": letters[1].pk, "select_across": "1"}
    text = admin.post(path, data).content.decode()
    assert "1201 entries would be lost" in text
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="(\w+)"', text))
    fields.pop("csrfmiddlewaretoken", None)
    response = admin.post(path, {**fields, "confirmation": "1201"}, follow=True)
    assert messages(response) == ["1201 dead letters discarded."]
    assert DeadLetter.objects.get().pk == letters[0].pk


def test_export(admin, letters):
    data = {"_selected_action": [x.pk for x in letters]}
    exported = admin.post(LETTERS, {"action": "export_json", **data})
    first, second = json.loads(exported.content)
    assert first["key"]["name"] == "x"
    assert first["values"] == {"note": "taken", "value": "Add(amount=2)"}
    assert second["reason"] == "owner: there is no tests.Owner 404404."
    assert "dead_letters.json" in exported["Content-Disposition"]
    exported = admin.post(LETTERS, {"action": "export_csv", **data})
    assert exported.content.startswith(b"\xef\xbb\xbf")
    lines = list(csv.DictReader(StringIO(exported.content.decode("utf-8-sig"))))
    done = list(LogEntry.objects.values_list("change_message", flat=True))
    assert done == ["Exported: 2."] * 2
    assert [int(line["id"]) for line in lines] == [x.pk for x in letters]
    assert json.loads(lines[0]["values"]) == first["values"]


def test_an_export_has_no_formulas(admin, letters):
    DeadLetter.objects.update(reason=' \t=HYPERLINK("evil")')
    exported = admin.post(
        LETTERS, {"action": "export_csv", "_selected_action": [letters[0].pk]}
    ).content.decode()
    assert next(csv.DictReader(StringIO(exported)))["reason"].startswith("' \t=HYPER")


def test_what_is_in_a_letter_is_text_and_not_a_part_of_the_page(admin):
    Owner.objects.create(pk=7, name="anna")
    evil = "<script>alert(1)</script>"
    Pair.objects.create(owner_id=7, name="other", note=evil)
    Pair.buffered.set(owner=7, name=evil, note=evil)
    Pair.buffered.flush()
    letter = DeadLetter.objects.get()
    DeadLetter.objects.update(reason=evil)
    for path in (LETTERS, change(letter)):
        assert evil not in admin.get(path).content.decode()
    data = {"action": "discard", "_selected_action": letter.pk}
    assert evil not in admin.post(LETTERS, data).content.decode()


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_letters_in_two_databases(database, redis_server, monkeypatch):
    """SQLite is the other one, in which the admin has its own tables here."""
    from tests.router import CurrentDatabase

    admin = client(superuser=True)
    Pair.buffered.set(owner=404404, name="there")
    Pair.buffered.flush()
    letter = DeadLetter.objects.get()
    here = CurrentDatabase.db_for_write
    monkeypatch.setattr(
        CurrentDatabase,
        "db_for_write",
        lambda self, model, **hints: "default" if model is Item else here(self, model, **hints),
    )
    assert len({buffer.layout().using for buffer in registry.buffers().values()}) == 2
    assert "name=there" in page(admin, LETTERS, database=database)
    assert "name=there" not in page(admin, LETTERS, database="default")
    text = page(admin, LETTERS, database=database)
    for asked in ({"database": database}, {"_changelist_filters": f"database={database}"}):
        context = admin.get(change(letter), asked).context
        assert context["action"] == context["discarding"] == f"{LETTERS}?database={database}"
    path = re.search(rf'href="({re.escape(change(letter))}[^"]*)"', text)[1]
    Owner.objects.create(pk=404404, name="anna")
    data = {"value": "3", "note": "", "_retry": ""}
    assert messages(admin.post(path, data, follow=True)) == ["1 stored."]
    assert not DeadLetter.objects.exists()
