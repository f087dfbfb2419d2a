"""G2 between rows: what refers to a row, or takes its value, comes after it, and what was written
before a row goes is stored before it does."""

from __future__ import annotations

import random
import uuid

import pytest

from tests.backdoor.batches import claim, end_lease, is_in_flight
from tests.backdoor.flushes import die_before_acknowledgement
from tests.models import Branch, Gate, Member, Passage, Team
from writebehind_app.models import DeadLetter


def branches() -> set[tuple[str, str | None]]:
    return set(Branch.objects.values_list("slug", "above_id"))


class TestWithinABatch:
    def test_a_tree_in_any_order(self, database, redis_server, configure):
        configure(SHARDS=1)
        above = {f"b{n}": None if n == 0 else f"b{(n - 1) // 2}" for n in range(40)}
        slugs = [*above]
        random.Random(3).shuffle(slugs)
        for slug in slugs:
            Branch.buffered.set(slug=slug, above=above[slug])
        result = Branch.buffered.flush()
        assert (result.dead_letters, result.remaining) == (0, 0)
        assert branches() == set(above.items())

    def test_a_tree_next_to_poison(self, database, redis_server, configure):
        configure(SHARDS=1)
        Branch.buffered.set(slug="c", above="b")
        Branch.buffered.set(slug="b", above="a")
        Branch.buffered.set(slug="lost", above="nowhere")
        Branch.buffered.set(slug="below", above="lost")
        Branch.buffered.set(slug="a")
        assert Branch.buffered.flush().dead_letters == 2
        assert branches() == {("a", None), ("b", "a"), ("c", "b")}

    def test_rows_that_refer_to_each_other(self, database, redis_server, configure):
        configure(SHARDS=1)
        Branch.buffered.set(slug="a", above="b", title="A")
        Branch.buffered.set(slug="b", above="a", title="B")
        Branch.buffered.set(slug="self", above="self")
        assert Branch.buffered.flush().dead_letters == 0
        assert branches() == {("a", "b"), ("b", "a"), ("self", "self")}
        assert set(Branch.objects.values_list("title", flat=True)) == {"A", "B", ""}

    def test_one_moves_before_what_is_above_it_goes(self, database, redis_server, configure):
        configure(SHARDS=1)
        Branch.objects.create(slug="old")
        Branch.objects.create(slug="moved", title="kept", above_id="old")
        Branch.buffered.set(slug="moved", above="new")
        Branch.buffered.set(slug="new")
        Branch.buffered.delete(slug="old")
        assert Branch.buffered.flush().dead_letters == 0
        assert branches() == {("moved", "new"), ("new", None)}
        assert Branch.objects.get(slug="moved").title == "kept"

    def test_one_that_was_written_goes_with_what_is_above_it(
        self, database, redis_server, configure
    ):
        configure(SHARDS=1)
        Branch.objects.create(slug="old")
        Branch.objects.create(slug="gone", above_id="old")
        Branch.buffered.set(slug="gone", title="written before")
        Branch.buffered.delete(slug="old")
        assert Branch.buffered.flush().dead_letters == 0
        assert branches() == set()

    def test_one_that_comes_after_what_went(self, database, redis_server, configure):
        configure(SHARDS=1)
        Branch.objects.create(slug="top")
        Branch.objects.create(slug="low", title="before", above_id="top")
        Branch.buffered.delete(slug="top")
        Branch.buffered.set(slug="low", above=None)
        assert Branch.buffered.flush().dead_letters == 0
        assert list(Branch.objects.values_list("slug", "title")) == [("low", "")]

    @pytest.mark.parametrize("poison", [False, True])
    def test_a_value_is_freed_by_a_later_key(self, database, redis_server, configure, poison):
        configure(SHARDS=1)
        for n in range(6):
            Branch.objects.create(slug=f"b{n}", code=n)
        Branch.buffered.set(slug="b5", code=6)
        for n in (4, 3, 2, 1, 0):
            Branch.buffered.set(slug=f"b{n}", code=n + 1)
        Branch.buffered.set(slug="b5", title="written last")
        if poison:
            Branch.buffered.set(slug="bad", above="nowhere")
        assert Branch.buffered.flush().dead_letters == int(poison)
        codes = dict(Branch.objects.values_list("slug", "code"))
        assert codes == {f"b{n}": n + 1 for n in range(6)}

    def test_two_swap_their_values(self, database, redis_server, configure):
        configure(SHARDS=1)
        Branch.objects.create(slug="a", code=1)
        Branch.objects.create(slug="b", code=2)
        Branch.buffered.set(slug="a", code=None)
        Branch.buffered.set(slug="b", code=1)
        Branch.buffered.set(slug="a", code=2)
        assert Branch.buffered.flush().dead_letters == 0
        assert dict(Branch.objects.values_list("slug", "code")) == {"a": 2, "b": 1}

    def test_what_is_taken_for_good_is_left_as_it_was(self, database, redis_server, configure):
        """Although its value was null for a moment."""
        configure(SHARDS=1)
        Branch.objects.create(slug="a", code=1)
        Branch.objects.create(slug="b", code=2)
        Branch.objects.create(slug="c", code=3)
        Branch.buffered.set(slug="a", code=3)
        Branch.buffered.set(slug="b", code=3)
        assert Branch.buffered.flush().dead_letters == 2
        assert dict(Branch.objects.values_list("slug", "code")) == {"a": 1, "b": 2, "c": 3}


