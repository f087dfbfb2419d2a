"""What pending writes come to: folded at once, in two steps, past a fence, and one by one.

With many more examples: WRITEBEHIND_EXAMPLES=20000 make test ARGS=tests/unit/test_fold.py
"""

from __future__ import annotations

import datetime
import os
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import Counter, Everything, Stamp
from tests.pending import (
    DELETE,
    Row,
    entry_of_write,
    entry_of_writes,
    new_row,
    row_after,
    row_after_write,
)
from writebehind_app import Add, Max, Merge, Min
from writebehind_app.fields.decoding import decoded
from writebehind_app.fields.entry import Entry, combined, entry_of, numbered
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.fold import Folded, fold
from writebehind_app.fields.layout import Layout, layout
from writebehind_app.fields.limits import REFUSALS

COUNTERS = layout(Counter, "default", key=["name"], fields=None, insert=True)
KEY = {"name": "n"}
MOST = 2**63 - 1


sequences = settings(max_examples=int(os.environ.get("WRITEBEHIND_EXAMPLES", "100")))


def dated(day: int) -> datetime.datetime:
    return datetime.datetime(2020, 1, day, tzinfo=datetime.UTC)


# Of each field: values, and what operations take. Few of them, so that they meet.
NUMBERS = st.integers(-4, 4)
CENTS = NUMBERS.map(lambda n: Decimal(n).scaleb(-2))
REAL = NUMBERS.map(lambda n: n / 2)
TIMES = st.integers(1, 9).map(dated)
SPANS = NUMBERS.map(lambda n: datetime.timedelta(microseconds=n))
OBJECTS = st.dictionaries(st.sampled_from(["a", 'b"', "c:d", ""]), NUMBERS | st.none(), max_size=2)
JSON = NUMBERS | REAL | st.none() | st.booleans() | st.sampled_from(["", "1", "null"]) | OBJECTS
PLAIN = {
    "small": NUMBERS,
    "big": NUMBERS | st.none(),
    "decimal": CENTS | st.none(),
    "real": REAL | st.none(),
    "at": TIMES | st.none(),
    "span": SPANS | st.none(),
    "extra": JSON,
}
OPERANDS = {**PLAIN, "big": NUMBERS, "decimal": CENTS, "real": REAL, "at": TIMES, "span": SPANS}
OPERANDS["extra"] = NUMBERS | REAL
ADDS = {"small": NUMBERS, "big": NUMBERS, "decimal": CENTS, "span": SPANS, "extra": NUMBERS}
OPERATIONS = {name: of.map(Max) | of.map(Min) for name, of in OPERANDS.items()}
OPERATIONS |= {name: OPERATIONS[name] | of.map(Add) for name, of in ADDS.items()}
OPERATIONS["extra"] |= OBJECTS.map(Merge)
WRITES = st.fixed_dictionaries(
    {}, optional={name: PLAIN[name] | of for name, of in OPERATIONS.items()}
)
ROWS = st.none() | st.fixed_dictionaries(PLAIN).map(
    lambda values: {**new_row(COUNTERS, KEY), **values}
)


def one_by_one(row: Row | None, writes: list[Any], layout: Layout = COUNTERS) -> Row | None:
    for values in writes:
        row = row_after_write(layout, KEY, row, values)
    return row


def folded(
    entry: Entry, row: Row | None, fence: Fence | None = None, layout: Layout = COUNTERS
) -> Row | None:
    before = None if row is None else dict(row)
    found = fold(layout, entry, row, fence)
    assert row == before  # it is not changed in place
    return row_after(layout, KEY, row, found)


