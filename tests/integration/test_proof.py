"""The proof of the demo finds what is wrong in the database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from demo_site import proof, yardstick
from demo_site.systems import SYSTEMS
from demo_site.systems.base import System
from demo_site.systems.events import Events
from demo_site.systems.lessons import Lessons
from demo_site.systems.tickets import Tickets
from writebehind_app.meta.models import EventRegistration

pytestmark = pytest.mark.usefixtures("plain")

WRITES = 400


class Lost(Tickets):
    def write(self, key, values):
        if key % 100:
            super().write(key, values)


class Twice(Lessons):
    def write(self, key, values):
        for _ in range(2):
            super().write(key, values)


class Uninvited(Events):
    def write(self, key, values):
        super().write(key, values)
        super().write(key, {**values, "email": f"not-{values['email']}"})


class Unordered(Events):
    """The plan says the writes in another order than they are done."""

    def expected(self, writes):
        return dict(reversed(super().expected(writes).items()))


class Early(Tickets):
    """Dated by what was before the run."""

    def write(self, key, values):
        super().write(key, values)
        if key % 100 == 0:
            self.model.buffered.flush(ticket_id=key)
            early = datetime(2020, 1, 1, tzinfo=UTC)
            self.model.objects.filter(ticket_id=key).update(created_at=early)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.title)
def test_nothing_where_all_is_as_it_was_written(system: System) -> None:
    run = proof.run_buffered(system, proof.plan(system, WRITES))

    assert run.differences == []
    assert run.writes == WRITES
    assert run.rows > 0


@pytest.mark.parametrize(
    ("system", "message"),
    [
        (Lost(), "ticket 1000000: not in the database"),
        (Twice(), "seconds: meta_value is"),
        (Uninvited(), "in the database, and was never written"),
        (Unordered(), "the rows are not in the order of the writes"),
        (Early(), "in a run that began"),
    ],
)
def test_what_is_not(system: System, message: str) -> None:
    run = proof.run_buffered(system, proof.plan(system, WRITES))

    assert any(message in difference for difference in run.differences)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.title)
def test_the_yardstick_measures_the_orm_and_leaves_no_row(system: System) -> None:
    measured = yardstick.measure([system])

    assert measured.ms is not None
    assert measured.ms > 0
    writes = {system.model._meta.label: 100}
    assert measured.rows(writes) > 25  # some writes of appointments change nothing
    assert measured.statements(writes) >= 100
    assert not system.model._default_manager.exists()


def test_registrations_that_no_page_shows_any_more_go() -> None:
    now = timezone.now()
    for minutes in (1, 59, 61):
        EventRegistration.objects.create(
            event_id=1, email=f"{minutes}@b.c", registered_at=now - timedelta(minutes=minutes)
        )

    for system in SYSTEMS:
        system.tidy()

    assert sorted(row.email for row in EventRegistration.objects.all()) == ["1@b.c", "59@b.c"]
