"""One write of each kind, a later one to the same row, and what has to come of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.utils import timezone

from tests.models import Item, Note, Owner, Seat
from writebehind_app import Add
from writebehind_app.buffers.base import Buffer

OWNER = 1


@dataclass(frozen=True)
class Write:
    send: Callable[[], object]
    outcome: Callable[[Any], Any]  # of what was there before


@dataclass(frozen=True)
class Kind:
    name: str
    buffer: Buffer
    prepare: Callable[[], object]  # brings `before` to the database
    before: Any
    write: Write
    later: Write
    read: Callable[[], Any]  # through the buffer
    stored: Callable[[], Any]  # in the database

    def after(self, *writes: Write) -> Any:
        """What is there after writes that were accepted in this order."""
        state = self.before
        for write in writes:
            state = write.outcome(state)
        return state


# Rows: a state is (a, b), or None


def _row(
    name: str, number: int, before: tuple[int, str] | None, write: Write, later: Write
) -> Kind:
    def prepare() -> None:
        if before:
            Item.objects.create(number=number, a=before[0], b=before[1])

    def read() -> tuple[int, str] | None:
        row = Item.buffered.get_many([number]).get(number)
        return row and (row.a, row.b)

    def stored() -> tuple[int, str] | None:
        return Item.objects.filter(number=number).values_list("a", "b").first()

    return Kind(name, Item.buffered, prepare, before, write, later, read, stored)


def _set(number: int, outcome: Callable[[Any], Any], **values: Any) -> Write:
    return Write(partial(Item.buffered.set, number=number, **values), outcome)


# Metadata: a state is a dict of all keys


def _update(outcome: Callable[[Any], Any], **values: Any) -> Write:
    def send() -> None:
        Note.buffered.of(page="p", owner=OWNER).update(values)

    return Write(send, outcome)


def _store_notes() -> None:
    owner = Owner.objects.create(pk=OWNER, name="anna")
    for key in ("counted", "kept"):
        Note.objects.create(page="p", owner=owner, key=key, value=1)


# Records: a state is the list of them in their order


def _append(number: int) -> Write:
    return Write(partial(Seat.buffered.append, number=number), lambda seats: [*seats, number])


def _store_seats() -> None:
    for number in (3, 1):
        Seat.objects.create(number=number, at=timezone.now())


def _seats() -> list[int]:
    return [seat.number for seat in Seat.buffered.window()]


KINDS: Sequence[Kind] = [
    _row(
        "set",
        1,
        before=(1, "stored"),
        write=_set(1, lambda row: (2, row[1]), a=2),
        later=_set(1, lambda row: (3, row[1]), a=3),
    ),
    _row(
        "Add",
        2,
        before=(1, "stored"),
        write=_set(2, lambda row: (row[0] + 9, row[1]), a=Add(9)),
        later=_set(2, lambda row: (row[0] + 90, row[1]), a=Add(90)),
    ),
    _row(
        "delete",
        3,
        before=(1, "stored"),
        write=Write(partial(Item.buffered.delete, number=3), lambda row: None),
        later=_set(3, lambda row: (row[0] if row else 0, "later"), b="later"),
    ),
    _row(
        "create",
        4,
        before=None,
        write=Write(
            partial(Item.buffered.create, number=4, a=40, b="new"), lambda row: row or (40, "new")
        ),
        later=_set(4, lambda row: (row[0] if row else 0, "later"), b="later"),
    ),
    Kind(
        "meta update",
        Note.buffered,
        _store_notes,
        {"counted": 1, "kept": 1},
        _update(
            lambda notes: {**notes, "counted": notes["counted"] + 2, "new": 2},
            counted=Add(2),
            new=2,
        ),
        _update(
            lambda notes: {**notes, "counted": notes["counted"] + 20, "kept": 3},
            counted=Add(20),
            kept=3,
        ),
        lambda: dict(Note.buffered.of(page="p", owner=OWNER)),
        lambda: dict(Note.objects.values_list("key", "value")),
    ),
    Kind(
        "append",
        Seat.buffered,
        _store_seats,
        [3, 1],
        _append(4),
        _append(2),
        _seats,
        lambda: list(Seat.objects.order_by("pk").values_list("number", flat=True)),
    ),
]
BUFFERS: dict[Buffer, list[Kind]] = {
    buffer: [kind for kind in KINDS if kind.buffer is buffer]
    for buffer in dict.fromkeys(kind.buffer for kind in KINDS)
}
