"""How much waited over the last hour and the last day, as far as somebody looked: kept in bounded
space, and for nothing but to be shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal, NamedTuple

from writebehind_app.store import lua
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors

_COUNTS = {"minute": 60, "hour": 24}  # as in scripts/sample.lua

Step = Literal["minute", "hour"]


class Sample(NamedTuple):
    """The most of a minute, or of an hour."""

    entries: int  # pending and in flight
    oldest: float  # seconds that the oldest of them has waited


def note(client: Client, key: str, found: Mapping[str, Sample]) -> None:
    """Note how buffers are, by their labels."""
    args: list[str | int] = []
    for label, sample in found.items():
        args += [label, sample.entries, round(sample.oldest * 1000)]
    with errors:
        lua.run(client, "sample", key, *args)


def read(client: Client, key: str, step: Step) -> dict[int, dict[str, Sample]]:
    """What was noted, by the minutes or hours since 1970, and there by the labels of buffers."""
    fields = [f"{step} {n}" for n in range(_COUNTS[step])]
    with errors:
        texts = lua.call(client, "HMGET", key, *fields, again=True)
    found = {}
    for text in filter(None, texts):
        try:
            slot = json.loads(text)
            samples = {
                str(label): Sample(int(entries), float(ms) / 1000)
                for label, (entries, ms) in slot["of"].items()
            }
            found[int(slot["at"])] = samples
        except (ValueError, LookupError, TypeError, AttributeError):
            continue  # somebody else wrote it
    return found
