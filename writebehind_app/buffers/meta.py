"""The meta buffer: one entry for each entity, whose meta keys are rows of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack

from django.core import checks
from django.db import models

from writebehind_app.buffers.base import asynchronous
from writebehind_app.buffers.coalescing import CoalescingBuffer
from writebehind_app.buffers.metadata import Metadata
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.database.lookup import rows_by_entity
from writebehind_app.declaration_checks import (
    error,
    left_out,
    named_fields,
    names_a_row,
    supported,
)
from writebehind_app.fields.entity import EntityLayout, Rows
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.layout import Layout, key_texts, layout, may_be_written
from writebehind_app.fields.limits import REFUSALS, as_dict, as_pair
from writebehind_app.fields.versions import Names
from writebehind_app.fields.writes import Write
from writebehind_app.options import Options


class MetaBuffer(CoalescingBuffer):
    """Buffers free metadata: a model with one row for each (entity, meta key).

    `entity` is the field, or the fields, that name what the metadata belongs to. `name` is the
    field of the meta key, and `value` that of its value. Entity and name together carry a unique
    constraint. `cache_seconds` says for how long reads may be answered from a copy of the stored
    rows in Redis.
    """

    def __init__(
        self,
        *,
        entity: str | Iterable[str],
        name: str,
        value: str,
        cache_seconds: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        if cache_seconds is not None:
            self.options["CACHE_SECONDS"] = cache_seconds
        self.entity = (entity,) if isinstance(entity, str) else tuple(entity)
        self.name_field = name
        self.value_field = value

    def entity_layout(self) -> EntityLayout:
        using = self.using()
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

    # Checking

    def check_fields(self) -> Iterator[checks.CheckMessage]:
        entity = yield from named_fields(self, self.entity, "entity")
        name = yield from named_fields(self, [self.name_field], "name")
        value = yield from named_fields(self, [self.value_field], "value")
        if not self.entity:
            yield error(15, "The entity is empty.", "Name the fields that name an entity.", self)
        if not (entity and name and value and len(entity) == len(self.entity)):
            return
        key = [*entity, *name]
        yield from names_a_row(self, key, "entity and name")
        if not isinstance(name[0], models.CharField | models.TextField):
            kind = type(name[0]).__name__
            yield error(
                19,
                f"The field {name[0].name!r} of the meta key is a {kind}.",
                "A meta key is text: make it a CharField.",
                self,
            )
        if value[0] in key or value[0].primary_key or not may_be_written(value[0]):
            yield error(
                16,
                f"The field {value[0].name!r} cannot take the value of a meta key.",
                "Name a field in `value` that is neither part of the key nor set by itself.",
                self,
            )
        yield from supported(self, [*key, *value], "Choose another field.", takes_names=False)
        yield from left_out(self, [*key, *value], "Give it a default, or let it be NULL.")

    # Verbs

    def of(self, /, **entity: Any) -> Metadata:
        """Return the metadata of an entity: a mapping that goes through the buffer."""
        return Metadata(self, self._id(entity))

    def get_many(self, entities: Iterable[Any]) -> dict[Any, dict[str, Any]]:
        """Return the metadata of entities, by the entities as they were given.

        An entity of one field is given as its value; of several, as a tuple in the order of the
        declaration. An entity without metadata has an empty dict.
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

    def stored(
        self, ids: Sequence[str], *, lock: bool = False, nowait: bool = False
    ) -> dict[str, Rows]:
        layout = self.entity_layout()
        found = rows_by_entity(layout.entity, ids, lock=lock, nowait=nowait)
        return {id: layout.by_key(rows) for id, rows in found.items()}

    def gathered(self, rows: Sequence[Any]) -> Rows | None:
        return self.entity_layout().by_key(rows) if rows else None

    def rows_in(self, stored: dict[str, Rows]) -> dict[str, Any]:
        row_id = self.entity_layout().row_id
        return {row_id(id, key): row for id, rows in stored.items() for key, row in rows.items()}

    def merged(
        self, entry: Entry, stored: Rows | None, fence_of: Callable[[str], Fence | None]
    ) -> Rows | None:
        return self.entity_layout().read(entry, stored, fence_of)

    def fenced_row(self, id: str) -> str:
        return self.entity_layout().row_id(id, "")

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
        # All rows of a deleted entity go, also those that no write has named.
        stored = self.stored([entry.id for entry in entries if entry.deleted])
        return [
            row_entry
            for entry in entries
            for row_entry in layout.row_entries(entry, stored.get(entry.id)).values()
        ]

    def entry_id(self, row_id: str) -> str:
        return self.entity_layout().entity_id(row_id)

    def refused_fields(self, entry: Entry, names: Iterable[str]) -> Iterable[str]:
        return [json.loads(text) for text in list(key_texts(entry.id))[-1:]]
