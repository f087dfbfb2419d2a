"""A row buffer from the call to the database, and back."""

from __future__ import annotations

from tests.models import Item
from writebehind_app.models import AppliedBatch


class TestWriteAndFlush:
    def test_a_row_is_inserted_then_changed(self, database, redis_server):
        first = Item.buffered.set(number=5, a=1, b="x")
        assert not Item.objects.exists()
        assert Item.buffered.get(number=5).a == 1
        assert first.where == "pending"

        result = Item.buffered.flush()

        assert (result.rows, result.batches, result.remaining) == (1, 1, 0)
        assert first.persisted
        item = Item.objects.get()
        assert (item.number, item.a, item.b, item.d) == (5, 1, "x", 0.5)

        Item.buffered.set(number=5, c="later")
        Item.buffered.flush()
        item.refresh_from_db()
        assert (item.a, item.b, item.c) == (1, "x", "later")
        assert Item.buffered.count_pending() == 0
        ledger = AppliedBatch.objects.all()
        assert [batch.entries for batch in ledger] == [1, 1]
