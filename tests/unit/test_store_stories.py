"""What a shard keeps of writes comes to what they come to one by one.

With many more examples: WRITEBEHIND_EXAMPLES=2000 make test ARGS=tests/unit/test_store_stories.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backdoor.store import Row, Store, store_on
from tests.pending import entry_of_write, new_row, row_after
from tests.unit.test_entry import ENTITIES
from tests.unit.test_fold import COUNTERS, OPERATIONS, PLAIN
from writebehind_app.fields.entry import Entry, combined, entry_of
from writebehind_app.fields.fold import fold
from writebehind_app.fields.limits import REFUSALS

stories = settings(
    max_examples=int(os.environ.get("WRITEBEHIND_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
IDS = st.sampled_from(["n", "m"])
FIELD = st.sampled_from(sorted(PLAIN)).flatmap(
    lambda name: st.tuples(st.just(name), PLAIN[name] | OPERATIONS[name])
)
WRITE = st.lists(FIELD, max_size=3).map(dict) | st.none()  # None deletes
CLAIM = "claim"
STORY = st.lists(
    st.lists(st.tuples(IDS, WRITE), min_size=1, max_size=4) | st.just(CLAIM),
    min_size=1,
    max_size=8,
)


@pytest.fixture
def store(redis_server) -> Iterator[Store]:
    with store_on(redis_server) as store:
        yield store


def outcome(entries: list[Entry], row: Any) -> Any:
    """The row after entries in turn; the error of the first that is refused."""
    key = {"name": entries[0].id.strip('"')}
    for entry in entries:
        try:
            row = row_after(COUNTERS, key, row, fold(COUNTERS, entry, row))
        except REFUSALS as error:
            return type(error)
    return row


@stories
@given(STORY)
def test_rows(store, story):
    """Any number of rows a call, the same ones among them, with claims in between."""
    store.client.flushall()
    model: dict[str, list[Entry]] = {}  # of what is pending, by id, the entries of single writes
    for step in story:
        if step == CLAIM:
            batch = store.claim()
            if batch is not None:
                for entry in batch.entries:
                    compare(entry, model.pop(entry.id))
                assert not model
                assert store.ack(batch.token)
            continue
        rows = []
        for name, values in step:
            id, texts = COUNTERS.split({"name": name, **(values or {})})
            rows.append(Row(id, texts, delete=values is None))
        taken = store.send(*rows)
        assert isinstance(taken, int)
        for n, (name, values) in enumerate(step):
            entry = entry_of_write(COUNTERS, {"name": name}, values, taken + n)
            model.setdefault(entry.id, []).append(entry)
    for id, writes in model.items():
        compare(store.only(id), writes)


def compare(entry: Entry, writes: list[Entry]) -> None:
    expected = combined(writes)
    heads = [(e.id, e.first, e.last, e.deleted, e.since, e.exists) for e in (entry, expected)]
    assert heads[0] == heads[1]
    assert entry.since == writes[0].first
    assert not entry.broken
    assert {*entry.names()} == {*expected.names()}
    for row in (None, new_row(COUNTERS, {"name": entry.id.strip('"')})):
        assert outcome([entry], row) == outcome([expected], row)


KEYS = st.sampled_from(['"a"', '"b\\u003ac"'])
META = st.dictionaries(
    KEYS,
    st.sampled_from(["[1]", "[{}]", "!", "+j:2", ">j:3"]) | st.just("&"),
    min_size=1,
    max_size=2,
)


@stories
@given(st.lists(st.tuples(META | st.none(), st.booleans()), min_size=1, max_size=8))
def test_entities(store, story):
    """Meta keys that come, go, and come again; each has times of its own."""
    store.client.flushall()
    writes = []
    for texts, merges in story:
        texts = dict(texts or {})
        if merges:
            for name in [name for name, text in texts.items() if text == "&"]:
                texts[f'&{name}:"x"'] = "[1]"
        delete = not texts
        number = store.write("1,2", texts, delete=delete, stamped=True)
        firsts = {n: number for n, text in texts.items() if n[0] != "&" and text != "!"}
        writes.append(entry_of("1,2", texts, number, delete=delete, firsts=firsts))
    entry, expected = store.only("1,2"), combined(writes)
    assert entry.firsts == expected.firsts
    found, wanted = (ENTITIES.row_entries(e) for e in (entry, expected))
    assert found.keys() == wanted.keys()
    for key, row_entry in found.items():
        ours, theirs = row_entry, wanted[key]
        assert [ours.first, ours.last, ours.deleted] == [theirs.first, theirs.last, theirs.deleted]
        assert folded(ours) == folded(theirs)


def folded(entry: Entry) -> Any:
    try:
        return fold(ENTITIES.rows, entry, None)
    except REFUSALS as error:
        return type(error)


VERSIONED = st.tuples(st.sampled_from([0, 2, 3]), st.sampled_from(["1", "+i:1", "+i:2", ">i:2"]))


@stories
@given(st.lists(VERSIONED | st.none(), min_size=1, max_size=10))
def test_versions(store, story):
    """Old and new code write in turn: the layers have each write, in its order."""
    store.client.flushall()
    expected: list[tuple[int, str]] = []
    for step in story:
        if step is None:
            store.delete("1")
            expected = []
            continue
        version, text = step
        store.write("1", {"small": text}, version=version)
        expected.append(step)
    entry = store.only("1")
    value: Any = 0
    wanted: Any = 0
    for layer in (*entry.older, entry):
        if layer.names():
            stored = {"small": value}
            folded = fold(COUNTERS, layer._replace(id='"n"', older=(), deleted=0), stored)
            value = (folded.values or stored)["small"]
    for _, text in expected:
        amount = int(text.rpartition(":")[2])
        wanted = {"+": wanted + amount, ">": max(wanted, amount)}.get(text[0], amount)
    assert value == wanted
