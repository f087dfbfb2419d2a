"""Entries written under several versions of a declaration, as they are under the current one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from tests.models import Counter, Note
from tests.pending import DELETE, entry_of_writes
from writebehind_app import DELETED, Add, Max, Merge, Min
from writebehind_app.exceptions import NewerVersion
from writebehind_app.fields.entity import EntityLayout
from writebehind_app.fields.entry import Entry, Segment, entry_of, numbered
from writebehind_app.fields.fold import fold
from writebehind_app.fields.layout import layout
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.fields.versions import Names, RowNames, current, upgraded

Upgrade = Callable[[dict[str, Any], int], dict[str, Any]]
COUNTERS = layout(Counter, "default", key=["name"], fields=None, insert=True)
KEY = {"name": "n"}
ENTITIES = EntityLayout(
    layout(Note, "default", key=["page", "owner"], fields=[], insert=True),
    layout(Note, "default", key=["page", "owner", "key"], fields=["value"], insert=True),
)


@dataclass
class Declared:
    """A buffer, as far as versions are concerned."""

    how: Upgrade
    version: int = 1
    of: Names | None = None

    def upgrade(self, values: dict[str, Any], version: int) -> dict[str, Any]:
        assert version < self.version
        return self.how(values, version)

    def names(self) -> Names:
        return self.of or RowNames(COUNTERS)


def as_it_is(values: dict[str, Any], version: int) -> dict[str, Any]:
    return values


def written(*writes: Any, under: int = 0, first: int = 1) -> Entry:
    entry = entry_of_writes(COUNTERS, KEY, enumerate(writes, first))
    return entry._replace(version=under)


def under_several(*entries: Entry) -> Entry:
    """The last of them, with the others as its older ones."""
    return entries[-1]._replace(older=entries[:-1])


class TestUnderOneVersion:
    def test_the_current_one_is_as_it_was(self):
        entry = written({"small": 1}, under=1)
        assert upgraded(Declared(as_it_is), entry) is entry

    def test_a_newer_one_waits_for_newer_code(self):
        entry = written({"small": 1}, under=2)
        with pytest.raises(NewerVersion, match="under version 2"):
            current(Declared(as_it_is), [entry])
        with pytest.raises(NewerVersion):
            current(Declared(as_it_is), [under_several(entry, written({}, under=1))])
        delete = written(DELETE, under=2)  # is the same in every version
        assert current(Declared(as_it_is), [delete]) == [delete]

    def test_values_are_given_as_json_has_them(self):
        given_: list[Any] = []

        def upgrade(values: dict[str, Any], version: int) -> dict[str, Any]:
            given_.append((values, version))
            return values

        values = {"decimal": Decimal("1.5"), "extra": {"a": [1]}, "small": Add(2), "big": None}
        upgraded(Declared(upgrade, version=3), written(values, under=2))
        assert given_ == [
            ({"decimal": "1.50", "extra": {"a": [1]}, "small": Add(2), "big": None}, 2)
        ]

    def test_operations_are_given_in_order(self):
        given_: dict[str, Any] = {}

        def upgrade(values: dict[str, Any], version: int) -> dict[str, Any]:
            given_.update(values)
            return values

        entry = written(
            {"small": 1, "big": Add(1), "extra": Merge({"a": 1}), "decimal": Max(5)},
            {"small": Add(2), "big": Max(3), "extra": Add(4), "decimal": Add(Decimal("0.01"))},
            {"small": Min(2), "big": Min(3), "extra": Merge({"b": 2})},
        )
        assert upgraded(Declared(upgrade), entry) == entry._replace(version=1)
        assert given_ == {
            "small": (1, Add(2), Min(2)),
            "big": (Add(1), Max(3), Min(3)),
            "extra": (Merge({"a": 1}), Add(4), Merge({"b": 2})),
            "decimal": (Max(Decimal("5.00")), Add(Decimal("0.01"))),
        }

    def test_of_a_delete_alone_nothing_is_asked(self):
        def never(values: dict[str, Any], version: int) -> dict[str, Any]:
            raise AssertionError

        entry = written(DELETE)
        assert upgraded(Declared(never), entry) == entry._replace(version=1)

    def test_a_field_that_was_renamed_keeps_its_numbers(self):
        entry = written({"small": 1, "big": Add(1)}, {"big": Add(2)})
        found = upgraded(Declared(lambda v, _: {"small": v["big"], "big": v["small"]}), entry)
        assert found.operations["small"] == entry.operations["big"]
        assert found.values == {"big": numbered(2, "1")}  # of two that change places the last

    def test_a_value_that_is_another_has_the_number_of_its_field(self):
        entry = written({"small": 1}, {"big": 5})
        found = upgraded(Declared(lambda v, version: {**v, "small": Add(7), "span": None}), entry)
        assert found.operations == {"small": (Segment(1, 1, "+", "i", "7"),)}
        assert found.values == {"big": numbered(2, "5"), "span": numbered(2, "null")}

    def test_what_is_left_out_is_gone(self):
        entry = written({"small": 1, "big": 2})
        found = upgraded(Declared(lambda values, version: {"big": values["big"]}), entry)
        assert [*found.names()] == ["big"]

    @pytest.mark.parametrize(
        ("how", "error", "why"),
        [
            (lambda v, version: None, TypeError, "must return a dict of values, not None"),
            (lambda v, version: {"no": 1}, ValidationError, "no buffered field 'no'"),
            (lambda v, version: {"name": "m"}, ValidationError, "stays what it is"),
            (lambda v, version: {"small": "x"}, ValidationError, "must be an integer"),
            (lambda v, version: {"real": Add(1)}, ValidationError, "Add needs a field"),
            (lambda v, version: {"small": (Add(1), Max(2))}, ValidationError, "Several operations"),
            (lambda v, version: {"small": DELETED}, ValidationError, "DELETED is for meta keys"),
            (lambda v, version: {"small": v["stored"]}, KeyError, "stored"),
        ],
    )
    def test_what_upgrade_may_not_return(self, how, error, why):
        with pytest.raises(error, match=why):
            upgraded(Declared(how), written({"small": 1}))

    def test_values_that_are_none_of_the_field_any_more(self):
        entry = written({"small": 1})._replace(values={"small": numbered(1, '"x"')})
        with pytest.raises(REFUSALS):
            upgraded(Declared(as_it_is), entry)

    def test_a_field_of_another_kind_takes_no_old_operation(self):
        entry = written({"small": 1})._replace(
            values={}, operations={"small": (Segment(1, 1, "+", "d2", "150"),)}
        )
        with pytest.raises(REFUSALS):
            upgraded(Declared(as_it_is), entry)
        found = upgraded(Declared(lambda v, _: {"small": Add(int(v["small"].amount))}), entry)
        assert found.operations == {"small": (Segment(1, 1, "+", "i", "1"),)}


class TestUnderTwoVersions:
    def test_they_come_to_what_was_written_in_order(self):
        old, new = written({"small": 1, "big": 1}), written({"small": Add(5)}, under=1, first=2)
        found = upgraded(
            Declared(lambda values, version: {"small": values["big"] * 10}), under_several(old, new)
        )
        assert fold(COUNTERS, found, None).values == {"name": "n", "small": 15}
        assert (found.first, found.last, found.version) == (1, 2, 1)

    def test_each_is_upgraded_from_its_own(self):
        asked = []

        def upgrade(values: dict[str, Any], version: int) -> dict[str, Any]:
            asked.append(version)
            return {"small": values.get("big", values.get("small"))}

        entry = under_several(
            written({"big": 5}),
            written({"small": Add(1)}, under=1, first=2),
            written({"small": Add(2)}, under=2, first=3),
        )
        found = upgraded(Declared(upgrade, version=2), entry)
        assert asked == [0, 1]
        assert fold(COUNTERS, found, None).values == {"name": "n", "small": 8}
        assert (found.since, found.first, found.last) == (1, 1, 3)

    def test_a_delete_of_a_newer_one_ends_what_an_older_one_wrote(self):
        entry = under_several(written({"small": 1}), written(DELETE, {"big": 2}, under=1, first=2))
        found = upgraded(Declared(as_it_is), entry)
        assert fold(COUNTERS, found, None).values == {"name": "n", "big": 2}
        assert found.deleted == 2

    @given(
        st.lists(
            st.sampled_from(
                [{"small": 3}, {"small": Add(2)}, {"extra": Merge({"a": 1})}, {"extra": Max(4)}]
            )
            | st.just(DELETE),
            min_size=2,
            max_size=5,
        ),
        st.integers(1, 4),
    )
    def test_a_declaration_that_stayed_what_it_was(self, writes, at):
        if at < len(writes):
            parts = [written(*writes[:at]), written(*writes[at:], under=1, first=at + 1)]
            at_once = written(*writes, under=1)
            assert upgraded(Declared(as_it_is), under_several(*parts)) == at_once


class TestMetadata:
    def declared(self, how: Upgrade) -> Declared:
        return Declared(how, of=ENTITIES)

    def test_a_meta_key_that_was_renamed(self):
        name = ENTITIES.name("a:b")
        entry = entry_of('"p",1', {name: "&", f'&{name}:"x"': "1"}, 1, firsts={name: 1})
        found = upgraded(self.declared(lambda v, _: {"new": v["a:b"]}), entry)
        (row,) = ENTITIES.row_entries(found).values()
        assert (row.id, row.first) == ('"p",1,"new"', 1)
        assert fold(ENTITIES.rows, row, {"value": {"y": 2}}).values == {"value": {"x": 1, "y": 2}}

    def test_a_meta_key_that_goes(self):
        given_: dict[str, Any] = {}

        def upgrade(values: dict[str, Any], version: int) -> dict[str, Any]:
            given_.update(values)
            return {"new": values["old"], "other": DELETED}

        entry = entry_of('"p",1', {'"old"': "!"}, 3)
        found = upgraded(self.declared(upgrade), entry)
        assert given_ == {"old": DELETED}
        assert found.tombstones == {'"new"': 3, '"other"': 3}
        rows = ENTITIES.row_entries(found)
        assert {key: row.exists for key, row in rows.items()} == {"new": False, "other": False}
