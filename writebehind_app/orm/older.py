"""What is older than a write of the ORM: what Redis holds of its rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import models

from writebehind_app import registry
from writebehind_app.conf import is_direct
from writebehind_app.database.bases import Passing, under_way
from writebehind_app.database.divided import by_shard
from writebehind_app.declaration import KeyedDeclaration
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.fields.entry import Entry, entry_of
from writebehind_app.fields.layout import Layout
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.fields.versions import upgraded
from writebehind_app.store import clock, divisions, reads
from writebehind_app.store.calls import ROWS
from writebehind_app.store.connection import client

_Answer = TypeVar("_Answer")
_MOST = 1000  # ids in one question to Redis, or in one answer


@dataclass(frozen=True, slots=True)
class Older:
    """What is older than a write past Redis. Without entries, Redis could not be asked."""

    number: int  # the number of the write past Redis
    token: str = ""  # of the batch in flight
    in_flight: Entry | None = None  # of the row or of its entity, as is `pending`
    pending: Entry | None = None

    @property
    def entries(self) -> Sequence[Entry]:
        return [entry for entry in (self.in_flight, self.pending) if entry is not None]


def fencing(model: type[models.Model], using: str) -> KeyedDeclaration | None:
    """The buffer of a model, if writes of the ORM to this database have to leave fences."""
    buffer = registry.buffer_of(model)
    if not isinstance(buffer, KeyedDeclaration) or buffer.option("ORM") == "ignore":
        return None  # records of a log are never overwritten
    return buffer if using == buffer.using() or using in buffer.databases() else None


def row_id(layout: Layout, row: Any) -> str | None:
    """The id of an instance; None if its key is not complete or not valid."""
    values = row.__dict__
    if any(values.get(c.attname) is None for c in layout.key):
        return None
    try:
        return layout.id_of(row)
    except REFUSALS:
        return None


def row_ids_of(layout: Layout, rows: Iterable[Any]) -> list[str]:
    """The ids of the instances whose keys are complete and valid."""
    return [id for row in rows if (id := row_id(layout, row)) is not None]


def names_of(buffer: KeyedDeclaration, row_id: str, names: Iterable[str]) -> set[str]:
    """The names that entries use for these fields of a row. For metadata, this is the meta key."""
    whole = buffer.whole(entry_of(row_id, dict.fromkeys(names, "null"), 1))
    return {*whole.names()}


def find_older(buffer: KeyedDeclaration, row_ids: Iterable[str]) -> dict[str, Older]:
    """What Redis holds of these rows, by row id; a row without entries is left out.

    This also drops the rows' bases, if the buffer has any. It is one round trip for a few hundred
    rows, and one more for more rows.
    """
    found: dict[str, Older] = {}
    row_ids, write = [*row_ids], under_way(buffer)
    if len(row_ids) > ROWS:
        if write is not None:
            write.mark(map(buffer.entry_id, row_ids))
        row_ids = _waiting_of(buffer, row_ids)
    asked: dict[str, dict[str, list[str]]] = {}
    for id in row_ids:
        entry_id = buffer.entry_id(id)
        asked.setdefault(buffer.shard_key_of(entry_id), {}).setdefault(entry_id, []).append(id)
    for part in _parts(asked):
        looks = answer_or_none(lambda: _ask(part, write))  # noqa: B023 - at once
        moved = looks and _are_moved(looks)
        if moved:
            return find_older(buffer, row_ids)
        for key, ids in part.items():
            if looks is None or moved is None:
                unknown = Older(clock.number(key))
                found |= {id: unknown for of_entity in ids.values() for id in of_entity}
            elif (seen := looks[key]).number:
                for entry_id, of_entity in ids.items():
                    found |= _older(buffer, seen, entry_id, of_entity)
    return found


def _ask(ids: Mapping[str, Collection[str]], write: Passing | None) -> dict[str, reads.Look]:
    if write is None:
        return reads.look(client(), ids)
    write.add(id for own in ids.values() for id in own)
    return reads.look(client(), ids, mark=write.token, seconds=write.seconds)


def _waiting_of(buffer: KeyedDeclaration, row_ids: Sequence[str]) -> Sequence[str]:
    """Among many rows, those that may have something pending or in flight."""
    entry_ids = [*map(buffer.entry_id, row_ids)]
    left = by_shard(buffer, dict.fromkeys(entry_ids))
    found: set[str] = set()
    while left:
        part = {key: ids[:_MOST] for key, ids in left.items()}
        waiting = answer_or_none(lambda: reads.waiting(client(), part))  # noqa: B023 - at once
        moved = waiting and _are_moved(waiting)
        if waiting is None or moved is None:
            return row_ids
        if moved:
            return _waiting_of(buffer, row_ids)
        found.update(id for each in waiting.values() for id in each.ids)
        left = {key: ids[_MOST:] for key, ids in left.items() if len(ids) > _MOST}
    return [id for id, entry_id in zip(row_ids, entry_ids, strict=True) if entry_id in found]


def ids_in_redis(buffer: KeyedDeclaration) -> set[str] | None:
    """The ids of all entries in Redis; None if there are many, or Redis cannot be asked."""

    def ask() -> dict[str, reads.Waiting]:
        keys = buffer.shard_keys()
        return reads.waiting(client(), dict.fromkeys(keys, ()), _MOST // len(keys))

    found = answer_or_none(lambda: divisions.asked(client(), ask))
    if found is None or any(len(each.ids) < each.count for each in found.values()):
        return None
    return {id for each in found.values() for id in each.ids}


def _are_moved(found: Mapping[str, reads.Look | reads.Waiting]) -> bool | None:
    """Whether a shard that answered is not in force any more; None if Redis cannot be asked."""
    closed = {key: answer.closed for key, answer in found.items() if answer.closed}
    return answer_or_none(lambda: divisions.are_moved(client(), closed))


def answer_or_none(ask: Callable[[], _Answer]) -> _Answer | None:
    """The answer; None if Redis cannot be asked."""
    if is_direct():
        return None
    try:
        return ask()
    except BufferUnavailable:
        return None


def _parts(asked: dict[str, dict[str, list[str]]]) -> Iterator[dict[str, dict[str, list[str]]]]:
    """Divide the ids, so that no call has too many of one shard."""
    while asked:
        more = {}
        for key, ids in asked.items():
            if len(ids) > ROWS:
                pairs = [*ids.items()]
                asked[key], more[key] = dict(pairs[:ROWS]), dict(pairs[ROWS:])
        yield asked
        asked = more


def _older(
    buffer: KeyedDeclaration, look: reads.Look, entry_id: str, row_ids: Sequence[str]
) -> dict[str, Older]:
    found = {}
    for id in row_ids:
        in_flight, pending = (
            entry if entry is not None and _is_about(buffer, entry, id) else None
            for entry in (look.in_flight.get(entry_id), look.pending.get(entry_id))
        )
        if in_flight or pending:
            found[id] = Older(look.number, look.token, in_flight, pending)
    return found


def _is_about(buffer: KeyedDeclaration, entry: Entry, row_id: str) -> bool:
    """Whether an entry of the row, or of its entity, changes the row or may change it."""
    if entry.broken or entry.id == row_id or any(e.deleted for e in (*entry.older, entry)):
        return True
    try:
        return row_id in buffer.row_ids(upgraded(buffer, entry))
    except REFUSALS:
        return True
