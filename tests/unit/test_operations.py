"""Operations as texts, and what they come to on a value: each, and every two and three of them."""

from __future__ import annotations

import datetime
import decimal
import json
from contextlib import suppress
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import models
from hypothesis import example, given
from hypothesis import strategies as st

from tests.models import Counter, Everything
from tests.pending import entry_of_writes, in_python
from tests.unit.test_columns import of
from writebehind_app import Add, Max, Merge, Min
from writebehind_app.fields.columns import Column, column
from writebehind_app.fields.entry import Segment, combined, entry_of, merge_key, numbered
from writebehind_app.fields.kinds import decimal_kind, exact_decimal
from writebehind_app.fields.layout import layout
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.fields.operations import (
    Operation,
    described_operations,
    is_current,
    operation_texts,
    outcome,
)

COUNTERS = layout(Counter, "default", key=["name"], fields=None, insert=True)
KEY = {"name": "n"}


def counter(name: str) -> Column:
    return COUNTERS.columns[name]


def everything(name: str) -> Column:
    return column(Everything._meta.get_field(name), "default")


def day(n: int) -> datetime.datetime:
    return datetime.datetime(2020, 1, n, tzinfo=datetime.UTC)


def cents(n: int) -> Decimal:
    return exact_decimal(n, 2)


def span(n: int) -> datetime.timedelta:
    return datetime.timedelta(microseconds=n)


class TestTexts:
    @pytest.mark.parametrize(
        ("name", "operation", "text"),
        [
            ("integer", Add(-3), "+i:-3"),
            ("big", Max(2**63 - 1), ">i:9223372036854775807"),
            ("decimal", Add(Decimal("1.25")), "+d6:1250000"),
            ("decimal", Add(2), "+d6:2000000"),
            ("decimal", Min(0.5), "<d6:500000"),
            ("duration", Add(span(-5)), "+u:-5"),
            ("float", Max(0.1), ">f:0.1"),
            ("float", Max(-0.0), ">f:-0.0"),
            ("datetime", Max(day(1)), ">t:1577836800000000"),
            ("date", Min(datetime.date(2020, 1, 1)), "<D:737425"),
            ("time", Max(datetime.time(1, 2, 3, 4)), ">T:3723000004"),
            ("json", Add(-3), "+j:-3"),
            ("json", Max(0.5), ">j:0.5"),
            ("level", Add(1), "+i:1"),
        ],
    )
    def test_operands_are_numbers(self, name, operation, text):
        found = everything(name)
        assert operation_texts(found, operation) == {name: text}
        value = described_operations(found, segments(found, operation), {})
        assert value == [operation]

    def test_of_a_merge_each_key_is_one(self):
        given_ = Merge({"a:b": [1], '"\n': None})
        assert operation_texts(counter("extra"), given_) == {
            "extra": "&",
            '&extra:"a:b"': "[1]",
            '&extra:"\\"\\n"': "null",
        }

    @pytest.mark.parametrize(
        ("name", "operation", "why"),
        [
            ("char", Add(1), "Add needs a field that is a whole number"),
            ("float", Add(1), "Add needs a field that is a whole number"),
            ("datetime", Add(1), "Add needs a field that is a whole number"),
            ("boolean", Max(True), "Max needs a field that is a number"),
            ("uuid", Min("0"), "Min needs a field that is a number"),
            ("integer", Merge({}), "Merge needs a field that is JSON, not a IntegerField"),
            ("json", Merge({1: 2}), "Merge takes a dict with text keys, not {1: 2}"),
            ("json", Merge([1]), "Merge takes a dict with text keys"),
            ("integer", Add(0.5), "Add needs an exact number, not 0.5"),
            ("integer", Add(True), "Add needs an exact number, not True"),
            ("integer", Add(None), "Add needs an exact number, not None"),
            ("integer", Add("x"), "must be an integer"),
            ("integer", Add(Decimal("0.5")), "no more than 0 decimal places"),
            ("decimal", Add(Decimal("1e-7")), "no more than 6 decimal places"),
            ("decimal", Add(Decimal("1e999999")), "more than a field can hold"),
            ("integer", Add(2**65), "more than the field can hold"),
            ("duration", Add(5), "Add needs a timedelta, not 5"),
            ("integer", Max(None), "Max needs a value"),
            ("json", Max(None), "Max needs a number where it is for JSON, not None"),
            ("json", Max(float("nan")), "Max needs a number where it is for JSON, not nan"),
            ("json", Add(0.5), "Add needs a whole number where it adds to JSON, not 0.5"),
            ("json", Add(2**63), "more than 64 bits hold"),
            ("integer", Max(2**63), "between -9223372036854775808 and 9223372036854775807"),
        ],
    )
    def test_what_is_refused(self, name, operation, why):
        with pytest.raises(ValidationError, match=why):
            operation_texts(everything(name), operation)


