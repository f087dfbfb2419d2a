"""G2 over the borders of a batch: what an entry needs of others is claimed with it, wherever those
wait, before it becomes a dead letter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections
from django.db.models import Model, ProtectedError
from django.db.models.signals import pre_delete

from tests.backdoor.batches import claim, end_lease, in_another_shard, is_in_flight
from tests.backdoor.flushes import act_before_extension, die_before_extension
from tests.elsewhere import elsewhere
from tests.models import Branch, Gate, Locker, Member, Passage, Team
from writebehind_app import Add, Max, Min
from writebehind_app.database import parents
from writebehind_app.flush.engine import flush
from writebehind_app.models import AppliedBatch, DeadLetter


def codes() -> dict[str, int | None]:
    return dict(Branch.objects.values_list("slug", "code"))


def numbers() -> dict[str, int]:
    return dict(Locker.objects.values_list("slug", "number"))


def locker(slug: str, number: int, **more: object) -> Locker:
    return Locker.objects.create(slug=slug, number=number, label=slug, **more)


SHARDS = pytest.mark.parametrize("shards", [1, 4])


@SHARDS
class TestFlushOfAKey:
    def drain(self) -> None:
        for model in (Team, Member, Branch, Locker):
            result = model.buffered.flush()
            assert (result.dead_letters, result.errors, result.remaining) == (0, 0, 0)
            assert not is_in_flight(model.buffered)
        assert not DeadLetter.objects.exists()

    def test_a_value_that_another_write_frees(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        Branch.objects.create(slug="a", code=1)
        Branch.objects.create(slug="b", code=2)
        Branch.objects.create(slug="c", code=3)
        Branch.buffered.set(slug="a", code=None)
        Branch.buffered.set(slug="b", code=1)
        Branch.buffered.set(slug="c", code=2)
        result = Branch.buffered.flush(slug="c")
        assert (result.dead_letters, result.remaining) == (0, 0)
        assert codes() == {"a": None, "b": 1, "c": 2}
        self.drain()

    def test_a_value_that_another_write_deletes(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        locker("a", 1)
        Locker.buffered.delete(slug="a")
        Locker.buffered.set(slug="b", number=1)
        assert Locker.buffered.flush(slug="b").dead_letters == 0
        assert numbers() == {"b": 1}
        self.drain()

    def test_values_that_are_unique_together(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        locker("a", 1, hall="north")
        Locker.objects.create(slug="b", number=2, label="a", hall="south")
        Locker.buffered.set(slug="a", hall="west")
        Locker.buffered.set(slug="b", hall="north")
        assert Locker.buffered.flush(slug="b").dead_letters == 0
        assert dict(Locker.objects.values_list("slug", "hall")) == {"a": "west", "b": "north"}
        self.drain()

    def test_a_value_that_goes_with_a_row_above(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        team = Team.objects.create(slug="red")
        locker("a", 1, member=Member.objects.create(slug="anna", team=team))
        Team.buffered.delete(slug="red")
        Locker.buffered.set(slug="b", number=1)
        assert Locker.buffered.flush(slug="b").dead_letters == 0
        assert numbers() == {"b": 1}
        self.drain()

    def test_a_value_that_is_taken_for_good(self, database, redis_server, configure, shards):
        """Others that wait are left alone."""
        configure(SHARDS=shards)
        Branch.objects.create(slug="a", code=1)
        Branch.objects.create(slug="b", code=2)
        Branch.buffered.set(slug="b", code=1)
        Branch.buffered.set(slug="other", title="waits")
        assert Branch.buffered.flush(slug="b").dead_letters == 1
        assert codes() == {"a": 1, "b": 2}
        assert Branch.buffered.count_pending() == 1

    def test_a_value_that_is_freed_too_late(self, database, redis_server, configure, shards):
        """The other write does not help, and is stored all the same."""
        configure(SHARDS=shards)
        Branch.objects.create(slug="a", code=1)
        Branch.buffered.set(slug="a", title="written")
        Branch.buffered.set(slug="b", code=1)
        assert Branch.buffered.flush(slug="b").dead_letters == 1
        assert codes() == {"a": 1}
        assert Branch.objects.get().title == "written"

    def test_what_is_above_in_the_tree(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        Branch.buffered.set(slug="a")
        Branch.buffered.set(slug="b", above="a")
        Branch.buffered.set(slug="c", above="b")
        Branch.buffered.set(slug="other")
        assert Branch.buffered.flush(slug="c").dead_letters == 0
        assert {"a", "b", "c"} <= set(Branch.objects.values_list("slug", flat=True))
        self.drain()

    def test_one_that_moves_from_what_goes(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        old = Branch.objects.create(slug="old")
        Branch.objects.create(slug="moved", title="kept", above=old)
        Branch.buffered.set(slug="new")
        Branch.buffered.set(slug="moved", above="new")
        Branch.buffered.delete(slug="old")
        assert Branch.buffered.flush(slug="old").dead_letters == 0
        assert Branch.objects.get(slug="moved").title == "kept"
        self.drain()

    def test_one_that_comes_after_what_goes(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        old = Branch.objects.create(slug="old")
        Branch.objects.create(slug="low", title="before", above=old)
        Branch.buffered.delete(slug="old")
        Branch.buffered.set(slug="low", code=1)
        assert Branch.buffered.flush(slug="low").dead_letters == 0
        assert list(Branch.objects.values_list("slug", "title", "code")) == [("low", "", 1)]
        self.drain()

    def test_one_that_comes_after_what_goes_in_another_buffer(
        self, database, redis_server, configure, shards
    ):
        configure(SHARDS=shards)
        team = Team.objects.create(slug="old")
        Team.objects.create(slug="new")
        Member.objects.create(slug="anna", title="before", team=team)
        Team.buffered.delete(slug="old")
        Member.buffered.set(slug="anna", team="new")
        assert Member.buffered.flush(slug="anna").dead_letters == 0
        assert list(Member.objects.values_list("slug", "title", "team")) == [("anna", "", "new")]
        self.drain()


@SHARDS
class TestMoreThanOneClaim:
    def test_of_children(self, database, redis_server, configure, shards):
        configure(SHARDS=shards, BATCH_SIZE=3)
        old = Team.objects.create(slug="old")
        Team.objects.create(slug="new")
        slugs = [f"m{n}" for n in range(20)]
        Member.objects.bulk_create([Member(slug=s, title="kept", team=old) for s in slugs])
        for slug in slugs:
            Member.buffered.set(slug=slug, team="new")
        Team.buffered.delete(slug="old")
        assert Team.buffered.flush().dead_letters == 0
        assert set(Member.objects.values_list("slug", "title", "team")) == {
            (slug, "kept", "new") for slug in slugs
        }

    def test_beside_a_batch_that_was_left(self, database, redis_server, configure, shards):
        configure(SHARDS=shards, BATCH_SIZE=3)
        old = Team.objects.create(slug="old")
        Team.objects.create(slug="new")
        slugs = [f"m{n}" for n in range(20)]
        Member.objects.bulk_create([Member(slug=s, title="kept", team=old) for s in slugs])
        for slug in slugs[:10]:
            Member.buffered.set(slug=slug, title="first")
        claim(Member.buffered, size=2)
        end_lease(Member.buffered)
        for slug in slugs:
            Member.buffered.set(slug=slug, team="new")
        Team.buffered.delete(slug="old")
        assert Team.buffered.flush().dead_letters == 0
        assert set(Member.objects.values_list("slug", "team")) == {(s, "new") for s in slugs}
        Member.buffered.flush()
        titles = dict(Member.objects.values_list("slug", "title"))
        assert titles == {s: "first" if n < 10 else "kept" for n, s in enumerate(slugs)}

    def test_of_one_tree(self, database, redis_server, configure, shards):
        configure(SHARDS=shards, BATCH_SIZE=3)
        Branch.objects.create(slug="old")
        slugs = [f"b{n}" for n in range(20)]
        Branch.objects.bulk_create([Branch(slug=s, title="kept", above_id="old") for s in slugs])
        Branch.buffered.set(slug="old", title="goes")
        for slug in slugs:
            Branch.buffered.set(slug=slug, above=None)
        Branch.buffered.delete(slug="old")
        assert Branch.buffered.flush().dead_letters == 0
        assert set(Branch.objects.values_list("slug", "title")) == {(s, "kept") for s in slugs}

    def test_of_records(self, database, redis_server, configure, shards):
        configure(SHARDS=shards, BATCH_SIZE=3)
        gate = Gate.objects.create()
        Team.objects.create(slug="red")
        for _ in range(10):
            Passage.buffered.append(gate=gate, team="red")
        claim(Passage.buffered, size=2)
        end_lease(Passage.buffered)
        Gate.buffered.delete(id=gate.id)
        assert Gate.buffered.flush().dead_letters == 0
        assert Passage.buffered.flush().dead_letters == 0
        assert not Passage.objects.exists()


@pytest.mark.parametrize("flush_first", [Team, Member])
class TestBothSidesOfADeletion:
    @pytest.mark.parametrize(
        ("before", "after", "title"),
        [
            ({"title": "written"}, {"team": "new"}, ""),  # it goes with its team, and comes again
            ({"team": "new"}, {"title": "written"}, "written"),  # it had moved before
        ],
    )
    def test_a_member(self, database, redis_server, configure, flush_first, before, after, title):
        old = Team.objects.create(slug="old")
        Team.objects.create(slug="new")
        Member.objects.create(slug="anna", title="stored", team=old)
        Member.buffered.set(slug="anna", **before)
        Team.buffered.delete(slug="old")
        Member.buffered.set(slug="anna", **after)
        assert flush_first.buffered.flush().dead_letters == 0
        Team.buffered.flush()
        Member.buffered.flush()
        assert Member.objects.values_list("slug", "title", "team").get() == ("anna", title, "new")

    @pytest.mark.parametrize("is_stored", [False, True])
    @pytest.mark.parametrize(
        ("operation", "points"), [(Add(2), 2), (Max(3), 3), (Min(9), 0), (Add(-1), -1)]
    )
    def test_an_operation_on_what_went(
        self, database, redis_server, configure, flush_first, operation, points, is_stored
    ):
        old = Branch.objects.create(slug="old")
        if is_stored:
            Branch.objects.create(slug="low", above=old, points=1)
        Branch.buffered.set(slug="low", above="old", points=5)
        Branch.buffered.delete(slug="old")
        Branch.buffered.set(slug="low", points=operation)
        assert Branch.buffered.flush().dead_letters == 0
        assert list(Branch.objects.values_list("slug", "above", "points")) == [
            ("low", None, points)
        ]

    def test_what_is_left_of_it_is_refused(self, database, redis_server, configure, flush_first):
        """As by the ORM: a member without a team."""
        old = Team.objects.create(slug="old")
        Member.objects.create(slug="anna", title="stored", team=old)
        Member.buffered.set(slug="anna", team="old")
        Team.buffered.delete(slug="old")
        Member.buffered.set(slug="anna", title="written")
        results = [model.buffered.flush() for model in (flush_first, Team, Member)]
        assert [result.dead_letters for result in results] == [1, 0, 0]
        assert DeadLetter.objects.count() == 1
        assert not Member.objects.exists()

    def test_a_piece_that_waits(self, database, redis_server, configure, flush_first):
        """For a value: so does what was written to the row after it went with another one."""
        configure(SHARDS=1)
        old = Branch.objects.create(slug="old")
        Branch.objects.create(slug="low", above=old)
        Branch.objects.create(slug="z", code=5)
        Branch.buffered.set(slug="z", code=None)
        Branch.buffered.set(slug="low", code=5)
        Branch.buffered.set(slug="z", title="written later")
        Branch.buffered.delete(slug="old")
        Branch.buffered.set(slug="low", title="anew")
        assert Branch.buffered.flush().dead_letters == 0
        low = Branch.objects.get(slug="low")
        assert (low.title, low.code, low.above_id) == ("anew", None, None)

    @pytest.mark.parametrize("is_stored", [False, True])
    @pytest.mark.parametrize("between", ["a member goes", "a team goes", "its own team comes back"])
    def test_a_piece_without_any_value(
        self, database, redis_server, configure, flush_first, is_stored, between
    ):
        """What it had was written once more after the deletion: it is no row by itself."""
        configure(SHARDS=1)
        team = Team.objects.create(slug="a")
        Team.objects.create(slug="b")
        if is_stored:
            Member.objects.create(slug="anna", team=team)
        Member.buffered.delete(slug="anna")
        Member.buffered.set(slug="anna", team="a")
        match between:
            case "a member goes":
                Member.buffered.delete(slug="bert")
            case "a team goes":
                Team.buffered.delete(slug="b")
            case _:
                Team.buffered.delete(slug="a")
                Team.buffered.set(slug="a")
        Member.buffered.set(slug="anna", team="a")
        assert flush_first.buffered.flush().dead_letters == 0
        assert Member.buffered.flush().dead_letters == 0
        assert Member.objects.get().team_id == "a"

    def test_pieces_that_find_no_row(self, database, redis_server, configure, flush_first):
        """The ledger counts rows, and no fewer than none."""
        configure(SHARDS=1)
        Member.buffered.delete(slug="anna")
        Member.buffered.delete(slug="bert")
        Team.buffered.set(slug="a")
        Member.buffered.set(slug="anna", team="a")
        Team.buffered.delete(slug="a")
        result = flush_first.buffered.flush()
        assert (result.rows, result.errors, result.dead_letters) == (0, 0, 0)
        assert Member.buffered.flush().errors == 0

    def test_what_cannot_be_placed_is_kept(self, database, redis_server, configure, flush_first):
        """Redis does not know any more in which team a member was first."""
        Team.objects.create(slug="other")
        Team.objects.create(slug="new")
        Member.buffered.set(slug="anna", title="written", team="other")
        Team.buffered.delete(slug="old")
        Member.buffered.set(slug="anna", team="new")
        flush_first.buffered.flush()
        Team.buffered.flush()
        Member.buffered.flush()
        assert not DeadLetter.objects.exists()
        assert list(Member.objects.values_list("slug", "title", "team")) == [
            ("anna", "written", "new")
        ]


@pytest.mark.parametrize("first", [Team, Member, Locker])
class TestAParentThatIsMadeAndDeletedInBetween:
    """Nothing is stored of it, and its children do as if it had been."""

    @pytest.fixture(autouse=True)
    def servers(self, database, redis_server, configure):
        pass

    def flush(self, first) -> int:
        results = [model.buffered.flush() for model in (first, Team, Member, Locker, Branch)]
        return sum(result.dead_letters for result in results)

    def test_its_children_and_theirs_go(self, first):
        Team.buffered.set(slug="a")
        Member.buffered.set(slug="anna", team="a")
        Locker.buffered.set(slug="x", number=1, member="anna")
        Team.buffered.delete(slug="a")
        assert self.flush(first) == 0
        assert [model.objects.count() for model in (Team, Member, Locker)] == [0, 0, 0]

    def test_a_stored_child_that_moved_to_it_goes(self, first):
        anna = Member.objects.create(slug="anna", team=Team.objects.create(slug="b"))
        Locker.objects.create(slug="x", number=1, member=anna)
        Team.buffered.set(slug="a")
        Member.buffered.set(slug="anna", team="a")
        Team.buffered.delete(slug="c")
        Member.buffered.set(slug="anna", title="later")
        Locker.buffered.set(slug="x", title="later")
        Team.buffered.delete(slug="a")
        assert self.flush(first) == 0
        assert Team.objects.get().slug == "b"
        assert [model.objects.count() for model in (Member, Locker)] == [0, 0]

    def test_what_is_written_to_a_child_before_it_goes(self, first):
        """Another deletion in between: the child is written in two pieces."""
        Team.buffered.set(slug="a")
        Member.buffered.set(slug="anna", team="a")
        Team.buffered.delete(slug="c")
        Member.buffered.set(slug="anna", title="later")
        Team.buffered.delete(slug="a")
        assert self.flush(first) == 0
        assert not Member.objects.exists()

    def test_a_child_comes_back_without_what_went(self, first):
        Team.objects.create(slug="b")
        Team.buffered.set(slug="a")
        Member.buffered.set(slug="anna", title="went", team="a")
        Team.buffered.delete(slug="a")
        Team.buffered.set(slug="a", title="anew")
        Locker.buffered.set(slug="x", number=1)
        assert self.flush(first) == 0
        assert Team.objects.get(slug="a").title == "anew"
        assert not Member.objects.exists()

    def test_a_reference_that_may_be_null_is(self, first):
        Branch.buffered.set(slug="a")
        Locker.buffered.set(slug="x", number=1, branch="a", title="kept")
        Branch.buffered.delete(slug="a")
        assert self.flush(first) == 0
        assert list(Locker.objects.values_list("title", "branch")) == [("kept", None)]

    def test_two_parents(self, first):
        Team.buffered.set(slug="a")
        Branch.buffered.set(slug="b")
        Member.buffered.set(slug="anna", team="a")
        Locker.buffered.set(slug="x", number=1, branch="b", member="anna")
        Branch.buffered.delete(slug="b")
        Team.buffered.delete(slug="a")
        assert self.flush(first) == 0
        assert [model.objects.count() for model in (Member, Locker)] == [0, 0]

    def test_rows_of_one_tree(self, first):
        """The two deletions are one step, and the child is written in it."""
        Branch.objects.create(slug="c")
        Branch.buffered.set(slug="a", above="c")
        Branch.buffered.delete(slug="c")
        Branch.buffered.set(slug="a")
        Branch.buffered.set(slug="c", above="a")
        Branch.buffered.delete(slug="a")
        assert self.flush(first) == 0
        assert not Branch.objects.exists()

    def test_a_child_that_waits_for_others(self, first):
        """It refers to rows that refer to each other, too."""
        Team.objects.create(slug="a")
        Locker.objects.create(slug="x", number=1)
        Branch.buffered.set(slug="b")
        Branch.buffered.set(slug="c", above="b")
        Branch.buffered.set(slug="b", above="c")
        Member.buffered.set(slug="anna", team="a")
        Locker.buffered.set(slug="x", member="anna", branch="b")
        Member.buffered.delete(slug="anna")
        assert self.flush(first) == 0
        assert not Locker.objects.exists()

    def test_a_child_that_waits_for_others_and_must_not_go(self, first, request):
        Team.objects.create(slug="a")
        kept = Locker.objects.create(slug="x", number=1)

        def refuse(**_: object) -> None:
            raise ProtectedError("x is kept", {kept})

        pre_delete.connect(refuse, sender=Locker)
        request.addfinalizer(lambda: pre_delete.disconnect(refuse, sender=Locker))
        Branch.buffered.set(slug="b")
        Branch.buffered.set(slug="c", above="b")
        Branch.buffered.set(slug="b", above="c")
        Member.buffered.set(slug="anna", team="a")
        Locker.buffered.set(slug="x", member="anna", branch="b")
        Member.buffered.delete(slug="anna")
        assert self.flush(first) == 1
        assert Locker.objects.get() == kept

    def test_one_that_never_was_is_a_dead_letter(self, first):
        Member.buffered.set(slug="anna", team="a")
        Team.buffered.delete(slug="a")
        assert self.flush(first) == 1

    def test_one_that_was_made_after_its_child_is_a_dead_letter(self, first):
        Member.buffered.set(slug="anna", team="a")
        Team.buffered.set(slug="a")
        Team.buffered.delete(slug="a")
        assert self.flush(first) == 1

    def test_a_deletion_that_the_database_refuses_is_a_dead_letter(self, first):
        Team.objects.create(slug="b")
        Team.buffered.set(slug="a")
        Member.buffered.set(slug="anna", team="b", guest_of="a")
        Team.buffered.delete(slug="a")
        assert self.flush(first) == 1


@pytest.fixture
def before_redis_is_asked(monkeypatch) -> Callable[[Callable[[], object]], None]:
    """Something happens after the database refused an entry, and before Redis says whether the row
    that it needs is pending."""

    def begin(act: Callable[[], object]) -> None:
        read, left = parents.divided.read, [act]

        def dawdle(*args: Any, **options: Any) -> Any:
            if left:
                elsewhere(left.pop())
            return read(*args, **options)

        monkeypatch.setattr(parents.divided, "read", dawdle)

    return begin


class TestStoredBeforeRedisIsAsked:
    """Another flusher stores what an entry needs when the database has just refused it."""

    @pytest.fixture(autouse=True)
    def several_writers(self, database, redis_server):
        if connections[database].vendor == "sqlite":
            pytest.skip("It has one writing transaction at a time.")

    def test_a_parent(self, before_redis_is_asked):
        Team.buffered.set(slug="a")
        Member.buffered.set(slug="anna", team="a")
        (found,) = claim(Team.buffered)
        before_redis_is_asked(found.flush)
        assert Member.buffered.flush().dead_letters == 0
        assert Member.objects.get().team_id == "a"

    @pytest.mark.parametrize("is_first", [False, True])
    def test_one_of_two_parents(self, configure, before_redis_is_asked, is_first):
        configure(SHARDS=2)
        slugs = ["a", in_another_shard(Team.buffered, "a", "bcdefgh")]
        stored, pending = slugs if is_first else slugs[::-1]
        Team.buffered.set(slug=stored)
        (found,) = claim(Team.buffered)
        Team.buffered.set(slug=pending)
        Member.buffered.set(slug="anna", team=pending, guest_of=stored)
        before_redis_is_asked(found.flush)
        assert Member.buffered.flush().dead_letters == 0
        assert Member.objects.get().team_id == pending

    def test_a_value_is_freed(self, database, configure, before_redis_is_asked):
        """On MariaDB the locks keep the other flusher out."""
        if connections[database].vendor == "mysql":
            pytest.skip("Nobody frees the value meanwhile.")
        configure(SHARDS=2)
        Branch.objects.create(slug="a", code=1)
        Branch.buffered.set(slug="a", code=None)
        (found,) = claim(Branch.buffered)
        slug = in_another_shard(Branch.buffered, "a", "bcdefgh")
        Branch.buffered.set(slug=slug, code=1)
        before_redis_is_asked(found.flush)
        assert Branch.buffered.flush(slug=slug).dead_letters == 0
        assert Branch.objects.get(slug=slug).code == 1


@pytest.mark.parametrize("shards", [1, 3])
class TestDeletionsThatAreInTheWay:
    @pytest.fixture(autouse=True)
    def servers(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        for slug in "abc":
            Team.objects.create(slug=slug)

    def flush(self) -> tuple[int, int]:
        """How many dead letters, and how many rows were written."""
        results = [model.buffered.flush() for model in (Team, Member, Branch, Locker)]
        return sum(each.dead_letters for each in results), sum(each.rows for each in results)

    def test_one_at_a_time(self):
        """A row waits for what comes after the first deletion, and must move before the second."""
        Locker.objects.create(
            slug="x", number=1, title="kept", member=Member.objects.create(slug="old", team_id="a")
        )
        Member.buffered.set(slug="new", team="c")
        Locker.buffered.set(slug="x", member="new")
        Member.buffered.delete(slug="nobody")
        Member.buffered.set(slug="new", team="b")
        Team.buffered.delete(slug="a")
        assert self.flush()[0] == 0
        assert Locker.objects.values_list("title", "member").get() == ("kept", "new")

    def test_one_that_waits_for_what_pieces_were_joined_for(self):
        Member.objects.create(slug="bob", team_id="b", guest_of_id="c")
        Member.buffered.delete(slug="anna")
        Member.buffered.set(slug="anna", team="a")
        Team.buffered.set(slug="v", captain="anna")
        Member.buffered.set(slug="carl", team="v")
        Team.buffered.set(slug="u", captain="carl")
        Member.buffered.set(slug="bob", team="u", guest_of=None)
        Team.buffered.delete(slug="c")
        Member.buffered.set(slug="anna", team="a")
        assert self.flush()[0] == 0
        assert not Team.objects.filter(slug="c").exists()

    @pytest.mark.parametrize("is_stored", [False, True])
    def test_of_what_a_row_was_made_below(self, is_stored):
        """SQLite finds out at the commit, which no try would have got over."""
        Branch.objects.create(slug="above")
        if is_stored:
            Branch.objects.create(slug="below", title="went")
        Branch.buffered.delete(slug="below")
        Branch.buffered.set(slug="below", above="above")
        Branch.buffered.delete(slug="above")
        assert self.flush()[0] == 0
        assert not Branch.objects.exists()

    def test_rows_are_counted_once(self):
        Member.objects.create(slug="anna", team_id="a")
        Member.buffered.delete(slug="nobody")
        Member.buffered.set(slug="anna", title="one")
        Team.buffered.delete(slug="none")
        Member.buffered.set(slug="anna", points=3)
        assert self.flush() == (0, 1)


@SHARDS
class TestADeletionAfterRowsThatWaitForEachOther:
    """They are stored before it, and so they do not go with the row that they have left."""

    @pytest.fixture(autouse=True)
    def servers(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)

    def drain(self, *models) -> None:
        for model in models:
            result = model.buffered.flush()
            assert (result.dead_letters, result.errors, result.remaining) == (0, 0, 0)

    def test_a_swap(self):
        old, new = (Branch.objects.create(slug=slug) for slug in ("old", "new"))
        Branch.objects.create(slug="a", code=1, title="kept", above=old)
        Branch.objects.create(slug="b", code=2, title="kept", above=old)
        Branch.buffered.set(slug="a", code=None, above=new, points=Add(1))
        Branch.buffered.set(slug="b", code=1, above=new, points=Add(1))
        Branch.buffered.set(slug="a", code=2)
        Branch.buffered.delete(slug="old")
        self.drain(Branch)
        rows = Branch.objects.filter(above="new").values_list("slug", "code", "title", "points")
        assert {*rows} == {("a", 2, "kept", 1), ("b", 1, "kept", 1)}

    def test_a_swap_of_other_rows(self):
        """Two deletions, and each has a swap before it."""
        old, older = (Branch.objects.create(slug=slug) for slug in ("old", "older"))
        for n, (slug, above) in enumerate([("a", old), ("b", None), ("c", older), ("d", None)]):
            Branch.objects.create(slug=slug, code=n, title="kept", above=above)
        for one, other, above in (("a", "b", "old"), ("c", "d", "older")):
            codes = dict(Branch.objects.values_list("slug", "code"))
            Branch.buffered.set(slug=one, code=None, above=None)
            Branch.buffered.set(slug=other, code=codes[one])
            Branch.buffered.set(slug=one, code=codes[other])
            Branch.buffered.delete(slug=above)
        self.drain(Branch)
        rows = Branch.objects.values_list("slug", "code", "title")
        assert {*rows} == {("a", 1, "kept"), ("b", 0, "kept"), ("c", 3, "kept"), ("d", 2, "kept")}

    def test_a_cycle(self):
        Member.objects.create(slug="anna", title="kept", team=Team.objects.create(slug="old"))
        Team.buffered.set(slug="new")
        Member.buffered.set(slug="anna", team="new")
        Member.buffered.set(slug="ben", team="new")
        Team.buffered.set(slug="new", captain="ben")
        Team.buffered.delete(slug="old")
        self.drain(Team, Member)
        members = Member.objects.filter(team="new").values_list("slug", "title")
        assert {*members} == {("anna", "kept"), ("ben", "")}
        assert Team.objects.get().captain_id == "ben"

    def test_below_a_cycle(self):
        Team.objects.create(slug="t")
        anna = Member.objects.create(slug="anna", team_id="t")
        Locker.objects.create(slug="x", number=1, title="kept", member=anna)
        Team.buffered.set(slug="new")
        Member.buffered.set(slug="ben", team="new")
        Team.buffered.set(slug="new", captain="ben")
        Locker.buffered.set(slug="x", member="ben")
        Member.buffered.delete(slug="anna")
        self.drain(Team, Member, Locker)
        assert Locker.objects.get().title == "kept"


class TestBatchesThatNeedEachOther:
    @pytest.fixture(autouse=True)
    def deletion(self, database, redis_server, configure):
        """A batch that deletes a team, and one with what was written to its member before."""
        configure(SHARDS=1, LEASE=5)
        Member.objects.create(slug="anna", team=Team.objects.create(slug="a"))
        Member.buffered.set(slug="anna", title="written")
        Team.buffered.delete(slug="a")

    @pytest.mark.parametrize(("first", "other"), [(Team, Member), (Member, Team)])
    def test_both_have_failed(self, first, other):
        """Each would wait for the other one's next try, and be told that it has failed again."""
        for model in (Team, Member):
            for each in claim(model.buffered):
                each.release(retry_in=0 if model is first else 60)
        assert first.buffered.flush().dead_letters == 0
        assert [model.objects.count() for model in (Team, Member)] == [0, 0]
        assert [is_in_flight(model.buffered) for model in (first, other)] == [False, False]

    def test_to_wait_is_no_attempt(self, caplog):
        """Or an error that nobody knows would soon make dead letters."""
        (held,) = claim(Team.buffered)
        result = flush(Member.buffered, wait=False)
        assert result.errors == 1
        assert "a batch of 1 entry waits" in caplog.text
        assert "Traceback" not in caplog.text
        assert flush(Member.buffered, wait=False).errors == 0  # not at once again
        held.release(error="")
        assert Team.buffered.flush().dead_letters == 0
        assert not Member.objects.exists()
        assert AppliedBatch.objects.filter(attempts__gt=0).count() == 0