def members() -> set[tuple[str, str, str]]:
    return set(Member.objects.values_list("slug", "title", "team_id"))


@pytest.fixture
def old(database) -> Team:
    team = Team.objects.create(slug="old")
    Member.objects.create(slug="anna", title="kept", team=team)
    Member.objects.create(slug="ben", team=team)
    return team


class TestADeletionThatWaits:
    """For a value that another row is about to give up: the two that come first are written in two
    goes, as the row that gives it up was written once more."""

    @pytest.fixture(autouse=True)
    def before(self, database, redis_server, configure):
        configure(SHARDS=1)
        Branch.objects.create(slug="a", title="stored")
        Branch.objects.create(slug="kid", title="stored", above_id="a")
        Branch.objects.create(slug="z", code=5)
        Branch.buffered.set(slug="z", code=None)
        Branch.buffered.set(slug="low", code=5)
        Branch.buffered.set(slug="z", title="later")
        Branch.buffered.delete(slug="a")

    def flushed(self) -> dict[str, tuple[str, str | None]]:
        result = Branch.buffered.flush()
        assert (result.dead_letters, result.remaining) == (0, 0)
        rows = {row["slug"]: row for row in Branch.objects.values()}
        assert rows.pop("low")["code"] == 5
        assert rows.pop("z")["title"] == "later"
        return {slug: (row["title"], row["above_id"]) for slug, row in rows.items()}

    def test_a_row_that_comes_after_it_stays(self):
        Branch.buffered.set(slug="a", title="anew")
        Branch.buffered.set(slug="new", above="a")
        assert self.flushed() == {"a": ("anew", None), "new": ("", "a")}

    def test_a_row_that_went_with_it_is_made_anew(self):
        Branch.buffered.set(slug="kid", above=None)
        assert self.flushed() == {"kid": ("", None)}


def test_a_row_whose_deletion_is_refused_at_first_is_made_anew_after_it(database, redis_server):
    """A guest protects it, and is known only by the last team it went to. Another deletion has the
    two writes to the row in pieces."""
    for slug in ("home", "old", "other", "gone"):
        Team.objects.create(slug=slug, title="stored")
    Member.objects.create(slug="guest", team_id="home", guest_of_id="old")
    Member.buffered.set(slug="guest", guest_of=None)
    Team.buffered.delete(slug="old")
    Team.buffered.delete(slug="gone")
    Team.buffered.set(slug="old")
    Member.buffered.set(slug="guest", guest_of="other")
    assert Team.buffered.flush().dead_letters == 0
    assert dict(Team.objects.values_list("slug", "title")) == {
        "home": "stored",
        "old": "",
        "other": "stored",
    }
    assert Member.objects.get().guest_of_id == "other"


