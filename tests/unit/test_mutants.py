"""What tests/mutation is to break is there; whether it is noticed, `make mutants` tells."""

from __future__ import annotations

from pathlib import Path

import pytest

import writebehind_app
from tests.mutation.mutants import MUTANTS

PACKAGE = Path(writebehind_app.__file__).parent
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_of_a_safeguard_is_there_once(mutant):
    for file, old, _ in mutant.changes:
        assert (PACKAGE / file).read_text().count(old) == 1


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_those_who_must_notice_are_there(mutant):
    for test in mutant.tests:
        file, *names = test.partition("[")[0].split("::")
        text = (ROOT / file).read_text()
        assert all(f"class {name}" in text or f"def {name}(" in text for name in names)