class TestAtOnceAndInSteps:
    @sequences
    @given(ROWS, st.lists(WRITES | st.just(DELETE), min_size=1, max_size=6))
    def test_come_to_the_same_as_one_by_one(self, row, writes):
        numbered_writes = [*enumerate(writes, 1)]
        expected = one_by_one(row, writes)
        assert folded(entry_of_writes(COUNTERS, KEY, numbered_writes), row) == expected
        for at in range(1, len(writes)):
            first = entry_of_writes(COUNTERS, KEY, numbered_writes[:at])
            second = entry_of_writes(COUNTERS, KEY, numbered_writes[at:])
            assert folded(second, folded(first, row)) == expected
            assert folded(combined([first, second]), row) == expected

    @given(
        st.booleans(),
        st.lists(
            st.fixed_dictionaries({"count": NUMBERS | NUMBERS.map(Add)}) | st.just(DELETE),
            min_size=1,
            max_size=4,
        ),
    )
    def test_of_a_buffer_that_makes_no_rows(self, is_there, writes):
        stamps = layout(Stamp, "default", key=["pk"], fields=["seen", "count"], insert=False)
        key = {"id": 3}
        row: Any = new_row(stamps, key) if is_there else None
        entry = entry_of_writes(stamps, key, enumerate(writes, 1))
        expected = row
        for values in writes:
            if expected is not None:
                expected = row_after_write(stamps, key, expected, values)
        assert row_after(stamps, key, row, fold(stamps, entry, row)) == expected

    @given(WRITES, st.integers(1, 9))
    def test_a_new_row_says_since_when_it_is_there(self, values, number):
        entry = entry_of_writes(
            COUNTERS, KEY, [(1, {}), (2, DELETE), (number + 2, values), (20, {})]
        )
        found = fold(COUNTERS, entry, None)
        assert (found.delete, found.is_new, found.first, found.last) == (True, True, number + 2, 20)

    def test_a_deletion_alone(self):
        entry = entry_of_write(COUNTERS, KEY, DELETE, 1)
        for row in (None, new_row(COUNTERS, KEY)):
            assert fold(COUNTERS, entry, row) == Folded(True, None)

    def test_a_sum_may_leave_the_range_of_its_field_on_the_way(self):
        writes = [{"big": MOST}, {"big": Add(5)}, {"big": Add(-5)}]
        found = folded(entry_of_writes(COUNTERS, KEY, enumerate(writes, 1)), None)
        assert found is not None
        assert found["big"] == MOST

    def test_a_sum_that_leaves_the_range_of_its_field_is_refused(self):
        entry = entry_of_writes(COUNTERS, KEY, [(1, {"big": MOST}), (2, {"big": Add(5)})])
        with pytest.raises(ValidationError, match=f"between .* and {MOST} .it is {MOST + 5}"):
            fold(COUNTERS, entry, None)
        shown = fold(COUNTERS, entry, None, to_store=False).values
        assert shown is not None
        assert shown["big"] == MOST  # as if nothing had been added

    def test_what_is_broken_is_not_shown_and_not_stored(self):
        entry = entry_of("1", {"no": "1"}, 1)._replace(broken="nonsense")
        assert fold(COUNTERS, entry, {}, to_store=False) == Folded(False, {})
        for part in (entry._replace(broken=""), entry_of("1", {"big": "x"}, 1)):
            with pytest.raises(REFUSALS):
                fold(COUNTERS, part, {}, to_store=True)

    def test_a_value_that_cannot_be_understood_is_not_shown(self):
        entry = entry_of('"n"', {"big": "x", "small": "1"}, 1)
        assert fold(COUNTERS, entry, new_row(COUNTERS, KEY), to_store=False) == Folded(False, {})


