"""A log buffer from the call to the database, and back."""

from __future__ import annotations

import datetime
import inspect
import uuid
from itertools import pairwise

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import FieldError, ValidationError
from django.utils import timezone

from tests.backdoor.batches import claim, claim_and_die, end_lease
from tests.backdoor.records import is_anything_noted
from tests.backdoor.shards import discard_one_of_each
from tests.models import Line, Owner, Tick, Visit
from writebehind_app import Add, LogBuffer
from writebehind_app.exceptions import AlreadyExists, BufferUnavailable
from writebehind_app.fields.stamps import moment
from writebehind_app.flush.engine import flush
from writebehind_app.models import AppliedBatch


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


class TestAppendAndFlush:
    def test_records_are_inserted_in_the_order_in_which_they_came(self, database, redis_server):
        """Scenario 19."""
        receipts = [Line.buffered.append(text=str(n)) for n in range(5)]
        receipts += Line.buffered.extend({"text": str(n)} for n in range(5, 2500))
        assert [r.where for r in receipts[::500]] == ["pending"] * 5
        assert Line.buffered.count_pending() == 2500

        result = Line.buffered.flush()

        assert (result.rows, result.batches, result.remaining) == (2500, 3, 0)
        lines = list(Line.objects.order_by("pk"))
        assert texts(lines) == [str(n) for n in range(2500)]
        assert all(a.at < b.at for a, b in pairwise(lines))
        assert all(r.persisted for r in receipts[::100])
        upto = AppliedBatch.objects.order_by("upto").values_list("upto", flat=True)
        assert list(upto) == [receipts[n].number for n in (999, 1999, 2499)]
        assert Line.buffered.count_pending() == 0

    def test_a_record_of_defaults_alone(self, database, redis_server):
        Line.buffered.append()
        assert texts(Line.buffered.window()) == [""]
        Line.buffered.flush()
        assert texts(Line.objects.all()) == [""]

    def test_nothing_to_append(self, database, redis_server):
        assert Visit.buffered.extend([]) == []
        assert Visit.buffered.flush().batches == 0

    def test_a_flush_is_for_what_is_due(self, plain, configure):
        configure(MAX_AGE=60)
        Line.buffered.append(text="a")
        assert flush(Line.buffered, due_only=True).remaining == 0
        assert Line.buffered.count_pending() == 1
        configure(QUIET=0.000001)
        Line.buffered.append(text="b")
        assert flush(Line.buffered, due_only=True).rows == 2
        configure(QUIET=0, MAX_AGE=0)
        Line.buffered.append(text="c")
        assert flush(Line.buffered, due_only=True).rows == 1


class TestValues:
    @pytest.fixture
    def both(self, database, redis_server):
        """What the window shows before the flush, and the row after it."""

        def append(buffer, **values):
            buffer.append(**values)
            (pending,) = buffer.window()
            buffer.flush()
            return pending, buffer.model.objects.get()

        return append

    def test_are_the_same_before_and_after_the_flush(self, both):
        owner = Owner.objects.create(name="o")
        pending, stored = both(Visit.buffered, event=1, email="é", owner=owner, details={"a": [1]})
        assert pending.pk is None
        for field in Visit._meta.concrete_fields:
            if not field.primary_key:
                assert getattr(pending, field.attname) == getattr(stored, field.attname)
        assert stored.note == "none"
        assert stored.hint.keys() == {"ns"}
        assert stored.registered_at == stored.created_at == stored.updated_at
        assert abs(stored.created_at - timezone.now()) < datetime.timedelta(seconds=5)

    def test_a_primary_key_that_does_not_number_itself(self, both):
        pending, stored = both(Tick.buffered, value=1)
        assert pending.pk == stored.pk
        assert pending.at == stored.at

    def test_a_primary_key_that_is_given(self, both):
        pk = uuid.uuid4()
        pending, stored = both(Tick.buffered, pk=pk, value=1)
        assert pending.pk == stored.pk == pk

    def test_a_time_that_is_given(self, both):
        at = datetime.datetime(2020, 2, 2, 2, 2, 2, 2, tzinfo=datetime.UTC)
        pending, stored = both(Visit.buffered, event=1, email="a", registered_at=at)
        assert pending.registered_at == stored.registered_at == at
        assert stored.created_at > at

    def test_a_time_that_is_none_is_not_given(self, both):
        pending, stored = both(Tick.buffered, value=1, at=None)
        assert pending.at == stored.at > timezone.now() - datetime.timedelta(seconds=5)

    def test_of_instances(self, database, redis_server):
        at = timezone.now() - datetime.timedelta(days=1)
        visit = Visit(event=1, email="a", registered_at=at, note="n")
        Visit.buffered.extend([visit, {"event": 2, "email": "b"}])
        Tick.buffered.extend([Tick(value=5)])
        Visit.buffered.flush()
        Tick.buffered.flush()
        stored = Visit.objects.get(event=1)
        assert (stored.registered_at, stored.note, stored.token) == (at, "n", visit.token)
        assert Visit.objects.filter(event=2).exists()
        assert Tick.objects.get().value == 5


