"""The meta buffer: one entry for each entity, whose meta keys are rows of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import (
    Callable,
    Coroutine,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    Sequence,
    ValuesView,
)
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.db import router

from writebehind_app.buffers.base import PendingEntry, asynchronous
from writebehind_app.buffers.coalescing import CoalescingBuffer
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.database.keyed import rows_by_entity
from writebehind_app.fields.entity import EntityLayout, Rows
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.layout import Layout, layout, parts_of
from writebehind_app.fields.limits import REFUSALS, as_dict, as_pair
from writebehind_app.fields.versions import Names
from writebehind_app.fields.writes import Write

if TYPE_CHECKING:
    from writebehind_app.flush.engine import FlushResult


class MetaBuffer(CoalescingBuffer):
    """Buffers free metadata: a model with one row for each (entity, meta key).

    `entity` is the field, or the fields, that name what the metadata belongs to; `name` is the
    field of the meta key and `value` that of its value. Entity and name together carry a unique
    constraint.
    """

    def __init__(
        self, *, entity: str | Iterable[str], name: str, value: str, **options: Any
    ) -> None:
        super().__init__(**options)
        self.entity = (entity,) if isinstance(entity, str) else tuple(entity)
        self.name_field = name
        self.value_field = value

    def entity_layout(self) -> EntityLayout:
        using = router.db_for_write(self.model)
        if using not in self._layouts:
            key, value = (*self.entity, self.name_field), [self.value_field]
            self._layouts[using] = EntityLayout(
                layout(self.model, using, key=self.entity, fields=(), insert=True),
                layout(self.model, using, key=key, fields=value, insert=True),
            )
        found: EntityLayout = self._layouts[using]
        return found

    def layout(self) -> Layout:
        return self.entity_layout().rows

    def key_layout(self) -> Layout:
        return self.entity_layout().entity

    def secret_names(self, key: Mapping[str, Any]) -> set[str]:
        value = {self.value_field} if key.get(self.name_field) in self.sensitive else set()
        return super().secret_names(key) | value

    # Verbs

    def of(self, /, **entity: Any) -> Metadata:
        """The metadata of an entity: a mapping that reads and writes through the buffer."""
        return Metadata(self, self._id(entity))

    def get_many(self, entities: Iterable[Any]) -> dict[Any, dict[str, Any]]:
        """The metadata of entities, by the entities as they were given.

        An entity of one field is its value; of several, a tuple in the order of the declaration.
        One without metadata has an empty dict.
        """
        ids = {entity: self._id(self._key(entity)) for entity in entities}
        rows = self._rows(list(dict.fromkeys(ids.values())))
        values = self.entity_layout().values
        return {entity: values(rows.get(id)) for entity, id in ids.items()}

    def update_many(
        self,
        updates: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
        *,
        once: str | None = None,
    ) -> list[Receipt]:
        """Write `(entity, values)` pairs in order and in few round trips. Of calls with the same
        text as `once`, one is carried out.

        All are checked before the first is sent.
        """
        pairs = [as_pair(update) for update in updates]
        writes = [self._checked(self._id(as_dict(e)), values) for e, values in pairs]
        return self._write(writes, once)

    def _checked(self, id: str, values: Mapping[str, Any]) -> Write:
        return Write(id, self.entity_layout().encode(self._cleaned(values)))

    def rows_of(self, write: Write) -> tuple[str, ...]:
        return self.entity_layout().row_ids(write.id, write.fields())

    aget_many = asynchronous(get_many)
    aupdate_many = asynchronous(update_many)

    # What is stored, and what entries make of it

    def stored(self, ids: Sequence[str], *, lock: bool = False) -> dict[str, Rows]:
        layout = self.entity_layout()
        found = rows_by_entity(layout.entity, ids, lock=lock)
        return {id: layout.by_key(rows) for id, rows in found.items()}

    def rows_in(self, stored: dict[str, Rows]) -> dict[str, Any]:
        row_id = self.entity_layout().row_id
        return {row_id(id, key): row for id, rows in stored.items() for key, row in rows.items()}

    def every_row(self, found: Rows) -> list[Any]:
        return [*found.values()]

    def of_rows(self, rows: Sequence[Any]) -> Rows:
        return self.entity_layout().by_key(rows)

    def merged(
        self, entry: Entry, stored: Rows | None, fence_of: Callable[[str], Fence | None]
    ) -> Rows | None:
        return self.entity_layout().read(entry, stored, fence_of)

    def row_ids(self, entry: Entry) -> Sequence[str]:
        try:
            return self.entity_layout().row_ids(entry.id, entry.names())
        except REFUSALS:  # somebody else wrote it to Redis, and it will not be stored
            return ()

    def described(self, entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
        layout = self.entity_layout()
        return layout.entity.key_of(entry.id), layout.described(entry)

    def names(self) -> Names:
        return self.entity_layout()

    def whole(self, entry: Entry) -> Entry:
        return self.entity_layout().whole(entry)

    def row_entries(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        layout = self.entity_layout()
        # All rows of an entity that was deleted go, also those that no write has named.
        stored = self.stored([entry.id for entry in entries if entry.deleted])
        return [
            row_entry
            for entry in entries
            for row_entry in layout.row_entries(entry, stored.get(entry.id)).values()
        ]

    def place_of(self, write: Write, name: str) -> tuple[str, str]:
        (row_id,) = self.entity_layout().row_ids(write.id, [name])
        return row_id, self.value_field

    def entry_id(self, row_id: str) -> str:
        return self.entity_layout().entity_id(row_id)

    def field_of(self, name: str) -> str:
        key: str = json.loads(name)
        return key

    def refused_fields(self, entry: Entry, names: Iterable[str]) -> Iterable[str]:
        return [self.field_of(text) for text in list(parts_of(entry.id))[-1:]]


def _place() -> tuple[object, int]:
    """Where the caller of the caller is."""
    frame = sys._getframe(2)
    return frame.f_code, frame.f_lasti


_NONE_GIVEN: Any = object()


class Metadata(MutableMapping[str, Any]):
    """The metadata of one entity. Each reading call sees every accepted write, and each writing
    call is one round trip; `items()`, `values()` and `dict(…)` read all keys at once."""

    def __init__(self, buffer: MetaBuffer, id: str) -> None:
        self._buffer = buffer
        self._id = id
        self._moment: tuple[object, dict[str, Any]] = (
            None,
            {},
        )  # where keys() was called, what it saw

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._buffer.label} ({self._id})>"

    # Reading

    def _read(self) -> dict[str, Any]:
        rows = self._buffer._rows([self._id]).get(self._id)
        return self._buffer.entity_layout().values(rows)

    def __getitem__(self, key: str) -> Any:
        # dict(mapping) and {**mapping} call keys(), then ask for the value of each. Calls that come
        # from one and the same instruction are such, and are answered as of one moment.
        place, values = self._moment
        return values[key] if place == _place() and key in values else self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def keys(self) -> KeysView[str]:
        self._moment = _place(), self._read()
        return self._moment[1].keys()

    def items(self) -> ItemsView[str, Any]:
        return self._read().items()

    def values(self) -> ValuesView[Any]:
        return self._read().values()

    # Writing

    def update(  # type: ignore[override]
        self, values: Any = (), /, *, once: str | None = None, **more: Any
    ) -> Receipt:
        """Write many meta keys in one step: values, or operations on what is there. Of calls with
        the same text as `once`, one is carried out; a meta key of that name goes into the
        mapping."""
        return self._write(self._buffer._checked(self._id, {**as_dict(values), **more}), once)

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value of a meta key, which is the default from now on where there was none. All who
        call it at once get the same."""
        values: dict[str, Any] = {}

        def write_for(rows: Rows | None) -> Write | None:
            nonlocal values
            values = {key: default} | self._buffer.entity_layout().values(rows)
            absent = key not in (rows or {})
            return self._buffer._checked(self._id, {key: default}) if absent else None

        self._buffer._write_if(self._id, write_for)
        return values[key]

    def pop(self, key: str, default: Any = _NONE_GIVEN) -> Any:
        """Delete a meta key and return its value, or the default where it is not there. Of all who
        call it at once, one gets the value."""
        layout = self._buffer.entity_layout()
        value: Any = None

        def write_for(rows: Rows | None) -> Write | None:
            nonlocal value
            value = layout.values(rows).get(key)
            return Write(self._id, {layout.name(key): "!"}) if key in (rows or {}) else None

        def answer(rows: Rows | None) -> Any:
            return layout.values(rows).get(key)

        if self._buffer._write_if(self._id, write_for, answer=answer):
            return value
        if default is _NONE_GIVEN:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[str, Any]:
        """Delete some meta key, and return it with its value; of all who call it at once, one gets
        it."""
        for key in self:
            with suppress(KeyError):  # somebody else had it
                return key, self.pop(key)
        raise KeyError("There is no metadata.")

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def clear(self, *, once: str | None = None) -> None:
        """Delete all there is of the entity."""
        self._write(Write(self._id, {}, delete="1"), once)

    def _write(self, write: Write, once: str | None = None) -> Receipt:
        return self._buffer._write_one(self._buffer.plan(), write, once)

    # Acting

    def pending(self) -> list[PendingEntry]:
        """What is not in the database yet: an entry in flight, one that waits, both or none."""
        return self._buffer._pending_of(self._id)

    def flush(self) -> FlushResult:
        """Bring what is pending to the database, and return when it is there."""
        return self._buffer._flush([self._id])

    def discard(self) -> int:
        """Throw away what is pending, unless a flusher is at it; says how many entries went."""
        return self._buffer._discard([self._id])

    def asks_redis_alone(self) -> bool:
        return self._buffer.asks_redis_alone()

    async def _aupdate(self, values: Any = (), /, *, once: None = None, **more: Any) -> Receipt:
        buffer = self._buffer
        write = buffer._checked(self._id, {**as_dict(values), **more})
        return await buffer._awrite_one(buffer.plan(), write)

    aget: Callable[..., Coroutine[Any, Any, Any]] = asynchronous(MutableMapping.get)
    aitems = asynchronous(items)
    aupdate = asynchronous(update, _aupdate)
    apop = asynchronous(pop)
    asetdefault = asynchronous(setdefault)
    aclear = asynchronous(clear)
    apending = asynchronous(pending)
    aflush = asynchronous(flush)
    adiscard = asynchronous(discard)
