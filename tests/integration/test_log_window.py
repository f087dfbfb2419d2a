"""window() and count() show every record once, whatever is flushed when (G3)."""

from __future__ import annotations

import datetime
import select
import sys
import time
from functools import partial

import pytest
from django.core.exceptions import FieldError, ValidationError
from django.utils import timezone

from tests.backdoor.batches import claim
from tests.backdoor.declarations import redeclare
from tests.backdoor.reads import act_after_first_page, act_amid_window
from tests.models import Line, Owner, Tick, Visit
from writebehind_app.flush.engine import flush

SECOND = datetime.timedelta(seconds=1)
on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


class SetBack(datetime.tzinfo):
    """UTC, and until a moment an hour more: the hour before it comes twice."""

    def __init__(self, moment: datetime.datetime) -> None:
        self.moment = moment.replace(tzinfo=None)

    def utcoffset(self, at: datetime.datetime | None) -> datetime.timedelta:
        assert at is not None
        at = at.replace(tzinfo=None)
        is_before = at < self.moment or (at < self.moment + 3600 * SECOND and not at.fold)
        return 3600 * SECOND if is_before else 0 * SECOND

    def dst(self, at: datetime.datetime | None) -> datetime.timedelta:
        return self.utcoffset(at)

    def fromutc(self, at: datetime.datetime) -> datetime.datetime:
        if at.replace(tzinfo=None) < self.moment:
            return at + 3600 * SECOND
        return at.replace(fold=1)


def events(**filters) -> list[int]:
    visits = Visit.buffered.window(**filters)
    assert Visit.buffered.count(**filters) == len(visits)
    return [visit.event for visit in visits]


@pytest.fixture(params=["pending", "in flight", "stored", "mixed"])
def move(request):
    """Brings what was appended to where the test wants it; of a mixed lot, the first half."""

    def to_its_place(first_half: bool) -> None:
        match request.param:
            case "in flight" if not first_half:
                claim(Visit.buffered)
            case "stored" if not first_half:
                Visit.buffered.flush()
            case "mixed" if first_half:
                Visit.buffered.flush()

    return to_its_place