class TestRefusedCalls:
    @pytest.mark.parametrize(
        ("values", "error", "message"),
        [
            ({"event": 1}, FieldError, r"'email' is missing; .* unique by event, email"),
            ({"event": 1, "email": "a", "nonsense": 1}, FieldError, "no buffered field 'nonsense'"),
            ({"event": 1, "email": "a", "created_at": None}, FieldError, "'created_at'"),
            ({"event": 1, "email": "a", "owner": 1, "owner_id": 1}, FieldError, "the same field"),
            ({"event": "x", "email": "a"}, ValidationError, "event"),
            ({"event": 1, "email": "a" * 101}, ValidationError, "100 characters"),
            ({"event": Add(1), "email": "a"}, ValidationError, "no value for Add"),
            ({"event": 1, "email": "a", "registered_at": "x"}, ValidationError, "registered_at"),
        ],
    )
    def test_nothing_is_appended(self, plain, values, error, message):
        with pytest.raises(error, match=message):
            Visit.buffered.append(**values)
        with pytest.raises(error, match=message):
            Visit.buffered.extend([{"event": 1, "email": "good"}, values])
        assert Visit.buffered.count_pending() == 0

    def test_a_field_without_which_there_is_no_row(self, plain):
        with pytest.raises(ValidationError) as caught:
            Tick.buffered.append()
        assert caught.value.message_dict == {"value": ["This field is required."]}

    def test_clean_checks_and_changes(self, plain, monkeypatch):
        def clean(values):
            if values["event"] < 0:
                raise ValidationError({"event": "There is no such event."})
            return {**values, "email": values["email"].lower()}

        monkeypatch.setattr(Visit.buffered, "clean", clean)
        with pytest.raises(ValidationError, match="no such event"):
            Visit.buffered.append(event=-1, email="A")
        Visit.buffered.append(event=1, email="A")
        with pytest.raises(AlreadyExists):
            Visit.buffered.append(event=1, email="a")

    def test_a_full_redis_takes_none_of_them_and_is_drained(self, database, redis_server):
        Visit.buffered.extend({"event": n, "email": "a"} for n in range(50))
        claim_and_die(Visit.buffered, size=5)
        with redis_server.client() as client:
            try:
                client.config_set("maxmemory", 100_000)
                with pytest.raises(BufferUnavailable):
                    Visit.buffered.append(event=99, email="a")
                assert set(discard_one_of_each(Visit.buffered)) == {1}
                Visit.buffered.flush()
                Visit.buffered.flush()
            finally:
                client.config_set("maxmemory", 0)
        assert Visit.objects.count() == 47
        Visit.buffered.append(event=99, email="a")


class TestReceipts:
    def test_say_where_the_record_is(self, database, redis_server):
        first, second, third = Line.buffered.extend({"text": t} for t in "abc")
        claim(Line.buffered, size=1)
        assert [r.where for r in (first, second, third)] == ["in_flight", "pending", "pending"]
        end_lease(Line.buffered)
        with redis_server.client() as client:
            flush(Line.buffered, limit=1)
            assert (first.where, second.where) == ("stored", "pending")
            assert Line.buffered.discard() == 2
            assert [r.where for r in (first, second, third)] == ["stored", "discarded", "discarded"]
            client.flushall()
        assert first.where == "lost"
        Line.buffered.append(text="d")
        assert first.where == "lost"

    def test_numbers_rise_and_are_the_times(self, plain):
        receipts = Line.buffered.extend({"text": str(n)} for n in range(3000))
        assert all(a.number < b.number for a, b in pairwise(receipts))
        assert [row.at for row in Line.buffered.window()] == [moment(r.number) for r in receipts]


