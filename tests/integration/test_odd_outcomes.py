"""Outcomes that are easily got wrong: of letters that were overtaken, of deep JSON, of many direct
writes."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from tests.admin import client, page
from tests.models import Counter, Item
from writebehind_app import Add, Max, Merge
from writebehind_app.database import deadletters
from writebehind_app.models import DeadLetter, Fence

TOP = 2**63 - 1


def refused_sum() -> DeadLetter:
    Item.objects.create(number=1, a=TOP)
    Item.buffered.set(number=1, a=Add(1))
    Item.buffered.flush()
    return DeadLetter.objects.get()


def deep() -> Any:
    """JSON of more levels than a call may give."""
    value: Any = 1
    for _ in range(150):
        value = {"d": value}
    return value


def test_a_letter_that_was_overtaken_and_corrected_keeps_its_time(plain):
    letter = refused_sum()
    Item.buffered.set(number=1, a=5)
    Item.buffered.flush()
    deadletters.edit(Item.buffered, letter.pk, {"a": 7})
    assert deadletters.retry(Item.buffered, [letter.pk]) == (1, 0)
    item = Item.objects.get()
    assert (item.a, item.updated_at.year > 1970) == (7, True)


def test_a_letter_that_is_retried_does_not_set_times_back(plain):
    letter = refused_sum()
    Item.buffered.set(number=1, b="new")
    Item.buffered.flush()
    before = Item.objects.get().updated_at
    Item.objects.update(a=0)
    assert deadletters.retry(Item.buffered, [letter.pk]) == (1, 0)
    assert Item.objects.get().updated_at >= before


@pytest.mark.parametrize("mode", ["buffered", "direct"])
def test_a_merge_is_not_refused_for_what_is_stored(plain, go, mode):
    Counter.objects.create(name="a", extra=deep())
    go(mode)
    Counter.buffered.set(name="a", extra=Merge({"k": 1}))
    Counter.buffered.flush()
    assert Counter.objects.get().extra == {**deep(), "k": 1}


def test_a_sum_beyond_its_field_is_called_so(plain, go):
    Counter.objects.create(name="a", big=TOP)
    go("direct")
    with pytest.raises(ValidationError, match="The sum leaves the range"):
        Counter.buffered.set(name="a", big=Add(1))


@pytest.mark.parametrize("operation", [Add, Max, Merge])
def test_a_fence_does_not_grow_with_direct_writes(plain, go, operation):
    go("direct")
    for n in range(60):
        if operation is Merge:
            Counter.buffered.set(name="a", extra=Merge({"k": n}))
        else:
            Counter.buffered.set(name="a", big=operation(n))
    assert len(Fence.objects.get().marks) < 2500


@pytest.mark.parametrize(("field", "untouched"), [("big", ""), ("extra", "null")])
def test_a_letter_of_several_operations_is_corrected_elsewhere(plain, field, untouched):
    """The form shows them, and leaves them as they are."""
    Counter.objects.create(name="n", small=TOP, **{field: 7})
    for values in ({field: Add(1)}, {field: Max(3)}, {"small": Add(1)}):
        Counter.buffered.set(name="n", **values)
    Counter.buffered.flush()
    path = f"/admin/writebehind/deadletter/{DeadLetter.objects.get().pk}/change/"
    admin = client(superuser=True)
    assert 'value="(Add(' not in page(admin, path)
    admin.post(path, {"small": "6", field: untouched, "_retry": "1"})
    counter = Counter.objects.get()
    assert (counter.small, getattr(counter, field)) == (6, 8)
