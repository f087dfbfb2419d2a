"""A row that the ORM saves or deletes, and the rows that refer to it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from django.db import transaction
from django.db.models import F

from tests.backdoor.batches import claim
from tests.backdoor.calls import round_trips
from tests.backdoor.fences import fences_left
from tests.models import (
    Branch,
    Child,
    Gate,
    Locker,
    Member,
    Note,
    Owner,
    Pair,
    Passage,
    Team,
)
from tests.router import current
from writebehind_app.database import deadletters
from writebehind_app.models import DeadLetter

pytestmark = pytest.mark.usefixtures("database", "redis_server")


@pytest.fixture
def team() -> Team:
    return Team.objects.create(slug="t", title="old")


def flush_all() -> None:
    Team.buffered.flush()
    Member.buffered.flush()
    assert not DeadLetter.objects.exists()


class TestSaveOfARowThatIsToGo:
    """One by one, the deletion takes the children, and then the save makes the row anew."""

    @pytest.mark.parametrize("is_in_flight", [False, True])
    def test_the_children_go(self, is_in_flight):
        owner = Owner.objects.create(name="o")
        pair = Pair.objects.create(owner=owner, name="p", value=1)
        Child.objects.create(pair=pair)
        Pair.buffered.delete(owner=owner, name="p")
        sleepers = claim(Pair.buffered) if is_in_flight else []
        pair.value = 2
        pair.save()
        assert not Child.objects.exists()
        for sleeper in sleepers:
            sleeper.flush()
        assert Pair.buffered.flush().dead_letters == 0
        stored = Pair.objects.get()
        assert (stored.pk, stored.value) == (pair.pk, 2)

    def test_the_children_go_if_the_deletion_is_held_back(self):
        owner = Owner.objects.create(name="o")
        pair = Pair.objects.create(owner=owner, name="p", value=1)
        Child.objects.create(pair=pair)
        with transaction.atomic(using=current()):
            Pair.buffered.delete(owner=owner, name="p")
            pair.value = 2
            pair.save()
        assert Pair.buffered.flush().dead_letters == 0
        assert Pair.objects.get().value == 2
        assert not Child.objects.exists()

    def test_what_is_pending_of_the_children_goes(self, team):
        Member.objects.create(slug="m", team=team)
        Member.buffered.set(slug="m", points=5)
        Team.buffered.delete(slug="t")
        team.title = "new"
        team.save()
        flush_all()
        assert Team.objects.get().title == "new"
        assert not Member.objects.exists()

    def test_a_row_that_is_made_anew_meanwhile_stays(self, team):
        Team.buffered.delete(slug="t")
        Team.buffered.set(slug="t", points=5)
        team.title = "new"
        team.save()
        flush_all()
        assert Team.objects.get().title == "new"

    @pytest.mark.parametrize("is_held", [False, True])
    def test_what_is_pending_of_them_goes_where_an_expression_has_it_stored(self, team, is_held):
        Member.objects.create(slug="m", team=team)
        Member.buffered.set(slug="m", title="later", team=team, points=5)
        with transaction.atomic(using=current()) if is_held else nullcontext():
            Team.buffered.delete(slug="t")
            Team.buffered.set(slug="t", points=10)
            team.points = F("points") + 1
            team.save(update_fields=["points"])
        flush_all()
        assert Team.objects.get().points == 11
        assert not Member.objects.exists()

    def test_a_save_of_some_fields_comes_to_the_same(self, team):
        """Django would find no row, and raise an error."""
        Member.objects.create(slug="m", team=team)
        Team.buffered.delete(slug="t")
        team.title = "new"
        team.save(update_fields=["title"])
        flush_all()
        assert Team.objects.get().title == "new"
        assert not Member.objects.exists()


class TestDelete:
    """One by one, what was accepted for the children is stored before their parent goes."""

    def test_a_pending_child_goes_with_its_parent(self, team):
        Member.buffered.set(slug="m", team=team, title="new")
        team.delete()
        flush_all()
        assert not Member.objects.exists()

    def test_a_child_that_moved_to_the_parent_goes_with_it(self, team):
        other = Team.objects.create(slug="other")
        Member.objects.create(slug="m", team=other)
        Member.buffered.set(slug="m", team=team)
        team.delete()
        flush_all()
        assert not Member.objects.exists()

    def test_what_refers_to_a_pending_child_goes_with_it(self, team):
        Locker.buffered.set(slug="l", number=1, label="l", member_id="m")
        Member.buffered.set(slug="m", team=team)
        team.delete()
        Member.buffered.flush()
        Locker.buffered.flush()
        assert not Locker.objects.exists()

    def test_a_stored_child_of_a_stored_child(self, team):
        """The delete has both models at once."""
        Member.objects.create(slug="m", team=team)
        Locker.buffered.set(slug="l", number=1, label="l", member_id="m")
        team.delete()
        assert Locker.buffered.flush().dead_letters == 0
        assert not Locker.objects.exists()

    def test_while_redis_is_away(self, team, configure):
        Member.buffered.set(slug="m", team=team)
        configure(MODE="direct")
        team.delete()
        configure(MODE="buffered")
        flush_all()
        assert not Member.objects.exists()

    def test_a_retry_of_a_dead_letter_wants_the_parent(self, team):
        """The letter is older than the delete. Nobody wants it to go in silence."""
        Member.buffered.set(slug="m", team_id="t", guest_of_id="missing")
        assert Member.buffered.flush().dead_letters == 1
        Member.buffered.set(slug="other", team=team)
        team.delete()
        assert Member.buffered.flush().dead_letters == 0
        (letter,) = DeadLetter.objects.all()
        assert deadletters.retry(Member.buffered, [letter.pk]) == (0, 1)

    def test_a_reference_becomes_null(self):
        branch = Branch.objects.create(slug="b")
        Locker.buffered.set(slug="l", number=1, label="l", branch=branch, points=5)
        branch.delete()
        assert Locker.buffered.flush().dead_letters == 0
        stored = Locker.objects.get()
        assert (stored.branch_id, stored.points) == (None, 5)

    @pytest.mark.parametrize("is_in_flight", [False, True])
    def test_the_parent_needs_no_buffer(self, is_in_flight):
        owner = Owner.objects.create(name="o")
        Pair.buffered.set(owner=owner, name="p", value=5)
        Note.buffered.of(page="x", owner=owner)["k"] = 1
        found = [*claim(Pair.buffered), *claim(Note.buffered)] if is_in_flight else []
        Owner.objects.all().delete()
        for each in found:
            each.flush()
        Pair.buffered.flush()
        Note.buffered.flush()
        assert not DeadLetter.objects.exists()
        assert not Pair.objects.exists()
        assert not Note.objects.exists()

    def test_a_record_goes_with_its_parent(self, team):
        gate = Gate.objects.create()
        Passage.buffered.append(gate=gate)
        gate.delete()
        assert Passage.buffered.flush().dead_letters == 0
        assert not Passage.objects.exists()

    def test_what_is_written_after_it_becomes_a_dead_letter(self, team):
        Member.buffered.set(slug="before", team=team)
        team.delete()
        Member.buffered.set(slug="after", team_id="t")
        assert Member.buffered.flush().dead_letters == 1

    def test_so_does_what_protects_the_parent(self, team):
        other = Team.objects.create(slug="other")
        Member.buffered.set(slug="m", team=other, guest_of=team)
        team.delete()
        assert Member.buffered.flush().dead_letters == 1

    def test_one_that_is_rolled_back_leaves_nothing(self, team):
        Member.buffered.set(slug="m", team=team)
        with transaction.atomic(using=current()):
            team.delete()
            transaction.set_rollback(True, using=current())
        flush_all()
        assert Member.objects.exists()

    @pytest.mark.parametrize("rows", [1, 5])
    def test_it_costs_one_look(self, monkeypatch, rows):
        for n in range(rows):
            Owner.objects.create(name=str(n))
        trips = round_trips(monkeypatch)
        Owner.objects.all().delete()
        assert len(trips) == 1
        assert fences_left() == 0
