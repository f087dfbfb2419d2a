"""A dead letter whose row was edited past the buffer since it died: a retry asks first."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections
from django.db.models import F

from tests.backdoor.entries import put_text, set_due
from tests.models import Counter, Item, Member, Note, Owner, Pair, Seat, Team
from writebehind_app import Add, EditedSince, Max, Merge
from writebehind_app.database import deadletters
from writebehind_app.database.edits import NO_ROW, digest_of, edits_since
from writebehind_app.database.letters import entry_in
from writebehind_app.models import DeadLetter

pytestmark = pytest.mark.usefixtures("database", "redis_server")


@pytest.fixture
def owner() -> Owner:
    return Owner.objects.create(name="anna")


@pytest.fixture
def pair(owner) -> Pair:
    Pair.objects.create(owner=owner, name="other", note="taken")
    return Pair.objects.create(owner=owner, name="x", value=1)


def died(owner: Owner, **values: Any) -> DeadLetter:
    """The letter of a write to the row 'x' whose note another row has; it has none by now."""
    Pair.buffered.set(owner=owner, name="x", note="taken", **values)
    assert Pair.buffered.flush().dead_letters == 1
    Pair.objects.filter(name="other").update(note=None)
    return DeadLetter.objects.get()


def retry(letter: DeadLetter, **options: Any) -> tuple[int, int]:
    return deadletters.retry(Pair.buffered, [letter.pk], **options)


def found(letter: DeadLetter) -> list[tuple[Any, ...]]:
    return [(e.name, e.letter, e.then, e.now) for e in edits_since(Pair.buffered, letter)]


def value() -> int:
    return Pair.objects.get(name="x").value


def test_an_edit_is_not_undone(owner, pair):
    letter = died(owner, value=3)
    pair.value = 5
    pair.save()
    assert found(letter) == [("value", 3, 1, 5)]
    with pytest.raises(EditedSince, match="value is 5 now, was 1 when it died, and would be 3"):
        retry(letter)
    assert value() == 5
    assert DeadLetter.objects.get().attempts == 1
    assert retry(letter, over=True) == (1, 0)
    assert value() == 3


def test_over_what_was_shown_and_nothing_else(owner, pair):
    letter = died(owner, value=3)
    Pair.objects.filter(name="x").update(value=5)
    shown = digest_of(edits_since(Pair.buffered, letter))
    Pair.objects.filter(name="x").update(value=6)
    with pytest.raises(EditedSince):
        retry(letter, over=shown)
    assert value() == 6
    assert retry(letter, over=digest_of(edits_since(Pair.buffered, letter))) == (1, 0)
    assert value() == 3


def test_an_edit_of_another_field_is_none(owner, pair):
    letter = died(owner)
    Pair.objects.filter(name="x").update(value=5)
    assert retry(letter) == (1, 0)
    assert value() == 5


def test_an_edit_that_comes_to_the_same_is_none(owner, pair):
    letter = died(owner, value=3)
    Pair.objects.filter(name="x").update(value=3)
    assert retry(letter) == (1, 0)


def test_what_the_buffer_wrote_since_is_struck_out(owner, pair):
    letter = died(owner, value=3)
    Pair.buffered.set(owner=owner, name="x", value=4)
    Pair.buffered.flush()
    assert retry(letter) == (1, 0)
    assert value() == 4


def test_a_sum_is_added_to_an_edit(owner, pair):
    letter = died(owner, value=Add(3))
    Pair.objects.filter(name="x").update(value=F("value") + 100)
    assert retry(letter) == (1, 0)
    assert value() == 104


@pytest.mark.parametrize(("now", "asks"), [(2, True), (20, False)])
def test_a_maximum_may_undo_an_edit(owner, pair, now, asks):
    letter = died(owner, value=Max(10))
    Pair.objects.filter(name="x").update(value=now)
    assert found(letter) == ([("value", 10, 1, now)] if asks else [])


def test_a_row_that_was_deleted_is_not_made_anew(owner, pair):
    letter = died(owner, value=3)
    pair.delete()
    assert found(letter) == [("value", 3, 1, NO_ROW), ("note", "taken", None, NO_ROW)]
    with pytest.raises(EditedSince, match="value is no row now"):
        retry(letter)
    assert not Pair.objects.filter(name="x").exists()
    assert retry(letter, over=True) == (1, 0)
    assert value() == 3


def test_a_row_that_was_made_is_not_written_over(owner):
    Pair.objects.create(owner=owner, name="other", note="taken")
    letter = died(owner, value=3)
    Pair.objects.create(owner=owner, name="x", value=9)
    assert found(letter) == [("value", 3, NO_ROW, 9)]


def test_a_row_that_is_still_not_there_is_made(owner):
    Pair.objects.create(owner=owner, name="other", note="taken")
    assert retry(died(owner, value=3)) == (1, 0)
    assert value() == 3


def test_a_row_that_was_edited_is_not_deleted(owner, pair):
    Pair.buffered.delete(owner=owner, name="x")
    letter = died(owner)
    Pair.objects.filter(name="x").update(value=5)
    assert found(letter) == [("value", 0, 1, 5)]


@pytest.mark.parametrize(
    ("now", "asks"), [({"x": 1, "y": 5}, False), ({"x": 5, "y": 1}, True), ([], True), ({}, True)]
)
def test_of_a_merge_its_own_keys_count(now, asks):
    """It died of a sum, which is in its range by now."""
    row = Counter.objects.create(name="x", big=1, extra={"x": 1, "y": 1})
    Counter.buffered.set(name="x", extra=Merge({"x": 2}), big=Add(2**63 - 1))
    assert Counter.buffered.flush().dead_letters == 1
    row.big, row.extra = 0, now
    row.save()
    edited = edits_since(Counter.buffered, DeadLetter.objects.get())
    assert [edit.name for edit in edited] == (["extra"] if asks else [])


@pytest.mark.parametrize("is_edited", [False, True])
def test_of_a_long_value_a_digest_is_kept(is_edited):
    """A letter has to be storable, whatever the row holds."""
    row = Counter.objects.create(name="x", big=1, extra="long" * 25_000)
    Counter.buffered.set(name="x", extra="new", big=Add(2**63 - 1))
    assert Counter.buffered.flush().dead_letters == 1
    letter = DeadLetter.objects.get()
    assert len(letter.stored) < 200
    row.big = 0
    row.extra += "!" * is_edited
    row.save()
    edited = edits_since(Counter.buffered, letter)
    assert [edit.name for edit in edited] == ["extra"] * is_edited
    assert all("characters, SHA-1" in str(edit.then) for edit in edited)


def test_of_metadata_each_key_is_a_row():
    notes = Note.buffered.of(page="p", owner=404404)
    notes.update(a=1, b=1)
    assert Note.buffered.flush().dead_letters == 2
    Owner.objects.create(pk=404404, name="late")
    Note.objects.create(page="p", owner_id=404404, key="a", value=9)
    first, second = DeadLetter.objects.order_by("pk")
    with pytest.raises(EditedSince, match="value is 9 now, was no row when it died"):
        deadletters.retry(Note.buffered, [first.pk])
    assert deadletters.retry(Note.buffered, [second.pk]) == (1, 0)
    assert dict(notes) == {"a": 9, "b": 1}


def test_a_field_that_was_corrected_counts_from_then_on(owner, pair):
    letter = died(owner)
    Pair.objects.filter(name="x").update(value=5)
    deadletters.edit(Pair.buffered, letter.pk, {"value": 7})
    letter.refresh_from_db()
    assert found(letter) == []
    Pair.objects.filter(name="x").update(value=6)
    assert found(letter) == [("value", 7, 5, 6)]


def both_died(owner: Owner, *writes: dict[str, Any]) -> tuple[int, ...]:
    """The letters of writes to the row 'x', each of another batch. Their cause is gone by now."""
    Pair.objects.get_or_create(owner=owner, name="other", note="taken")
    for write in writes:
        if not write:
            Pair.buffered.delete(owner=owner, name="x")
        Pair.buffered.set(owner=owner, name="x", note="taken", **write)
        assert Pair.buffered.flush().dead_letters == 1
    Pair.objects.filter(name="other").update(note=None)
    return tuple(DeadLetter.objects.order_by("pk").values_list("pk", flat=True))


WRITES = pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ({"value": 5}, {"value": 1}, 1),
        ({"value": Add(5)}, {"value": 3}, 3),
        ({"value": Max(5)}, {"value": 3}, 3),
        ({"value": 5}, {}, 0),
        ({}, {"value": 5}, 5),
    ],
    ids=["values", "a sum before", "a maximum before", "a deletion", "made anew"],
)


@pytest.mark.parametrize("later_first", [False, True], ids=["in order", "later first"])
@pytest.mark.parametrize("stored", [False, True], ids=["no row", "a row"])
@WRITES
def test_several_letters_of_a_row(owner, first, second, outcome, stored, later_first):
    """The later write counts, and nobody is asked about what the other letter wrote."""
    if stored:
        Pair.objects.create(owner=owner, name="x", value=1)
    letters = both_died(owner, first, second)
    for letter in reversed(letters) if later_first else letters:
        assert deadletters.retry(Pair.buffered, [letter]) == (1, 0)
    assert value() == outcome
    assert not DeadLetter.objects.exists()


@pytest.mark.parametrize(("operation", "outcome"), [(Add(3), 8), (Max(9), 9), (Max(3), 5)])
def test_an_operation_after_a_value(owner, pair, operation, outcome):
    """In their order they come out right. The other way round, the value is not lost."""
    first, second = both_died(owner, {"value": 5}, {"value": operation})
    assert deadletters.retry(Pair.buffered, [first, second]) == (2, 0)
    assert value() == outcome


def test_an_operation_before_the_value_that_it_followed(owner, pair):
    first, second = both_died(owner, {"value": 5}, {"value": Add(3)})
    assert deadletters.retry(Pair.buffered, [second]) == (1, 0)
    with pytest.raises(EditedSince, match="value is 4 now, was 1 when it died, and would be 5"):
        deadletters.retry(Pair.buffered, [first])


@pytest.mark.parametrize("later_first", [False, True], ids=["in order", "later first"])
def test_a_row_that_an_earlier_letter_deletes_is_made_anew(later_first):
    home = Team.objects.create(slug="home")
    guest = Member.objects.create(slug="m", team=home, guest_of=Team.objects.create(slug="x"))
    Team.buffered.delete(slug="x")
    assert Team.buffered.flush().dead_letters == 1
    Team.buffered.set(slug="x", captain="late", title="new")
    assert Team.buffered.flush().dead_letters == 1
    Member.objects.create(slug="late", team=home)
    guest.guest_of = None
    guest.save()
    letters = DeadLetter.objects.order_by("-pk" if later_first else "pk")
    assert deadletters.retry(Team.buffered, [letter.pk for letter in letters]) == (2, 0)
    assert Team.objects.get(slug="x").title == "new"


@pytest.mark.parametrize("later_first", [False, True], ids=["in order", "later first"])
def test_sums_of_several_letters(owner, pair, later_first):
    letters = both_died(owner, {"value": Add(5)}, {"value": Add(2)}, {"value": Add(10)})
    deadletters.retry(Pair.buffered, reversed(letters) if later_first else letters)
    assert value() == 18


def test_an_edit_before_the_retry_of_another_letter_is_not_undone(owner, pair):
    first, second = both_died(owner, {"value": Add(5)}, {"value": 3})
    Pair.objects.filter(name="x").update(value=100)
    assert deadletters.retry(Pair.buffered, [first]) == (1, 0)
    with pytest.raises(EditedSince, match="value is 105 now, was 1 when it died"):
        deadletters.retry(Pair.buffered, [second])


def test_a_row_that_was_deleted_is_not_made_anew_by_another_letter(owner, pair):
    first, second = both_died(owner, {"value": 5}, {"value": 3})
    assert deadletters.retry(Pair.buffered, [first]) == (1, 0)
    Pair.objects.filter(name="x").delete()
    with pytest.raises(EditedSince, match="no row"):
        deadletters.retry(Pair.buffered, [second])


@pytest.mark.parametrize("later_first", [False, True], ids=["in order", "later first"])
def test_what_was_corrected_in_one_letter_is_an_edit_for_another(owner, pair, later_first):
    first, second = both_died(owner, {"value": 5}, {"value": 3})
    deadletters.edit(Pair.buffered, first, {"value": 7})
    one, other = (second, first) if later_first else (first, second)
    assert deadletters.retry(Pair.buffered, [one]) == (1, 0)
    with pytest.raises(EditedSince, match=f"value is {3 if later_first else 7} now"):
        deadletters.retry(Pair.buffered, [other])


def test_a_letter_of_another_row_knows_nothing_of_a_retry():
    notes = Note.buffered.of(page="p", owner=404404)
    for n in (5, 1):
        notes.update(a=n, b=n)
        assert Note.buffered.flush().dead_letters == 2
    Owner.objects.create(pk=404404, name="late")
    a, b, later_a, later_b = DeadLetter.objects.order_by("pk").values_list("pk", flat=True)
    assert deadletters.retry(Note.buffered, [a, later_b, b, later_a]) == (4, 0)
    assert dict(notes) == {"a": 1, "b": 1}


def test_what_is_sensitive_is_not_told(owner, pair, monkeypatch):
    monkeypatch.setattr(Pair.buffered, "sensitive", ("value",))
    letter = died(owner, value=31415)
    Pair.objects.filter(name="x").update(value=27182)
    with pytest.raises(EditedSince) as refused:
        retry(letter)
    assert "27182" not in str(refused.value)
    assert "31415" not in str(refused.value)
    assert "value is another one" in str(refused.value)


def test_what_is_not_to_be_understood(configure):
    """One value is no JSON; one key is no key. Nobody knows what the second would write."""
    configure(SHARDS=1)
    Item.objects.create(number=1, a=7)
    Item.buffered.set_many([{"number": 1, "a": 1}, {"number": 2, "a": 2}])
    put_text(Item.buffered, "1", "a", "{")
    put_text(Item.buffered, "x", "a", "5")
    set_due(Item.buffered, {"x": 1})
    assert Item.buffered.flush().dead_letters == 2
    assert Item.objects.get(number=2).a == 2
    letters = {entry_in(letter).id: letter for letter in DeadLetter.objects.all()}
    assert letters["x"].stored == ""
    assert json.loads(letters["1"].stored) == {"a": "7"}
    Item.objects.update(a=8)
    for id in letters:
        assert deadletters.retry(Item.buffered, [letters[id].pk]) == (0, 1)


def test_a_key_that_the_database_does_not_take(configure):
    """The rows of the others are known all the same."""
    configure(SHARDS=1)
    Item.objects.create(number=1, a=7)
    Item.buffered.set_many([{"number": 1, "a": 1}, {"number": 2, "a": 2}])
    far = str(10**30)
    put_text(Item.buffered, "1", "a", "{")
    put_text(Item.buffered, far, "a", "5")
    set_due(Item.buffered, {far: 1})
    assert Item.buffered.flush().dead_letters == 2
    assert Item.objects.get(number=2).a == 2
    letters = {entry_in(letter).id: letter for letter in DeadLetter.objects.all()}
    assert json.loads(letters["1"].stored) == {"a": "7"}


def test_a_record_has_no_row_before_it():
    Seat.buffered.append(number=1)
    Seat.objects.create(number=1, at="2026-01-01T00:00:00Z")
    assert Seat.buffered.flush().dead_letters == 1
    letter = DeadLetter.objects.get()
    assert letter.stored == ""
    Seat.objects.all().delete()
    assert deadletters.retry(Seat.buffered, [letter.pk]) == (1, 0)


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_an_edit_waits_for_the_retry(owner, pair, monkeypatch):
    """The row is locked between the question and the write."""
    letter = died(owner, value=3)
    asked = threading.Event()

    def edit() -> None:
        assert asked.wait(10)
        Pair.objects.filter(name="x").update(value=F("value") + 100)
        connections.close_all()

    def dawdle(found: Any) -> str:
        asked.set()
        time.sleep(0.3)
        return digest_of(found)

    Pair.objects.filter(name="x").update(value=2)
    shown = digest_of(edits_since(Pair.buffered, letter))
    monkeypatch.setattr("writebehind_app.database.edits.digest_of", dawdle)
    with ThreadPoolExecutor() as pool:
        edited = pool.submit(edit)
        assert retry(letter, over=shown) == (1, 0)
        edited.result()
    assert value() == 103
