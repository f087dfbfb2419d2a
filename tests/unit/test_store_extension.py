"""Batches to which is added what they need of their shard."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from tests.backdoor.store import KEY, Record, Row, Store, ids_of, store_on
from writebehind_app.fields.entry import combined
from writebehind_app.store.shard import Batch, Wait

A = "a" * 32


@pytest.fixture
def store(redis_server) -> Iterator[Store]:
    with store_on(redis_server) as store:
        yield store


class TestExtension:
    def test_by_ids(self, store):
        for n in range(4):
            store.write(str(n))
        batch = store.batch(A, ids=["3"])
        assert not store.is_behind(batch, ids=["9"])
        assert store.is_behind(batch, ids=["9", "1"])
        extended = store.extend(batch, ids=["9", "1"])
        assert ids_of(extended.entries) == ["3", "1"]
        assert not store.is_behind(extended, ids=["9", "1"])
        assert store.counts() == (2, 2, 0)

    def test_it_has_a_greater_number(self, store):
        """By it a read sees that what was pending may be stored."""
        for n in range(2):
            store.write(str(n))
        batch = store.batch(A, ids=["0"])
        extended = store.extend(batch, ids=["1"])
        assert extended.number == store.read().batch > batch.number

    def test_by_a_number(self, store):
        for n in range(6):
            store.write(str(n))
        batch = store.batch(A, ids=["5"])
        number = store.only("3").since
        assert store.is_behind(batch, before=number)
        extended = store.extend(batch, before=number, size=2)
        assert ids_of(extended.entries) == [*"501"]
        extended = store.extend(extended, before=number)
        assert ids_of(extended.entries) == [*"5012"]
        assert not store.is_behind(extended, before=number)

    def test_what_was_hastened_or_is_quiet_goes_by_its_number(self, store):
        batch_of = store.write("a")
        number = store.write("b", quiet=1)
        store.write("c", quiet=1)
        store.hasten("c", silence=1)
        batch = store.batch(A, ids=["a"])
        assert batch_of < number
        assert ids_of(store.extend(batch, before=number + 1).entries) == ["a", "b"]

    def test_the_batch_has_another_token(self, store):
        store.write("1")
        store.write("2")
        batch = store.batch(A, ids=["1"])
        extended = store.extend(batch, ids=["2"])
        assert extended.token not in ("", A)
        assert store.extend(batch, ids=["2"]) is None
        assert not store.is_behind(batch, ids=["1"])
        assert not store.ack(A)
        assert isinstance(store.claim(), Wait)
        store.forward(16)
        assert store.batch() == extended
        assert store.ack(extended.token)
        assert store.counts() == (0, 0, 0)
        assert store.keys() == {"", ":senders"}

    def test_it_changes_the_guard(self, store):
        store.write("1")
        store.write("2")
        batch = store.batch(A, ids=["1"])
        guard = store.guard("2")
        store.extend(batch, ids=["2"])
        assert store.guard("2") != guard

    def test_what_somebody_else_wrote_is_left_where_it_cannot_be_joined(self, store):
        store.write("1", {"a": "1"})
        batch = store.batch(A)
        store.write("1", {"a": "2"})
        store.client.set(f"{KEY}:e:1", "text")
        assert not store.is_behind(batch, ids=["1"])
        assert ids_of(store.extend(batch, ids=["1"]).entries) == ["1"]
        store.write("2", {"a": "1"})
        store.client.set(f"{KEY}:e:2", "text")
        store.client.zadd(f"{KEY}:due", {"3": 5})
        found = store.batch(lease=15) if store.forward(16) is None else None
        assert store.extend(found, ids=["2", "3"]) is not None

    def test_an_entry_that_is_in_flight_already_is_joined(self, store):
        """In whatever order values, operations, merges and deletes come."""
        rng = random.Random(7)
        writes = [
            *(Row("1", {"a": str(n)}) for n in range(2)),
            *(Row("1", {"a": f"+i:{n}", "b": f">i:{n}"}) for n in range(3)),
            Row("1", {"b": "<i:1"}),
            *(Row("1", {"j": "&o:", f'&j:"{k}"': "1"}) for k in "xy"),
            Row("1", {"j": "null"}),
            Row("1", {}),
            Row("1", delete=True),
        ]
        for _ in range(150):
            for row in rng.choices(writes, k=rng.randint(1, 4)):
                store.send(row)
            batch = store.batch(A)
            for row in rng.choices(writes, k=rng.randint(1, 4)):
                store.send(row)
            expected = combined([*batch.entries, store.only("1")])
            extended = store.extend(batch, ids=["1"])
            assert extended.entries == [expected]
            assert store.pending("1") is None
            assert store.counts() == (0, 1, 0)
            store.ack(extended.token)

    def test_meta_keys_are_joined(self, store):
        rng = random.Random(5)
        names = ['"k"', '"l"']
        for _ in range(100):
            for half in range(2):
                for _ in range(rng.randint(1, 3)):
                    name = rng.choice(names)
                    texts = rng.choice([{name: "1"}, {name: "!"}, {name: "+i:1"}])
                    store.send(Row("1", texts, stamped=True))
                if half == 0:
                    batch = store.batch(A)
            expected = combined([*batch.entries, store.only("1")])
            [found] = store.extend(batch, ids=["1"]).entries
            store.ack(store.state("token"))
            assert found == expected

    def test_of_records(self, redis_server):
        with store_on(redis_server, is_log=True) as store:
            numbers = [store.append(Record("", None, {"a": str(n)}), unique=0) for n in range(5)]
            batch = store.batch(A, size=1)
            assert store.is_behind(batch, before=numbers[2])
            extended = store.extend(batch, before=numbers[3], size=1)
            assert ids_of(extended.entries) == [str(n) for n in numbers[:2]]
            extended = store.extend(extended, before=numbers[3])
            assert ids_of(extended.entries) == [str(n) for n in numbers[:3]]
            assert not store.is_behind(extended, before=numbers[3])
            assert store.counts()[:2] == (2, 3)
            store.forward(16)
            assert store.batch() == extended
            assert store.ack(extended.token)
            assert ids_of(store.batch().entries) == [str(n) for n in numbers[3:]]

    def test_of_long_records(self, redis_server):
        """Redis does not stand still for all of them at once, and they come bit by bit."""
        long = Record("", None, {"a": "x" * 500_000})
        with store_on(redis_server, is_log=True) as store:
            numbers = [store.append(long, unique=0) for _ in range(30)]
            batch = store.batch(A, size=1)
            sizes = [1]
            while store.is_behind(batch, before=numbers[-1] + 1):
                batch = store.extend(batch, before=numbers[-1] + 1)
                sizes.append(len(batch.entries))
            assert ids_of(batch.entries) == [str(n) for n in numbers]
            assert max(b - a for a, b in itertools.pairwise(sizes)) <= 10
            assert store.ack(batch.token)
            assert store.counts() == (0, 0, 0)


class TestDeletes:
    def test_one_is_known_until_it_is_stored(self, store):
        store.write("1")
        assert not store.deleting()
        store.delete("2")
        assert store.deleting()
        batch = store.batch(A)
        store.write("3")
        assert store.deleting()
        store.ack(batch.token)
        assert not store.deleting()

    def test_one_that_is_left_behind(self, store):
        for n in range(3):
            store.delete(str(n))
        store.ack(store.batch(size=2).token)
        assert store.deleting()
        batch = store.batch()
        assert isinstance(batch, Batch)
        assert store.deleting()
        store.ack(batch.token)
        assert not store.deleting()