class TestDecoding:
    """Of many values at once, where the fields allow it."""

    EVERYTHING = layout(Everything, "default", key=["key"], fields=None, insert=True)
    TEXTS = {
        "small": ["1", "true", "1.0", '"1"', "null", "[1]"],
        "boolean": ["true", "1", "null"],
        "char": ['"a"', '"a\\nb"', "1", "null", '"', '"a","b"'],
        "float": ["1.5", "1", "1e999", "null", "-0.0", "NaN"],
        "decimal": ['"1.5"', "1.5", '"NaN"', '"1e99999"', "null"],
        "datetime": ['"2020-01-01T00:00:00.000000+00:00"', '"2020"', "null", "5"],
        "duration": ["5", "5.0", "null", "99999999999999999999999"],
        "uuid": ['"00000000-0000-0000-0000-000000000001"', '"0"', "null"],
        "json": ["[1]", "[null]", "[1,2]", "[]", "1", "null", '[{"a":[1]}]'],
        "binary": ['"YQ=="', '"a"', "null"],
        "ip": ['"::1"', "null", "1"],
        "point": ['"1|2"', '"1"', "null"],
    }

    @given(
        st.fixed_dictionaries({}, optional={name: st.sampled_from(t) for name, t in TEXTS.items()}),
        st.booleans(),
    )
    def test_is_that_of_each(self, texts, to_store):
        values = {name: numbered(1, text) for name, text in texts.items()}
        expected: Any = {}
        try:
            for name, text in texts.items():
                column = self.EVERYTHING.columns[name]
                expected[column.attname] = (column.prepare if to_store else column.decode)(text)
        except REFUSALS as error:
            with pytest.raises(type(error)):
                decoded(self.EVERYTHING, values, to_store=to_store)
        else:
            found = decoded(self.EVERYTHING, values, to_store=to_store)
            assert repr(found) == repr(expected)  # 1 is not True, nor 1.0

    def test_of_a_field_that_is_gone(self):
        with pytest.raises(REFUSALS):
            decoded(self.EVERYTHING, {"stored": numbered(1, "1")})


# Next to writes past Redis
#
# The reference has all writes in order. The database has what was written past Redis alone, and the
# fence that it left.
#
# Some of it cannot be told from what is stored, and is not in here:
# - A Max or Min past Redis next to pending operations of another kind. Whether the stored value is
#   that of the operation is not known. So a field has the one or the other.
# - A sum of the package's, which makes a number of NULL, next to pending operations that are no
#   sums. Whether NULL was there, or 0, is not known. So `big` has sums alone.
# - A sum of SQL's, F("span") + 1, which leaves NULL as it is, where it would have met NULL. The
#   fence does not know whose sum it is. Where it would have met a value, NULL may be stored.

PAST = {
    "small": PLAIN["small"] | ADDS["small"].map(Add),
    "big": PLAIN["big"] | ADDS["big"].map(Add),
    "decimal": PLAIN["decimal"] | OPERANDS["decimal"].map(Max),
    "real": PLAIN["real"] | OPERANDS["real"].map(Min),
    "at": PLAIN["at"] | OPERANDS["at"].map(Max),
    "span": PLAIN["span"] | ADDS["span"].map(Add),
    "extra": PLAIN["extra"] | OBJECTS.map(Merge),
}
PENDING = {name: PLAIN[name] | of for name, of in OPERATIONS.items()}
PENDING |= {name: PAST[name] for name in ("big", "decimal", "real", "at")}


def accepted(name: str) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """Writes to one field."""
    return st.lists(
        st.one_of(
            st.tuples(
                st.just("pending"), st.fixed_dictionaries({}, optional={name: PENDING[name]})
            ),
            st.tuples(st.just("pending"), st.fixed_dictionaries({name: PENDING[name]})),
            st.tuples(st.just("past"), st.fixed_dictionaries({name: PAST[name]})),
            st.tuples(st.sampled_from(["pending", "past"]), st.just(DELETE)),
        ),
        min_size=2,
        max_size=7,
    )


ACCEPTED = st.sampled_from([*PAST]).flatmap(accepted)


