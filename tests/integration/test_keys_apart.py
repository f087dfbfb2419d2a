"""No value of a key reaches what belongs to another one, in Redis or in the database."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.backdoor.entries import assert_apart, id_of
from tests.backdoor.keyspace import LOOKALIKES
from tests.models import Note, Owner, Pair, Visit

# What ids, keys of Redis, hash tags and names in an entry are made of; and what looks like another.
SIGNS = ',:{}[]"\\&@!#$~%^\0\x1f \n123é\u0301\N{LATIN SMALL LETTER E WITH ACUTE}\u2028\U0001f600ef'
TEXT = st.text(SIGNS, max_size=8) | st.sampled_from(
    ["", *LOOKALIKES, "1,2", '1,"2', "null", "1\0", "\\u0000"]
)
TEXTS = st.lists(st.tuples(st.sampled_from([0, 1, 2]), TEXT), min_size=2, max_size=8, unique=True)
PAIRS = [(0, "1:23"), (0, "12:3"), (1, "2"), (1, '2","3'), (2, LOOKALIKES[1]), (2, "{}"), (0, "\0")]


@pytest.fixture
def owners(plain) -> list[Owner]:
    # 1, 12 and 123: what is joined to them begins with the digits that one lacks
    return [Owner.objects.create(pk=pk, name=str(pk)) for pk in (1, 12, 123)]


@settings(max_examples=60)
@example(PAIRS)
@given(TEXTS)
def test_rows(plain, owners, keys):
    for n, (i, name) in enumerate(keys):
        Pair.buffered.set(owner=owners[i], name=name, value=n)
    ids = [id_of(Pair.buffered, owner=owners[i], name=name) for i, name in keys]
    assert_apart(Pair.buffered, ids)
    for (i, name), id in zip(keys, ids, strict=True):
        assert Pair.buffered.layout().key_of(id) == {"owner_id": owners[i].pk, "name": name}
    given = {(owners[i].pk, name): n for n, (i, name) in enumerate(keys)}
    pending = Pair.buffered.get_many(given)
    assert {key: row.value for key, row in pending.items()} == given
    i, name = keys[0]
    Pair.buffered.delete(owner=owners[i], name=name)
    assert Pair.buffered.flush().dead_letters == 0
    stored = {(p.owner_id, p.name): p.value for p in Pair.objects.all()}
    assert stored == {key: n for key, n in given.items() if n}
    Pair.objects.all().delete()
    plain.clear()


@settings(max_examples=40)
@example([(0, "1:23"), (0, "12:3"), (0, "&a"), (0, '"'), (1, "@"), (1, "!"), (1, 'a":"b')])
@given(TEXTS)
def test_metadata(plain, owners, keys):
    """The text is the page of the entity, and a meta key of its."""
    texts = {name for _, name in keys}
    expected: dict[tuple[int, str], dict[str, Any]] = {}
    for n, (i, page) in enumerate(keys):
        values = {text: [n, text] for text in texts}
        Note.buffered.of(page=page, owner=owners[i]).update(values)
        expected[page, owners[i].pk] = values
    ids = [id_of(Note.buffered, page=page, owner=owners[i]) for i, page in keys]
    assert_apart(Note.buffered, ids)
    assert Note.buffered.get_many(expected) == expected
    i, page = keys[0]
    gone = sorted(texts)[0]
    del Note.buffered.of(page=page, owner=owners[i])[gone]
    del expected[page, owners[i].pk][gone]
    assert Note.buffered.get_many(expected) == expected
    assert Note.buffered.flush().dead_letters == 0
    stored: dict[tuple[str, int], dict[str, Any]] = {key: {} for key in expected}
    for note in Note.objects.all():
        stored[note.page, note.owner_id][note.key] = note.value
    assert stored == expected
    Note.objects.all().delete()
    plain.clear()


@settings(max_examples=40)
@example([(0, "1:23"), (0, "12:3"), (1, "2"), (1, '2","3'), (2, "\0")])
@given(TEXTS)
def test_records(plain, owners, keys):
    for i, email in keys:
        Visit.buffered.append(event=owners[i].pk, email=email)
    i, email = keys[0]
    assert Visit.buffered.discard(event=owners[i].pk, email=email) == 1
    assert Visit.buffered.flush().dead_letters == 0
    stored = {(visit.event, visit.email) for visit in Visit.objects.all()}
    assert stored == {(owners[i].pk, email) for i, email in keys[1:]}
    Visit.objects.all().delete()
    plain.clear()
