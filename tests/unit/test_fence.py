"""Fences: what they keep of writes past Redis, and what they leave of an entry. What that comes to
is in test_fold.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import Counter
from tests.pending import entry_of_write, entry_of_writes, new_row
from writebehind_app import Add, Max, Merge
from writebehind_app.fields.entry import Entry, Segment, numbered
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.fold import Folded, fold
from writebehind_app.fields.layout import layout

COUNTERS = layout(Counter, "default", key=["name"], fields=None, insert=True)
KEY = {"name": "n"}
ROW = new_row(COUNTERS, KEY)


def pending(*writes: Mapping[str, Any] | None) -> Entry:
    """With the numbers 10, 20, 30 …"""
    return entry_of_writes(COUNTERS, KEY, [(10 * n, values) for n, values in enumerate(writes, 1)])


def fence(past: Mapping[int, Mapping[str, Any] | None]) -> Fence:
    """What writes past Redis leave, by number."""
    found = Fence()
    for number, values in past.items():
        found = found.with_write(entry_of_write(COUNTERS, KEY, values, number), number)
    return found


class TestWhatItKeeps:
    def test_of_values_the_number_of_the_last(self):
        found = fence({1: {"small": 1, "big": 1}, 2: {"small": 2}})
        assert found == Fence(2, 0, {"small": 2, "big": 1})
        assert [found.void_until(name) for name in ("small", "big", "at")] == [2, 1, 0]

    def test_operations_since_the_last_value(self):
        found = fence({1: {"small": Add(1)}, 2: {"small": 0}, 3: {"small": Add(5)}})
        assert found.operations == {"small": (Segment(3, 3, "+", "i", "5"),)}
        assert found.values == {"small": 2}

    def test_of_merged_keys_the_last(self):
        found = fence({1: {"extra": Merge({"a": 1, "b": 1})}, 2: {"extra": Merge({"a": 2})}})
        assert found.merges == {"extra": {'"a"': numbered(2, "2"), '"b"': numbered(1, "1")}}
        assert fence({1: {"extra": Merge({"a": 1})}, 2: {"extra": 5}}).merges == {}

    def test_a_delete_ends_all(self):
        assert fence({1: {"small": Add(1), "big": 1}, 2: None}) == Fence(2, 2)

    def test_what_says_all_of_the_row_ends_all(self):
        entry = entry_of_write(COUNTERS, KEY, {"small": 1}, 2)
        assert fence({1: {"big": Add(1)}}).with_write(entry, 2, whole=True) == Fence(2, 2)

    def test_of_many_sums_it_makes_one(self):
        found = fence({n: {"small": Add(n)} for n in range(1, 101)})
        kept = found.operations["small"]
        assert len(kept) == 20
        assert (kept[0].first, kept[-1].last) == (1, 100)
        assert sum(int(segment.operand) for segment in kept) == sum(range(101))

    def test_that_of_an_entity_goes_for_each_of_its_rows(self):
        found = fence({1: {"small": 1}}).joined(Fence(5, 4))
        assert (found.last, found.row, found.void_until("small")) == (5, 4, 4)
        assert fence({1: None, 6: {"small": 1}}).joined(Fence(5, 4)).void_until("small") == 6

    @given(
        st.lists(
            st.sampled_from([{"small": 1}, {"big": Add(2)}, {"extra": Merge({"a:": 1})}, None])
        )
    )
    def test_comes_back_from_the_table(self, writes):
        found = fence(dict(enumerate(writes, 1)))
        assert Fence.loaded(found.dumped()) == found


class TestWhatItLeaves:
    def left(self, entry: Entry, past: Mapping[int, Any], row: Any = ROW) -> Entry | None:
        return fence(past).left_of(COUNTERS, entry, row)

    def test_everything_that_is_newer(self):
        entry = pending({"small": 1, "big": Add(1)}, {"extra": Merge({"a": 1})})
        found = self.left(entry, {9: {"small": 2, "big": 3, "extra": 4}})
        assert found == entry

    def test_nothing_of_what_is_older_than_a_value(self):
        assert self.left(pending({"small": 1}, {"small": Add(1)}), {25: {"small": 2}}) is None

    def test_each_field_by_itself(self):
        entry = pending({"small": 1, "big": 1}, {"big": Add(1)}, {"small": 3})
        found = self.left(entry, {15: {"big": 5, "small": 5}})
        assert found is not None
        assert found.values == {"small": numbered(30, "3")}
        assert found.operations == {"big": (Segment(20, 20, "+", "i", "1"),)}

    def test_operations_of_a_value_that_is_void(self):
        entry = pending({"small": 4}, {"small": Add(3)})
        found = self.left(entry, {15: {"small": 100}})
        assert found is not None
        assert fold(COUNTERS, found, {**ROW, "small": 100}).values == {"small": 103}

    def test_an_entry_that_says_no_more_than_that_there_is_a_row(self):
        assert self.left(pending({}), {5: None}) == pending({})
        assert self.left(pending({}), {15: None}) is None

    def test_a_deletion_that_is_older_than_another_one(self):
        found = self.left(pending(None, {"small": 1}), {15: None}, None)
        assert found is not None
        assert (found.deleted, found.values) == (0, {"small": numbered(20, "1")})

    def test_a_deletion_alone(self):
        found = self.left(pending({"small": 1}, None), {15: {"big": 1}})
        assert found is not None
        assert fold(COUNTERS, found, ROW) == Folded(True, None)

    def test_a_row_that_was_made_anew_past_redis(self):
        found = self.left(
            pending({"small": 1}, None), {25: {"big": 1}}, {**ROW, "big": 1, "small": 9}
        )
        assert found is not None
        folded = fold(COUNTERS, found, ROW)
        assert (folded.delete, folded.is_new) == (True, True)
        assert folded.values == {"name": "n", "big": 1}

    def test_a_field_that_is_gone_from_the_model(self):
        gone = entry_of_write(COUNTERS, KEY, {"small": 1}, 10)
        gone = gone._replace(values={"stored": numbered(10, "1")})
        assert Fence(5, 0, {"stored": 5}).left_of(COUNTERS, gone, ROW) == gone
        anew = Fence(15, 0, {"stored": 15}).left_of(COUNTERS, pending(None), ROW)
        assert anew is not None
        assert anew.values == {}


class TestKinds:
    """A Max past Redis may be the stored value, or not. Where pending operations of another kind
    met it, the order cannot be told, and there is no test of that."""

    def test_where_the_value_is_known_the_order_is_known(self):
        entry = pending({"big": 1}, {"big": Add(10)})
        left = fence({15: {"big": Max(5)}}).left_of(COUNTERS, entry, {**ROW, "big": 5})
        assert left is not None
        assert fold(COUNTERS, left, {**ROW, "big": 5}).values == {"big": 15}

    def test_after_the_first_pending_operation_alone(self):
        entry = pending({"big": Add(10)})
        left = fence({5: {"big": Max(5)}}).left_of(COUNTERS, entry, {**ROW, "big": 5})
        assert left == entry

    @pytest.mark.parametrize("base", [None, 0, 50])
    def test_sums_are_taken_back_where_the_order_matters(self, base):
        entry = pending({"big": Max(20)})
        stored = {**ROW, "big": (base or 0) + 7}
        left = fence({15: {"big": Add(7)}}).left_of(COUNTERS, entry, stored)
        assert left is not None
        assert fold(COUNTERS, left, stored).values == {"big": max(base or 0, 20) + 7}