class TestBounds:
    def test_from_one_moment_up_to_and_without_another(self, database, redis_server, move):
        start = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
        at = [start + n * SECOND for n in range(6)]
        for event in (3, 0, 5):
            Visit.buffered.append(event=event, email="a", registered_at=at[event])
        move(first_half=True)
        for event in (4, 1, 2):
            Visit.buffered.append(event=event, email="a", registered_at=at[event])
        move(first_half=False)
        assert events() == [0, 1, 2, 3, 4, 5]
        assert events(since=at[2]) == [2, 3, 4, 5]
        assert events(until=at[2]) == [0, 1]
        assert events(since=at[1], until=at[4]) == [1, 2, 3]
        micro = datetime.timedelta(microseconds=1)
        assert events(since=at[1] + micro, until=at[4] + micro) == [2, 3, 4]
        assert events(since=at[4], until=at[1]) == []
        assert events(since=at[1], until=at[1]) == []

    def test_times_that_are_given_among_those_that_are_not(self, database, redis_server, move):
        before, after = timezone.now() - 60 * SECOND, timezone.now() + 60 * SECOND
        Visit.buffered.append(event=1, email="a")
        Visit.buffered.append(event=0, email="a", registered_at=before)
        move(first_half=True)
        Visit.buffered.append(event=3, email="a", registered_at=after)
        Visit.buffered.append(event=2, email="a")
        move(first_half=False)
        assert events() == [0, 1, 2, 3]
        assert events(since=before + SECOND) == [1, 2, 3]
        assert events(until=after) == [0, 1, 2]
        assert events(since=before + SECOND, until=after) == [1, 2]
        assert events(since=after) == [3]

    def test_times_far_off(self, database, redis_server):
        years = (1900, 1969, 1970, 2500, 9998)
        at = [datetime.datetime(y, 12, 31, 23, 59, 59, 999999, tzinfo=datetime.UTC) for y in years]
        for event, moment in enumerate(at):
            Visit.buffered.append(event=event, email="a", registered_at=moment)
        for _ in range(2):
            for n in range(5):
                assert events(since=at[n]) == list(range(n, 5))
                assert events(until=at[n]) == list(range(n))
            Visit.buffered.flush()

    def test_the_time_of_the_append_is_a_bound_as_well(self, database, redis_server):
        receipts = Line.buffered.extend({"text": str(n)} for n in range(4))
        at = [line.at for line in Line.buffered.window()]
        for _ in range(2):
            assert [line.text for line in Line.buffered.window(at[1], at[3])] == ["1", "2"]
            assert Line.buffered.count(at[1], at[3]) == 2
            Line.buffered.flush()
        assert receipts[0].persisted

    def test_other_zones_and_dates(self, plain):
        zone = datetime.timezone(datetime.timedelta(hours=5))
        at = datetime.datetime(2030, 1, 1, 4, tzinfo=zone)  # the evening before, in UTC
        Visit.buffered.append(event=1, email="a", registered_at=at)
        assert events(since=at, until=at + SECOND) == [1]
        assert events(since=datetime.datetime(2029, 12, 31, 23, tzinfo=datetime.UTC)) == [1]
        assert events(since="2029-12-31T23:00:00.000001Z") == []

    def test_without_time_zones(self, plain, settings, monkeypatch):
        settings.USE_TZ = False
        redeclare(monkeypatch, Visit.buffered)
        at = datetime.datetime(2030, 1, 1, 4)  # noqa: DTZ001
        Visit.buffered.append(event=1, email="a", registered_at=at)
        Visit.buffered.append(event=0, email="a")
        for _ in range(2):
            assert events() == [0, 1]
            assert events(since=at, until=at + SECOND) == [1]
            assert events(until=at) == [0]
            Visit.buffered.flush()

    @pytest.fixture
    def naive(self, settings, monkeypatch):
        settings.USE_TZ = False
        redeclare(monkeypatch, Visit.buffered)

    def test_in_the_hour_that_comes_twice(self, database, redis_server, naive):
        with timezone.override(SetBack(datetime.datetime.now(datetime.UTC) - 60 * SECOND)):
            Visit.buffered.append(event=1, email="a")
            (visit,) = Visit.buffered.window()
            at = visit.registered_at
            for _ in range(2):
                assert events(since=at - SECOND, until=at + SECOND) == [1]
                assert events(since=at) == [1]
                assert events(since=at + SECOND) == events(until=at) == []
                Visit.buffered.flush()

    def test_in_the_hour_that_does_not_come(self, database, redis_server, naive):
        with timezone.override("Europe/Berlin"):
            at = datetime.datetime(2026, 3, 29, 3)  # noqa: DTZ001 - it was 2 o'clock a moment ago
            Visit.buffered.append(event=1, email="a", registered_at=at)
            for _ in range(2):
                assert events(since=at - 900 * SECOND, until=at + SECOND) == [1]
                assert events(since=at + SECOND) == events(until=at - 900 * SECOND) == []
                Visit.buffered.flush()

    def test_that_are_no_times(self, plain):
        with pytest.raises(ValidationError):
            Visit.buffered.window("yesterday")
        zone = datetime.timezone(datetime.timedelta(hours=-5))
        for at in (datetime.datetime.max.replace(tzinfo=zone), 5):
            with pytest.raises(ValidationError) as error:
                Visit.buffered.count(until=at)
            assert list(error.value.message_dict) == ["registered_at"]


class TestFilters:
    def test_are_values_of_fields(self, database, redis_server, move):
        owner = Owner.objects.create(name="o")
        Visit.buffered.append(event=1, email="a", owner=owner)
        Visit.buffered.append(event=2, email="a", note="other")
        move(first_half=True)
        Visit.buffered.append(event=3, email="b", owner=owner)
        Visit.buffered.append(event=4, email="b", note="")
        move(first_half=False)
        assert events(event=3) == [3]
        assert events(email="a") == [1, 2]
        assert events(owner=owner) == events(owner_id=owner.pk) == [1, 3]
        assert events(owner=None) == [2, 4]
        assert events(note="none") == [1, 3]  # which is the default
        assert events(note="") == [4]
        assert events(email="b", owner=owner) == [3]
        (visit,) = Visit.buffered.window(event=4)
        assert events(token=visit.token) == [4]
        assert events(registered_at=visit.registered_at) == [4]
        assert Visit.buffered.window(visit.registered_at, email="a") == []

    def test_of_wrong_names(self, plain):
        for verb in (Visit.buffered.window, Visit.buffered.count):
            with pytest.raises(FieldError, match="the fields are event, email, owner"):
                verb(owner__name="x")
            with pytest.raises(FieldError, match="cannot be a filter"):
                verb(details={})
            with pytest.raises(ValidationError):
                verb(event="x")