# What they come to

BY_FIELD: dict[str, tuple[list[Any], list[Operation]]] = {
    "small": ([0, 7, -7], [Add(2), Add(-3), Max(5), Max(-9), Min(1), Min(9)]),
    "big": ([None, 0, 2**62], [Add(2), Add(-3), Max(5), Max(2**62 + 1), Min(1)]),
    "decimal": (
        [None, cents(0), cents(1234567890123456789012345678)],
        [Add(cents(1)), Add(cents(-300)), Max(cents(500)), Min(cents(-1)), Min(cents(900))],
    ),
    "real": ([None, 0.5, -0.5], [Max(0.25), Max(-9.0), Min(1e300), Min(-1.0)]),
    "at": ([None, day(5)], [Max(day(4)), Max(day(6)), Min(day(3)), Min(day(7))]),
    "span": ([None, span(5)], [Add(span(2)), Add(span(-30)), Max(span(6)), Min(span(3))]),
    "extra": (
        [None, 5, 0.5, True, "5", [5], {"a": 1}, {"z": {"a": 0}}],
        [Add(2), Add(-3), Max(5.5), Min(1), Min(2**53 + 1), Merge({"a": 2}), Merge({"b": None})],
    ),
}


def segments(on: Column, *operations: Operation) -> tuple[Segment, ...]:
    entries = [entry_of("1", operation_texts(on, o), n) for n, o in enumerate(operations, 1)]
    return combined(entries).operations[on.name]


@pytest.mark.parametrize("name", BY_FIELD)
@pytest.mark.parametrize("count", [1, 2, 3])
class TestTogether:
    """Operations on a field of which no value is known yet, until there is one."""

    def test_they_are_what_each_is_in_turn(self, name, count):
        values, operations = BY_FIELD[name]
        for some in product(operations, repeat=count):
            entry = entry_of_writes(COUNTERS, KEY, [(i, {name: o}) for i, o in enumerate(some, 1)])
            kept = entry.operations[name]
            assert [segment.first for segment in kept] == [*range(1, count + 1)]
            for value in values:
                expected = value
                for operation in some:
                    expected = in_python(expected, operation, json=name == "extra")
                found = outcome(counter(name), kept, entry.merges.get(name, {}), value)
                assert (type(found), found) == (type(expected), expected), (value, some)

    def test_they_are_shown_as_they_came(self, name, count):
        for some in product(BY_FIELD[name][1], repeat=count):
            keys = [key for o in some if isinstance(o, Merge) for key in o.values]
            if len(set(keys)) < len(keys):
                continue  # of a key the last one is kept
            entry = entry_of_writes(COUNTERS, KEY, [(i, {name: o}) for i, o in enumerate(some, 1)])
            shown = described_operations(
                counter(name), entry.operations[name], entry.merges.get(name, {})
            )
            assert shown == [*some]


INT64 = st.integers(-(2**63), 2**63 - 1)


