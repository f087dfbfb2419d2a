"""A soak that found nothing would mean nothing, did its judge not see what is wrong."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from tests.faults.soak.chaos import decisions
from tests.faults.soak.facts import Effect, Facts, Journal, calls_in


@pytest.fixture
def facts() -> Facts:
    facts = Facts()
    facts.take([Effect("add", "sum", 1000), Effect("set", "state", 1)], "acknowledged")
    facts.take([Effect("add", "sum", 300), Effect("set", "state", 2)], "unsure")
    facts.take([Effect("add", "sum", 50)], "unsure")
    facts.take([Effect("add", "sum", 7), Effect("set", "state", 7)], "refused")
    return facts


@pytest.mark.parametrize("found", [1000, 1300, 1050, 1350])
def test_a_sum_may_have_what_nobody_is_sure_of(facts, found):
    assert facts.problem("sum", found) is None


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        *((found, "lost") for found in (None, 300, 999)),
        *((found, "doubled") for found in (1007, 1100, 1351, 1600, 2000)),
    ],
)
def test_a_sum_that_is_wrong(facts, found, kind):
    assert facts.problem("sum", found).startswith(kind)


def test_of_many_uncertain_amounts_only_the_bounds_are_known(facts):
    for _ in range(20):
        facts.take([Effect("add", "sum", 10)], "unsure")
    assert facts.problem("sum", 1550) is None
    assert facts.problem("sum", 1551).startswith("doubled")


def test_a_state_may_be_the_last_or_one_that_nobody_is_sure_of(facts):
    assert facts.problem("state", 1) is None
    assert facts.problem("state", 2) is None
    assert facts.problem("state", None).startswith("backwards")
    facts.take([Effect("set", "state", None)], "acknowledged")
    assert facts.problem("state", None) is None
    assert facts.problem("state", 2).startswith("backwards")


def test_a_journal_says_of_the_last_call_that_nobody_is_sure(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    first, last = [Effect("add", "sum", 1)], [Effect("append", "line")]
    journal.begin("add", first)
    journal.end("acknowledged")
    journal.begin("append", last)
    assert list(calls_in(tmp_path / "journal")) == [(first, "acknowledged"), (last, "unsure")]
    with (tmp_path / "journal").open("a") as file:
        file.write('"acknow')  # killed
    assert list(calls_in(tmp_path / "journal"))[-1] == (last, "unsure")


def test_a_seed_decides_the_same_again():
    first, again = (list(islice(decisions(5), 200)) for _ in range(2))
    assert first == again
    assert {decision.act for decision in first} == {
        *("kill worker", "freeze worker", "kill redis", "freeze redis", "kill database")
    }
