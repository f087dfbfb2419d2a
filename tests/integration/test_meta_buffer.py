"""Free metadata: a mapping for each entity, a row for each meta key."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import FieldError, ValidationError
from django.db import connections
from django.db.models import Case, Value, When
from django.utils import timezone

from tests.backdoor.batches import claim_and_die
from tests.backdoor.reads import forget_statements
from tests.models import Item, Note, Owner, Setting, Visit
from writebehind_app import DELETED, Add, Max, Merge, Min

ODD_KEYS = ["a", "A:b", 'q"', "\\u003a", "@", "&x:", "!", "", "#", "ü\n", "-1", "'"]


@pytest.fixture
def owner(request) -> Owner:
    request.getfixturevalue("database" if "database" in request.fixturenames else "plain")
    return Owner.objects.create(name="anna")


@pytest.fixture
def notes(owner) -> MutableMapping[str, Any]:
    return Note.buffered.of(page="p", owner=owner)


def stored() -> dict[str, Any]:
    return dict(Note.objects.values_list("key", "value"))


class TestMapping:
    def test_reads_what_is_pending_in_flight_and_stored(self, database, redis_server, notes):
        notes["a"] = 1
        notes.update({"b": [1, {"x": None}]}, c="text")
        everything = {"a": 1, "b": [1, {"x": None}], "c": "text"}
        assert dict(notes) == everything
        claim_and_die(Note.buffered)
        notes["a"] = 2
        everything["a"] = 2
        assert dict(notes) == everything
        assert stored() == {}
        time.sleep(0.02)
        notes.flush()
        assert dict(notes) == everything == stored()
        assert notes.pending() == []

    def test_is_a_whole_mapping(self, database, redis_server, notes):
        notes.update(a=1, b=2)
        notes.flush()
        notes["c"] = 3
        assert isinstance(notes, MutableMapping)
        assert list(notes) == ["a", "b", "c"]
        assert len(notes) == 3
        assert "c" in notes
        assert "d" not in notes
        assert notes.get("d") is None
        assert notes.get("d", 4) == 4
        assert sorted(notes.items()) == [("a", 1), ("b", 2), ("c", 3)]
        assert sorted(notes.values()) == [1, 2, 3]
        assert notes == {"a": 1, "b": 2, "c": 3}
        assert notes.setdefault("a", 9) == 1
        assert notes.setdefault("d", 9) == 9
        assert notes.pop("d") == 9
        assert notes.pop("d", None) is None
        with pytest.raises(KeyError):
            notes["d"]
        with pytest.raises(KeyError):
            del notes["d"]
        notes.clear()
        assert not notes
        notes["e"] = 5
        assert dict(notes) == {"e": 5}
        notes.flush()
        assert stored() == {"e": 5}

    def test_deletes_what_is_pending_and_what_is_stored(self, database, redis_server, notes):
        notes.update(stored=1, both=1, kept=1)
        notes.flush()
        notes.update(both=2, pending=2)
        for key in ("stored", "both", "pending"):
            del notes[key]
        assert dict(notes) == {"kept": 1}
        notes.flush()
        assert stored() == {"kept": 1} == dict(notes)

    def test_a_key_that_comes_again_is_a_new_row(self, database, redis_server, notes):
        notes.update(a=1, b=1)
        notes.flush()
        before = {row.key: row for row in Note.objects.all()}
        del notes["a"]
        notes["a"] = Add(2)
        notes["b"] = 2
        assert dict(notes) == {"a": 2, "b": 2}
        notes.flush()
        after = {row.key: row for row in Note.objects.all()}
        assert stored() == {"a": 2, "b": 2}
        assert after["a"].pk != before["a"].pk
        assert after["a"].created_at > before["a"].created_at
        assert after["b"].pk == before["b"].pk
        assert after["b"].created_at == before["b"].created_at
        assert after["b"].updated_at > before["b"].updated_at

    def test_the_times_of_a_row_are_those_of_its_own_writes(self, database, redis_server, notes):
        begun = timezone.now()
        notes["a"] = 1
        time.sleep(0.05)
        notes["b"] = 1
        time.sleep(0.05)
        notes["a"] = 2
        time.sleep(0.05)
        notes.flush()
        a, b = Note.objects.get(key="a"), Note.objects.get(key="b")
        apart = datetime.timedelta(milliseconds=40)
        assert begun - apart <= a.created_at <= b.created_at - apart
        assert b.created_at == b.updated_at <= a.updated_at - apart
        assert a.updated_at <= timezone.now() - apart

    def test_keys_of_any_text(self, database, redis_server, notes):
        values = {key: number for number, key in enumerate(ODD_KEYS)}
        notes.update(values)
        assert dict(notes) == values
        notes.update({key: Merge({key: 1, "b": 2}) for key in values})
        notes.update({key: Merge({key: 3}) for key in values})
        assert dict(notes) == {key: {"b": 2, key: 3} for key in values}
        claim_and_die(Note.buffered)
        assert dict(notes) == {key: {"b": 2, key: 3} for key in values}
        time.sleep(0.02)
        notes.flush()
        assert stored() == dict(notes) == {key: {"b": 2, key: 3} for key in values}
        for key in values:
            del notes[key]
        notes.flush()
        assert stored() == dict(notes) == {}

    def test_entities_are_apart(self, database, redis_server, owner):
        other = Owner.objects.create(name="1")
        keys = [("p", owner), ("p", other), ('p",1', owner), ("", owner), ("empty", owner)]
        for number, (page, of) in enumerate(keys[:4]):
            Note.buffered.of(page=page, owner=of)["n"] = number
        expected = {key: {"n": number} for number, key in enumerate(keys[:4])} | {keys[4]: {}}
        assert Note.buffered.get_many(keys) == expected
        Note.buffered.flush()
        assert Note.buffered.get_many(keys) == expected
        Note.buffered.of(page="p", owner=owner).clear()
        Note.buffered.flush()
        assert Note.objects.count() == 3
        assert Note.buffered.get_many([("p", owner.pk)]) == {("p", owner.pk): {}}

    def test_update_many_keeps_the_order(self, database, redis_server, owner):
        one, two = {"page": "1", "owner": owner}, {"page": "2", "owner": owner}
        receipts = Note.buffered.update_many(
            [(one, {"a": 1}), (two, {"a": 2}), (one, {"a": Add(4), "b": 1}), (one, {"b": 2})]
        )
        assert [receipt.where for receipt in receipts] == ["pending"] * 4
        assert Note.buffered.get_many([("1", owner), ("2", owner)]) == {
            ("1", owner): {"a": 5, "b": 2},
            ("2", owner): {"a": 2},
        }

    def test_a_receipt_tells_when_it_is_stored(self, database, redis_server, notes):
        receipt = notes.update(a=1)
        assert not receipt.persisted
        notes.flush()
        assert receipt.persisted

    def test_values_of_a_plain_field(self, database, redis_server):
        site = Setting.buffered.of(site=1)
        site.update(a=Add(1), b=7, c=Max(9))
        assert dict(site) == {"a": 6, "b": 7, "c": 9}
        site.flush()
        site.update(a=Add(2**63 - 10), b=Min(3))
        assert dict(site) == {"a": 2**63 - 4, "b": 3, "c": 9}
        site.flush()
        assert dict(Setting.objects.values_list("key", "value")) == dict(site)
        receipt = site.update(a=1, b=Add(2**63 - 1))
        site.flush()
        assert "Ensure this value is between" in receipt.dead
        assert dict(Setting.objects.values_list("key", "value")) == {
            "a": 1,
            "b": 3,
            "c": 9,
        }


class TestCost:
    def test_many_entities_are_one_round_trip_and_one_query(
        self, database, redis_server, owner, django_assert_num_queries, trips
    ):
        keys = [(str(n), owner) for n in range(50)]
        Note.buffered.update_many([({"page": p, "owner": o}, {"a": 1}) for p, o in keys])
        Note.buffered.flush()
        Note.buffered.get_many(keys)  # so that Redis knows the script
        trips.clear()
        with django_assert_num_queries(1, connection=connections[database]):
            found = Note.buffered.get_many(keys)
        assert found == {key: {"a": 1} for key in keys}
        assert len(trips) == 1

    def test_all_its_items_are_one_read(self, plain, notes, owner, trips):
        notes.update({str(n): n for n in range(20)})
        assert notes["0"] == 0  # so that Redis knows the script
        trips.clear()
        assert notes["0"] == 0
        one = len(trips)
        assert len(dict(notes.items())) == 20
        assert len([*notes.values()]) == 20
        assert len(dict(notes)) == 20
        assert len({**notes}) == 20
        assert len(trips) == 5 * one
        other = Note.buffered.of(page="q", owner=owner)
        other.update(notes)
        assert len(trips) == 6 * one + 1
        assert other == notes

    def test_a_value_that_is_asked_for_after_the_keys_is_read_anew(self, notes, owner):
        """Only `dict(meta)` gets what was read with the keys: one instruction asks for both."""
        others = Note.buffered.of(page="p", owner=owner)
        notes.update(a=1, b=1)
        for key in notes.keys():  # noqa: SIM118 - it is about keys()
            others[key] = 2
            assert notes[key] == 2
        [first, _] = notes.keys()
        others[first] = 3
        assert notes[first] == 3
        [first, _] = notes.keys()
        Note.buffered.update_many([({"page": "p", "owner": owner}, {first: 4})])
        assert notes[first] == 4
        [first, second] = notes.keys()
        del others[second]
        with pytest.raises(KeyError):
            notes[second]

    def test_a_function_that_calls_others(self, notes, owner):
        """One instruction of it lists the keys, and later asks for a value."""

        def call(act: Callable[..., Any], *args: Any) -> Any:
            return act(*args)

        others = Note.buffered.of(page="p", owner=owner)
        others.update(a=1, b=1)
        for n, list_them in enumerate([lambda: call(dict, notes), lambda: list(call(notes.keys))]):
            list_them()
            others["a"] = n
            assert call(notes.__getitem__, "a") == n

    def test_others_that_run_the_same_code(self, notes, owner):
        """In another thread, and in another call, the same instruction asks."""
        others = Note.buffered.of(page="p", owner=owner)
        notes.update(a=1)

        def as_dict(values: Mapping[str, Any]) -> dict[str, Any]:
            try:
                return dict(values)
            finally:
                connections.close_all()

        class Slow(Mapping):
            """`dict()` of it waits between its two steps."""

            def keys(self):
                found = list(notes.keys())
                others["a"] = 2
                with ThreadPoolExecutor(1) as pool:
                    assert pool.submit(as_dict, notes).result() == {"a": 2}
                others["a"] = 3
                return found

            def __getitem__(self, key):
                return notes[key]

            __iter__ = __len__ = None

        assert as_dict(Slow()) == {"a": 3}

    def test_stored_keys_are_in_the_order_of_the_model(self, plain, notes, monkeypatch):
        notes.update(a=1, b=2, c=3)
        notes.flush()
        first = Case(When(key="b", then=Value(0)), default=Value(1))
        monkeypatch.setattr(Note._meta, "ordering", [first, "-key"])
        forget_statements()
        try:
            assert list(notes) == ["b", "c", "a"]
        finally:
            forget_statements()

    def test_a_value_written_after_the_keys_were_read_is_seen(self, plain, notes):
        notes.update(a=1, b=1)
        seen = []
        for key in list(notes.keys()):
            notes["b"] = 2
            seen.append(notes[key])
            Note.buffered.of(page="p", owner=Owner.objects.get())["a"] = 3
        assert seen == [1, 2]
        for expected in (3, 5):
            assert dict(notes)["a"] == notes["a"] == expected
            notes["a"] = 5

    def test_new_values_take_a_statement_for_a_batch(self, database, redis_server, owner):
        Note.buffered.update_many(
            [({"page": str(n), "owner": owner}, {"a": n, "b": n}) for n in range(300)]
        )
        result = Note.buffered.flush()
        assert result.rows == 600
        assert result.statements <= (9 if database == "mariadb" else 8) * result.batches


class TestPending:
    def test_says_what_waits(self, plain, notes, owner):
        notes.update(stored=1, counted=1)
        notes.flush()
        notes.update(new={"x": 1}, counted=Add(2), merged=Merge({"y": 1}))
        del notes["stored"]
        (entry,) = Note.buffered.pending()
        assert [entry] == notes.pending()
        assert entry.key == {"page": "p", "owner_id": owner.pk}
        assert entry.values == {
            "new": {"x": 1},
            "counted": Add(2),
            "merged": Merge({"y": 1}),
            "stored": DELETED,
        }
        assert repr(DELETED) == "DELETED"
        assert (entry.state, entry.delete) == ("pending", False)
        claim_and_die(Note.buffered)
        notes.clear()
        assert [(e.state, e.delete) for e in notes.pending()] == [
            ("in_flight", False),
            ("pending", True),
        ]
        assert Note.buffered.count_pending() == 2

    def test_is_thrown_away(self, plain, notes):
        notes["a"] = 1
        notes.flush()
        notes.update(a=2, b=2)
        assert notes.discard() == 1
        assert dict(notes) == {"a": 1}
        notes["a"] = 3
        assert Note.buffered.discard(page="p", owner=Owner.objects.get()) == 1
        assert dict(notes) == {"a": 1}

    def test_one_entity_is_flushed_and_the_others_wait(self, database, redis_server, notes, owner):
        other = Note.buffered.of(page="q", owner=owner)
        notes["a"] = 1
        other["a"] = 2
        notes.flush()
        assert stored() == {"a": 1}
        assert Note.buffered.count_pending() == 1
        Note.buffered.flush(page="q", owner=owner)
        assert Note.buffered.count_pending() == 0


class TestErrors:
    def test_a_wrong_key_or_value(self, plain, notes, owner):
        with pytest.raises(TypeError, match="A meta key is a str, not 5"):
            notes[5] = 1
        with pytest.raises(ValidationError, match="at most 40 characters") as error:
            notes.update({"k" * 41: 1})
        assert list(error.value.message_dict) == ["k" * 41]
        with pytest.raises(ValidationError, match="not JSON") as error:
            notes.update(a=1, b=object())
        assert list(error.value.message_dict) == ["b"]
        with pytest.raises(FieldError, match=r"'key' is not in the key of tests\.Note"):
            Note.buffered.of(page="p", owner=owner, key="a")
        with pytest.raises(FieldError, match="the key field 'owner' is missing"):
            Note.buffered.of(page="p")
        with pytest.raises(TypeError, match=r"A key of tests.Note is \(page, owner\)"):
            Note.buffered.get_many(["p"])
        assert Note.buffered.count_pending() == 0

    def test_a_sum_beyond_the_range_is_a_dead_letter_of_its_row(self, plain, notes):
        notes[":ü"] = 2**63 - 1
        receipt = notes.update({"a": 1, ":ü": Add(1)})
        assert dict(notes) == {":ü": 2**63 - 1, "a": 1}
        assert Note.buffered.flush().dead_letters == 1
        assert receipt.dead == "value: This is more than 64 bits hold."
        assert dict(notes) == stored() == {"a": 1}

    def test_clean_sees_the_values_of_a_write(self, plain, notes, monkeypatch):
        def clean(values):
            if "bad" in values:
                raise ValidationError({"bad": "It is bad."})
            return {key.lower(): value for key, value in values.items()}

        monkeypatch.setattr(Note.buffered, "clean", clean)
        notes["A"] = 1
        with pytest.raises(ValidationError, match="It is bad"):
            notes.update(bad=1)
        assert dict(notes) == {"a": 1}

    @pytest.mark.parametrize(
        ("buffer", "write"),
        [
            (Note.buffered, lambda owner: Note.buffered.of(page="p", owner=owner).update(a=1)),
            (Item.buffered, lambda owner: Item.buffered.set(number=1, a=1)),
            (Visit.buffered, lambda owner: Visit.buffered.append(event=1, email="a")),
        ],
    )
    def test_clean_that_forgets_to_return(self, plain, owner, monkeypatch, buffer, write):
        monkeypatch.setattr(buffer, "clean", lambda values: None)
        with pytest.raises(TypeError, match=rf"{buffer}: clean\(\) must return a dict"):
            write(owner)


def test_a_read_after_an_asynchronous_write(plain, notes):
    """What `dict()` was about to ask for is older than the write."""
    notes["a"] = 1

    async def use() -> None:
        for n in range(50):
            assert list(await sync_to_async(notes.keys)()) == ["a"]
            await notes.aupdate(a=n)
            assert await notes.aget("a") == n

    asyncio.run(use())


def test_every_verb_has_a_twin(plain, notes, owner):
    async def use() -> None:
        assert await notes.aget("a") is None
        receipt = await notes.aupdate(a=1, b=2)
        assert not receipt.persisted
        assert dict(await notes.aitems()) == {"a": 1, "b": 2}
        assert await notes.apop("b") == 2
        assert await notes.asetdefault("a", 5) == 1
        assert len(await notes.apending()) == 1
        await notes.aflush()
        await notes.aclear()
        await notes.adiscard()
        assert await Note.buffered.aget_many([("p", owner)]) == {("p", owner): {"a": 1}}
        await Note.buffered.aupdate_many([({"page": "p", "owner": owner}, {"a": 2})])
        assert await Note.buffered.acount_pending() == 1
        assert len(await Note.buffered.apending()) == 1
        await Note.buffered.aflush(page="p", owner=owner)
        assert await Note.buffered.adiscard() == 0

    asyncio.run(use())