class TestTokens:
    def test_a_sleeper_does_not_store_what_was_extended(self, database, redis_server, configure):
        """Its flusher claimed a member of a team that goes, and fell asleep; another one took the
        batch over, and had to extend it."""
        configure(SHARDS=1)
        Team.objects.create(slug="old")
        Member.objects.create(slug="anna", team_id="old")
        Member.buffered.set(slug="anna", title="claimed")
        [sleeper] = claim(Member.buffered)
        end_lease(Member.buffered)
        Team.objects.create(slug="new")
        Member.buffered.set(slug="ben", team="old")
        Member.buffered.set(slug="anna", team="new")
        Team.buffered.delete(slug="old")
        assert Team.buffered.flush().dead_letters == 0
        Member.objects.update(title="later")
        sleeper.commit_if_it_may()
        assert list(Member.objects.values_list("slug", "title")) == [("anna", "later")]
        assert not is_in_flight(Member.buffered)

    def test_one_that_dies_amid_an_extension(self, database, redis_server, configure, monkeypatch):
        configure(SHARDS=1)
        Branch.buffered.set(slug="a")
        Branch.buffered.set(slug="b", above="a", title="kept")
        with monkeypatch.context() as patch:
            die_before_extension(patch, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                Branch.buffered.flush(slug="b")
        assert not Branch.objects.exists()
        assert Branch.buffered.flush().dead_letters == 0
        assert set(Branch.objects.values_list("slug", "title")) == {("a", ""), ("b", "kept")}


class TestABatchWhoseFlusherDied:
    """It was stored, or its token is void. What is pending of its shard is needed, too: it cannot
    be extended, and must not be in the way."""

    @pytest.fixture(autouse=True)
    def one_shard(self, database, redis_server, configure):
        configure(SHARDS=1)

    @pytest.fixture(params=["commit", "void"])
    def leave(self, request) -> Callable[[type[Model]], None]:
        """Claim the first entry of a buffer, and die in this state."""

        def leave(model: type[Model]) -> None:
            [found] = claim(model.buffered, size=1)
            getattr(found, request.param)()
            end_lease(model.buffered)

        return leave

    def drain(self, *models: type[Model]) -> None:
        for model in models:
            result = model.buffered.flush()
            assert (result.dead_letters, result.errors, result.remaining) == (0, 0, 0)
            assert not is_in_flight(model.buffered)

    def test_a_parent_is_pending(self, leave):
        Team.buffered.set(slug="a", title="first", points=Add(1))
        Team.buffered.set(slug="b")
        leave(Team)
        Member.buffered.set(slug="anna", team="b", points=Add(1))
        self.drain(Member)
        assert list(Member.objects.values_list("slug", "team", "points")) == [("anna", "b", 1)]
        self.drain(Team)
        assert {*Team.objects.values_list("slug", "title", "points")} == {
            ("a", "first", 1),
            ("b", "", 0),
        }

    def test_a_row_of_the_batch_was_written_again(self, leave):
        """What was stored counts once, also where the row is claimed for another one."""
        Branch.objects.create(slug="a")
        Branch.buffered.set(slug="a", points=Add(1))
        Locker.buffered.set(slug="x", number=1)
        Branch.buffered.set(slug="new")
        leave(Branch)
        Branch.buffered.set(slug="a", points=Add(1))
        Locker.buffered.set(slug="x", branch="new")
        self.drain(Locker, Branch)
        assert Locker.objects.get().branch_id == "new"
        assert Branch.objects.get(slug="a").points == 2

    def test_an_older_deletion_of_a_parent_is_pending(self, leave):
        old, new = (Team.objects.create(slug=slug) for slug in ("old", "new"))
        Member.objects.create(slug="anna", title="went", team=old)
        Team.buffered.set(slug="other", points=Add(1))
        Team.buffered.delete(slug="old")
        Member.buffered.set(slug="anna", team=new)
        leave(Team)
        self.drain(Member, Team)
        assert list(Member.objects.values_list("title", "team")) == [("", "new")]
        assert Team.objects.get(slug="other").points == 1

    def test_an_older_write_of_a_child_is_pending(self, leave):
        Team.objects.create(slug="new")
        for slug in ("anna", "ben"):
            Member.objects.create(slug=slug, title="kept", team=Team.objects.create(slug=slug))
        Member.buffered.set(slug="anna", points=Add(1))
        Member.buffered.set(slug="ben", team="new")
        Team.buffered.delete(slug="ben")
        leave(Member)
        self.drain(Team, Member)
        rows = Member.objects.values_list("slug", "title", "team", "points")
        assert {*rows} == {("anna", "kept", "anna", 1), ("ben", "kept", "new", 0)}

    def test_an_older_write_is_pending_in_the_same_shard(self, leave):
        Branch.objects.create(slug="goes")
        Branch.buffered.set(slug="goes", title="written")
        Branch.buffered.set(slug="later", points=Add(1))
        Branch.buffered.delete(slug="goes")
        leave(Branch)
        self.drain(Branch)
        assert list(Branch.objects.values_list("slug", "points")) == [("later", 1)]

    def test_a_sleeper_stores_it_when_rows_of_its_shard_are_about_to_be_claimed(self, monkeypatch):
        Branch.objects.create(slug="a", code=1)
        Branch.buffered.set(slug="b", code=1, points=Add(1))
        [sleeper] = claim(Branch.buffered)
        end_lease(Branch.buffered)
        Branch.buffered.set(slug="a", code=None)

        def act() -> None:
            Branch.objects.filter(slug="a").update(code=2)
            sleeper.commit()

        act_before_extension(monkeypatch, lambda: elsewhere(act))
        self.drain(Branch)
        assert codes() == {"a": None, "b": 1}
        assert Branch.objects.get(slug="b").points == 1


@SHARDS
class TestSwaps:
    def test_of_values_that_are_never_null(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        locker("a", 1)
        locker("b", 2)
        Locker.buffered.set(slug="a", number=99)
        Locker.buffered.set(slug="b", number=1)
        Locker.buffered.set(slug="a", number=2, title="swapped")
        assert Locker.buffered.flush().dead_letters == 0
        assert numbers() == {"a": 2, "b": 1}
        assert Locker.objects.get(slug="a").title == "swapped"

    def test_of_values_that_are_unique_together(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        Locker.objects.create(slug="a", number=1, hall="x", label="1")
        Locker.objects.create(slug="b", number=2, hall="x", label="2")
        Locker.buffered.set(slug="a", label="")
        Locker.buffered.set(slug="b", label="1")
        Locker.buffered.set(slug="a", label="2")
        assert Locker.buffered.flush().dead_letters == 0
        assert dict(Locker.objects.values_list("slug", "label")) == {"a": "2", "b": "1"}

    def test_by_the_flush_of_a_key(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        for n, slug in enumerate("abc"):
            locker(slug, n)
        Locker.buffered.set(slug="a", number=99)
        for n, slug in enumerate("cba"):
            Locker.buffered.set(slug=slug, number=(1 - n) % 3)
        want = {"c": 1, "b": 0, "a": 2}
        assert Locker.buffered.flush(slug="b").dead_letters == 0
        assert numbers() == want
        assert not DeadLetter.objects.exists()

    def test_not_where_a_value_is_taken_for_good(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        for n, slug in enumerate("abc"):
            locker(slug, n)
        Locker.buffered.set(slug="a", number=2)
        Locker.buffered.set(slug="b", number=2)
        assert Locker.buffered.flush().dead_letters == 2
        assert numbers() == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize("first", [Team, Member])
@pytest.mark.parametrize(("shards", "size"), [(1, 100), (3, 1)])
def test_two_new_rows_that_refer_to_each_other(
    database, redis_server, configure, first, shards, size
):
    """One of them by two keys, of which only one may be null."""
    configure(SHARDS=shards, BATCH_SIZE=size)
    Team.buffered.set(slug="a")
    Member.buffered.set(slug="anna", team="a")
    Team.buffered.set(slug="a", captain="anna")
    Member.buffered.set(slug="anna", guest_of="a")
    for model in (first, Team, Member):
        assert model.buffered.flush().dead_letters == 0
    assert Team.objects.get().captain_id == "anna"
    assert Member.objects.get().guest_of_id == "a"


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
class TestKeysThatTheDatabaseTakesForEqual:
    def test_of_a_parent_that_is_made_and_deleted(self, database, redis_server, configure):
        Team.buffered.set(slug="a")
        Member.buffered.set(slug="anna", team="A")
        Team.buffered.delete(slug="a")
        assert Team.buffered.flush().dead_letters == 0
        assert Member.buffered.flush().dead_letters == 0
        assert not Member.objects.exists()

    @pytest.mark.parametrize("pair", [("key", "KEY"), ("cafe", "café")])
    @pytest.mark.parametrize("stored", [False, True])
    @pytest.mark.parametrize("poison", [False, True])
    def test_of_one_row(self, database, redis_server, configure, pair, stored, poison):
        """Two spellings in one batch are two writes to one row."""
        configure(SHARDS=1)
        one, two = pair
        if stored:
            Branch.objects.create(slug=one, title="stored")
        Branch.buffered.set(slug=one, title="one", code=1)
        if poison:
            Branch.buffered.set(slug="bad", above="nowhere")
        Branch.buffered.set(slug=two, title="two")
        Branch.buffered.set(slug="good", title="good")
        assert Branch.buffered.flush().dead_letters == int(poison)
        found = set(Branch.objects.values_list("slug", "title", "code"))
        assert found == {(one, "two", 1), ("good", "good", None)}

    @pytest.mark.parametrize("pair", [("key", "KEY"), ("cafe", "café")])
    @pytest.mark.parametrize("poison", [False, True])
    def test_of_a_parent(self, database, redis_server, configure, pair, poison):
        configure(SHARDS=1)
        one, two = pair
        Branch.buffered.set(slug="low", above=two)
        Branch.buffered.set(slug=one)
        if poison:
            Branch.buffered.set(slug="bad", above="nowhere")
        assert Branch.buffered.flush().dead_letters == int(poison)
        assert Branch.objects.get(slug="low").above.slug == one
