"""Rows that are deleted between two flushes, what goes with them, and what is made anew."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import pytest

from tests.backdoor.batches import Killed, claim, end_lease
from tests.backdoor.flushes import die_before_extension
from tests.elsewhere import elsewhere
from tests.models import Branch, Locker, Member, Team
from writebehind_app import Add, checkpoints
from writebehind_app.database import deadletters
from writebehind_app.flush.related import Related
from writebehind_app.models import DeadLetter

pytestmark = pytest.mark.usefixtures("database", "redis_server", "one_shard")


@pytest.fixture
def one_shard(configure) -> None:
    configure(SHARDS=1)


def drain() -> None:
    for model in (Team, Member, Branch, Locker):
        result = model.buffered.flush()
        assert (result.dead_letters, result.errors, result.remaining) == (0, 0, 0)
    assert not DeadLetter.objects.exists()


def branches() -> dict[str, tuple[Any, ...]]:
    found = Branch.objects.values_list("slug", "title", "code", "above")
    return {slug: tuple(rest) for slug, *rest in found}


class TestMadeAnew:
    """A row that is made anew may have to wait. What refers to the new row comes after that."""

    def test_by_a_row_that_refers_to_it(self):
        Team.objects.create(slug="red", title="old")
        Team.buffered.delete(slug="red")
        Team.buffered.set(slug="red")
        Member.buffered.set(slug="anna", team="red")
        Team.buffered.set(slug="red", captain="anna")
        drain()
        assert Team.objects.values_list("title", "captain").get() == ("", "anna")

    def test_a_row_that_went_with_it_may_be_made_anew_before(self):
        Branch.objects.create(slug="b")
        Branch.buffered.set(slug="a", above="b")
        Branch.buffered.delete(slug="b")
        Branch.buffered.set(slug="a", title="anew")
        Branch.buffered.set(slug="c")
        Branch.buffered.set(slug="b", above="c")
        drain()
        assert branches() == {
            "a": ("anew", None, None),
            "b": ("", None, "c"),
            "c": ("", None, None),
        }

    def test_past_redis_below_a_row_that_is_deleted_next(self, go):
        Branch.objects.create(slug="child", title="old")
        Branch.objects.create(slug="parent")
        Branch.buffered.delete(slug="child")
        go("direct")
        Branch.buffered.set(slug="child", above="parent")
        go("buffered")
        Branch.buffered.delete(slug="parent")
        drain()
        assert branches() == {}


class TestGone:
    """A row below a deleted one has gone with it, also if it could not be written before."""

    def test_one_that_lacks_what_was_overwritten(self):
        """The locker could not be made without a number, and 3 is not known any more."""
        Team.objects.create(slug="red")
        Member.objects.create(slug="anna", team_id="red")
        Locker.buffered.set(slug="x", member="anna", number=3, title="old")
        Member.buffered.delete(slug="anna")
        Locker.buffered.set(slug="x", number=4)
        drain()
        assert Locker.objects.values_list("number", "title", "member").get() == (4, "", None)

    @pytest.mark.parametrize("is_stored", [False, True])
    def test_one_whose_parent_went_along(self, is_stored):
        Team.objects.create(slug="red")
        if is_stored:
            Member.objects.create(slug="anna", team_id="red")
        else:
            Member.buffered.set(slug="anna", team="red")
        Locker.buffered.set(slug="x", member="anna", number=3, title="old")
        Team.buffered.delete(slug="red")
        Locker.buffered.set(slug="x", number=4)
        drain()
        assert Locker.objects.values_list("number", "title", "member").get() == (4, "", None)

    def test_one_that_waits_is_made_anew(self):
        """It is made anew after that, and not deleted then."""
        Branch.objects.create(slug="a", code=4)
        Branch.objects.create(slug="b")
        Branch.buffered.set(slug="a", code=None)
        Branch.buffered.set(slug="c", code=4, above="b")
        Branch.buffered.delete(slug="b")
        Branch.buffered.set(slug="a", code=1)
        Branch.buffered.set(slug="c", title="anew")
        drain()
        assert branches() == {"a": ("", 1, None), "c": ("anew", None, None)}

    def test_one_that_waits_for_another_parent(self):
        Team.objects.create(slug="red")
        Branch.objects.create(slug="holder", code=4)
        Locker.objects.create(slug="x", number=1)
        Branch.buffered.set(slug="holder", code=None)
        Branch.buffered.set(slug="b", code=4)
        Member.buffered.set(slug="anna", team="red")
        Locker.buffered.set(slug="x", member="anna", branch="b")
        Member.buffered.delete(slug="anna")
        Branch.buffered.set(slug="holder", code=1)
        drain()
        assert branches() == {"b": ("", 4, None), "holder": ("", 1, None)}
        assert not Locker.objects.exists()

    def test_one_that_keeps_its_row(self):
        Branch.objects.create(slug="b")
        Locker.buffered.set(slug="x", branch="b", number=3, title="kept")
        Branch.buffered.delete(slug="b")
        Locker.buffered.set(slug="x", number=4)
        drain()
        assert Locker.objects.values_list("number", "title", "branch").get() == (4, "kept", None)

    def test_one_whose_value_was_freed_before(self):
        Branch.objects.create(slug="a")
        Branch.objects.create(slug="c", code=4)
        Branch.buffered.set(slug="b", above="a")
        Branch.buffered.set(slug="c", code=3)
        Branch.buffered.set(slug="b", code=4)
        Branch.buffered.delete(slug="a")
        Branch.buffered.set(slug="c", code=1)
        drain()
        assert branches() == {"c": ("", 1, None)}

    @pytest.mark.parametrize("moves", [False, True])
    def test_one_with_a_value_of_the_deleted_row(self, moves):
        """It waits for the deletion. If it was moved away before, it is made anew."""
        Branch.objects.create(slug="old", code=1)
        Branch.objects.create(slug="new")
        Branch.objects.create(slug="child", above_id="old")
        Branch.objects.create(slug="below", above_id="child")
        Branch.buffered.set(slug="old", code=2)
        Branch.buffered.set(slug="child", code=1, **({"above": "new"} if moves else {}))
        Branch.buffered.delete(slug="old")
        drain()
        left = branches()
        left.pop("below", None)
        assert left == {
            "new": ("", None, None),
            **({"child": ("", 1, "new")} if moves else {}),
        }

    def test_one_with_such_a_value_that_was_moved_away_stays(self):
        """It is written without the value before the deletion, and gets the value after it."""
        Branch.objects.create(slug="old", code=1)
        Branch.objects.create(slug="child", above_id="old", title="kept")
        Branch.buffered.set(slug="old", code=None)
        Branch.buffered.set(slug="child", above=None, code=1, points=Add(1))
        Branch.buffered.delete(slug="old")
        drain()
        assert branches() == {"child": ("kept", 1, None)}
        assert Branch.objects.get().points == 1

    def test_one_whose_value_was_taken_past_redis(self, go):
        """Nobody saw that the pending row had it."""
        Branch.objects.create(slug="b")
        Branch.objects.create(slug="c", above_id="b")
        Branch.buffered.set(slug="c", code=1)
        Branch.buffered.delete(slug="b")
        Branch.objects.filter(slug="c").delete()
        go("direct")
        Branch.buffered.set(slug="a", code=1)
        go("buffered")
        drain()
        assert branches() == {"a": ("", 1, None)}


def writing_after_claims(monkeypatch: pytest.MonkeyPatch, writes: Iterator[dict[str, Any]]) -> None:
    """Write the next one to b, each time that a flusher has claimed rows for refused entries."""
    claim_rows = Related.claim_rows

    def claim_and_write(self: Related, pending: Any) -> bool:
        found = claim_rows(self, pending)
        if values := next(writes, None):
            Branch.buffered.set(slug="b", **values)
        return found

    monkeypatch.setattr(Related, "claim_rows", claim_and_write)


class TestWrittenAgain:
    """A batch is in flight, and a write past Redis has taken its value. Only the next batch would
    have freed it: it is stored together with the first one."""

    @pytest.fixture(autouse=True)
    def taken(self, database, redis_server, one_shard, go):
        def take() -> None:
            go("direct")
            Branch.buffered.set(slug="a", code=2)
            go("buffered")
            end_lease(Branch.buffered)

        Branch.buffered.set(slug="b", code=2, title="kept", points=Add(1))
        claim(Branch.buffered)
        return take

    def test_with_another_value(self, taken):
        Branch.buffered.set(slug="b", code=3, points=Add(1))
        taken()
        drain()
        assert branches() == {"a": ("", 2, None), "b": ("kept", 3, None)}
        assert Branch.objects.get(slug="b").points == 2

    def test_by_a_deletion(self, taken):
        Branch.buffered.delete(slug="b")
        taken()
        drain()
        assert branches() == {"a": ("", 2, None)}

    def test_by_the_second_write(self, taken, monkeypatch):
        writing_after_claims(monkeypatch, iter([{"title": "again"}, {"code": 3}]))
        Branch.buffered.set(slug="b", title="later")
        taken()
        assert Branch.buffered.flush(slug="b").dead_letters == 0
        assert branches() == {"a": ("", 2, None), "b": ("again", 3, None)}

    def test_all_the_time(self, taken, monkeypatch):
        """That is looked for some times: a row may be written more often than it can be stored."""
        writing_after_claims(monkeypatch, repeat({"title": "again"}))
        Branch.buffered.set(slug="b", title="later")
        taken()
        assert Branch.buffered.flush(slug="b").dead_letters == 1
        assert branches() == {"a": ("", 2, None), "b": ("again", None, None)}


def test_one_that_a_dead_flusher_was_about_to_store(monkeypatch):
    """It died amid an extension. The token that it left is void, and Redis is asked once more."""
    old, new = (Team.objects.create(slug=slug) for slug in ("old", "new"))
    Member.objects.create(slug="anna", team=old, title="went")
    Team.buffered.set(slug="other")
    Team.buffered.delete(slug="old")
    Member.buffered.set(slug="anna", team=new)
    with monkeypatch.context() as patch:
        die_before_extension(patch, Killed())
        with pytest.raises(Killed):
            Team.buffered.flush(slug="old")
    end_lease(Team.buffered)
    assert Member.buffered.flush().dead_letters == 0
    drain()
    assert list(Member.objects.values_list("title", "team")) == [("", "new")]


@pytest.mark.parametrize("step", ["flush.claimed", "flush.token"])
@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_new_parent_goes_while_its_child_is_in_flight(monkeypatch, step, is_made_anew):
    Team.buffered.set(slug="new")
    Member.buffered.set(slug="anna", team="new")

    def act() -> None:
        Team.buffered.delete(slug="new")
        if is_made_anew:
            Team.buffered.set(slug="new", title="anew")

    def hook(name: str) -> None:
        if name == step:
            monkeypatch.undo()
            elsewhere(act)

    monkeypatch.setattr(checkpoints, "hook", hook)
    assert Member.buffered.flush().dead_letters == 0
    assert checkpoints.hook is None
    drain()
    assert not Member.objects.exists()
    assert Team.objects.count() == is_made_anew


def test_a_row_that_refers_to_itself_waits_for_a_value():
    Branch.objects.create(slug="b", code=2)
    Branch.buffered.set(slug="b", code=None)
    Branch.buffered.set(slug="c", above="c", code=2)
    assert Branch.buffered.flush(slug="c").dead_letters == 0
    assert branches() == {"b": ("", None, None), "c": ("", 2, "c")}


def test_a_dead_letter_that_is_refused_again_deletes_nothing():
    Team.objects.create(slug="home")
    Team.objects.create(slug="red", title="kept")
    Member.objects.create(slug="guest", team_id="home", guest_of_id="red")
    Team.buffered.delete(slug="red")
    Team.buffered.set(slug="red", captain="nobody")
    assert Team.buffered.flush().dead_letters == 1
    Member.objects.update(guest_of=None)
    [letter] = DeadLetter.objects.all()
    assert deadletters.retry(Team.buffered, [letter.pk]) == (0, 1)
    assert Team.objects.get(slug="red").title == "kept"


@pytest.mark.parametrize("verb", ["direct", "orm"])
def test_what_was_pending_of_rows_that_went_past_redis_is_void(go, verb):
    Branch.objects.create(slug="a")
    Branch.objects.create(slug="b", above_id="a")
    Branch.buffered.set(slug="b", title="older", points=Add(1))
    if verb == "orm":
        Branch.objects.get(slug="a").delete()
    else:
        go("direct")
        Branch.buffered.delete(slug="a")
        go("buffered")
    drain()
    assert branches() == {}


@pytest.mark.parametrize("verb", ["direct", "orm"])
@pytest.mark.parametrize("is_written_later", [False, True])
def test_a_pending_child_of_a_row_that_went_past_redis(go, verb, is_written_later):
    Branch.objects.create(slug="a")
    Branch.buffered.set(slug="b", above="a", title="older", code=1)
    if verb == "orm":
        Branch.objects.get(slug="a").delete()
    else:
        go("direct")
        Branch.buffered.delete(slug="a")
        go("buffered")
    if is_written_later:
        Branch.buffered.set(slug="b", title="anew")
    drain()
    assert branches() == ({"b": ("anew", None, None)} if is_written_later else {})


def test_a_stored_child_that_was_to_move_to_a_row_that_went_goes():
    Branch.objects.create(slug="a")
    Branch.objects.create(slug="b", title="stored")
    Branch.buffered.set(slug="b", above="a")
    Branch.objects.get(slug="a").delete()
    drain()
    assert branches() == {}
