"""Pages of what is pending and in flight, as they are read from the index."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.backdoor.batches import claim
from tests.backdoor.entries import pending_ids, plant_in_index, set_due
from tests.models import Everything, Item, Visit
from writebehind_app.store import listing
from writebehind_app.store.connection import client as redis_client
from writebehind_app.store.listing import Listed, Place


def walk(read: Callable[[Place | None], list[Listed]], size: int) -> Iterator[Listed]:
    """What is on all pages of that size."""
    after = None
    while True:
        found = read(after)
        assert len(found) <= size
        yield from found
        if len(found) < size:
            return
        after = found[-1].place


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("size", [1, 3, 50])
def test_pages_show_each_entry_once_and_in_order(redis_server, newest_first, size):
    Item.buffered.set_many([{"number": n, "a": n} for n in range(20)])
    keys, redis = Item.buffered.shard_keys(), redis_client()
    for ids in pending_ids(Item.buffered):  # some are due at the very same time
        set_due(Item.buffered, dict.fromkeys(ids[:4], 1_700_000_000_000_000))

    def read(after: Place | None) -> list[Listed]:
        return listing.pending(redis, keys, size, newest_first=newest_first, after=after).rows

    found = list(walk(read, size))
    assert sorted(int(listed.entry.id) for listed in found) == list(range(20))
    places = [listed.place for listed in found]
    assert places == sorted(places, reverse=newest_first)


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_page_goes_on_where_its_last_entry_is_flushed(plain, newest_first):
    Item.buffered.set_many([{"number": n, "a": n} for n in range(10)])
    keys, redis = Item.buffered.shard_keys(), redis_client()
    first = listing.pending(redis, keys, 4, newest_first=newest_first).rows
    Item.buffered.flush(number=int(first[-1].entry.id))
    rest = listing.pending(redis, keys, 50, newest_first=newest_first, after=first[-1].place)
    ids = {listed.entry.id for listed in (*first, *rest.rows)}
    assert ids == {str(n) for n in range(10)}


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_of_a_log(plain, newest_first):
    for n in range(20):
        Visit.buffered.append(event=n, email="a@b.c")
    keys, redis = Visit.buffered.shard_keys(), redis_client()
    (claimed,) = claim(Visit.buffered, size=2, batches=1)
    claimed.release(retry_in=60, error="no")

    def read(after: Place | None) -> list[Listed]:
        page = listing.pending(redis, keys, 3, is_log=True, newest_first=newest_first, after=after)
        return page.rows

    found = list(walk(read, 3))
    assert len(found) == 20 - len(claimed.ids)
    places = [listed.place for listed in found]
    assert places == sorted(places, reverse=newest_first)

    def read_flying(after: Place | None) -> list[Listed]:
        return listing.in_flight(redis, keys, 1, is_log=True, after=after).rows

    flying = list(walk(read_flying, 1))
    assert [listed.entry.id for listed in flying] == claimed.ids
    assert flying[0].attempts == 1
    assert flying[0].error == "no"
    places = [(row.place.shard, row.entry.since) for row in (flying[0], found[0])]
    records = listing.records(redis, keys, [(0, 1), *places])
    assert records == [(True, flying[0]), (False, found[0])]


def test_pages_of_what_is_in_flight(redis_server):
    Item.buffered.set_many([{"number": n, "a": n} for n in range(20)])
    keys, redis = Item.buffered.shard_keys(), redis_client()
    claimed = [id for batch in claim(Item.buffered, size=3) for id in batch.ids]
    found = walk(lambda after: listing.in_flight(redis, keys, 2, after=after).rows, 2)
    assert [listed.entry.id for listed in found] == claimed


def test_what_is_long_is_not_read_for_a_list(plain):
    key = "00000000-0000-0000-0000-000000000001"
    long = "x" * 1_000_000
    Everything.buffered.set(key=key, text=long, json=[long], binary=long.encode(), integer=5)
    (listed,) = listing.pending(redis_client(), Everything.buffered.shard_keys(), 50).rows
    assert len(str(listed.entry)) < 1000
    assert Everything.buffered.layout().columns["json"].decode(listed.entry.texts()["json"]) == "…"
    Visit.buffered.append(event=1, email="a@b.c", details={"long": long})
    keys = Visit.buffered.shard_keys()
    (listed,) = listing.pending(redis_client(), keys, 50, is_log=True).rows
    assert len(str(listed.entry)) < 1000


def test_the_index_is_looked_through_for_a_while_only(plain):
    """However much is pending: one call looks at so many of a shard."""
    Item.buffered.set_many([{"number": n, "a": n} for n in range(100)])
    plant_in_index(Item.buffered, {f"planted{n}": n for n in range(50_000)})
    found = listing.pending(
        redis_client(), Item.buffered.shard_keys()[:1], 10, beginning="planted3999"
    )
    assert found.rows == []
    assert found.stopped == (listing.LOOKED_AT - 1, 0, f"planted{listing.LOOKED_AT - 1}")
