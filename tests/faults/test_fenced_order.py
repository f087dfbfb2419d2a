"""What a fence leaves of entries that have to wait for others in the same flush."""

from __future__ import annotations

import pytest
from django.db import connections

from tests.models import Branch
from tests.router import current
from writebehind_app import Add
from writebehind_app.database import deadletters
from writebehind_app.models import DeadLetter

pytestmark = pytest.mark.usefixtures("database", "redis_server")


@pytest.fixture(autouse=True)
def one_shard(configure):
    configure(SHARDS=1)


def directly(go, **values: object) -> None:
    go("direct")
    Branch.buffered.set(**values)
    go("buffered")


def rows() -> dict[str, tuple[int | None, str, int]]:
    found = Branch.objects.values_list("slug", "code", "title", "points")
    return {slug: tuple(rest) for slug, *rest in found}


@pytest.fixture
def branches(database) -> None:
    for n, slug in enumerate("abc", 1):
        Branch.objects.create(slug=slug, code=n)


def test_what_cannot_be_written_is_a_dead_letter(branches, go):
    """It waits for the other one first, as rows that swap their values do."""
    Branch.buffered.set(slug="a", code=3, title="older")
    Branch.buffered.set(slug="b", code=3, title="older")
    directly(go, slug="a", title="later")
    directly(go, slug="b", title="later")
    assert Branch.buffered.flush().dead_letters == 2
    assert rows() == {"a": (1, "later", 0), "b": (2, "later", 0), "c": (3, "", 0)}


def test_a_sum_past_redis_counts_once(branches, go):
    """The entry is written twice: it waits for a value that another row gives up."""
    Branch.buffered.set(slug="a", code=2, points=10)
    directly(go, slug="a", points=Add(5))
    Branch.buffered.set(slug="b", code=None)
    Branch.buffered.delete(slug="c")
    assert Branch.buffered.flush().dead_letters == 0
    assert rows() == {"a": (2, "", 15), "b": (None, "", 0)}


def test_a_sum_past_redis_counts_once_where_rows_wait_for_each_other(branches, go):
    Branch.buffered.set(slug="a", code=2, points=10)
    Branch.buffered.set(slug="b", code=1, points=20)
    directly(go, slug="a", points=Add(5))
    directly(go, slug="b", points=Add(5))
    assert Branch.buffered.flush().dead_letters == 0
    assert rows() == {"a": (2, "", 15), "b": (1, "", 25), "c": (3, "", 0)}


def test_a_reference_that_is_void_needs_no_parent(branches, go):
    Branch.buffered.set(slug="a", above="nobody", points=7)
    directly(go, slug="a", above=Branch(slug="b"))
    Branch.buffered.delete(slug="c")  # so the entries are written in order
    assert Branch.buffered.flush().dead_letters == 0
    assert list(Branch.objects.filter(slug="a").values_list("above", "points")) == [("b", 7)]


def test_a_dead_letter_has_nothing_void(branches, go):
    """A retry asks no fence, so the older title would come over the later one."""
    Branch.buffered.set(slug="a", code=3, title="older")
    directly(go, slug="a", title="later")
    assert Branch.buffered.flush().dead_letters == 1
    Branch.objects.filter(slug="c").delete()
    [letter] = DeadLetter.objects.all()
    assert deadletters.retry(Branch.buffered, [letter.pk]) == (1, 0)
    assert rows()["a"] == (3, "later", 0)


def test_a_dead_letter_without_a_parent_has_nothing_void(branches, go):
    Branch.buffered.set(slug="a", above="nobody", title="older")
    directly(go, slug="a", title="later")
    assert Branch.buffered.flush().dead_letters == 1
    Branch.objects.create(slug="nobody")
    [letter] = DeadLetter.objects.all()
    assert deadletters.retry(Branch.buffered, [letter.pk]) == (1, 0)
    assert list(Branch.objects.filter(slug="a").values_list("above", "title")) == [
        ("nobody", "later")
    ]


def test_a_refused_entry_whose_sum_is_void(branches, go):
    """Without the fence, the sum would leave the range of its field."""
    _, most = connections[current()].ops.integer_field_range("IntegerField")
    Branch.buffered.set(slug="a", code=3, points=Add(5))
    Branch.buffered.set(slug="b", title="new")
    directly(go, slug="a", points=most)
    result = Branch.buffered.flush()
    assert (result.errors, result.dead_letters) == (0, 1)
    assert rows() == {"a": (1, "", most), "b": (2, "new", 0), "c": (3, "", 0)}


def test_a_value_that_another_row_gives_up_for_an_entry_whose_sum_is_void(branches, go, configure):
    _, most = connections[current()].ops.integer_field_range("IntegerField")
    configure(SHARDS=8)
    Branch.buffered.set(slug="c", code=None)
    Branch.buffered.set(slug="a", code=3, points=Add(5))
    directly(go, slug="a", points=most)
    assert Branch.buffered.flush(slug="a").dead_letters == 0
    assert rows()["a"] == (3, "", most)