def test_instances_are_as_they_will_be_and_carry_nothing_else(database, redis_server):
    Tick.buffered.append(value=1)
    (pending,) = Tick.buffered.window()
    assert pending._state.adding
    Tick.buffered.flush()
    (stored,) = Tick.buffered.window()
    assert stored == pending
    assert stored.__dict__.keys() - {"_state"} == {"id", "at", "value"}


class TestWhileAFlusherRuns:
    """Redis is read, then the database; the flusher does something in between."""

    @pytest.fixture
    def between(self, monkeypatch):
        return partial(act_amid_window, monkeypatch)

    def put(self, count: int) -> list[int]:
        """Stored ones, then pending ones, on all shards."""
        Visit.buffered.extend({"event": n, "email": "a"} for n in range(count // 2))
        Visit.buffered.flush()
        Visit.buffered.extend({"event": n, "email": "a"} for n in range(count // 2, count))
        return list(range(count))

    @pytest.mark.parametrize("stored", [0, 20])
    @pytest.mark.parametrize("verb", ["window", "count"])
    def test_all_is_flushed(self, database, redis_server, between, stored, verb):
        Visit.buffered.extend({"event": n, "email": "a"} for n in range(stored))
        Visit.buffered.flush()
        Visit.buffered.extend({"event": n, "email": "a"} for n in range(stored, 40))
        between(Visit.buffered.flush)
        if verb == "window":
            assert sorted(v.event for v in Visit.buffered.window()) == list(range(40))
        else:
            assert Visit.buffered.count() == 40
        assert Visit.buffered.count_pending() == 0

    def test_some_shards_are_flushed(self, database, redis_server, between):
        expected = self.put(40)
        for _ in range(3):
            between(lambda: flush(Visit.buffered, limit=5))
            assert sorted(v.event for v in Visit.buffered.window()) == expected
            between(lambda: flush(Visit.buffered, limit=1, batch_size=1))
            assert Visit.buffered.count() == 40

    def test_between_two_pages(self, database, redis_server, monkeypatch):
        """The first of some are read, and all are flushed before the others are."""
        expected = self.put(40)
        pages = act_after_first_page(monkeypatch, Visit.buffered.flush, page=3)
        assert sorted(v.event for v in Visit.buffered.window()) == expected
        assert len(pages) > 1
        Visit.buffered.extend({"event": n, "email": "b"} for n in range(40))
        pages.clear()
        assert Visit.buffered.count() == 80

    def test_the_batch_is_claimed(self, database, redis_server, between):
        expected = self.put(40)
        between(lambda: claim(Visit.buffered))
        assert sorted(v.event for v in Visit.buffered.window()) == expected

    def test_more_comes_and_is_flushed(self, database, redis_server, between):
        expected = self.put(20)

        def act() -> None:
            Visit.buffered.extend({"event": n, "email": "a"} for n in range(20, 30))
            Visit.buffered.flush()

        between(act)
        assert sorted(v.event for v in Visit.buffered.window()) == [*expected, *range(20, 30)]

    def test_only_records_of_another_filter_are_flushed(self, database, redis_server, between):
        self.put(20)
        Visit.buffered.append(event=999, email="only")
        between(Visit.buffered.flush)
        assert events(email="only") == [999]


def flush_until_closed() -> None:
    """In a child: flush without pause, in batches of any size."""
    print("ready")
    while not select.select([sys.stdin], [], [], 0)[0]:
        for size in (1, 7, 50):
            flush(Visit.buffered, batch_size=size, limit=100)


@pytest.mark.process
@on_valkey
def test_reads_while_others_append_and_flush(database, redis_server, configure, start_child):
    """Scenario 23. Each record is in every window from its append on, once."""
    child = start_child(flush_until_closed)
    assert child.stdout.readline() == "ready\n"
    end, n = time.monotonic() + 3, 0
    while time.monotonic() < end:
        Visit.buffered.extend({"event": n + i, "email": "a"} for i in range(5))
        n += 5
        since = max(n - 200, 0)
        seen = sorted(v.event for v in Visit.buffered.window() if v.event >= since)
        assert seen == list(range(since, n))
        assert Visit.buffered.count() == n
    child.stdin.close()
    assert child.wait(30) == 0
    Visit.buffered.flush()
    assert Visit.objects.count() == n
