"""A log buffer from the call to the database, and back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from django.utils import timezone

from tests.models import Line, Visit
from writebehind_app.models import AppliedBatch


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


class TestAppendAndFlush:
    def test_records_are_inserted_in_the_order_in_which_they_came(self, database, redis_server):
        receipts = [Line.buffered.append(text=str(n)) for n in range(5)]
        receipts += Line.buffered.extend({"text": str(n)} for n in range(5, 2500))
        assert [r.where for r in receipts[::500]] == ["pending"] * 5
        assert Line.buffered.count_pending() == 2500

        result = Line.buffered.flush()

        assert (result.rows, result.batches, result.remaining) == (2500, 3, 0)
        lines = list(Line.objects.order_by("pk"))
        assert texts(lines) == [str(n) for n in range(2500)]
        assert all(a.at < b.at for a, b in pairwise(lines))
        assert all(r.persisted for r in receipts[::100])
        upto = AppliedBatch.objects.order_by("upto").values_list("upto", flat=True)
        assert list(upto) == [receipts[n].no for n in (999, 1999, 2499)]
        assert Line.buffered.count_pending() == 0

    def test_window(self, database, redis_server):
        start = timezone.now()
        Line.buffered.extend([{"text": "a"}, {"text": "b"}])
        Line.buffered.flush()
        Line.buffered.extend([{"text": "c"}, {"text": "d"}])
        assert texts(Line.buffered.window(start, timezone.now())) == ["a", "b", "c", "d"]
        assert Line.buffered.count(start) == 4

    def test_unique(self, database, redis_server):
        from writebehind_app.exceptions import AlreadyExists

        Visit.buffered.append(event=9, email="a@b.c")
        for _ in range(2):
            with pytest.raises(AlreadyExists, match=r"event=9, email='a@b\.c'"):
                Visit.buffered.append(event=9, email="a@b.c")
            Visit.buffered.flush()
        Visit.buffered.append(event=9, email="a@b.d")
        assert Visit.buffered.count(event=9) == 2
        assert Visit.buffered.discard(event=9, email="a@b.d") == 1
        Visit.buffered.append(event=9, email="a@b.d", registered_at=timezone.now())
