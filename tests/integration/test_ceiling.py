"""SCENARIOS 38: the ceiling of pending entries is reached."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.utils import timezone

from tests.backdoor.batches import claim_and_die
from tests.backdoor.breaker import forget_what_was_logged
from tests.backdoor.entries import id_of
from tests.backdoor.limits import limit
from tests.backdoor.shards import number_of
from tests.models import Item, Line, Owner, Setting, Visit
from writebehind_app import Add
from writebehind_app.exceptions import AlreadyExists, BufferFull
from writebehind_app.meta.models import AppointmentMeta


@pytest.fixture
def direct(database, redis_server, configure):
    configure(MAX_PENDING=10, WHEN_FULL="direct", SHARDS=4)


@pytest.fixture
def refusing(database, redis_server, configure):
    configure(MAX_PENDING=10, WHEN_FULL="raise", SHARDS=4)


class TestDirect:
    def test_what_is_too_much_goes_to_the_database(self, direct):
        receipts = [Item.buffered.set(number=n, a=n) for n in range(30)]
        assert sum(receipt.direct for receipt in receipts) == 20
        assert Item.buffered.count_pending() == 10
        assert Item.objects.count() == 20
        assert {n: row.a for n, row in Item.buffered.get_many(range(30)).items()} == {
            n: n for n in range(30)
        }
        Item.buffered.flush()
        assert Item.buffered.count_pending() == 0
        assert dict(Item.objects.values_list("number", "a")) == {n: n for n in range(30)}
        assert not Item.buffered.set(number=30).direct

    def test_together(self, direct, monkeypatch):
        limit(monkeypatch, writes_of_a_call=1)
        receipts = Item.buffered.set_many({"number": n, "a": Add(1)} for n in range(25))
        assert sum(receipt.direct for receipt in receipts) == 15
        Item.buffered.flush()
        assert set(Item.objects.values_list("a", flat=True)) == {1}
        assert Item.objects.count() == 25

    def test_in_one_call(self, direct, configure):
        """It is taken whole, or not at all."""
        configure(SHARDS=1)
        for count, is_direct in ((8, False), (3, True), (2, False)):
            receipts = Item.buffered.set_many({"number": 10 * count + n} for n in range(count))
            assert [receipt.direct for receipt in receipts] == [is_direct] * count
        assert Item.buffered.count_pending() == 10
        assert Item.objects.count() == 3

    def test_what_is_pending_is_written_to_still(self, direct):
        Item.buffered.set_many({"number": n, "a": 1} for n in range(10))
        for n in range(10):
            assert not Item.buffered.set(number=n, a=Add(1)).direct
        assert Item.buffered.set(number=10, a=2).direct
        assert {row.a for row in Item.buffered.get_many(range(11)).values()} == {2}

    def test_what_is_in_flight_counts(self, direct):
        Item.buffered.set_many({"number": n, "a": 1} for n in range(10))
        claim_and_die(Item.buffered)
        assert Item.buffered.set(number=3, a=2, b="direct").direct
        Item.buffered.flush()
        row = Item.objects.get(number=3)
        assert (row.a, row.b) == (2, "direct")

    def test_rows_that_look_before_they_write(self, direct):
        Item.objects.create(number=50, a=1)
        Item.buffered.set_many({"number": n} for n in range(10))
        # Redis takes others meanwhile, so one that went around it might win beside one of those.
        with pytest.raises(BufferFull):
            Item.buffered.create(number=20, a=1)
        with pytest.raises(AlreadyExists):
            Item.buffered.create(number=5)
        with pytest.raises(BufferFull):
            Item.buffered.set_if({"a": 1}, number=50, a=2)
        assert not Item.buffered.set_if({"a": 7}, number=50, a=3)
        assert Item.buffered.set_if({"number": 5}, number=5, a=3)
        assert Item.objects.get().a == 1

    def test_all_in_one_shard(self, direct):
        """Shards have no ceiling of their own."""
        buffer = Item.buffered
        numbers = [n for n in range(100) if number_of(buffer, id_of(buffer, number=n)) == 0]
        receipts = [Item.buffered.set(number=n) for n in numbers[:12]]
        assert [receipt.direct for receipt in receipts] == [False] * 10 + [True] * 2

    def test_fewer_than_there_are_shards(self, direct, configure):
        configure(MAX_PENDING=3)
        receipts = [Item.buffered.set(number=n) for n in range(20)]
        assert [receipt.direct for receipt in receipts] == [False] * 3 + [True] * 17
        lines = [Line.buffered.append(text=str(n)) for n in range(20)]
        assert [receipt.direct for receipt in lines] == [False] * 3 + [True] * 17
        Item.buffered.flush()
        assert not Item.buffered.set(number=20).direct

    def test_metadata(self, direct):
        for site in range(12):
            receipt = Setting.buffered.of(site=site).update(a=site)
            assert receipt.direct == (site >= 10)
        assert [Setting.buffered.of(site=site)["a"] for site in range(12)] == list(range(12))

    def test_a_log(self, direct):
        receipts = [Line.buffered.append(text=str(n)) for n in range(12)]
        assert [receipt.direct for receipt in receipts] == [False] * 10 + [True] * 2
        assert {row.text for row in Line.buffered.window()} == {str(n) for n in range(12)}
        Line.buffered.flush()
        assert Line.buffered.count_pending() == 0
        assert Line.objects.count() == 12
        assert not Line.buffered.append(text="12").direct

    def test_a_log_with_unique_records(self, direct):
        Visit.buffered.extend({"event": n, "email": "a"} for n in range(10))
        with pytest.raises(BufferFull):
            Visit.buffered.append(event=11, email="a")
        with pytest.raises(AlreadyExists):
            Visit.buffered.append(event=5, email="a")
        Visit.buffered.flush()
        assert Visit.objects.count() == 10
        assert not Visit.buffered.append(event=11, email="a").direct

    def test_records_that_come_together_stay_together(self, direct):
        Line.buffered.extend({"text": str(n)} for n in range(8))
        three = Line.buffered.extend({"text": str(n)} for n in range(3))
        two = Line.buffered.extend({"text": str(n)} for n in range(2))
        assert [receipt.direct for receipt in three + two] == [True] * 3 + [False] * 2
        assert Line.buffered.count_pending() == 10
        assert Line.buffered.count() == 13

    def test_it_is_logged_not_with_each_write(self, direct, caplog):
        forget_what_was_logged()
        for n in range(15):
            Item.buffered.set(number=n)
        (line,) = [r.message for r in caplog.records if r.name == "writebehind"]
        assert line == (
            "tests.Item.buffered is full. 10 entries are pending, and max_pending is 10: see "
            "whether a flusher runs, and keeps up."
        )


class TestRaise:
    def test_what_is_too_much(self, refusing):
        for n in range(10):
            Item.buffered.set(number=n, a=1)
        for call in (
            lambda: Item.buffered.set(number=10),
            lambda: Item.buffered.delete(number=10),
            lambda: Item.buffered.create(number=10),
        ):
            with pytest.raises(BufferFull, match="10 entries are pending, and max_pending is 10"):
                call()
        Item.buffered.set(number=3, a=Add(1))
        Item.buffered.flush()
        assert Item.buffered.count_pending() == 0
        assert Item.objects.count() == 10
        assert Item.objects.get(number=3).a == 2
        Item.buffered.set(number=10)

    def test_where_there_is_room_for_one(self, refusing, configure):
        configure(MAX_PENDING=1, SHARDS=1)
        Item.buffered.set(number=1)
        with pytest.raises(BufferFull, match=r"^1 entry is pending, and max_pending is 1: "):
            Item.buffered.set(number=2)

    def test_together(self, refusing, monkeypatch):
        limit(monkeypatch, writes_of_a_call=1)
        with pytest.raises(BufferFull, match="10 of 25 writes were taken for certain"):
            Item.buffered.set_many({"number": n} for n in range(25))
        assert Item.buffered.count_pending() == 10

    def test_in_one_call(self, refusing, configure):
        configure(SHARDS=1)
        with pytest.raises(BufferFull, match="0 of 11 writes were taken for certain"):
            Item.buffered.set_many({"number": n} for n in range(11))
        assert Item.buffered.count_pending() == 0

    def test_after_one_that_is_refused_none_to_its_row_is_taken(self, refusing):
        Item.buffered.set_many({"number": n} for n in range(10))
        with pytest.raises(BufferFull, match="0 of 2 writes"):
            Item.buffered.set_many([{"number": 20, "a": 1}, {"number": 20, "a": 2}])
        assert Item.buffered.count_pending() == 10

    def test_a_log(self, refusing):
        Line.buffered.extend({"text": str(n)} for n in range(8))
        why = "^8 entries are pending, 3 more came together, and max_pending is 10"
        with pytest.raises(BufferFull, match=why):
            Line.buffered.extend({"text": str(n)} for n in range(3))
        assert Line.buffered.count() == 8
        Line.buffered.append(text="x")
        Line.buffered.append(text="y")
        with pytest.raises(BufferFull):
            Line.buffered.append(text="z")
        Line.buffered.flush()
        assert (Line.buffered.count_pending(), Line.objects.count()) == (0, 10)

    @pytest.mark.parametrize("once", [None, "key"])
    def test_more_records_than_ever_fit(self, refusing, once):
        never = "11 records at once never fit, as max_pending is 10: .* 0 of these were taken"
        with pytest.raises(BufferFull, match=never):
            Line.buffered.extend([{"text": str(n)} for n in range(11)], once=once)
        assert Line.buffered.count() == 0

    def test_an_option_of_the_buffer_comes_first(self, refusing, monkeypatch):
        Owner.objects.create(pk=1)
        monkeypatch.setattr(Item.buffered, "options", {**Item.buffered.options, "MAX_PENDING": 2})
        monkeypatch.setattr(
            Item.buffered, "options", {**Item.buffered.options, "WHEN_FULL": "direct"}
        )
        assert [Item.buffered.set(number=n).direct for n in range(3)] == [False, False, True]

    def test_many_at_once(self, refusing):
        """Who counts in the same moment may go over by one each."""

        def write(n: int) -> int:
            try:
                return len([Item.buffered.set(number=n)])
            except BufferFull:
                return 0

        with ThreadPoolExecutor(8) as pool:
            taken = sum(pool.map(write, range(100)))
        assert 10 <= taken == Item.buffered.count_pending() <= 17


def test_rows_that_expire_do_not_keep_a_full_buffer_full(refusing):
    AppointmentMeta.objects.create(appointment_id=99, expires_at=timezone.now())
    buffered = AppointmentMeta.buffered
    for n in range(10):
        buffered.set(appointment_id=n)
    buffered.flush()
    assert buffered.count_pending() == 0
    assert AppointmentMeta.objects.count() == 11
    buffered.flush()
    assert AppointmentMeta.objects.count() == 10