class TestOutcome:
    def test_the_value_itself_is_not_changed(self):
        value = {"a": 1}
        keys = {merge_key("a"): numbered(1, "2")}
        found = outcome(counter("extra"), [Segment(1, 1, "&", "", "")], keys, value)
        assert (found, value) == ({"a": 2}, {"a": 1})

    def test_of_a_merge_has_the_keys_of_its_numbers_alone(self):
        keys = {'"a"': numbered(1, "1"), '"b"': numbered(2, "2"), '"c"': numbered(3, "3")}
        found = outcome(counter("extra"), [Segment(2, 2, "&", "", "")], keys, None)
        assert found == {"b": 2}

    @pytest.mark.parametrize(
        ("name", "value", "operation"),
        [
            ("positive_small", 0, Add(-1)),
            ("big", 2**63 - 1, Add(1)),
            ("decimal", Decimal("99999999999999.999999"), Add(1)),
            ("duration", datetime.timedelta.max, Add(span(1))),
            ("json", 2**63 - 1, Add(1)),
        ],
    )
    def test_beyond_the_range_of_the_field_is_refused(self, name, value, operation):
        on = everything(name)
        with pytest.raises(REFUSALS):
            outcome(on, segments(on, operation), {}, value)

    def test_a_decimal_is_exact_whatever_the_context(self):
        on, cent = counter("decimal"), segments(counter("decimal"), Add(cents(1)))
        with decimal.localcontext(prec=3):
            assert outcome(on, cent, {}, cents(10**30)) == cents(10**30 + 1)

    @given(INT64, INT64)
    @example(2**53, 2**53 + 1)
    def test_whole_numbers_compare_exactly(self, value, other):
        on = counter("extra")
        assert outcome(on, segments(on, Max(other)), {}, value) == max(value, other)
        assert outcome(on, segments(on, Min(other)), {}, value) == min(value, other)


class TestOfAnotherDeclaration:
    @pytest.mark.parametrize(
        ("written", "now"),
        [
            (models.IntegerField(), models.DecimalField(max_digits=9, decimal_places=2)),
            (
                models.DecimalField(max_digits=9, decimal_places=2),
                models.DecimalField(max_digits=9, decimal_places=3),
            ),
            (models.IntegerField(), models.JSONField()),
            (models.IntegerField(), models.FloatField()),
            (models.IntegerField(), models.CharField(max_length=9)),
            (models.DurationField(), models.IntegerField()),
        ],
    )
    def test_an_operation_is_none_on_a_field_of_another_kind(self, written, now):
        before, on = of(written), of(now)
        operation = Add(span(1)) if isinstance(written, models.DurationField) else Add(1)
        (segment,) = segments(before, operation)
        assert is_current(before, segment)
        assert not is_current(on, segment)
        with pytest.raises(ValueError, match="no operation on a"):
            outcome(on, [segment], {}, None)
        with pytest.raises(ValueError, match="is no kind of a"):
            described_operations(on, [segment], {})

    def test_a_wider_field_takes_it(self):
        (segment,) = segments(of(models.SmallIntegerField()), Add(5))
        assert outcome(of(models.BigIntegerField()), [segment], {}, 1) == 6

    def test_a_merge_is_one_on_json_alone(self):
        merge = Segment(1, 1, "&", "", "")
        assert is_current(of(models.JSONField()), merge)
        assert not is_current(of(models.TextField()), merge)


class TestPlanted:
    """Somebody else wrote it to Redis."""

    NONSENSE = st.one_of(
        st.text(max_size=5),
        st.sampled_from(
            [
                "",
                "1",
                "-",
                "1e999",
                "NaN",
                "Infinity",
                "null",
                "9" * 5000,
                "1,2,3,4",
                ",,,",
                "[[",
                "\ud800",
            ]
        ),
        st.integers().map(str),
    )

    @given(
        st.sampled_from([f.name for f in Everything._meta.concrete_fields if f.name != "id"]),
        st.lists(
            st.tuples(
                st.sampled_from([*"+><&=?", ""]),
                st.sampled_from(
                    ["i", "d6", "d2", "u", "f", "t", "D", "T", "j", "", "#", "#6", "~", "%", "$"]
                ),
                NONSENSE,
            ),
            min_size=1,
            max_size=3,
        ),
        st.dictionaries(NONSENSE | st.text(max_size=3).map(json.dumps), NONSENSE, max_size=2),
    )
    def test_is_refused_or_harmless(self, name, planted, keys):
        on = everything(name)
        some = [Segment(1, 1, *parts) for parts in planted]
        merges = {key: numbered(1, text) for key, text in keys.items()}
        with suppress(*REFUSALS):
            outcome(on, some, merges, None)
        with suppress(*REFUSALS):
            described_operations(on, some, merges)


def test_decimals_of_any_length_are_exact():
    value = Decimal("123456789012345678901234567890123456.12")
    kind = decimal_kind(2)
    assert kind.value(kind.number(value) + 1) == Decimal("123456789012345678901234567890123456.13")
