"""Batches of a shard: claims, leases, acks, and what is thrown away."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.backdoor.store import KEY, Row, Store, cut, ids_of, store_on
from writebehind_app.store import lua
from writebehind_app.store.shard import Wait

A, B = "a" * 32, "b" * 32


@pytest.fixture
def store(redis_server) -> Iterator[Store]:
    with store_on(redis_server) as store:
        yield store


class TestClaim:
    def test_it_freezes_what_it_takes(self, store):
        first = store.write("1", {"a": "1"})
        batch = store.batch(A)
        assert (batch.token, batch.attempts, batch.error, batch.claimed) == (A, 0, "", first)
        assert [entry.values for entry in batch.entries] == [{"a": f"{first}1"}]
        later = store.write("1", {"a": "+i:1"})
        reading = store.read("1", "2")
        assert (reading.token, reading.acked) == (A, "")
        assert reading.in_flight == {"1": batch.entries[0]}
        assert (reading.pending["1"].first, {*reading.pending}) == (later, {"1"})
        assert reading.pending["1"].values == {}

    def test_later_batches_have_greater_numbers(self, store):
        numbers = []
        for token in (A, B):
            store.write("1")
            numbers.append(store.batch(token).number)
            assert store.read().batch == numbers[-1]
            store.ack(token)
        store.client.hincrby(KEY, "batch", 3_600_000_000)  # the clock was put back
        store.write("1")
        assert store.batch("c").number == numbers[1] + 3_600_000_001
        assert numbers == sorted({*numbers})

    def test_one_that_is_taken_over_keeps_its_number(self, store):
        store.write("1")
        number = store.batch(A).number
        store.release(A)
        assert store.batch(B).number == number

    def test_of_nothing(self, store):
        assert store.claim() is None
        assert store.keys() == set()

    def test_a_shard_is_due_when_its_oldest_entry_is(self, store):
        for n in range(4):
            store.write(str(n))
        assert store.claim(which="due") is None
        store.forward(6)
        for n in range(4, 8):
            store.write(str(n))
        batch = store.batch(which="due", size=6)
        assert ids_of(batch.entries) == [*"012345"]
        store.ack(batch.token)
        assert store.claim(which="due") is None
        assert ids_of(store.batch(which="all").entries) == [*"67"]

    def test_entries_go_in_the_order_of_their_numbers(self, store):
        ids = [str(n) for n in range(100)]
        store.send(*[Row(id, {}) for id in ids[:50]])
        store.send(*[Row(id, {"n": "+i:1"}) for id in ids[50:]])
        assert ids_of(store.batch(which="all").entries) == ids

    def test_after_the_clock_was_put_back_entries_are_not_due_at_once(self, store):
        store.client.hset(KEY, "last", store.write("1") + 3_600_000_000)
        store.ack(store.batch().token)
        store.write("2")
        assert store.claim(which="due") is None
        assert store.count().due == 0

    def test_with_quiet_only_what_is_due_itself(self, store):
        store.write("1")
        store.forward(6)
        store.write("2")
        assert ids_of(store.batch(which="ripe").entries) == ["1"]

    def test_the_oldest_is_not_the_one_that_is_due_first(self, store):
        store.write("old")
        store.client.hincrby(f"{KEY}:e:old", "#", -100_000_000)
        store.write("new")
        store.hasten("new", silence=60)
        assert 100 <= store.count().oldest < 110
        store.batch(which="due")
        assert 100 <= store.count().oldest < 110

    def test_what_was_hastened_goes_alone(self, store):
        for id in "123":
            store.write(id)
        assert store.hasten("2", silence=60)
        assert not store.hasten("2", silence=60)  # one was told
        assert not store.hasten("9", silence=60)
        assert store.count().due == 1
        batch = store.batch(which="due")
        assert ids_of(batch.entries) == ["2"]
        store.ack(batch.token)
        assert not store.hasten("2", silence=60)

    def test_of_ids(self, store):
        for id in "123":
            store.write(id)
        assert ids_of(store.batch(ids=["9", "3", "1"]).entries) == ["3", "1"]
        assert {*store.read("2", "9").pending} == {"2"}

    @pytest.mark.parametrize("which", ["due", "ripe"])
    def test_what_was_written_with_the_clock_a_day_ahead_does_not_wait_a_day(self, store, which):
        store.write("ahead")
        store.client.zincrby(f"{KEY}:due", 86_400_000_000, "ahead")
        store.client.hincrby(KEY, "last", 86_400_000_000)
        for id in "123":
            store.write(id)
        batch = store.batch(which=which, size=2)
        assert batch.entries[0].id == "ahead"

    def test_a_shorter_max_age_counts_for_what_waits_already(self, store):
        store.write("1", max_age=3_600_000_000)
        assert ids_of(store.batch(which="due").entries) == ["1"]

    def test_a_batch_is_no_larger_than_a_statement(self, store):
        for id in "123456":
            store.write(id, {"a": '"' + "x" * 1_500_000 + '"'})
        assert ids_of(store.batch().entries) == [*"123"]
        assert store.count().pending == 3

    def test_an_entry_that_something_took_does_not_keep_the_others(self, store):
        for id in "123":
            store.write(id)
        store.client.delete(f"{KEY}:e:2")
        assert ids_of(store.batch().entries) == ["1", "3"]
        assert store.count().pending == 0

    @pytest.mark.parametrize("count", [999, 1000, 1001, 9000])
    def test_a_batch_of_any_size_comes_and_goes_whole(self, store, count):
        rows = [Row(str(n), {"a": str(n)}) for n in range(count)]
        for part in cut(rows):
            store.send(*part)
        batch = store.batch(A, size=count)
        found = [(entry.id, entry.texts()) for entry in batch.entries]
        assert found == [(row.id, row.texts) for row in rows]
        assert store.counts() == (0, count, 0)
        assert store.ack(A)
        assert store.keys() == {"", ":senders"}

    def test_one_of_many_who_ask_at_once_gets_it(self, store):
        store.write("1")
        calls = [(KEY, f"token{n}", 60_000_000, 10, "all", 0, "") for n in range(20)]
        replies = lua.run_many(store.own, "claim", calls)
        assert [reply[0] for reply in replies] == ["batch", *["busy"] * 19]

    def test_nothing_is_claimed_while_somebody_paused_it(self, store):
        store.write("1")
        store.client.hset(KEY, "paused", 1)
        assert store.claim() == Wait("paused")
        assert store.count().paused
        store.client.hdel(KEY, "paused")
        assert store.batch()

    def test_a_full_redis_is_drained(self, store):
        for n in range(100):
            store.write(str(n))
        store.client.config_set("maxmemory", "1")
        try:
            batch = store.batch()
            assert store.renew(batch.token, lease=60)
            assert store.release(batch.token, retry_in=0, error="")
            assert store.batch().entries == batch.entries
            assert store.ack(batch.token)
        finally:
            store.client.config_set("maxmemory", "0")


class TestLease:
    def test_a_batch_has_one_flusher_at_a_time(self, store):
        store.write("1")
        store.batch(A, lease=15)
        waited = store.claim(B)
        assert isinstance(waited, Wait)
        assert (waited.reason, 14 < waited.seconds <= 15) == ("busy", True)
        store.forward(14)
        assert isinstance(store.claim(B), Wait)

    def test_after_it_the_same_batch_goes_under_the_same_token(self, store):
        store.write("1", {"a": "1"})
        batch = store.batch(A)
        store.write("2")
        store.forward(16)
        assert store.batch(B) == batch
        assert isinstance(store.claim(B), Wait)
        assert store.ack(A)
        assert ids_of(store.batch(B).entries) == ["2"]

    def test_it_is_renewed_while_its_flusher_lives(self, store):
        store.write("1")
        store.batch(A)
        store.forward(14)
        assert store.renew(A, lease=15)
        store.forward(14)
        assert isinstance(store.claim(B), Wait)
        assert not store.renew(B, lease=15)

    def test_one_that_nobody_can_have_given_is_over(self, store):
        store.write("1")
        store.batch(A)
        store.client.hincrby(KEY, "lease", 3_600_000_000)
        assert store.batch(B).token == A

    def test_a_batch_that_failed_waits_and_says_why(self, store):
        store.write("1")
        store.batch(A)
        assert not store.release(B, retry_in=60, error="no")
        assert store.release(A, retry_in=60, error="no")
        waited = store.claim(B)
        assert isinstance(waited, Wait)
        assert (waited.reason, 59 < waited.seconds <= 60) == ("backoff", True)
        batch = store.batch(B, ignore_backoff=True)
        assert (batch.token, batch.attempts, batch.error) == (A, 1, "no")
        assert store.release(A, retry_in=0, error="never")
        assert store.read().attempts == 2
        assert store.batch(B).error == "never"
        assert store.state("retries") == "2"
        store.ack(A)
        store.write("1")
        batch = store.batch(B)
        assert (batch.attempts, batch.error) == (0, "")

    def test_one_that_was_only_in_the_way_of_others_did_not_fail(self, store):
        store.write("1")
        store.batch(A)
        store.release(A, error="no")
        assert store.batch(B).attempts == 1
        assert store.release(A)
        batch = store.batch(B)
        assert (batch.attempts, batch.error) == (1, "no")
        assert store.state("retries") == "1"

    def test_a_token_that_nothing_may_be_applied_under_is_changed(self, store):
        store.write("1")
        batch = store.batch(A)
        guard = store.guard("2")
        assert store.revoke(B) == ""
        fresh = store.revoke(A)
        assert fresh not in ("", A)
        again = store.batch(B)
        assert (again.token, again.entries) == (fresh, batch.entries)
        assert again.number > batch.number
        assert not store.ack(A)
        assert store.guard("2") != guard


class TestAck:
    def test_it_drops_the_batch_and_nothing_else(self, store):
        store.write("1")
        store.write("2")
        store.batch(A)
        store.write("1")
        assert store.ack(A, rows=2, dead_letters=1, seconds=0.5)
        reading = store.read("1", "2")
        assert ({*reading.pending}, reading.in_flight) == ({"1"}, {})
        assert (reading.token, reading.acked) == ("", A)
        found = store.count()
        names = ("flushed", "rows", "batches", "buried", "accepted")
        assert [found.counters[name] for name in names] == [2, 2, 1, 1, 3]
        assert found.took == 0.5

    def test_with_another_token_it_changes_nothing(self, store):
        store.write("1")
        batch = store.batch(A)
        before = store.dump()
        assert not store.ack(B)
        assert store.dump() == before
        assert store.ack(A)
        store.write("1")
        store.batch(B)
        before = store.dump()
        assert not store.ack(A)  # late, of a flusher that slept
        assert store.dump() == before
        assert batch

    def test_nothing_is_left_of_what_was_flushed(self, store):
        def flush() -> set[str]:
            for n in range(300):
                store.write(str(n), {"a": "+i:1"})
            store.ack(store.batch(size=1000).token)
            return store.keys()

        assert flush() == {"", ":senders"}
        size = store.client.memory_usage(KEY)
        for _ in range(3):
            assert flush() == {"", ":senders"}
        assert store.client.memory_usage(KEY) < size + 100


class TestLocate:
    def test_where_a_write_is(self, store):
        first = store.write("1")
        other = store.write("2")
        last = store.write("1")
        assert [store.locate("1", n) for n in (first, last)] == ["pending"] * 2
        store.batch(A)
        later = store.write("1")
        found = [store.locate("1", n) for n in (first, last, later)]
        assert found == ["in_flight", "in_flight", "pending"]
        store.ack(A)
        assert [store.locate("1", n) for n in (first, last, later)] == [
            "stored",
            "stored",
            "pending",
        ]
        assert store.locate("2", other) == "stored"

    def test_a_delete(self, store):
        number = store.delete("1")
        assert store.locate("1", number) == "pending"

    def test_what_redis_lost(self, store):
        number = store.write("1")
        store.client.flushall()
        assert store.locate("1", number) == "lost"
        time.sleep(0.001)
        store.write("1")
        assert store.locate("1", number) == "lost"
        assert store.locate("1", number + 10**9) == "lost"


class TestDiscard:
    def test_pending_entries(self, store):
        numbers = [store.write(id) for id in "1231"]
        assert store.discard("1", "9") == 1
        assert [store.locate(id, n) for id, n in zip("1231", numbers, strict=True)] == [
            "discarded",
            "pending",
            "pending",
            "discarded",
        ]
        assert {*store.read(*"123").pending} == {"2", "3"}
        assert store.discard() == 2
        assert store.count().pending == 0
        assert store.state("discarded") == "3"

    def test_at_most_so_many(self, store):
        for id in "123":
            store.write(id)
        assert store.discard(most=2) == 2
        assert {*store.read(*"123").pending} == {"3"}

    def test_what_somebody_works_on_stays(self, store):
        store.write("1")
        store.batch(A)
        for token in (A, B, ""):
            assert store.discard("1", token=token) == 0
        store.forward(16)
        for token in (B, ""):
            assert store.discard("1", token=token) == 0
        fresh = store.shard.idle_token()
        assert fresh == A
        assert store.discard("1", token=A) == 1
        assert (store.count().in_flight, store.read().token) == (0, "")
        assert not store.ack(A)

    def test_part_of_a_batch(self, store):
        numbers = {id: store.write(id) for id in "12"}
        store.batch(A)
        store.forward(16)
        assert store.discard("2", token=A) == 1
        assert store.locate("2", numbers["2"]) == "discarded"
        assert ids_of(store.batch(B).entries) == ["1"]

    def test_the_last_thousand_are_known(self, store):
        first = store.write("0")
        store.discard("0")
        store.send(*[Row(str(n), {}) for n in range(1, 1001)])
        last = int(store.state("last"))
        assert store.discard(most=2000) == 1000
        assert store.client.zcard(f"{KEY}:discarded") == 1000
        assert store.locate("0", first) == "lost"
        assert store.locate("1000", last) == "discarded"
        number = store.write("0")
        store.ack(store.batch().token)
        assert store.locate("0", number) == "stored"


class TestGarbage:
    @pytest.mark.parametrize("kind", ["set", "rpush", "sadd", "xadd"])
    def test_what_is_no_hash_is_a_broken_entry(self, store, kind):
        for id in "12":
            store.write(id)
        key = f"{KEY}:e:1"
        store.client.delete(key)
        args = ("*", "a", "b") if kind == "xadd" else ("x" * 2000,)
        store.client.execute_command(kind, key, *args)
        assert store.only("1").broken
        batch = store.batch(A)
        assert [bool(entry.broken) for entry in batch.entries] == [True, False]
        assert batch.entries[0].texts()
        assert store.read("1").in_flight["1"].broken
        store.forward(16)
        assert store.batch(B) == batch
        assert store.ack(A)
        assert store.keys() == {"", ":senders"}

    @pytest.mark.parametrize("token", ["x y", "a" * 33, ""])
    def test_a_token_that_is_none_is_changed(self, store, token):
        store.write("1")
        store.batch(A)
        store.client.hset(KEY, "token", token)
        store.forward(16)
        assert store.batch(B).token == B
        assert store.ack(B)

    def test_a_batch_whose_token_somebody_took_is_not_lost(self, store):
        store.write("1")
        store.batch(A)
        store.client.hdel(KEY, "token")
        store.write("2")
        store.forward(16)
        assert ids_of(store.batch(B).entries) == ["1"]
        assert store.ack(B)
        assert ids_of(store.batch(A).entries) == ["2"]

    @pytest.mark.parametrize("name", ["lease", "attempts", "retry_at", "claimed", "last"])
    @pytest.mark.parametrize("text", ["x", "", "1" * 400, "nan"])
    def test_a_state_that_is_no_number(self, store, name, text):
        store.write("1")
        store.client.hset(KEY, name, text)
        batch = store.batch(A)
        store.client.hset(KEY, name, text)
        if name != "lease":
            store.client.hset(KEY, "lease", 0)
        assert store.batch(B).entries == batch.entries
        assert store.read("1").token == A
        assert store.count().in_flight == 1
        assert store.locate("1", 1)
        assert store.ack(A)