@pytest.mark.parametrize("flush_first", [Team, Member])
class TestBetweenBuffers:
    def drain(self, model) -> None:
        for buffer in sorted((Team.buffered, Member.buffered), key=lambda b: b.model is not model):
            result = buffer.flush()
            assert (result.dead_letters, result.errors, result.remaining) == (0, 0, 0)
        assert Team.buffered.count_pending() + Member.buffered.count_pending() == 0
        assert not DeadLetter.objects.exists()

    def test_two_that_refer_to_each_other(self, database, redis_server, configure, flush_first):
        configure(SHARDS=1)
        Team.buffered.set(slug="red", captain="anna")
        Member.buffered.set(slug="anna", team="red", title="captain")
        self.drain(flush_first)
        assert members() == {("anna", "captain", "red")}
        assert Team.objects.get().captain_id == "anna"

    def test_a_child_moves_before_its_parent_goes(
        self, database, redis_server, configure, flush_first, old
    ):
        Team.buffered.set(slug="new")
        Member.buffered.set(slug="anna", team="new")
        Team.buffered.delete(slug="old")
        self.drain(flush_first)
        assert members() == {("anna", "kept", "new")}

    def test_a_child_that_was_written_goes(
        self, database, redis_server, configure, flush_first, old
    ):
        if flush_first is Member:
            pytest.skip("It is stored before.")
        Member.buffered.set(slug="anna", title="written")
        Member.buffered.set(slug="carl", team="old")
        Team.buffered.delete(slug="old")
        self.drain(flush_first)
        assert members() == set()

    def test_a_row_that_is_protected_until_then(
        self, database, redis_server, configure, flush_first, old
    ):
        Team.objects.create(slug="host")
        Member.objects.update(guest_of="host")
        Member.buffered.set(slug="anna", guest_of=None)
        Member.buffered.delete(slug="ben")
        Team.buffered.delete(slug="host")
        self.drain(flush_first)
        assert members() == {("anna", "kept", "old")}

    def test_shards_of_one_tree(self, database, redis_server, configure, flush_first):
        if flush_first is Member:
            pytest.skip("It is about another model.")
        configure(SHARDS=4)
        above = {f"b{n}": f"b{n - 1}" if n else None for n in range(12)}
        for slug in reversed(above):
            Branch.buffered.set(slug=slug, above=above[slug])
        assert Branch.buffered.flush().dead_letters == 0
        assert branches() == set(above.items())


class TestParents:
    def test_of_records(self, database, redis_server, configure):
        id = uuid.uuid4()
        Gate.buffered.set(id=id, name="north")
        Team.buffered.set(slug="red")
        Passage.buffered.append(gate=id, team="red")
        assert Passage.buffered.flush().dead_letters == 0
        assert Passage.objects.get().gate.name == "north"


class TestTokens:
    def both(self) -> None:
        Team.buffered.set(slug="red", title="Red")
        Member.buffered.set(slug="anna", team="red", title="captain")

    def test_each_batch_is_acknowledged(self, database, redis_server, configure):
        configure(SHARDS=1)
        self.both()
        assert Member.buffered.flush().dead_letters == 0
        assert not is_in_flight(Team.buffered)
        assert not is_in_flight(Member.buffered)

    def test_each_batch_has_its_own(self, database, redis_server, configure, monkeypatch):
        """A flusher dies before it acknowledges any of them: none is stored twice."""
        configure(SHARDS=1)
        self.both()
        with monkeypatch.context() as patch:
            die_before_acknowledgement(patch, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                Member.buffered.flush()
        assert members() == {("anna", "captain", "red")}
        Team.objects.update(title="later")
        Member.objects.update(title="later")
        end_lease(Team.buffered)
        end_lease(Member.buffered)
        Team.buffered.flush()
        Member.buffered.flush()
        assert members() == {("anna", "later", "red")}
        assert Team.objects.get().title == "later"
        assert not is_in_flight(Team.buffered)
        assert not is_in_flight(Member.buffered)

    def test_a_related_batch_that_is_stored_is_acknowledged(
        self, database, redis_server, configure
    ):
        configure(SHARDS=1)
        Team.objects.create(slug="red")
        Member.buffered.set(slug="anna", team="red", title="captain")
        [claimed] = claim(Member.buffered)
        claimed.commit()
        end_lease(Member.buffered)
        Member.objects.update(title="later")
        Team.buffered.delete(slug="blue")
        assert Team.buffered.flush().errors == 0
        assert members() == {("anna", "later", "red")}
        assert not is_in_flight(Member.buffered)
