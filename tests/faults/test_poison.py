"""G5: what the database refuses becomes a dead letter, and nothing else does."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.core.exceptions import FieldError
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.backdoor.batches import claim
from tests.backdoor.entries import id_of, put_text
from tests.models import Item, Note, Owner, Pair, Place, Setting, Strict, Venue
from tests.router import current
from writebehind_app import Add, Merge, checkpoints, signals
from writebehind_app.database import deadletters
from writebehind_app.database.letters import described
from writebehind_app.flush.engine import flush
from writebehind_app.models import AppliedBatch, DeadLetter

on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


@pytest.fixture
def owner(database) -> Owner:
    return Owner.objects.create(name="anna")


@contextmanager
def elsewhere(act: Callable[[], object]) -> Iterator[None]:
    """Act in a thread, with connections of its own, and wait for its end."""

    def work() -> None:
        try:
            act()
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)


def names() -> set[str]:
    return set(Pair.objects.values_list("name", flat=True))


class TestIsolation:
    def test_good_poison_good(self, database, redis_server, configure, owner, caplog):
        """Scenarios 24 and 26."""
        configure(SHARDS=1)
        heard = []

        def listen(**kwargs):
            heard.append(kwargs)

        signals.dead_lettered.connect(listen)
        try:
            Pair.buffered.set(owner=owner, name="a")
            refused = Pair.buffered.set(owner=404404, name="b", value=7)
            good = Pair.buffered.set(owner=owner, name="c")
            result = Pair.buffered.flush()
        finally:
            signals.dead_lettered.disconnect(listen)

        assert names() == {"a", "c"}
        assert (result.dead_letters, result.remaining, result.errors) == (1, 0, 0)
        assert Pair.buffered.count_pending() == 0
        (letter,) = DeadLetter.objects.all()
        assert described(letter)["key"] == {"owner_id": 404404, "name": "b"}
        assert described(letter)["values"] == {"value": 7}
        assert "404" in letter.reason
        assert [letter.pk for letter in heard[0]["letters"]] == [letter.pk]
        assert "refused 1 entry" in caplog.text
        assert AppliedBatch.objects.get().dead_letters == 1
        assert good.persisted
        assert not refused.persisted
        assert refused.where == "dead"
        assert "404" in refused.dead
        assert good.dead is None
        assert not refused.wait(1)

        Pair.buffered.set(owner=owner, name="d")
        Pair.buffered.flush()
        assert names() == {"a", "c", "d"}

    @pytest.mark.parametrize("number", [1, 30])
    @on_valkey
    def test_some_among_many(self, database, redis_server, configure, owner, number):
        """Scenario 25: the statements are in proportion to the poison, not to the batch."""
        configure(SHARDS=1, BATCH_SIZE=10_000)
        bad = {n * 9_973 // number + 13 for n in range(number)}
        Pair.buffered.set_many(
            {"owner": 404404 if n in bad else owner, "name": str(n)} for n in range(10_000)
        )
        # Not only foreign keys, which are looked up: a value that another row has.
        Pair.objects.create(owner=owner, name="other", note="taken")
        Pair.buffered.set(owner=owner, name="9999", note="taken")
        with CaptureQueriesContext(connections[database]) as queries:
            result = Pair.buffered.flush()
        assert result.dead_letters == number + 1
        assert Pair.objects.count() == 10_000 - number
        # MariaDB is told in each of the two tries what the session of a flusher is like, and after.
        # One more asks what is stored where the dead letters would be written. Elsewhere than on
        # SQLite, five ask whether another flusher has stored a parent, or freed the value. One, and
        # elsewhere three, look for fences of the refused rows.
        more = {"sqlite": 1, "postgresql": 11, "mysql": 15}[connections[database].vendor]
        assert len(queries) <= 71 + more

    @pytest.mark.parametrize("poison", [{"note": "taken"}, {"owner": 404404}])
    @pytest.mark.parametrize("at", [0, 4_711, 9_999])
    @on_valkey
    def test_one_among_ten_thousand(self, database, redis_server, configure, owner, poison, at):
        configure(SHARDS=1, BATCH_SIZE=10_000)
        Pair.objects.create(owner=owner, name="other", note="taken")
        Pair.buffered.set_many(
            {"owner": owner, "name": str(n)} | (poison if n == at else {}) for n in range(10_000)
        )
        with CaptureQueriesContext(connections[database]) as queries:
            result = Pair.buffered.flush()
        assert (result.rows, result.dead_letters) == (9_999, 1)
        # With the three that look for what has expired. A value that is taken is searched for in
        # halves, the last of which are single rows; a parent is looked up.
        most = 37 if "owner" in poison else 68
        # Elsewhere than on SQLite, four look whether another flusher has freed it, and two for
        # fences of the refused row.
        assert len(queries) <= most + 13 * (connections[database].vendor != "sqlite")

    @pytest.mark.parametrize("number", [1, 40, 1000])
    @on_valkey
    def test_duplicates_among_many(self, database, redis_server, configure, owner, number):
        configure(SHARDS=1, BATCH_SIZE=1000)
        Pair.objects.create(owner=owner, name="other", note="taken")
        bad = {n * 991 // number for n in range(number)}
        Pair.buffered.set_many(
            {"owner": owner, "name": str(n), "note": "taken" if n in bad else str(n)}
            for n in range(1000)
        )
        with CaptureQueriesContext(connections[database]) as queries:
            result = flush(Pair.buffered)
        assert result.dead_letters == len(bad)
        assert Pair.objects.count() == 1001 - len(bad)
        assert len(queries) < min(30 + 3 * len(bad) * math.log2(1000), 7000)

    def test_all_of_many_wait(self, database, redis_server, configure, owner, caplog):
        """It is hardly the fault of each."""
        configure(SHARDS=1, POISON_LIMIT=5)
        Pair.objects.create(owner=owner, name="other", note="taken")
        Pair.buffered.set_many({"owner": 404404, "name": str(n)} for n in range(5))
        result = flush(Pair.buffered)
        assert (result.errors, result.dead_letters, result.remaining) == (1, 0, 5)
        assert "All 5 entries are refused" in caplog.text
        Pair.buffered.discard()
        Pair.buffered.set_many({"owner": 404404, "name": str(n)} for n in range(4))
        assert flush(Pair.buffered).dead_letters == 4

    def test_a_value_that_moves_between_shards(self, database, redis_server, configure, owner):
        """Whichever shard is flushed first."""
        configure(SHARDS=8)
        letters = [chr(ord("a") + n) for n in range(10)]
        Pair.objects.bulk_create(
            Pair(owner=owner, name=name, note=name if n % 2 else None)
            for n, name in enumerate(letters)
        )
        for taker, giver in zip(letters[::2], letters[1::2], strict=True):
            Pair.buffered.set(owner=owner, name=giver, note=None)
            Pair.buffered.set(owner=owner, name=taker, note=giver)
        result = Pair.buffered.flush()
        assert result.dead_letters == 0
        assert not DeadLetter.objects.exists()
        assert [pair.note for pair in Pair.objects.order_by("name")] == [
            letters[n + 1] if n % 2 == 0 else None for n in range(10)
        ]

    def test_a_key_of_an_entity(self, database, redis_server, configure, owner, monkeypatch):
        """The other keys of the entity are stored."""
        configure(SHARDS=1)
        notes = Note.buffered.of(page="p", owner=owner)
        notes.update(a=1, c=3)
        lost = Note.buffered.of(page="p", owner=404404)
        lost["a"] = 1
        assert Note.buffered.flush().dead_letters == 1
        assert dict(Note.objects.values_list("key", "value")) == {"a": 1, "c": 3}

    def test_the_receipt_of_a_meta_key_is_about_that_key(self, database, redis_server):
        """Not about another key of the entity, even where one entry takes both."""
        site = Setting.buffered.of(site=1)
        site["n:"] = 2**63 - 1
        Setting.buffered.flush()
        good = site.update(good=1)
        bad = site.update({"n:": Add(1)})
        both = site.update({"n:": Add(1), "better": 2})
        assert Setting.buffered.flush().dead_letters == 1
        assert dict(site) == {"n:": 2**63 - 1, "good": 1, "better": 2}
        assert [receipt.where for receipt in (good, bad, both)] == ["stored", "dead", "dead"]
        assert [receipt.dead is None for receipt in (good, bad, both)] == [True, False, False]
        assert deadletters.discard(Setting.buffered, [DeadLetter.objects.get().pk]) == 1
        assert [r.where for r in (good, bad, both)] == ["stored", "discarded", "discarded"]

    def test_the_receipts_of_an_entity_that_cannot_be_read(self, plain):
        site = Setting.buffered.of(site=1)
        receipts = [site.update(a=1), site.update(b=2)]
        put_text(Setting.buffered, id_of(Setting.buffered, site=1), '"a"', "{")
        assert Setting.buffered.flush().dead_letters == 1
        assert [receipt.where for receipt in receipts] == ["dead", "dead"]
        deadletters.discard(Setting.buffered, [DeadLetter.objects.get().pk])
        assert [receipt.where for receipt in receipts] == ["discarded", "discarded"]

    def test_what_is_no_entry_at_all(self, database, redis_server, configure):
        """Somebody wrote to Redis, or the model has another field by now."""
        configure(SHARDS=1)
        Item.buffered.set_many({"number": n, "a": n} for n in range(4))
        put_text(Item.buffered, "0", "a", "{")
        put_text(Item.buffered, "1", "removed", "1")
        put_text(Item.buffered, "2", "b", "null")
        assert Item.buffered.flush().dead_letters == 3
        assert set(Item.objects.values_list("number", flat=True)) == {3}
        assert Item.buffered.count_pending() == 0
        for letter in DeadLetter.objects.all():
            assert letter.reason

    def test_a_value_that_only_the_database_refuses(self, database, redis_server, configure):
        configure(SHARDS=1)
        Strict.buffered.set(code="a", required="x")
        Strict.buffered.set(code="b", required="y")
        put_text(Strict.buffered, id_of(Strict.buffered, code="a"), "other", str(10**30))
        assert Strict.buffered.flush().dead_letters == 1
        assert set(Strict.objects.values_list("code", flat=True)) == {"b"}


class TestParents:
    def test_a_child_waits_for_its_pending_parent(self, database, redis_server, configure):
        """Scenario 29."""
        configure(SHARDS=1)
        Venue.buffered.set(slug="hall", name="Hall")
        Place.buffered.set(number=1, venue="hall")
        Place.buffered.set(number=2, venue="nowhere")
        result = Place.buffered.flush()
        assert result.dead_letters == 1
        assert Place.objects.get().venue.name == "Hall"
        assert Venue.buffered.count_pending() == 0

    def test_a_child_waits_while_its_parent_cannot_be_stored(
        self, database, redis_server, configure, monkeypatch
    ):
        configure(SHARDS=1, BACKOFF=0.01, LEASE=0.3)
        Venue.buffered.set(slug="hall")
        claim(Venue.buffered, lease=4.0)
        Place.buffered.set(number=1, venue="hall")
        begun = time.monotonic()
        result = flush(Place.buffered)
        assert 0.3 <= time.monotonic() - begun < 2
        assert (result.dead_letters, result.errors, result.remaining) == (0, 1, 1)
        assert Place.buffered.get(number=1).venue_id == "hall"
        Venue.buffered.flush()
        Place.buffered.flush()
        assert Place.objects.get().venue_id == "hall"

    def test_a_child_waits_for_the_flusher_of_its_parent(
        self, database, redis_server, configure, monkeypatch
    ):
        configure(SHARDS=1)
        Venue.buffered.set(slug="hall")
        Place.buffered.set(number=1, venue="hall")
        claimed = threading.Event()

        def dawdle(step: str) -> None:
            if (
                step == "flush.claimed"
                and threading.current_thread() is not threading.main_thread()
            ):
                claimed.set()
                time.sleep(0.5)

        monkeypatch.setattr(checkpoints, "hook", dawdle)
        with elsewhere(lambda: flush(Venue.buffered)):
            assert claimed.wait(10)
            assert Place.buffered.flush().rows == 1
        assert Place.objects.get().venue_id == "hall"

    def test_a_parent_that_was_deleted(self, database, redis_server, owner):
        Pair.buffered.set(owner=owner, name="x")
        past_signals(owner)
        assert Pair.buffered.flush().dead_letters == 1


def past_signals(owner: Owner) -> None:
    """Delete an owner as raw SQL does: without a fence for what refers to it."""
    Owner.objects.filter(pk=owner.pk)._raw_delete(current())


class TestDeadLetters:
    def refused(self, owner, **values) -> DeadLetter:
        """A letter of the row 'x', whose note another row has."""
        Pair.objects.get_or_create(owner=owner, name="other", note="taken")
        Pair.buffered.set(owner=owner, name="x", note="taken", **values)
        assert Pair.buffered.flush().dead_letters == 1
        return DeadLetter.objects.latest("pk")

    def free(self) -> None:
        Pair.objects.filter(name="other").update(note=None)

    def row(self) -> tuple[int, str | None]:
        return Pair.objects.values_list("value", "note").get(name="x")

    def test_is_retried_when_the_cause_is_gone(self, database, redis_server, owner):
        letter = self.refused(owner, value=3)
        assert deadletters.retry(Pair.buffered, [letter.pk]) == (0, 1)
        letter.refresh_from_db()
        assert letter.attempts == 2
        assert letter.last_seen > letter.first_seen
        self.free()
        assert deadletters.retry(Pair.buffered, [letter.pk]) == (1, 0)
        assert self.row() == (3, "taken")
        assert not DeadLetter.objects.exists()

    @on_valkey
    def test_is_retried_beside_a_flusher(self, database, redis_server, owner, monkeypatch):
        letter = self.refused(owner, value=3)
        self.free()
        Item.buffered.set(number=1)
        is_writing = threading.Event()

        def dawdle(step: str) -> None:
            if step == "flush.inserted":
                is_writing.set()
                time.sleep(0.5)

        monkeypatch.setattr(checkpoints, "hook", dawdle)
        with elsewhere(lambda: flush(Item.buffered)):
            assert is_writing.wait(10)
            assert deadletters.retry(Pair.buffered, [letter.pk]) == (1, 0)
        assert self.row() == (3, "taken")
        assert Item.objects.count() == 1

    @on_valkey
    @pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
    def test_a_retry_that_deadlocks_is_tried_again(self, database, redis_server, owner):
        """The other one has done more, and what takes longer to find goes on."""
        Pair.objects.create(owner=owner, name="x")
        letter = self.refused(owner, value=3)
        self.free()
        has_row, goes_on = threading.Event(), threading.Event()

        def meet() -> None:
            with transaction.atomic(using=database):
                Item.objects.bulk_create(Item(number=n) for n in range(200))
                Pair.objects.filter(name="x").update(value=1)
                has_row.set()
                assert goes_on.wait(10)
                time.sleep(0.3)  # by now the retry has its letter, and waits for the row
                DeadLetter.objects.filter(pk=letter.pk).update(attempts=7)

        with elsewhere(meet):
            assert has_row.wait(10)
            goes_on.set()
            assert deadletters.retry(Pair.buffered, [letter.pk], over=True) == (1, 0)
        assert self.row() == (3, "taken")
        assert Item.objects.count() == 200

    def test_is_not_written_over_a_newer_value(self, database, redis_server, owner):
        """Scenario 31."""
        letter = self.refused(owner, value=3)
        Pair.buffered.set(owner=owner, name="x", value=4)
        Pair.buffered.flush()
        letter.refresh_from_db()
        assert letter.superseded == ["value"]
        self.free()
        deadletters.retry(Pair.buffered, [letter.pk])
        assert self.row() == (4, "taken")

    def test_is_not_written_over_a_newer_value_of_a_batch_with_refused_ones(
        self, database, redis_server, configure, owner
    ):
        configure(SHARDS=1)
        letter = self.refused(owner, value=3)
        Pair.buffered.set(owner=owner, name="x", value=4)
        Pair.buffered.set(owner=404404, name="orphan")
        assert Pair.buffered.flush().dead_letters == 1
        letter.refresh_from_db()
        assert letter.superseded == ["value"]
        self.free()
        deadletters.retry(Pair.buffered, [letter.pk])
        assert self.row() == (4, "taken")

    def test_is_not_written_over_a_newer_pending_value(self, database, redis_server, owner):
        letter = self.refused(owner, value=3)
        Pair.buffered.set(owner=owner, name="x", value=4)
        self.free()
        deadletters.retry(Pair.buffered, [letter.pk])
        row = Pair.buffered.get(owner=owner, name="x")
        assert (row.value, row.note) == (4, "taken")
        Pair.buffered.flush()
        assert self.row() == (4, "taken")

    def test_a_sum_counts_whenever_it_is_added(self, database, redis_server, owner):
        Pair.objects.create(owner=owner, name="x", value=100)
        letter = self.refused(owner, value=Add(1))
        Pair.buffered.set(owner=owner, name="x", value=Add(10))
        Pair.buffered.flush()
        self.free()
        deadletters.retry(Pair.buffered, [letter.pk])
        assert self.row() == (111, "taken")

    def test_a_row_that_was_deleted_since_stays_deleted(self, database, redis_server, owner):
        letter = self.refused(owner, value=3)
        Pair.objects.create(owner=owner, name="x")
        Pair.buffered.delete(owner=owner, name="x")
        Pair.buffered.flush()
        self.free()
        deadletters.retry(Pair.buffered, [letter.pk])
        assert names() == {"other"}
        assert not DeadLetter.objects.exists()

    def test_merged_keys_are_struck_out_one_by_one(self, database, redis_server, owner):
        notes = Note.buffered.of(page="p", owner=owner.pk)
        notes["a"] = Merge({"x": 1, "y": 1})
        name, key = owner.name, owner.pk
        past_signals(owner)
        assert Note.buffered.flush().dead_letters == 1
        Owner.objects.create(pk=key, name=name)
        notes["a"] = Merge({"y": 2, "z": 2})
        Note.buffered.flush()
        (letter,) = DeadLetter.objects.all()
        assert deadletters.retry(Note.buffered, [letter.pk]) == (1, 0)
        assert Note.objects.get().value == {"x": 1, "y": 2, "z": 2}

    @pytest.mark.parametrize("stored", [False, True], ids=["alone", "beside a stored key"])
    def test_an_entity_that_was_cleared_since_stays_clear(
        self, database, redis_server, owner, stored
    ):
        """None of the keys of its letters is stored or named in the deletion."""
        name, key = owner.name, owner.pk
        notes = Note.buffered.of(page="p", owner=key)
        near = Note.buffered.of(page="p,", owner=key)
        past_signals(owner)
        notes.update(a=1, b=Add(2))
        near["a"] = 5
        assert Note.buffered.flush().dead_letters == 3
        Owner.objects.create(pk=key, name=name)
        if stored:
            Note.objects.create(page="p", owner_id=key, key="c", value=3)
        notes.clear()
        Note.buffered.flush()
        ids = list(DeadLetter.objects.values_list("pk", flat=True))
        assert deadletters.retry(Note.buffered, ids) == (3, 0)
        assert dict(notes) == {}
        assert dict(near) == {"a": 5}

    def test_a_deletion_that_was_refused_strikes_nothing_out(self, database, redis_server, owner):
        letter = self.refused(owner, value=3)
        Pair.buffered.delete(owner=owner, name="x")
        Pair.buffered.set(owner=owner, name="x", note="taken")
        assert Pair.buffered.flush().dead_letters == 1
        self.free()
        assert deadletters.retry(Pair.buffered, [letter.pk]) == (1, 0)
        assert self.row() == (3, "taken")

    def test_is_kept_as_long_as_the_settings_say(self, database, redis_server, owner, configure):
        letter = self.refused(owner)
        DeadLetter.objects.update(last_seen=timezone.now() - timedelta(days=3))
        Pair.buffered.flush()
        assert DeadLetter.objects.get() == letter
        configure(DEAD_LETTER_DAYS=4)
        Pair.buffered.flush()
        assert DeadLetter.objects.get() == letter
        configure(DEAD_LETTER_DAYS=2)
        Pair.buffered.flush()
        assert not DeadLetter.objects.exists()

    def test_the_receipt_of_a_discarded_letter_says_so(self, database, redis_server, owner):
        Pair.objects.create(owner=owner, name="other", note="taken")
        receipt = Pair.buffered.set(owner=owner, name="x", note="taken")
        good = Pair.buffered.set(owner=owner, name="y")
        Pair.buffered.flush()
        letter = DeadLetter.objects.get()
        assert deadletters.discard(Pair.buffered, [letter.pk, letter.pk + 1]) == 1
        assert not DeadLetter.objects.exists()
        assert (receipt.where, receipt.persisted, receipt.dead) == ("discarded", False, None)
        assert not receipt.wait(1)
        assert good.persisted

    def test_a_discard_is_known_as_long_as_letters_are_kept(self, plain, owner, configure):
        configure(DEAD_LETTER_DAYS=2)
        for days in (1, 3):
            letter = self.refused(owner)
            deadletters.discard(Pair.buffered, [letter.pk])
            at = timezone.now() - timedelta(days=days)
            DeadLetter.every.filter(last=letter.last).update(discarded_at=at)
        Pair.buffered.flush()
        assert not DeadLetter.every.filter(last=letter.last).exists()
        assert DeadLetter.every.count() == 1

    def test_another_buffer_cannot_retry_it(self, plain, owner):
        letter = self.refused(owner)
        self.free()
        with pytest.raises(DeadLetter.DoesNotExist, match=r"Item.* has no dead letter"):
            deadletters.retry(Item.buffered, [letter.pk])
        with pytest.raises(DeadLetter.DoesNotExist, match=f"no dead letter {letter.pk + 1}"):
            deadletters.retry(Pair.buffered, [letter.pk, letter.pk + 1])
        assert DeadLetter.objects.get() == letter

    def test_its_row_stays_the_same(self, plain, owner):
        letter = self.refused(owner)
        for key in ({"name": "z"}, {"owner": owner}, {"owner_id": owner.pk, "value": 1}):
            with pytest.raises(FieldError, match=r"is in the key of tests\.Pair"):
                deadletters.edit(Pair.buffered, letter.pk, key)
        assert DeadLetter.objects.get().entry == letter.entry

    def test_is_mended(self, database, redis_server, owner):
        letter = self.refused(owner, value=3)
        with pytest.raises(TypeError, match="not operations"):
            deadletters.edit(Pair.buffered, letter.pk, {"value": Add(1)})
        deadletters.edit(Pair.buffered, letter.pk, {"note": "free"})
        assert deadletters.retry(Pair.buffered, [letter.pk]) == (1, 0)
        assert self.row() == (3, "free")
