"""Calls on their way to a shard: what their caller hears, and what Redis has, whatever is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import NoScriptError

from tests.backdoor.calls import NotSent, Unanswered, intercept
from tests.backdoor.store import Call, Limit, Record, Refused, Row, Store, ids_of, store_on
from writebehind_app.exceptions import BufferFull, BufferUnavailable, WriteUncertain
from writebehind_app.store import lua
from writebehind_app.store.client import Client
from writebehind_app.store.delivery import deliver, deliver_one

WRITES = ("write", "operate", "append")


@pytest.fixture
def store(redis_server) -> Iterator[Store]:
    with store_on(redis_server) as store:
        yield store


@pytest.fixture
def faults(store, monkeypatch) -> deque[str]:
    """What becomes of the next calls that write, or ask after one: "lost" is their reply, "cut" the
    connection before they arrive; or they are "unsent", or "kept": nobody hears of them, and they
    arrive when the next one is asked after. Of several sent together, "half" loses all replies but
    the first."""
    faults: deque[str] = deque()
    kept: list[Callable[[], Any]] = []
    for name in (*WRITES, "again"):  # each is one round trip
        store.client.script_load(lua.source(name))

    def around(name: str, call: Callable[[], Any]) -> Any:
        fault = faults.popleft() if name in (*WRITES, "again") and faults else ""
        if fault == "lost":
            call()
        if name == "again":
            while kept:
                kept.pop()()
        if fault == "half":
            return call()[0][:1], redis.ConnectionError("broken")
        if fault == "kept":
            kept.append(call)
            raise Unanswered(redis.TimeoutError("frozen"))
        if fault == "unsent":
            raise NotSent(redis.ConnectionError("away"))
        if fault:
            raise Unanswered(redis.ConnectionError("broken"))
        return call()

    intercept(monkeypatch, around)
    return faults


def add(store: Store, id: str = "1", **options: Any) -> Call:
    return store.call(Row(id, {"n": "+i:1"}), **{"room": 100, **options})


def added(store: Store, id: str = "1") -> str:
    (segment,) = store.only(id).operations["n"]
    return segment.operand


@pytest.fixture(params=["deliver", "deliver_one"])
def sent(request) -> Callable[[Store, Call], Any]:
    """The two ways to send a call."""
    if request.param == "deliver":
        return lambda store, call: deliver(store.own, [call])[0]
    return lambda store, call: deliver_one(store.own, call)


class TestLostReplies:
    @pytest.mark.parametrize("fault", ["lost", "cut"])
    def test_it_is_taken_once_and_its_number_known(self, store, faults, sent, fault):
        sent(store, add(store))
        faults.append(fault)
        call = store.call(Row("2"), Row("1", {"n": "+i:1"}), room=100)
        first = sent(store, call)
        assert (store.only("2").last, store.only("1").last) == (first, first + 1)
        assert added(store) == "2"
        assert not faults

    def test_the_number_of_an_earlier_call_does_not_say_that_it_was_taken(
        self, store, faults, sent
    ):
        for _ in range(3):
            faults.append("")
            sent(store, add(store))
            faults.append("cut")
            sent(store, add(store))
        assert added(store) == "6"

    def test_the_last_number_of_an_earlier_call_counts(self, store, faults, sent):
        sent(store, add(store, "2"))  # the first call of a process asks for the time
        sent(store, store.call(*[Row(id, {"n": "+i:1"}) for id in "123"], room=100))
        faults.append("cut")
        sent(store, add(store))
        assert added(store) == "2"

    def test_one_that_arrives_late_is_not_taken_for_a_later_one(self, store, faults, sent):
        sent(store, add(store))
        faults.extend(["kept", "cut"])
        assert isinstance(sent(store, add(store)), WriteUncertain)
        assert isinstance(sent(store, add(store)), int)
        assert added(store) == "3"

    @pytest.mark.parametrize("second", ["lost", "cut"])
    def test_if_the_second_answer_is_lost_nobody_knows(self, store, faults, sent, second):
        sent(store, add(store))
        faults.extend(["cut", "", second])
        outcome = sent(store, add(store))
        assert isinstance(outcome, WriteUncertain)
        assert added(store) == {"lost": "2", "cut": "1"}[second]
        faults.extend(["lost", second])
        assert isinstance(sent(store, add(store)), WriteUncertain)

    def test_a_sender_whose_reply_was_lost_is_not_used_again(self, store, faults, sent):
        sent(store, add(store))
        senders = []
        for _ in range(3):
            faults.append("lost")
            sent(store, add(store))
            senders.append(store.client.zcard(f"{store.shard.key}:senders"))
        assert senders == [1, 2, 3]

    @pytest.mark.parametrize("fault", ["lost", "cut"])
    def test_a_redis_that_lost_everything_and_whose_clock_was_put_back(
        self, store, faults, sent, fault
    ):
        sent(store, add(store))
        store.client.hincrby(store.shard.key, "last", 10_000_000)
        sent(store, add(store))  # ten seconds later, by that clock
        store.client.flushall()
        store.client.hset(store.shard.key, "open", 1)  # another process has found it empty
        faults.append(fault)
        outcome = sent(store, add(store))
        assert isinstance(outcome, WriteUncertain if fault == "lost" else int)
        assert added(store) == "1"
        assert isinstance(sent(store, add(store)), int)

    def test_what_was_not_sent_was_not_taken(self, store, faults, sent):
        sent(store, add(store))
        faults.append("unsent")
        assert isinstance(sent(store, add(store)), BufferUnavailable)
        faults.extend(["cut", "unsent"])
        assert isinstance(sent(store, add(store)), WriteUncertain)
        faults.extend(["cut", "", "unsent"])
        assert isinstance(sent(store, add(store)), BufferUnavailable)
        assert added(store) == "1"


class TestOrder:
    """Of several calls to a shard."""

    def test_they_are_taken_in_their_order(self, store):
        calls = [store.call(Row("1", {"a": str(n)}), Row(str(n + 2)), room=100) for n in range(5)]
        outcomes = deliver(store.own, calls)
        assert outcomes == sorted(outcomes)
        assert store.only("1").values["a"].endswith("4")

    def test_after_one_that_found_no_room_none_is_sent(self, store):
        outcomes = deliver(store.own, [add(store, id, room=1) for id in "121"])
        assert isinstance(outcomes[0], int)
        assert [type(outcome) for outcome in outcomes[1:]] == [BufferFull] * 2
        assert "Not sent" in str(outcomes[2])
        assert added(store) == "1"

    def test_after_one_of_which_nobody_knows_none_is_sent(self, store, faults):
        deliver(store.own, [add(store)])
        faults.extend(["", "cut", "cut"])
        outcomes = deliver(store.own, [add(store) for _ in range(4)])
        kinds = [int, WriteUncertain, BufferUnavailable, BufferUnavailable]
        assert [type(outcome) for outcome in outcomes] == kinds
        assert added(store) == "2"

    def test_after_an_outage_none_is_sent_to_any(self, store, faults):
        other = add(store)._replace(shard="{wb:app.Model:default:1/2}")
        deliver(store.own, [add(store)])
        faults.extend(["half", "cut"])
        calls = [add(store, "2"), other, add(store, "3"), other]
        outcomes = deliver(store.own, calls)
        kinds = [int, WriteUncertain, BufferUnavailable, BufferUnavailable]
        assert [type(outcome) for outcome in outcomes] == kinds
        assert ids_of(store.batch().entries) == ["1", "2"]

    def test_a_refusal_by_a_guard_keeps_no_other_back(self, store):
        guarded = store.call(Row("1", {"n": "+i:1"}, guard="none"), room=100)
        assert deliver(store.own, [guarded, add(store)])[0] == Refused("stale")
        assert added(store) == "1"


class TestRoom:
    def test_a_shard_may_take_the_room_of_the_others(self, store, sent):
        limit = Limit([store.shard.key, "{wb:app.Model:default:1/2}"], 10, 5)
        terms = store.terms()._replace(limit=limit)
        for n in range(10):
            assert isinstance(sent(store, add(store, str(n))._replace(terms=terms)), int)
        assert isinstance(sent(store, add(store, "10")._replace(terms=terms)), BufferFull)
        assert isinstance(sent(store, add(store, "9")._replace(terms=terms)), int)

    def test_what_one_entry_may_hold_is_no_matter_of_other_entries(self, store, sent):
        call = store.call(Row("1", {"n": "+i:1"}), Row("1", {"n": ">i:1"}), room=100)
        outcomes = [sent(store, call) for _ in range(100)]
        full = [outcome for outcome in outcomes if isinstance(outcome, BufferFull)]
        assert 0 < len(full) < 75
        assert all("for one row" in str(outcome) for outcome in full)
        assert isinstance(sent(store, store.call(Row("2"), room=100)), int)

    def test_records_of_a_call_take_the_room_of_each(self, store, sent):
        records = [Record("", None, {"a": "1"})] * 2
        assert isinstance(sent(store, store.append_call(*records, room=3)), int)
        assert isinstance(sent(store, store.append_call(*records, room=3)), BufferFull)
        assert isinstance(sent(store, store.append_call(*records[:1], room=3)), int)


class TestScripts:
    def test_one_that_is_not_there_is_sent_once(self, store, sent):
        store.client.script_flush()
        with pytest.raises(NoScriptError):
            store.client.evalsha(lua.digest("operate"), 1, store.shard.key)
        assert isinstance(sent(store, add(store)), int)
        assert store.client.script_exists(lua.digest("operate")) == [True]
        assert added(store) == "1"

    def test_they_are_forgotten_among_calls(self, store, monkeypatch):
        store.own.script_load(lua.source("count"))
        exchange, sizes = Client.exchange, []

        def flush_amid(client, commands, *options):
            sizes.append(len(commands))
            if len(sizes) > 1:
                return exchange(client, commands, *options)
            somebody = ("SCRIPT", "FLUSH")
            replies, error = exchange(client, [*commands[:5], somebody, *commands[5:]], *options)
            return replies[:5] + replies[6:], error

        monkeypatch.setattr(Client, "exchange", flush_amid)
        keys = [f"{{{n}}}" for n in range(10)]
        for n, key in enumerate(keys):
            store.client.zadd(f"{key}:due", {str(i): i for i in range(n + 1)})
        counts = lua.run_many(store.own, "count", [(key,) for key in keys])
        assert sizes == [10, 6]
        assert [count[0] for count in counts] == [*range(1, 11)]
