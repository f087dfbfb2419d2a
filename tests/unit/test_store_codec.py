"""Entries and records as Redis keeps them, read; also where somebody else wrote them."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backdoor.store import PARTS
from writebehind_app.fields.entry import Entry, Segment, dumped, loaded
from writebehind_app.store import codec, lua

N = 1_700_000_000_000_000
HEAD = {"#": str(N), "@": str(N + 9)}


def read(texts: dict[str, str]) -> Entry:
    entry = codec.entry("1", [part for pair in texts.items() for part in pair])
    assert entry is not None
    return entry


def test_values_are_kept_as_they_are():
    values = {"a": f'{N}"x"', "b_2": f"{N + 9}null"}
    entry = read({**HEAD, **values})
    assert entry == Entry("1", N, N + 9, values=values, since=N)
    assert codec.entry("1", []) is None


def test_the_other_names():
    entry = read(
        {
            **HEAD,
            "!": str(N + 1),
            "^": str(N + 2),
            "|": str(N + 3),
            "a": f"{N + 4}1",
            "+a": f"{N + 6},{N + 7},+i,5 {N + 5},{N + 5},&, {N + 3},{N + 3},+i,1",
            '&a:"x:y"': f"{N + 5}[1]",
            '&a:"old"': f"{N + 2}[1]",
            '"k"': f"{N + 4}2",
            '!"k"': str(N + 3),
            '#"k"': str(N + 4),
            '!"stored"': str(N + 5),
            '"stored"': f"{N + 4}2",
            '#"stored"': str(N + 4),
            "*digest": str(N + 4),
        }
    )
    assert (entry.first, entry.last, entry.deleted, entry.since) == (N + 2, N + 9, N + 1, N)
    assert entry.values == {"a": f"{N + 4}1", '"k"': f"{N + 4}2"}
    assert entry.operations == {
        "a": (Segment(N + 5, N + 5, "&", "", ""), Segment(N + 6, N + 7, "+", "i", "5"))
    }
    assert entry.merges == {"a": {'"x:y"': f"{N + 5}[1]"}}
    assert entry.tombstones == {'"k"': N + 3, '"stored"': N + 5}
    assert entry.firsts == {'"k"': N + 4}
    assert entry.once == ("digest",)
    assert loaded(dumped(entry)) == entry


def test_versions_are_layers_in_the_order_of_numbers():
    entry = read({**HEAD, "3|a": f"{N + 2}1", "a": f"{N + 1}2", "+3|b": f"{N},{N},+i,1"})
    found = [(e.version, {*e.values}, {*e.operations}) for e in (*entry.older, entry)]
    assert found == [(3, set(), {"b"}), (0, {"a"}, set()), (3, {"a"}, set())]


@pytest.mark.parametrize(
    "texts",
    [
        {"@": str(N), "a": f"{N}1"},
        {**HEAD, "#": "x"},
        {**HEAD, "@": "nan"},
        {"#": str(N)},
        {"#": str(N), "a": f"{N}1"},
        {"#": str(N), "@": str(N - 1)},
        {"#": "-5", "@": "7"},
        {"#": str(N), "@": "9" * 18},
        {"#": str(N), "@": "9" * 6000},
        {**HEAD, "!": "x"},
        {**HEAD, "!": "9" * 18, "^": "1"},
        {**HEAD, "!": "5", "^": "9" * 18},
        {**HEAD, "a": "1"},
        {**HEAD, "a": f"{N}1", "b": "²" * 16},
        {**HEAD, "a": f"{N}1", "b": f"{N}"[:15]},
        {**HEAD, "+a": "x"},
        {**HEAD, "+a": ""},
        {**HEAD, "+a": f"{N},{N},?i,1"},
        {**HEAD, "+a": f"{N},x,+i,1"},
        {**HEAD, "&a": "1"},
        {**HEAD, '"k"': "x"},
        {**HEAD, '!"k"': "x"},
        {**HEAD, "": f"{N}1"},
        {**HEAD, "+": f"{N},{N},+i,1"},
        {"a string": "else"},
    ],
)
def test_what_the_package_did_not_write_is_broken(texts):
    entry = read(texts)
    assert entry.broken
    assert entry.texts()
    assert loaded(dumped(entry)) == entry


NAMES = st.sampled_from(["#", "@", "!", "^", "|", "a", "+a", '&a:"k"', "3|a", '"k"', "*d", "+"])
NUMBERS = st.sampled_from([str(N), str(N + 1), "0", "-1", "9" * 17, ""])
TEXTS = st.text(max_size=20) | st.builds(
    "{}{}".format, NUMBERS, st.sampled_from(["", "1", ",1,+i,2"])
)


@given(st.dictionaries(NAMES | st.text(max_size=3), TEXTS, min_size=1))
def test_nothing_makes_it_fail(texts):
    flat = [part for pair in texts.items() for part in pair]
    for entry in (codec.entry("1", flat), codec.record("5-0", flat)):
        assert entry is not None
        for each in (*entry.older, entry):
            assert each.broken or all(map(each.number_of, each.names()))


class TestRecords:
    def test_its_number_is_its_id(self):
        entry = codec.record(f"{N}-0", ["a", '"x"', "=", "3", "*digest", ""])
        assert entry == Entry(
            str(N), N, N, values={"a": f'{N}"x"'}, version=3, once=("digest",), since=N
        )

    @pytest.mark.parametrize("id", ["5-1", "x", "", "0-0", f"{10**18}-0"])
    def test_another_id_is_none(self, id):
        assert codec.record(id, ["a", "1"]).broken

    @pytest.mark.parametrize("version", ["x", "", "²"])
    def test_another_version_is_none(self, version):
        assert codec.record("5-0", ["=", version]).broken


class TestScripts:
    TEXTS = {
        path.name.removesuffix(".lua"): path.read_text()
        for path in files(lua.__package__).joinpath("scripts").iterdir()
    }

    def test_each_file_is_run_or_included(self):
        included = re.findall(r"-- include (\w+)\.lua", "\n".join(self.TEXTS.values()))
        assert {*included} == {*PARTS}
        package = Path(lua.__file__).parents[1]
        code = "\n".join(path.read_text() for path in package.rglob("*.py"))
        for name in {*self.TEXTS} - {*PARTS}:
            assert f'"{name.removesuffix("_records")}"' in code

    @pytest.mark.parametrize("name", sorted(TEXTS))
    def test_nothing_is_left_to_include(self, name):
        assert "-- include" not in lua.source(name)

    @pytest.mark.parametrize("name", sorted(TEXTS))
    def test_it_is_short(self, name):
        lines = self.TEXTS[name].splitlines()
        assert len([line for line in lines if line and not line.startswith("--")]) <= 60
        assert all(len(line) <= 110 for line in lines)
