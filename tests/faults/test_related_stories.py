"""G2, over four models that refer to each other: whatever is written through their buffers, and
wherever it is flushed, comes to the same as the calls through the ORM, one by one.

A nightly run:

    WRITEBEHIND_EXAMPLES=2500 make test ARGS=tests/faults/test_related_stories.py
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import IntegrityError, models, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backdoor.batches import Claim, claim, die_at, end_lease, is_in_flight
from tests.models import Branch, Locker, Member, Team
from tests.router import current
from writebehind_app import Add
from writebehind_app.checkpoints import NAMES
from writebehind_app.models import DeadLetter

EXAMPLES = int(os.environ.get("WRITEBEHIND_EXAMPLES", "20"))
MOST = int(os.environ.get("WRITEBEHIND_CALLS", "14"))
MODELS = {"team": Team, "member": Member, "branch": Branch, "locker": Locker}
SLUGS = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(1, 4)
TITLES = st.sampled_from(["", "one", "two"])
SUMS = NUMBERS.map(Add)
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "team": {"title": TITLES, "points": SUMS | SUMS | NUMBERS, "captain": SLUGS | st.none()},
    "member": {
        "title": TITLES,
        "points": SUMS | SUMS | NUMBERS,
        "team": SLUGS,
        "guest_of": SLUGS | st.none(),
    },
    "branch": {
        "title": TITLES,
        "points": SUMS | SUMS | NUMBERS,
        "code": NUMBERS | st.none(),
        "above": SLUGS | st.none(),
    },
    "locker": {
        "title": TITLES,
        "points": SUMS | SUMS | NUMBERS,
        "number": NUMBERS,
        "hall": st.sampled_from("xy"),
        "label": st.sampled_from("12"),
        "member": SLUGS | st.none(),
        "branch": SLUGS | st.none(),
    },
}


def writes(name: str) -> st.SearchStrategy[tuple[Any, ...]]:
    some = st.fixed_dictionaries({}, optional=FIELDS[name])
    return st.tuples(st.just("set"), st.just(name), SLUGS, some)


WRITES = st.one_of(*map(writes, MODELS))
DELETES = st.tuples(st.just("delete"), st.sampled_from([*MODELS]), SLUGS)
FLUSHES = st.one_of(
    st.tuples(st.just("flush")),
    st.tuples(st.just("flush"), st.sampled_from([*MODELS])),
    st.tuples(st.just("flush"), st.sampled_from([*MODELS]), SLUGS),
)
# Rows that are there before, so that most stories have something to refer to.
BEGINNINGS = st.lists(WRITES, max_size=8)
STEPS = st.sampled_from([step for step in NAMES if step.startswith("flush.")])
DEATHS = st.one_of(
    st.tuples(
        st.just("die"), st.sampled_from([*MODELS]), SLUGS | st.none(), STEPS, st.integers(1, 3)
    ),
    st.tuples(st.just("sleep"), st.sampled_from([*MODELS]), st.integers(1, 3)),
    st.tuples(st.just("wake")),
)
ALONE = WRITES | WRITES | WRITES | DELETES | FLUSHES | DEATHS


@st.composite
def passing(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """A row is made, another one refers to it, and it is deleted."""
    child, field, parent = draw(st.sampled_from(REFERENCES))
    slug, values = draw(SLUGS), draw(st.fixed_dictionaries({}, optional=FIELDS[child]))
    others = st.lists(ALONE, max_size=2)
    return [
        *([("delete", parent, slug)] if draw(st.booleans()) else []),
        ("set", parent, slug, draw(st.fixed_dictionaries({}, optional=FIELDS[parent]))),
        *draw(others),
        ("set", child, draw(SLUGS), {**values, field: slug}),
        *draw(others),
        ("delete", parent, slug),
    ]


REFERENCES = [
    ("member", "team", "team"),
    ("team", "captain", "member"),
    ("branch", "above", "branch"),
    ("locker", "member", "member"),
    ("locker", "branch", "branch"),
]
STORIES = st.lists(ALONE.map(lambda one: [one]) | passing(), max_size=MOST).map(
    lambda parts: [call for part in parts for call in part][: 2 * MOST]
)


def rows() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, model in MODELS.items():
        found |= {f"{name} {row['slug']}": row for row in model.objects.values()}
    return found


def clear() -> None:
    Team.objects.update(captain=None)
    Locker.objects.all().delete()
    Member.objects.all().delete()
    Team.objects.all().delete()
    Branch.objects.all().delete()


def put(kept: dict[str, Any]) -> None:
    """Rows as they were, those that refer to each other included."""
    for model in (Team, Branch, Member, Locker):
        name = next(name for name, other in MODELS.items() if other is model)
        own = [row for key, row in kept.items() if key.startswith(f"{name} ")]
        late = {"team": "captain_id", "branch": "above_id"}.get(name, "")
        model.objects.bulk_create(
            [model(**{**row, **({late: None} if late else {})}) for row in own]
        )
    for name, late in (("team", "captain_id"), ("branch", "above_id")):
        for key, row in kept.items():
            if key.startswith(f"{name} ") and row[late] is not None:
                MODELS[name].objects.filter(pk=row["slug"]).update(**{late: row[late]})


def by_orm(call: tuple[Any, ...]) -> bool:
    """Whether the ORM takes a call."""
    match call:
        case ("set", name, slug, values):
            model: type[models.Model] = MODELS[name]
            fields = {model._meta.get_field(n).attname: v for n, v in values.items()}
            try:
                with transaction.atomic(using=current()):
                    row = model.objects.filter(pk=slug).first() or model(slug=slug)
                    for attname, value in fields.items():
                        is_sum = isinstance(value, Add)
                        value = getattr(row, attname) + value.amount if is_sum else value
                        setattr(row, attname, value)
                    models.Model.save(row)
            except IntegrityError:
                return False
        case ("delete", name, slug):
            try:
                with transaction.atomic(using=current()):
                    MODELS[name].objects.filter(pk=slug).delete()
            except IntegrityError:
                return False
    return True


def by_buffer(call: tuple[Any, ...], asleep: list[Claim]) -> None:
    match call:
        case ("die", name, slug, step, n):
            die_at(MODELS[name].buffered, step, n, **({"slug": slug} if slug else {}))
            for model in MODELS.values():
                end_lease(model.buffered)
        case ("sleep", name, size):
            asleep += claim(MODELS[name].buffered, size=size)
            end_lease(MODELS[name].buffered)
        case ("wake",):
            while asleep:
                asleep.pop().wake_up()
                for model in MODELS.values():
                    end_lease(model.buffered)
        case ("set", name, slug, values):
            MODELS[name].buffered.set(slug=slug, **values)
        case ("delete", name, slug):
            MODELS[name].buffered.delete(slug=slug)
        case ("flush",):
            for model in MODELS.values():
                check(model.buffered.flush())
        case ("flush", name):
            check(MODELS[name].buffered.flush())
        case ("flush", name, slug):
            check(MODELS[name].buffered.flush(slug=slug))


def check(result: Any) -> None:
    assert (result.dead_letters, result.errors, result.remaining) == (0, 0, 0)


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 5])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(beginning=BEGINNINGS, story=STORIES)
def test_stories(database, redis_server, configure, shards, size, beginning, story):
    if django_settings.WRITEBEHIND.get("BATCH_SIZE") != size:  # in the first example
        configure(SHARDS=shards, BATCH_SIZE=size)
    for call in beginning:
        by_orm(call)
    kept = rows()
    taken, went = [], set()
    for call in story:
        before = {*rows()}
        if by_orm(call):
            taken.append(call)
            went |= before - {*rows()} - {" ".join(map(str, call[1:3]))}
    expected = rows()
    clear()
    put(kept)
    assert rows() == kept
    asleep: list[Claim] = []
    for call in taken:
        by_buffer(call, asleep)
    by_buffer(("wake",), asleep)
    by_buffer(("flush",), asleep)
    found = rows()
    for each in (found, expected):  # a sum that goes on over the deletion counts after it
        for name in went & each.keys():
            each[name].pop("points")
    letters = [letter.reason for letter in DeadLetter.objects.all()]
    pending = [str(m) for m in MODELS.values() if m.buffered.count_pending()]
    stuck = [str(m) for m in MODELS.values() if is_in_flight(m.buffered)]
    clear()
    DeadLetter.objects.all().delete()
    assert (letters, pending, stuck) == ([], [], [])
    assert found == expected