class Scene:
    """Writes to one row, through Redis and past it, with the numbers from 1 on."""

    def __init__(self, row: Row | None, writes: list[tuple[str, Any]]) -> None:
        self.expected = self.stored = row  # with all writes, and with those past Redis
        self.fence = Fence()
        self.pending: list[tuple[int, Any]] = []
        for number, (way, values) in enumerate(writes, 1):
            if way == "pending":
                self.pending.append((number, values))
                self.expected = row_after_write(COUNTERS, KEY, self.expected, values)
            else:
                self._write_past(number, values)

    def _write_past(self, number: int, values: Any) -> None:
        is_sum = values is not DELETE and isinstance(values.get("span"), Add)
        known = self.stored and self.expected and self.expected["span"]
        if is_sum and known is None:
            return
        self.stored = _after_sql(self.stored, values)
        self.expected = _after_sql(self.expected, values)
        entry = entry_of_write(COUNTERS, KEY, values, number)
        self.fence = Fence.loaded(self.fence.with_write(entry, number).dumped())

    def entry(self, first: int, last: int) -> Entry | None:
        """The entry of what is pending between two numbers."""
        some = [(n, values) for n, values in self.pending if first <= n <= last]
        return entry_of_writes(COUNTERS, KEY, some) if some else None


def _after_sql(row: Row | None, values: Any) -> Row | None:
    """A row after a write, with sums on `span` as SQL has them."""
    after = row_after_write(COUNTERS, KEY, row, values)
    if after and row and row["span"] is None and isinstance(values.get("span"), Add):
        after["span"] = None
    return after


class TestNextToWritesPastRedis:
    @sequences
    @given(ROWS, ACCEPTED)
    def test_is_the_replay_in_which_they_came_at_their_moment(self, row, writes):
        scene = Scene(row, writes)
        if entry := scene.entry(1, 9):
            assert folded(entry, scene.stored, scene.fence) == scene.expected

    @sequences
    @given(ROWS, ACCEPTED, st.integers(1, 6))
    def test_what_is_in_flight_goes_first(self, row, writes, claimed):
        scene = Scene(row, writes)
        in_flight, pending = scene.entry(1, claimed), scene.entry(claimed + 1, 9)
        if in_flight and pending:
            between = folded(in_flight, scene.stored, scene.fence)
            assert folded(pending, between, scene.fence) == scene.expected

    @pytest.mark.parametrize("name", PAST)
    def test_every_three_writes(self, name):
        deletes: list[tuple[str, Any]] = [("pending", DELETE), ("past", DELETE)]
        pending = [("pending", {}), *[("pending", {name: value}) for value in SOME[name][0]]]
        past = [("past", {name: value}) for value in SOME[name][1]]
        for base in (None, *SOME_BASES[name]):
            row = None if base is None else {**new_row(COUNTERS, KEY), name: base[0]}
            for writes in product([*deletes, *pending, *past], repeat=3):
                scene = Scene(row, [*writes])
                if entry := scene.entry(1, 9):
                    assert folded(entry, scene.stored, scene.fence) == scene.expected, writes


def second(n: int) -> datetime.timedelta:
    return datetime.timedelta(seconds=n)


# Of each field what is written to it, pending and past Redis.
SOME: dict[str, tuple[list[Any], list[Any]]] = {
    "small": ([1, Add(2), Max(30), Min(4)], [5, Add(60)]),
    "big": ([None, 1, Add(2)], [None, 5, Add(60)]),
    "decimal": ([None, Decimal(1), Max(Decimal(30))], [Decimal(5), Max(Decimal(60))]),
    "real": ([None, 1.5, Min(-30.5)], [5.5, Min(-60.5)]),
    "at": ([None, dated(1), Max(dated(7))], [dated(3), Max(dated(9))]),
    "span": (
        [None, second(1), Add(second(2)), Max(second(30)), Min(second(4))],
        [second(5), Add(second(60))],
    ),
    "extra": (
        [1, Add(2), Max(30), {}, Merge({"a": 1, "b": 2})],
        [5, {"c": 3}, Merge({"a": 4, "d": None})],
    ),
}
SOME_BASES: dict[str, list[tuple[Any]]] = {
    "small": [(10,)],
    "big": [(None,), (10,)],
    "decimal": [(None,), (Decimal(10),)],
    "real": [(None,), (-10.0,)],
    "at": [(None,), (dated(5),)],
    "span": [(None,), (second(10),)],
    "extra": [({"a": 9, "z": 9},), (10,)],
}
