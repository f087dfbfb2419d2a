"""Whatever happens to a call on its way, it is carried out once, or the caller knows."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.backdoor import clock
from tests.backdoor.breaker import failures
from tests.backdoor.calls import forget_scripts_amid
from tests.backdoor.connection import in_the_making, ping
from tests.backdoor.divisions import divide, know
from tests.backdoor.limits import limit
from tests.models import Item, Line, Note, Owner, Visit
from writebehind_app import Add
from writebehind_app.exceptions import AlreadyExists, BufferUnavailable, WriteUncertain

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
pytestmark = on_sqlite

# Calls that must not be carried out twice, and how to see how often they were.
CALLS = {
    "set": (
        lambda: Item.buffered.set(number=1, a=Add(1)),
        lambda: Item.buffered.get(number=1).a,
    ),
    "set_many": (
        lambda: Item.buffered.set_many({"number": n % 7, "a": Add(1)} for n in range(35)),
        lambda: sum(row.a for row in Item.buffered.get_many(range(7)).values()) / 35,
    ),
    "create": (
        lambda: Item.buffered.create(number=2, a=1),
        lambda: Item.buffered.get(number=2).a,
    ),
    "set_if": (
        lambda: Item.buffered.set_if(lambda row: True, number=3, a=Add(1)),
        lambda: Item.buffered.get(number=3).a,
    ),
    "append": (
        lambda: Line.buffered.append(text="x"),
        lambda: len(Line.buffered.window()),
    ),
    "unique append": (
        lambda: Visit.buffered.append(event=1, email="a"),
        lambda: len(Visit.buffered.window()),
    ),
    "metadata": (
        lambda: Note.buffered.of(page="p", owner=1).update(n=Add(1)),
        lambda: Note.buffered.of(page="p", owner=1)["n"],
    ),
}


@pytest.fixture(autouse=True)
def stored(database):
    Owner.objects.create(pk=1)
    Item.objects.create(number=3)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", ["lose the reply", "cut", "keep"])
def test_a_connection_breaks(call, fault, proxy, redis_server):
    """SCENARIOS 33: the call is sent again, and is carried out once, in whatever order it comes."""
    run, times = CALLS[call]
    proxy.faults = [fault]
    assert run()
    assert proxy.met == 1
    assert times() == 1
    assert proxy.deliver() == (fault == "keep")
    assert times() == 1


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_connection_breaks_and_there_is_no_room(how, proxy, redis_server, configure):
    """The call that is sent again is the one that finds no room."""
    configure(MAX_PENDING=5, WHEN_FULL="direct")
    for n in range(5):
        Item.buffered.set(number=n, a=1)

    async def in_a_loop():
        await Item.buffered.aset(number=1, a=2)  # the loop has a connection then
        proxy.faults = ["cut"]
        return await Item.buffered.aset(number=100, a=1)

    if how == "async":
        receipt = asyncio.run(in_a_loop())
    else:
        proxy.faults = ["cut"]
        receipt = Item.buffered.set(number=100, a=1)
    assert proxy.met == 1
    assert receipt.direct
    assert Item.objects.get(number=100).a == 1


@pytest.mark.parametrize("passed", [10, 50, 100, 150])
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_a_connection_breaks_amid_the_replies(passed, known, proxy, redis_server, configure):
    """SCENARIOS 33: the calls that were answered are not asked after, the others are. So are those
    that Redis answered with NOSCRIPT before the connection broke."""
    configure(SHARDS=4)
    Item.buffered.set(number=100, a=1)  # Redis knows the script from here on
    if not known:
        redis_server.client().script_flush()
    proxy.faults, proxy.passed = ["lose the reply"], passed
    rows = [{"number": n, "a": Add(1)} for n in range(50)]
    assert len(Item.buffered.set_many(rows)) == 50
    assert proxy.met == 1
    assert {row.a for row in Item.buffered.get_many(range(50)).values()} == {1}


READS = {
    "get": lambda receipt: Item.buffered.get(number=3).a,
    "get_many": lambda receipt: [row.a for row in Item.buffered.get_many([3]).values()],
    "metadata": lambda receipt: dict(Note.buffered.of(page="p", owner=1)),
    "window": lambda receipt: [row.text for row in Line.buffered.window()],
    "count": lambda receipt: Item.buffered.count_pending(),
    "pending": lambda receipt: [entry.values for entry in Item.buffered.pending()],
    "a receipt": lambda receipt: receipt.where,
    "a create of what is pending": lambda receipt: refusal(Item.buffered.create, number=4),
}


def refusal(call, **values):
    with pytest.raises(AlreadyExists) as caught:
        call(**values)
    return str(caught.value)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("fault", ["lose the reply", "cut"])
def test_a_connection_breaks_that_reads(read, fault, proxy):
    """It is asked again: the database alone would not know of what is pending."""
    receipt = Item.buffered.set(number=3, a=5)
    Item.buffered.create(number=4)
    Note.buffered.of(page="p", owner=1).update(n=1)
    Line.buffered.append(text="x")
    expected = READS[read](receipt)
    proxy.afflicted = re.compile(b"EVALSHA")
    proxy.faults = [fault]
    assert READS[read](receipt) == expected
    assert (proxy.met, failures()) == (1, 0)


def test_two_connections_break_that_read(proxy):
    Item.buffered.set(number=3, a=5)
    Item.buffered.count_pending()
    proxy.afflicted = re.compile(b"EVALSHA")
    proxy.faults = ["cut", "cut"]
    with pytest.raises(BufferUnavailable):
        Item.buffered.count_pending()
    assert (proxy.met, failures()) == (2, 1)
    assert Item.buffered.count_pending() == 1


def test_no_answer_in_time(proxy, configure):
    """The call costs one SOCKET_TIMEOUT, and is not carried out once its caller has given up."""
    configure(SOCKET_TIMEOUT=1)
    Item.buffered.set(number=1, a=1)
    proxy.freeze()
    started = time.monotonic()
    with pytest.raises(WriteUncertain) as caught:
        Item.buffered.set(number=1, a=Add(1))
    assert time.monotonic() - started < 1.9
    while clock.now() <= caught.value.until:
        time.sleep(0.01)
    connections = proxy.connections
    proxy.thaw()
    configure(SOCKET_TIMEOUT=1)
    assert Item.buffered.get(number=1).a == 1
    assert proxy.connections == connections + 1  # nothing was sent again


def test_two_connections_break(proxy):
    """Nobody knows, and the caller is told."""
    proxy.faults = ["cut"]  # Redis knows the scripts then
    Item.buffered.set(number=1, a=Add(1))
    proxy.faults = ["cut", "cut"]
    with pytest.raises(WriteUncertain, match="it was taken once, or not at all"):
        Item.buffered.set(number=1, a=Add(1))
    assert Item.buffered.get(number=1).a == 1
    taken = {("cut", "lose the reply"): 0, ("lose the reply", "cut"): 1, ("cut", "none", "cut"): 0}
    taken["cut", "none", "lose the reply"] = 1
    expected = 1
    for faults, more in taken.items():
        proxy.faults = [*faults]
        with pytest.raises(WriteUncertain):
            Item.buffered.set(number=1, a=Add(1))
        expected += more
        assert (proxy.faults, Item.buffered.get(number=1).a) == ([], expected)


def test_a_connection_that_cannot_be_made_is_no_uncertainty(proxy):
    Item.buffered.set(number=1, a=1)
    proxy.refuse()
    with pytest.raises(BufferUnavailable, match="Redis: "):
        Item.buffered.set(number=1, a=Add(1))
    proxy.accept()
    Item.buffered.set(number=1, a=Add(1))
    assert Item.buffered.get(number=1).a == 2


def test_after_a_write_that_was_not_taken_none_to_its_row_is_sent(proxy, monkeypatch):
    """The caller may do it in another way, and must not find its later ones done already."""
    limit(monkeypatch, writes_of_a_call=3)
    rows = [{"number": n // 2, "a": Add(1)} for n in range(6)]
    proxy.faults = ["cut", "cut"]
    with pytest.raises(WriteUncertain, match="0 of 6 writes were taken for certain"):
        Item.buffered.set_many(rows)
    assert Item.buffered.count_pending() == 0


@pytest.mark.parametrize("seconds", [-3600, -5, 5, 3600])
def test_a_clock_that_is_wrong(seconds, proxy):
    clock.be_wrong_by(seconds)
    assert Item.buffered.set(number=1, a=Add(1))
    assert Item.buffered.get(number=1).a == 1
    assert abs(clock.now() / 1e6 - time.time()) < 1


def test_the_script_cache_is_flushed_among_the_calls(redis_server, monkeypatch, configure):
    """SCENARIOS 34."""
    configure(SHARDS=4)
    assert divide(Item.buffered) == ""
    Item.buffered.set(number=1)
    know(Item.buffered)
    amid = forget_scripts_amid(monkeypatch, of=4)
    receipts = Item.buffered.set_many({"number": n, "a": Add(1)} for n in range(10))
    assert amid
    assert len({(receipt.id, receipt.number) for receipt in receipts}) == 10
    assert {row.a for row in Item.buffered.get_many(range(10)).values()} == {1}


def test_threads(proxy, monkeypatch):
    """SCENARIOS 42: each is a sender of its own, while connections break."""
    limit(monkeypatch, failures_in_a_row=100)
    proxy.faults = ["lose the reply", "keep", "cut"] * 10
    uncertain = []

    def write(n: int) -> None:
        for _ in range(10):
            try:
                Item.buffered.set(number=5, a=Add(1))
            except WriteUncertain:
                uncertain.append(n)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(write, range(20)))
    assert proxy.met == 30
    proxy.deliver()
    assert 200 - len(uncertain) <= Item.buffered.get(number=5).a <= 200


def test_a_forked_process_has_senders_of_its_own(proxy):
    """SCENARIOS 42: a call of its own would be taken for one of its parent whose reply was lost."""
    Item.buffered.set(number=1, a=Add(1))
    pid = os.fork()
    if pid == 0:
        done = 1
        try:
            Item.buffered.set(number=1, a=Add(1))
            done = 0
        finally:
            os._exit(done)
    assert os.waitpid(pid, 0)[1] == 0
    proxy.faults = ["cut"]
    Item.buffered.set(number=1, a=Add(1))
    assert Item.buffered.get(number=1).a == 3


def test_a_fork_while_another_thread_makes_the_connections(redis_server, configure):
    configure(MAX_AGE=1)  # after a change of the settings there are none
    with in_the_making():
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(5)  # ends it where it waits for a thread that it does not have
                os._exit(0 if ping() else 1)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
