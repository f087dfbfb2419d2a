"""How much one write may hold: just so much is taken, and more is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from tests.backdoor.limits import limit
from tests.models import Everything, Note, Owner, Stamp, Tick, Visit
from writebehind_app import Merge
from writebehind_app.fields.limits import refuse_deep


@pytest.fixture(params=["buffered", "direct"])
def limited(request, plain, configure):
    """Sets limits, with calls that go through Redis, and around it."""
    return lambda **limits: configure(MODE=request.param, **limits)


@pytest.fixture
def note(plain) -> Any:
    owner = Owner.objects.create(name="anna")
    return Note.buffered.of(page="p", owner=owner)


def test_limits_are_generous_where_nothing_is_said(plain):
    Everything.buffered.set(json={"text": "x" * 4_000_000}, key="0" * 32)
    assert len(Everything.buffered.get(key="0" * 32).json["text"]) == 4_000_000
    with pytest.raises(ValidationError, match="at most 4194304 bytes"):
        Everything.buffered.set(json="x" * 4_194_304, key="0" * 32)


VALUES = {
    "set": lambda text: Everything.buffered.set(key="0" * 32, text=text),
    "create": lambda text: Everything.buffered.create(key="0" * 32, text=text),
    "set_many": lambda text: Everything.buffered.set_many([{"key": "0" * 32, "text": text}]),
    "set_if": lambda text: Everything.buffered.set_if(lambda row: 1, key="0" * 32, text=text),
    "append": lambda text: Visit.buffered.append(event=1, email="x", note=text),
    "extend": lambda text: Visit.buffered.extend([{"event": 1, "email": "x", "note": text}]),
}


@pytest.mark.parametrize("verb", VALUES)
def test_bytes_of_a_value(limited, verb):
    limited(MAX_VALUE_BYTES=100)
    VALUES[verb]("é" * 49)  # and two for the quotes
    with pytest.raises(ValidationError) as refusal:
        VALUES[verb]("é" * 49 + "a")
    field = "note" if verb in ("append", "extend") else "text"
    assert refusal.value.message_dict == {
        field: [
            "Ensure that this value has at most 100 bytes as JSON (it has 101): see "
            "MAX_VALUE_BYTES in the setting WRITEBEHIND."
        ]
    }


def test_bytes_of_a_value_of_metadata(limited, note):
    limited(MAX_VALUE_BYTES=100)
    note["a:b"] = "x" * 96  # "…" in [], as it may be null
    note["c"] = Merge({"k": "x" * 98, "l": "x" * 98})
    for value in ("x" * 97, Merge({"k": "x" * 99})):
        with pytest.raises(ValidationError) as refusal:
            note["a:b"] = value
        assert list(refusal.value.message_dict) == ["a:b"]
        assert refusal.value.error_dict["a:b"][0].code == "max_value_bytes"
        with pytest.raises(ValidationError, match="at most 100 bytes"):
            note.setdefault("new", value)
    assert set(note) == {"a:b", "c"}


def test_bytes_of_a_key(limited):
    limited(MAX_VALUE_BYTES=38)
    Everything.buffered.set(key="0" * 32)
    limited(MAX_VALUE_BYTES=37)  # one less than it has with hyphens and quotes
    for verb in ("set", "create", "get", "delete", "flush", "discard"):
        with pytest.raises(ValidationError, match="at most 37 bytes"):
            getattr(Everything.buffered, verb)(key="0" * 32)


def test_bytes_of_a_write(limited, note):
    limited(MAX_ENTRY_BYTES=100)
    Visit.buffered.append(event=1, email="x", note="x" * 50, details=1, hint=1, token="0" * 32)
    note.update(a="x" * 45, b="x" * 45)
    for call in (
        lambda: Visit.buffered.append(
            event=2, email="x", note="x" * 51, details=1, hint=1, token="0" * 32
        ),
        lambda: Everything.buffered.create(key="0" * 32, text="x" * 30, char="x" * 30),
        lambda: note.update(a="x" * 47, b="x" * 47),
        lambda: note.update(a="x" * 40, b=Merge({"k": "x" * 60})),
    ):
        with pytest.raises(ValidationError, match="one write has at most 100 bytes") as refusal:
            call()
        assert refusal.value.code == "max_entry_bytes"


def test_keys_of_a_write(limited, note, monkeypatch):
    limited()
    limit(monkeypatch, keys_of_a_write=4)
    note.update({str(n): n for n in range(4)})
    note.update({"extra": Merge({str(n): n for n in range(3)})})  # one says that it is an object
    Everything.buffered.set(key="0" * 32, json=Merge({"a": 1, "b": 2}))
    for call in (
        lambda: note.update({str(n): n for n in range(5)}),
        lambda: note.update({"extra": Merge({str(n): n for n in range(4)})}),
        lambda: Everything.buffered.set(key="0" * 32, json=Merge(dict.fromkeys("abcd", 1))),
    ):
        with pytest.raises(ValidationError, match="one write has at most 4 keys") as refusal:
            call()
        assert refusal.value.code == "max_keys"
    assert len(note) == 5


def nested(levels: int) -> Any:
    value: Any = "]"  # not a level
    for n in range(levels):
        value = [value] if n % 2 else {'[{"': value}
    return value


def test_levels_of_json(limited, note, monkeypatch):
    limited()
    limit(monkeypatch, levels_of_json=10)
    good, bad = nested(10), nested(11)
    note["a"] = good
    note["a"] = Merge({"k": nested(9)})
    Everything.buffered.set(key="0" * 32, json=good)
    Tick.buffered.append(value=1)
    Visit.buffered.append(event=1, email="x", details=good)
    assert Everything.buffered.get(key="0" * 32).json == good
    for field, call in {
        "a": lambda: note.update(a=bad),
        "b": lambda: note.update(b=Merge({"k": nested(10)})),
        "json": lambda: Everything.buffered.set(key="1" * 32, json=bad),
        "details": lambda: Visit.buffered.append(event=2, email="x", details=bad),
    }.items():
        with pytest.raises(ValidationError) as refusal:
            call()
        assert refusal.value.message_dict == {
            field: ["Ensure that at most 10 lists and objects are in each other."]
        }


@pytest.mark.parametrize("text", ['"[[[[[["', r'"\"[[[[[["', '[[1],[2],[3],[4],[5],{"[[[[":{}}]'])
def test_brackets_of_texts_are_no_levels(monkeypatch, text):
    limit(monkeypatch, levels_of_json=3)
    refuse_deep(f"[{text}]")


def test_a_write_of_some_fields_is_measured_with_its_key(limited):
    Stamp.objects.create(pk=1)
    limited(MAX_ENTRY_BYTES=36)
    Stamp.buffered.set(pk=1, seen="2026-01-01T00:00:00Z", count=1)
    limited(MAX_ENTRY_BYTES=35)
    with pytest.raises(ValidationError, match="at most 35 bytes"):
        Stamp.buffered.set(pk=1, seen="2026-01-01T00:00:00Z", count=1)
