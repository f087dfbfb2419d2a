"""Which buffers are flushed before which."""

from __future__ import annotations

from tests.models import Item, Note, Place, Venue
from writebehind_app.database.parents import parents_first


def test_parents_come_first():
    ordered = parents_first([Place.buffered, Item.buffered, Venue.buffered, Note.buffered])
    assert ordered == [Venue.buffered, Place.buffered, Item.buffered, Note.buffered]
    assert parents_first([Place.buffered]) == [Place.buffered]
