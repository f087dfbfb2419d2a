"""Logs: records are appended, claimed, read by their times; and pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backdoor.store import FOREVER, KEY, Record, Row, Sender, Store, ids_of, store_on
from writebehind_app.store import listing, records
from writebehind_app.store.shard import Wait

A, B = "a" * 32, "b" * 32


@pytest.fixture
def store(redis_server) -> Iterator[Store]:
    with store_on(redis_server, is_log=True) as store:
        yield store


def record(a: str, time: int | None = None, **texts: str) -> Record:
    return Record(a, time, {"a": a, **texts})


class TestAppend:
    def test_records_have_numbers_in_their_order(self, store):
        first = store.append(record("1"), record("2", b='"x"'))
        second = store.append(record("3"))
        assert second > first + 1
        batch = store.batch(A)
        assert ids_of(batch.entries) == [str(n) for n in (first, first + 1, second)]
        assert batch.entries[1].values == {"a": f"{first + 1}2", "b": f'{first + 1}"x"'}
        assert batch.claimed == second
        assert store.state("accepted") == "3"

    def test_one_without_fields_and_one_of_a_version(self, store):
        store.append(Record("", None, {}), version=3)
        store.append(Record("", None, {}))
        entries = store.batch().entries
        assert [(e.version, e.values, e.broken) for e in entries] == [(3, {}, ""), (0, {}, "")]

    def test_a_unique_id_is_taken_until_it_is_a_row(self, store):
        store.append(record("1"))
        before = store.dump()
        outcome = store.append(record("2"), record("1"))
        assert (outcome.why, outcome.more) == ("taken", 2)
        assert store.dump() == before
        store.batch(A)
        assert store.append(record("1")).why == "taken"
        store.ack(A)
        assert isinstance(store.append(record("1")), int)

    def test_a_guard_changes_with_what_leaves(self, store):
        guards = []

        def guard() -> str:
            guards.append(store.read(guarded=True).guard)
            return guards[-1]

        store.append(record("1"), guard=guard())
        store.append(record("2"), guard=guard())
        assert guards[0] == guards[1]  # what comes changes nothing
        guard()
        store.batch(A, size=1)
        guard()
        store.ack(A)
        guard()
        store.discard()
        guard()
        for old in guards[2:-1]:
            outcome = store.append(record("3"), guard=old)
            assert (outcome.why, outcome.more) == ("moved", guards[-1])
        assert isinstance(store.append(record("3"), guard=guards[-1]), int)

    def test_refusals_keep_nothing(self, store):
        number = store.append(record("1"))
        before = store.dump()
        assert store.append(record("2"), deadline=number).why == "late"
        assert store.append(record("2"), record("3"), room=2).why == "full"
        assert store.dump() == before
        assert isinstance(store.append(record("2"), room=2), int)

    def test_an_idempotency_key(self, store):
        number = store.append(record("1"), once="d", once_ms=60_000)
        before = store.dump()
        outcome = store.append(record("2"), once="d", once_ms=60_000)
        assert (outcome.why, outcome.more) == ("known", number)
        assert store.dump() == before
        assert 0 < store.client.pttl(f"{KEY}:once:d") <= 60_000

    def test_a_lost_reply(self, store):
        call, lost = store.append_call(record("1"), record("2")), Sender(store.exchange)
        lost.send(call, FOREVER)
        lost.answered = 0
        assert store.sender.send_again(call, lost, FOREVER) == int(store.state("last")) - 1
        assert store.counts() == (2, 0, 0)
        lost, call = Sender(store.exchange), store.append_call(record("3"))
        assert isinstance(store.sender.send_again(call, lost, FOREVER), int)
        store.ack(store.batch().token)
        assert lost.send(call, FOREVER).why == "late"
        assert store.counts() == (0, 0, 0)

    def test_numbers_grow_when_the_clock_goes_back(self, store):
        ahead = store.append(record("1")) + 10**12
        store.client.hset(KEY, "last", ahead)
        assert store.append(record("2"), record("3")) == ahead + 1
        assert store.append(record("4")) == ahead + 3


class TestBatches:
    def test_a_log_is_due_when_its_oldest_record_is(self, store):
        store.append(record("1"))
        assert store.claim(which="due") is None
        assert store.counts() == (1, 0, 0)
        assert len(store.batch(which="due", max_age=0).entries) == 1

    def test_what_is_in_flight_does_not_make_it_due(self, store):
        store.client.xadd(f"{KEY}:log", {"a": "x"}, id="5-0")  # of 1970
        assert ids_of(store.batch(A).entries) == ["5"]
        store.append(record("1"))
        assert store.counts() == (1, 1, 0)

    def test_with_quiet_when_none_came_for_so_long(self, store):
        store.append(record("1"), quiet=1)
        assert store.counts() == (1, 0, 1)
        assert store.batch(which="due")

    def test_one_from_ahead_of_the_clock_is_due(self, store):
        store.append(record("1"))
        store.client.hincrby(KEY, "last", 86_400_000_000)
        store.ack(store.batch().token)
        store.append(record("2"))
        assert store.counts() == (1, 0, 1)
        assert store.batch(which="due")

    def test_what_comes_after_the_claim_is_not_of_the_batch(self, store):
        store.append(record("1"), record("2"))
        batch = store.batch(A)
        store.append(record("3"))
        assert store.counts() == (1, 2, 0)
        store.forward(16)
        assert store.batch(B) == batch
        assert isinstance(store.claim(B), Wait)
        assert not store.ack(B)
        assert store.ack(A)
        assert store.counts() == (1, 0, 0)
        assert [e.values["a"][16:] for e in store.batch(B).entries] == ["3"]
        assert store.ack(B)
        assert store.keys() == {"", ":senders", ":log"}

    def test_of_a_size_and_of_some_bytes(self, store):
        store.append(*[record(str(n)) for n in range(50)])
        assert len(store.batch(A, size=30).entries) == 30
        store.ack(A)
        store.ack(store.batch(A).token)
        for n in range(6):
            store.append(record(str(n), b='"' + "x" * 1_500_000 + '"'))
        assert 1 < len(store.batch(A).entries) < 6

    def test_one_that_no_append_wrote_is_no_record(self, store):
        store.append(record("1"))
        ahead = int(store.state("last")) + 10**12
        store.client.xadd(f"{KEY}:log", {"a": "x"}, id=f"{ahead}-0")
        entries = store.batch(A).entries
        assert "@" in entries[1].values
        store.ack(A)
        assert isinstance(store.append(record("2")), int)

    @pytest.mark.parametrize("id", ["5-1", "260000000000000000-0"])
    def test_one_of_no_number_is_broken(self, store, id):
        store.client.xadd(f"{KEY}:log", {"a": "x"}, id=id)
        assert store.batch(A).entries[0].broken
        assert store.ack(A)


class TestDiscard:
    def test_by_unique_id_and_by_number(self, store):
        first = store.append(*[record(str(n)) for n in range(5)])
        assert store.discard("1", "9", f"#{first + 3}") == 2
        assert [store.locate("", first + n) for n in range(5)] == [
            *("pending", "discarded", "pending", "discarded", "pending")
        ]
        assert isinstance(store.append(record("1")), int)
        assert store.discard() == 4
        assert store.counts() == (0, 0, 0)

    def test_what_somebody_works_on_stays(self, store):
        first = store.append(record("1"))
        store.batch(A)
        later = store.append(record("2"))
        assert store.locate("", first) == "in_flight"
        assert store.discard("1", token=A) == 0
        assert store.discard(token=A) == 1
        assert store.locate("", later) == "discarded"
        store.forward(16)
        assert store.discard("1", token=A) == 1
        assert not store.ack(A)
        store.append(record("1"))
        store.ack(store.batch(B).token)
        assert store.locate("", first) == "discarded"
        assert store.locate("", int(store.state("last"))) == "stored"


class TestWindow:
    def window(self, store: Store, since: int | None, until: int | None) -> list[str]:
        return [entry.values["a"][16:] for entry in store.window(since, until)]

    def test_of_numbers_and_of_times_that_are_given(self, store):
        first = store.append(record("1"), record("2", 50), record("3", 7), record("4"))
        for bounds, expected in (
            ((None, None), "1234"),
            ((7, 50), "3"),
            ((7, 51), "23"),
            ((first, first + 1), "1"),
            ((-5, 0), ""),
            ((first + 3, None), "4"),
        ):
            assert self.window(store, *bounds) == [*expected]

    def test_what_is_in_flight_is_in_it(self, store):
        store.append(record("1"), record("2"))
        store.batch(A, size=1)
        store.append(record("3"))
        assert self.window(store, None, None) == [*"123"]

    @pytest.mark.parametrize("page", [1, 2, 3, 5])
    def test_in_pages(self, store, monkeypatch, page):
        monkeypatch.setattr(records, "PAGE", page)
        first = store.append(record("1"), record("2", 50), record("3"), record("4", 50))
        for bounds, expected in (
            ((None, None), "1234"),
            ((50, 51), "24"),
            ((first + 1, first + 3), "23"),
            ((first, first + 2), "12"),
        ):
            assert self.window(store, *bounds) == [*expected]

    @pytest.mark.parametrize("size", [1, 50, 300, 10_000])
    def test_in_pages_of_so_many_bytes(self, store, monkeypatch, size):
        monkeypatch.setattr(records, "PAGE_BYTES", size)
        texts = [f"{n:0{2 if n < 50 else 60}}" for n in range(10, 90)]
        given = [text for n, text in enumerate(texts) if n % 3]
        first = store.append(*[record(text, 50 if text in given else None) for text in texts])
        assert self.window(store, None, None) == texts
        assert self.window(store, 50, 51) == given
        some = [text for n, text in enumerate(texts) if n < 30 or text in given]
        assert self.window(store, 50, first + 30) == some


class TestPages:
    def pending(self, store: Store, size: int = 3, **options) -> list[listing.Listed]:
        return listing.pending(store.own, [KEY], size, **options).rows

    def test_of_entries(self, store):
        rows = store.as_rows()
        for n in range(5):
            rows.write(str(n), {"a": '"' + "x" * 20_000 * n + '"'})
        found = self.pending(store)
        assert [listed.entry.id for listed in found] == [*"012"]
        assert found[2].place.at == store.client.zscore(f"{KEY}:due", "2")
        assert found[2].entry.values["a"][16:] == '"…"'
        place = found[2].place
        rest = self.pending(store, after=place)
        assert [listed.entry.id for listed in rest] == ["3", "4"]
        back = self.pending(store, 2, after=place, newest_first=True)
        assert [listed.entry.id for listed in back] == ["1", "0"]
        rows.batch(A, size=2)
        rows.release(A, retry_in=0, error="no")
        first, second = listing.in_flight(store.own, [KEY], 3).rows
        assert (second.entry.id, second.attempts, second.error) == ("1", 1, "no")
        assert listing.in_flight(store.own, [KEY], 3, after=first.place).rows == [second]

    def test_of_entries_with_a_beginning(self, store):
        store.as_rows().send(*[Row(f"{n % 2}-{n}") for n in range(100)])
        page = listing.pending(store.own, [KEY], 90, beginning="1-")
        assert page.stopped is None
        assert [listed.entry.id for listed in page.rows] == [f"1-{n}" for n in range(1, 100, 2)]

    def test_of_records(self, store):
        first = store.append(*[record(str(n)) for n in range(5)])
        store.batch(A, size=2)
        numbers = [listed.entry.since - first for listed in self.pending(store, is_log=True)]
        assert numbers == [2, 3, 4]
        found = listing.in_flight(store.own, [KEY], 3, is_log=True).rows
        assert [listed.entry.since - first for listed in found] == [0, 1]
        place = listing.Place(first + 3, 0, f"{first + 3}-0")
        rest = self.pending(store, is_log=True, after=place)
        assert [listed.entry.since - first for listed in rest] == [4]


def test_what_somebody_put_in_the_way_is_put_aside(store):
    rows = store.as_rows()
    rows.write("1")
    for suffix in ("", ":due", ":senders", ":flight", ":log", ":discarded", ":times", ":taken:0a0"):
        store.client.set(KEY + suffix, "else")
    store.mend()
    assert store.client.get(f"{KEY}:aside") == "else"
    rows.write("1")
    store.client.hset(KEY, mapping={"last": "x", "rows": "1" * 30, "accepted": "01"})
    store.mend()
    assert (store.state("last"), store.state("rows"), store.state("accepted")) == (None, None, None)
    rows.write("1")
    assert rows.ack(rows.batch().token, rows=1)
