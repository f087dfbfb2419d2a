"""Numbers agree with their nouns and verbs."""

from __future__ import annotations

import pytest

from writebehind_app.english import be, counted


@pytest.mark.parametrize(
    ("count", "rows", "entries"),
    [
        (0, "0 rows are", "0 entries are"),
        (1, "1 row is", "1 entry is"),
        (2, "2 rows are", "2 entries are"),
    ],
)
def test_a_number_with_its_noun_and_its_verb(count, rows, entries):
    assert f"{counted(count, 'row')} {be(count)}" == rows
    assert f"{counted(count, 'entry', 'entries')} {be(count)}" == entries
