"""Entries as plain data: of one write, of several, and as text."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import Note
from tests.pending import DELETE, entry_of_writes
from tests.unit.test_fold import COUNTERS, KEY
from writebehind_app import Add, Max, Merge
from writebehind_app.fields.entity import EntityLayout
from writebehind_app.fields.entry import (
    Entry,
    Segment,
    combined,
    dumped,
    entry_of,
    loaded,
    number_of,
    numbered,
)
from writebehind_app.fields.fold import described, fold
from writebehind_app.fields.layout import layout
from writebehind_app.fields.limits import REFUSALS

ENTITIES = EntityLayout(
    layout(Note, "default", key=["page", "owner"], fields=[], insert=True),
    layout(Note, "default", key=["page", "owner", "key"], fields=["value"], insert=True),
)
WRITES = st.one_of(
    st.just({}),
    st.sampled_from([1, Add(2), Max(3)]).map(lambda value: {"small": value}),
    st.sampled_from([{}, [1], Add(2), Merge({"a:b": 1}), Merge({"a:b": 2, "": 3})]).map(
        lambda value: {"extra": value}
    ),
)
SEQUENCES = st.lists(WRITES | st.just(DELETE), min_size=1, max_size=4)


def test_a_value_has_its_number_ahead():
    value = numbered(1_600_000_000_000_000, '"text"')
    assert value == '1600000000000000"text"'
    assert number_of(value) == 1_600_000_000_000_000
    assert numbered(5, "1") == "00000000000000051"


class TestOfAWrite:
    def test_values_and_operations_are_told_apart(self):
        texts = {"a": "1", "b": '"+"', "c": "+i:5", "d": "&", '&d:"x:y"': "[1]", "e": "null"}
        entry = entry_of("7", texts, 9)
        assert entry.values == {n: numbered(9, texts[n]) for n in "abe"}
        assert entry.operations == {
            "c": (Segment(9, 9, "+", "i", "5"),),
            "d": (Segment(9, 9, "&", "", ""),),
        }
        assert entry.merges == {"d": {'"x:y"': numbered(9, "[1]")}}
        assert (entry.id, entry.first, entry.last, entry.since, entry.deleted) == ("7", 9, 9, 9, 0)
        assert {*entry.names()} == {*"abcde"}
        assert entry.exists

    def test_what_it_writes_is_shown_as_text(self):
        texts = {"a": "1", "c": "+i:5", "d": "&", '&d:"x"': "[1]", "e": "!"}
        assert entry_of("7", texts, 9).texts() == {**texts, "d": "&:"}

    def test_a_delete(self):
        entry = entry_of("7", {}, 9, delete=True)
        assert (entry.deleted, entry.exists, [*entry.names()]) == (9, False, [])

    def test_a_meta_key_that_goes(self):
        entry = entry_of("7", {'"k"': "!"}, 9)
        assert entry.tombstones == {'"k"': 9}
        assert [*entry.names()] == ['"k"']
        assert entry.exists

    def test_the_fields_that_are_left(self):
        texts = {"a": "1", "c": "+i:5", "d": "&", '&d:"x"': "[1]"}
        entry = entry_of("7", texts, 9)
        assert entry.only(["a", "c", "d", "z"]) is entry
        left = entry.only(["c"])
        assert (left.values, [*left.operations], left.merges) == ({}, ["c"], {})
        assert [*entry.only(["d"]).merges] == ["d"]

    def test_the_last_write_to_a_field(self):
        entry = combined(
            [entry_of("7", {"a": "1", "b": "1"}, 1), entry_of("7", {"a": "+i:1", "c": "+i:1"}, 2)]
        )
        assert [entry.number_of(name) for name in "abcz"] == [2, 1, 2, 0]


class TestCombined:
    @given(st.tuples(SEQUENCES, SEQUENCES, SEQUENCES))
    def test_in_any_grouping(self, parts):
        entries, number = [], 0
        for writes in parts:
            entries.append(entry_of_writes(COUNTERS, KEY, enumerate(writes, number + 1)))
            number += len(writes)
        one, two, three = entries
        assert combined([combined([one, two]), three]) == combined([one, combined([two, three])])
        assert combined(entries) == combined([combined([one, two]), three])
        assert combined(entries).since == 1

    @given(SEQUENCES.map(lambda writes: [w for w in writes if w is not DELETE]), st.integers(0, 4))
    def test_in_parts(self, writes, last):
        """The second part is what one would have without the first. Both are the whole."""
        numbered_writes = [*enumerate([{}, *writes])]
        whole = entry_of_writes(COUNTERS, KEY, numbered_writes)
        earlier, later = whole.part(lambda n: n <= last), whole.part(lambda n: n > last)
        if after := numbered_writes[last + 1 :]:
            alone = entry_of_writes(COUNTERS, KEY, after)
            assert (later.values, later.operations, later.merges) == (
                alone.values,
                alone.operations,
                alone.merges,
            )
        both = combined([earlier, later])
        assert (both.values, both.operations, both.merges) == (
            whole.values,
            whole.operations,
            whole.merges,
        )
        assert earlier.numbers() | later.numbers() == whole.numbers()

    def test_parts_of_a_merge_that_was_joined(self):
        texts = {"d": "&", '&d:"x"': "[1]", '&d:"y"': "[2]"}
        merge = entry_of("7", texts, 1)
        merge.merges["d"]['"y"'] = numbered(3, "[2]")
        joined = merge._replace(operations={"d": (Segment(1, 3, "&", "", ""),)})
        earlier, later = joined.part(lambda n: n <= 2), joined.part(lambda n: n > 2)
        assert (earlier.operations, later.operations) == (joined.operations, joined.operations)
        assert earlier.merges == {"d": {'"x"': numbered(1, "[1]")}}
        assert later.merges == {"d": {'"y"': numbered(3, "[2]")}}

    def test_a_value_ends_what_was_there_of_the_field(self):
        before = entry_of("7", {"a": "+i:5", "d": "&", '&d:"x"': "[1]"}, 1)
        found = combined([before, entry_of("7", {"a": "1", "d": "[{}]"}, 2)])
        assert (found.operations, found.merges) == ({}, {})
        assert found.values == {"a": numbered(2, "1"), "d": numbered(2, "[{}]")}
        assert (found.first, found.last) == (1, 2)

    def test_a_delete_ends_all_that_was_there(self):
        before = entry_of("7", {"a": "1", "b": "+i:1"}, 1, once=("x", "y"))
        delete = entry_of("7", {}, 2, delete=True, once=("y", "z"))
        found = combined([before, delete, entry_of("7", {"c": "1"}, 3)])
        assert found.values == {"c": numbered(3, "1")}
        assert (found.operations, found.first, found.last, found.deleted) == ({}, 3, 3, 2)
        assert found.once == ("x", "y", "z")  # calls that were made are known for ever

    def test_a_row_is_there_since_its_first_write_after_the_last_delete(self):
        writes = [entry_of("7", {}, n, delete=n in (1, 4)) for n in range(1, 7)]
        assert [combined(writes[:n]).first for n in range(1, 7)] == [1, 2, 2, 4, 5, 5]

    def test_a_meta_key_that_goes_and_comes_back(self):
        def written(number: int, text: str, *, comes: bool = False) -> Entry:
            firsts = {'"k"': number} if comes else {}
            return entry_of("7", {'"k"': text}, number, firsts=firsts)

        first, gone = written(1, "[1]", comes=True), written(2, "!")
        found = combined([first, gone])
        assert (found.values, found.tombstones, found.firsts) == ({}, {'"k"': 2}, {})
        found = combined([first, gone, written(3, "[2]", comes=True), written(4, "[3]")])
        assert found.values == {'"k"': numbered(4, "[3]")}
        assert (found.tombstones, found.firsts) == ({'"k"': 2}, {'"k"': 3})
        assert combined([first, written(2, "[2]")]).firsts == {'"k"': 1}


class TestMetadata:
    def of_rows(self, *writes: dict[str, str], delete: int = 0) -> dict[str, Entry]:
        entries = [entry_of('"p",1', texts, n) for n, texts in enumerate(writes, 1)]
        if delete:
            entries[delete - 1] = entry_of('"p",1', {}, delete, delete=True)
        return ENTITIES.row_entries(combined(entries), {"stored": object()})

    def test_each_meta_key_is_a_row(self):
        rows = self.of_rows({'"a"': "[1]", '"b"': "+j:1"}, {'"a"': "[2]", '"c"': "!"})
        assert {key: (row.id, row.last, row.deleted, row.exists) for key, row in rows.items()} == {
            "a": ('"p",1,"a"', 2, 0, True),
            "b": ('"p",1,"b"', 1, 0, True),
            "c": ('"p",1,"c"', 2, 2, False),
        }
        assert rows["a"].values == {"value": numbered(2, "[2]")}
        assert rows["b"].operations == {"value": (Segment(1, 1, "+", "j", "1"),)}

    def test_what_is_stored_goes_with_its_entity(self):
        rows = self.of_rows({'"a"': "[1]"}, {}, {'"b"': "[2]"}, delete=2)
        assert {key: (row.deleted, row.exists) for key, row in rows.items()} == {
            "b": (2, True),
            "stored": (2, False),
        }

    def test_a_colon_in_a_key_is_none_of_a_merge(self):
        name = ENTITIES.name("a:b")
        texts = {name: "&", f'&{name}:"c:d"': "1"}
        (row,) = self.of_rows(texts).values()
        assert row.merges == {"value": {'"c:d"': numbered(1, "1")}}
        assert row.id == '"p",1,"a:b"'
        whole = ENTITIES.whole(row)
        assert [*ENTITIES.row_entries(whole)] == ["a:b"]
        assert whole.merges == {name: {'"c:d"': numbered(1, "1")}}


# Dead letters


class TestAsText:
    @given(SEQUENCES)
    def test_comes_back(self, writes):
        entry = entry_of_writes(COUNTERS, KEY, enumerate(writes, 1))
        entry = entry._replace(older=(entry,), once=("a",))
        assert loaded(dumped(entry)) == entry

    @pytest.mark.parametrize(
        "change",
        [
            {"last": "1"},
            {"last": True},
            {"last": 1.5},
            {"id": None},
            {"values": []},
            {"values": {"a": 1}},
            {"values": {"a": "short"}},
            {"values": {"a": ""}},
            {"merges": {"d": 1}},
            {"merges": {"d": {"a": 1}}},
            {"operations": {"a": 1}},
            {"operations": {"a": [[1, 2, "+", "i"]]}},
            {"operations": {"a": [[1, "2", "+", "i", "5"]]}},
            {"operations": {"a": ["abcde"]}},
            {"older": [1]},
            {"older": {}},
        ],
    )
    def test_nonsense_is_refused(self, change):
        parts = json.loads(dumped(entry_of("7", {"a": "1"}, 1)))
        text = json.dumps({**parts, **change})
        with pytest.raises((TypeError, ValueError)):
            loaded(text)

    @pytest.mark.parametrize("text", ["", "{}", "null", "[]", "[1]", "5", "[" * 100_000])
    def test_what_is_no_entry_at_all_is_refused(self, text):
        with pytest.raises((TypeError, ValueError, RecursionError)):
            loaded(text)

    PLANTED: st.SearchStrategy[Any] = st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.text(max_size=3),
            st.sampled_from(["small", "extra", "0000000000000001", "0000000000000001[1]", '"a"']),
        ),
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.dictionaries(st.sampled_from(["small", "extra", '"a"', "no"]), inner, max_size=2)
        ),
        max_leaves=8,
    )

    @given(
        st.lists(WRITES, max_size=2),
        st.dictionaries(st.sampled_from(Entry._fields), PLANTED, max_size=3),
    )
    def test_what_is_planted_is_refused_or_harmless(self, writes, planted):
        entry = entry_of_writes(COUNTERS, KEY, enumerate([{}, *writes], 1))
        parts = json.loads(dumped(entry))
        for name, value in planted.items():
            parts[name] = value
        with suppress(*REFUSALS):
            entry = loaded(json.dumps(parts))
            for act in (
                lambda: fold(COUNTERS, entry, None),
                lambda: COUNTERS.read(entry, None),
                lambda: described(COUNTERS, entry),
                lambda: combined([entry, entry]),
                lambda: ENTITIES.row_entries(entry),
                entry.texts,
            ):
                with suppress(*REFUSALS):
                    act()