class TestDiscard:
    def test_one_record(self, database, redis_server):
        Visit.buffered.append(event=1, email="a")
        kept = Visit.buffered.append(event=2, email="a")
        assert Visit.buffered.discard(event=1, email="a") == 1
        assert Visit.buffered.discard(event=1, email="a") == 0
        assert [v.event for v in Visit.buffered.window()] == [2]
        Visit.buffered.append(event=1, email="a", registered_at=timezone.now())
        Visit.buffered.flush()
        assert Visit.objects.count() == 2
        assert kept.persisted
        assert Visit.buffered.discard(event=1, email="a") == 0

    def test_all_and_nothing_is_left(self, database, redis_server, configure):
        configure(BATCH_SIZE=100)
        at = timezone.now()
        Visit.buffered.extend({"event": n, "email": "a", "registered_at": at} for n in range(700))
        assert Visit.buffered.discard() == 700
        assert Visit.buffered.window() == []
        assert not is_anything_noted(Visit.buffered)
        Visit.buffered.extend({"event": n, "email": "a"} for n in range(700))

    def test_what_a_flusher_works_on_stays(self, database, redis_server):
        Visit.buffered.append(event=1, email="a")
        claim(Visit.buffered)
        Visit.buffered.append(event=2, email="a")
        assert Visit.buffered.discard(event=1, email="a") == 0
        assert Visit.buffered.discard() == 1
        assert [v.event for v in Visit.buffered.window()] == [1]

    def test_a_batch_that_nobody_works_on(self, database, redis_server):
        Visit.buffered.extend({"event": n, "email": "a"} for n in range(10))
        claim_and_die(Visit.buffered)
        assert Visit.buffered.discard(event=1, email="a") == 1
        assert Visit.buffered.count_pending() == 9
        Visit.buffered.flush()
        assert Visit.objects.count() == 9
        Visit.buffered.extend({"event": n, "email": "b"} for n in range(10))
        claim_and_die(Visit.buffered)
        assert Visit.buffered.discard() == 10
        Visit.buffered.append(event=1, email="b")
        Visit.buffered.flush()
        assert Visit.objects.count() == 10

    @pytest.mark.parametrize("given", [{"event": 1}, {"event": 1, "email": "a", "note": "n"}])
    def test_of_other_fields_than_the_unique_ones(self, plain, given):
        with pytest.raises(FieldError, match="is named by event, email"):
            Visit.buffered.discard(**given)

    def test_by_fields_where_none_are_unique(self, plain):
        with pytest.raises(FieldError, match="it has no unique fields"):
            Line.buffered.discard(text="a")


class TestPending:
    def test_is_listed_in_the_order_in_which_it_came(self, database, redis_server):
        Visit.buffered.append(event=1, email="a")
        claim_and_die(Visit.buffered)
        for event in (2, 3):
            Visit.buffered.append(event=event, email="a", note="n")
        entries = Visit.buffered.pending()
        assert [e.key["event"] for e in entries] == [1, 2, 3]
        assert [e.state for e in entries] == ["in_flight", "pending", "pending"]
        assert entries[1].key == {"event": 2, "email": "a"}
        assert entries[1].values["note"] == "n"
        assert not entries[1].delete
        assert entries[0].since < entries[1].since < entries[2].since
        assert len(Visit.buffered.pending(limit=2)) == 2
        assert Visit.buffered.count_pending() == 3


class TestAsync:
    VERBS = ("append", "extend", "window", "count", "pending", "count_pending", "flush", "discard")

    @pytest.mark.parametrize("verb", VERBS)
    def test_each_verb_has_a_twin(self, verb):
        assert inspect.iscoroutinefunction(getattr(LogBuffer, f"a{verb}"))
        assert not inspect.iscoroutinefunction(getattr(LogBuffer, verb))

    def test_twins_do_the_same(self, plain):
        async def play():
            start = timezone.now()
            receipt = await Line.buffered.aappend(text="a")
            await Line.buffered.aextend([{"text": "b"}, {"text": "c"}])
            said = [
                receipt.where,
                texts(await Line.buffered.awindow(start, text="b")),
                await Line.buffered.acount(start),
                await Line.buffered.acount_pending(),
                len(await Line.buffered.apending(limit=2)),
                (await Line.buffered.aflush()).rows,
            ]
            await Line.buffered.aappend(text="d")
            said.append(await Line.buffered.adiscard())
            return said

        assert async_to_sync(play)() == ["pending", ["b"], 3, 3, 2, 3, 1]
