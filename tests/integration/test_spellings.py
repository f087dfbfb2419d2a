"""Keys that a database takes for equal, though their texts differ: reads say what it says."""

from __future__ import annotations

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from tests.models import Counter, Note, Owner
from writebehind_app import Add

SPELLINGS = ["e", "é", "E", "e ", "ée", "x"]

pytestmark = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


@pytest.mark.parametrize("keys", [SPELLINGS, SPELLINGS[::-1], ["é", "x"], ["é"], ["x"]])
def test_rows(database, redis_server, keys):
    Counter.objects.create(name="e", small=1)
    Counter.objects.create(name="other", small=2)
    asked = [*keys, "other"]
    expected = {key: row.small for key in asked for row in Counter.objects.filter(name=key)}
    assert {key: row.small for key, row in Counter.buffered.get_many(asked).items()} == expected
    is_mariadb = connections[database].vendor == "mysql"
    assert ("é" in expected) == (is_mariadb and "é" in keys)


def test_a_pending_write_to_another_spelling(database, redis_server):
    Counter.objects.create(name="e", small=1)
    Counter.buffered.set(name="é", small=Add(5))
    found = {key: row.small for key, row in Counter.buffered.get_many(["e", "é"]).items()}
    assert found["é"] == Counter.buffered.get(name="é").small
    Counter.buffered.flush()
    stored = {key: Counter.objects.get(name=key).small for key in ("e", "é")}
    assert stored["é"] == found["é"]


def test_entities(database, redis_server):
    owner = Owner.objects.create(name="o")
    Note.objects.create(page="e", owner=owner, key="a", value=1)
    keys = [(page, owner.pk) for page in SPELLINGS]
    expected = {
        key: {note.key: note.value for note in Note.objects.filter(page=key[0])} for key in keys
    }
    assert Note.buffered.get_many(keys) == expected


def test_missing_keys_cost_one_query_more_at_most(database, redis_server):
    Counter.objects.create(name="e", small=1)
    with CaptureQueriesContext(connections[database]) as queries:
        Counter.buffered.get_many(["e", *(f"new {n}" for n in range(50))])
    assert len([q for q in queries if "tests_counter" in q["sql"]]) <= 2
