"""Logs of the new store: records are appended, claimed, read by their times; and pages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.backdoor.next_store import KEY, Store, ids_of
from writebehind_app.store.next import log, shard
from writebehind_app.store.next.calls import FOREVER, Row, Sender, Taken
from writebehind_app.store.next.log import Append, Record

A, B = "a" * 32, "b" * 32


class Log(Store):
    """What one shard of a log keeps."""

    def append(self, *records: Record, deadline: int = FOREVER, **options: Any) -> Any:
        call = self.append_call(*records, **options)
        (outcome,) = self.sender.send([call], deadline)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def append_call(self, *records: Record, **options: Any) -> Append:
        return Append(KEY, records, **{"max_age": 5_000_000, "unique": 1, **options})

    def claim(self, token: str = "", **options: Any) -> Any:
        return super().claim(token, records=True, **options)

    def ack(self, token: str, **options: Any) -> bool:
        return super().ack(token, records=True, **options)

    def discard(self, *ids: str, **options: Any) -> int:
        return super().discard(*ids, records=True, **options)

    def counts(self) -> tuple[int, int, int]:
        found = self.count(records=True)
        return found.pending, found.in_flight, found.due

    def window(self, first: int, last: int, *times: int) -> list[str]:
        found = log.window(self.exchange, KEY, first, last, times or (0, 0))
        return [entry.values["a"][16:] for entry in found]


@pytest.fixture
def store(redis_server) -> Iterator[Log]:
    with redis_server.client(decode_responses=True) as client:
        yield Log(client)


def record(a: str, time: int | None = None, **texts: str) -> Record:
    return Record({"a": a, **texts}, a, time)


class TestAppend:
    def test_records_have_numbers_in_their_order(self, store):
        first = store.append(record("1"), record("2", b='"x"')).first
        second = store.append(record("3")).first
        assert second > first + 1
        batch = store.batch(A)
        assert ids_of(batch.entries) == [str(n) for n in (first, first + 1, second)]
        assert batch.entries[1].values == {"a": f"{first + 1}2", "b": f'{first + 1}"x"'}
        assert batch.claimed == second
        assert store.state("accepted") == "3"

    def test_one_without_fields_and_one_of_a_version(self, store):
        store.append(Record({}), version=3)
        store.append(Record({}))
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
        assert isinstance(store.append(record("1")), Taken)

    def test_a_guard_changes_with_what_leaves(self, store):
        guards = []

        def guard() -> str:
            guards.append(store.read(fresh=str(random.random())).state)
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
        assert isinstance(store.append(record("3"), guard=guards[-1]), Taken)

    def test_refusals_keep_nothing(self, store):
        number = store.append(record("1")).first
        before = store.dump()
        assert store.append(record("2"), deadline=number).why == "late"
        assert store.append(record("2"), record("3"), room=2).why == "full"
        assert store.dump() == before
        assert isinstance(store.append(record("2"), room=2), Taken)

    def test_an_idempotency_key(self, store):
        number = store.append(record("1"), once="d", once_ms=60_000).first
        before = store.dump()
        outcome = store.append(record("2"), once="d", once_ms=60_000)
        assert (outcome.why, outcome.more) == ("known", number)
        assert store.dump() == before
        assert 0 < store.client.pttl(f"{KEY}:once:d") <= 60_000

    def test_a_lost_reply(self, store):
        call = store.append_call(record("1"), record("2"))
        lost = Sender(store.exchange)
        store.exchange([call.command(lost.name, FOREVER)])
        (outcome,) = store.sender.send_again([call], lost, FOREVER)
        assert outcome.first == int(store.state("last")) - 1
        assert store.counts() == (2, 0, 0)
        lost, call = Sender(store.exchange), store.append_call(record("3"))
        (outcome,) = store.sender.send_again([call], lost, FOREVER)
        assert isinstance(outcome, Taken)
        before = store.dump()
        store.ack(store.batch().token)
        (outcome,) = lost.send([call], FOREVER)
        assert outcome.why == "late"
        assert store.counts() == (0, 0, 0)
        assert before


class TestBatches:
    def test_a_log_is_due_when_its_oldest_record_is(self, store):
        store.append(record("1"))
        assert store.claim(which="due") is None
        assert store.counts() == (1, 0, 0)
        assert len(store.batch(which="due", max_age=0).entries) == 1

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
        assert isinstance(store.append(record("2")), Taken)

    @pytest.mark.parametrize("id", ["5-1", "260000000000000000-0"])
    def test_one_of_no_number_is_broken(self, store, id):
        store.client.xadd(f"{KEY}:log", {"a": "x"}, id=id)
        assert store.batch(A).entries[0].broken
        assert store.ack(A)


class TestDiscard:
    def test_by_unique_id_and_by_number(self, store):
        first = store.append(*[record(str(n)) for n in range(5)]).first
        assert store.discard("1", "9", f"#{first + 3}") == 2
        assert [store.locate("", first + n) for n in range(5)] == [
            *("pending", "discarded", "pending", "discarded", "pending")
        ]
        assert isinstance(store.append(record("1")), Taken)
        assert store.discard() == 4
        assert store.counts() == (0, 0, 0)

    def test_what_somebody_works_on_stays(self, store):
        first = store.append(record("1")).first
        store.batch(A)
        later = store.append(record("2")).first
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
        assert store.locate("", int(store.state("last"))) == "gone"


class TestWindow:
    def test_records_by_number_and_by_given_time(self, store):
        first = store.append(*[record(str(n)) for n in range(4)]).first
        store.batch(A)
        store.append(record("early", time=5), record("late", time=500))
        assert store.window(first, first + 1) == ["0", "1"]
        assert store.window(first + 1, first + 2, 0, 10) == ["1", "2", "early"]
        assert store.window(0, 1, 500, 500) == ["late"]

    def test_in_pages(self, store, monkeypatch):
        monkeypatch.setattr(log, "PAGE", 7)
        first = store.append(*[record(str(n), time=n) for n in range(100)]).first
        texts = [str(n) for n in range(100)]
        assert store.window(first, first + 99) == texts
        assert store.window(0, 1, 0, 98) == texts[:99]
        assert store.window(first, first + 49, 25, 98) == texts[:99]


class TestPages:
    def page(self, store: Log, script: str, *args: str | int) -> list[Any]:
        asked: list[str | int] = ["pending", 3, "", "-inf", "+inf", "", "", 0]
        asked[: len(args)] = args
        return shard.ask(store.exchange, script, KEY, *asked)

    def test_of_entries(self, store):
        for n in range(5):
            store.write(str(n), {"a": '"' + "x" * 20_000 * n + '"'})
        attempts, error, stopped, *found = self.page(store, "page")
        assert (attempts, error, stopped) == (0, "", [])
        assert [id for id, *_ in found] == [*"012"]
        _, place, flat = found[2]
        assert float(place) == store.client.zscore(f"{KEY}:due", "2")
        texts = dict(zip(flat[::2], flat[1::2], strict=True))
        assert texts["a"][16:] == '"…"'
        _, _, _, *rest = self.page(store, "page", "pending", 3, "", place, "+inf", "2")
        assert [id for id, *_ in rest] == ["3", "4"]
        _, _, _, *back = self.page(store, "page", "pending", 2, "1", "-inf", place, "2")
        assert [id for id, *_ in back] == ["1", "0"]
        Store(store.client).batch(A, size=2)
        shard.release(store.exchange, KEY, A, retry_in=0, error="no")
        attempts, error, _, *found = self.page(store, "page", "in_flight", 3, "", "1")
        assert (attempts, error) == (1, "no")
        assert [(id, place) for id, place, _ in found] == [("1", "1")]

    def test_of_entries_with_a_beginning(self, store):
        store.send(*[Row(f"{n % 2}-{n}", {}) for n in range(100)])
        _, _, stopped, *found = self.page(
            store, "page", "pending", 90, "", "-inf", "+inf", "", "1-", 2000
        )
        assert ([id for id, *_ in found], stopped) == ([f"1-{n}" for n in range(1, 100, 2)], [])

    def test_of_records(self, store):
        first = store.append(*[record(str(n)) for n in range(5)]).first
        store.batch(A, size=2)
        _, _, _, *found = self.page(store, "page_records")
        assert [int(place) - first for _, place, _ in found] == [2, 3, 4]
        _, _, _, *found = self.page(store, "page_records", "in_flight", 3, "1")
        assert [int(place) - first for _, place, _ in found] == [1, 0]
        _, _, _, *found = self.page(
            store, "page_records", "pending", 3, "", first + 3, "+inf", f"{first + 3}-0"
        )
        assert [int(place) - first for _, place, _ in found] == [4]


def test_what_somebody_put_in_the_way_is_put_aside(store):
    store.write("1")
    for suffix in ("", ":due", ":senders", ":flight", ":log", ":discarded", ":times", ":taken:0a0"):
        store.client.set(KEY + suffix, "else")
    shard.ask(store.exchange, "mend", KEY)
    assert store.client.get(f"{KEY}:aside") == "else"
    store.write("1")
    store.client.hset(KEY, mapping={"last": "x", "rows": "1" * 30, "accepted": "01"})
    shard.ask(store.exchange, "mend", KEY)
    assert (store.state("last"), store.state("rows"), store.state("accepted")) == (None, None, None)
    store.write("1")
    rows = Store(store.client)
    assert rows.ack(rows.batch().token, rows=1)
