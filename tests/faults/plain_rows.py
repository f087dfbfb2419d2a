"""Rows of the four models that refer to each other, in plain Python: what a call makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.faults.test_related_stories import MODELS
from writebehind_app import Add

Key = tuple[str, str]  # the name of a model, and a slug
Rows = dict[Key, dict[str, Any]]

DEFAULTS: dict[str, dict[str, Any]] = {
    "team": {"title": "", "points": 0, "captain": None},
    "member": {"title": "", "points": 0, "team": None, "guest_of": None},
    "branch": {"title": "", "points": 0, "code": None, "above": None},
    "locker": {
        "title": "",
        "points": 0,
        "number": None,
        "hall": "",
        "label": "",
        "member": None,
        "branch": None,
    },
}
REQUIRED = {"member": "team", "locker": "number"}
UNIQUE = {"branch": [("code",)], "locker": [("number",), ("hall", "label")]}
REFERENCES = {
    "team": {"captain": ("member", "null")},
    "member": {"team": ("team", "cascade"), "guest_of": ("team", "protect")},
    "branch": {"above": ("branch", "cascade")},
    "locker": {"member": ("member", "cascade"), "branch": ("branch", "null")},
}


class Refused(Exception):
    """A database would refuse it."""


def stored() -> Rows:
    return {
        (name, row.pop("slug")): {field.removesuffix("_id"): v for field, v in row.items()}
        for name, model in MODELS.items()
        for row in model.objects.values()
    }


def referred(key: Key, row: Mapping[str, Any]) -> list[tuple[str, Key, str]]:
    """The references of a row: the field, the other row, and what happens when that goes."""
    return [
        (field, (parent, row[field]), on_delete)
        for field, (parent, on_delete) in REFERENCES[key[0]].items()
        if row.get(field) is not None
    ]


def written(rows: Rows, key: Key, values: Mapping[str, Any]) -> Rows:
    """The rows after a write to one of them."""
    row = {**rows.get(key, DEFAULTS[key[0]])}
    for field, value in values.items():
        row[field] = row[field] + value.amount if isinstance(value, Add) else value
    rows = {**rows, key: row}
    required = REQUIRED.get(key[0])
    if required and row[required] is None:
        raise Refused
    if any(parent not in rows for _, parent, _ in referred(key, row)):
        raise Refused
    for fields in UNIQUE.get(key[0], ()):
        value = [row[field] for field in fields]
        others = [o for k, o in rows.items() if k[0] == key[0] and k != key]
        if None not in value and any([o[field] for field in fields] == value for o in others):
            raise Refused
    return rows


def goes_with(rows: Rows, key: Key) -> tuple[set[Key], set[tuple[Key, str]]]:
    """The rows that go when one is deleted, and the references that become null."""
    gone, found = {key} & rows.keys(), True
    while found:
        found = False
        for other, row in rows.items():
            on_delete = {how for _, parent, how in referred(other, row) if parent in gone}
            if "protect" in on_delete:
                raise Refused
            if "cascade" in on_delete and other not in gone:
                gone, found = gone | {other}, True
    nulls = {
        (other, field)
        for other, row in rows.items()
        for field, parent, _ in referred(other, row)
        if parent in gone and other not in gone
    }
    return gone, nulls


def deleted(rows: Rows, key: Key) -> Rows:
    gone, nulls = goes_with(rows, key)
    return {
        other: {field: None if (other, field) in nulls else v for field, v in row.items()}
        for other, row in rows.items()
        if other not in gone
    }
