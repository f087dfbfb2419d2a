"""The layout of a meta buffer: an entity is one entry, and each of its meta keys is a row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from json.encoder import encode_basestring as json_string
from typing import Any

from django.core.exceptions import ValidationError

from writebehind_app.fields.columns import Column
from writebehind_app.fields.entry import Entry, merge_name
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.fold import described
from writebehind_app.fields.layout import Layout, key_texts
from writebehind_app.fields.limits import REFUSALS, excerpt, refusal, refuse_oversized
from writebehind_app.fields.operations import DELETED, Operation, operation_texts

Rows = dict[str, Any]  # the rows of one entity, by meta key


@dataclass(frozen=True, eq=False)
class EntityLayout:
    """How the entry of an entity is read and written, and how it becomes rows."""

    entity: Layout  # its key: the fields that name an entity
    rows: Layout  # its key: those fields and the meta key; its only column: the value

    @property
    def _name(self) -> Column:
        return self.rows.key[-1]

    @property
    def _value(self) -> Column:
        (value,) = self.rows.columns.values()
        return value

    # Values from the caller

    def encode(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The texts of values and operations, by the meta key as JSON."""
        texts: dict[str, str] = {}
        for key, value in values.items():
            quoted = self.name(key)
            try:
                if isinstance(value, Operation):
                    texts.update(self._operation(quoted, value))
                else:
                    texts[quoted] = self._value.encode(value)
            except REFUSALS as error:
                raise ValidationError({key: refusal(self._value.field, value, error)}) from error
        refuse_oversized(texts, lambda name: self.label(name.lstrip("&").partition(":")[0]))
        return texts

    def _operation(self, quoted: str, operation: Operation) -> Iterator[tuple[str, str]]:
        for name, text in operation_texts(self._value, operation).items():
            _, colon, key = name.partition(":")
            yield (merge_name(quoted, key) if colon else quoted), text

    # The names in an entry: meta keys as JSON

    is_entity = True

    def name(self, key: str) -> str:
        """The name in an entry for a meta key."""
        if not isinstance(key, str):
            raise TypeError(f"A meta key is a str, not {excerpt(key)}.")
        try:
            # A colon would end the key in the name of a merge.
            return self._name.encode(key).replace(":", "\\u003a")
        except ValidationError as error:
            raise ValidationError({key: error.error_list}) from None

    def label(self, name: str) -> str:
        """The meta key for a name in an entry."""
        key = json.loads(name)
        if not isinstance(key, str):
            raise ValueError(f"{name[:100]!r} is no meta key")
        return key

    def column(self, label: str) -> Column:
        return self._value

    @cached_property
    def is_stamped(self) -> bool:
        """Whether rows have fields with the time when they were created or last written."""
        return bool(self.rows.stamped or self.rows.stamped_once)

    # Entries and rows

    def row_entries(self, entry: Entry, stored: Rows | None = None) -> dict[str, Entry]:
        """Split the entry of an entity into entries of its rows, by meta key.

        If the entry deletes the whole entity, the stored rows get one too.
        """
        value = self._value.name
        found: dict[str, Entry] = {}
        if not entry.firsts.keys() <= entry.names():
            raise ValueError("it has times of meta keys that it does not write")
        for name in entry.names():
            key = self.label(name)
            text, segments = entry.values.get(name), entry.operations.get(name, ())
            last = entry.number_of(name)
            tombstone = entry.tombstones.get(name, 0)
            found[key] = entry._replace(
                id=self.row_id(entry.id, key),
                first=entry.firsts.get(name, entry.first),
                last=last or tombstone,
                deleted=max(entry.deleted, tombstone),
                values={value: text} if text else {},
                operations={value: segments} if segments else {},
                merges={value: entry.merges[name]} if name in entry.merges else {},
                tombstones={},
                firsts={},
            )
        if entry.deleted:
            for key in (stored or {}).keys() - found:
                found[key] = self._deletion(entry, key)
        return found

    def row_ids(self, id: str, names: Iterable[str]) -> tuple[str, ...]:
        """The ids of the rows for these names in the entry of an entity."""
        return tuple(self.row_id(id, self.label(name)) for name in names)

    def row_id(self, id: str, key: str) -> str:
        """The id of the row of one meta key."""
        return f"{id},{json_string(key)}"

    def entity_id(self, row_id: str) -> str:
        """The id of the entity of a row."""
        try:
            return ",".join([*key_texts(row_id)][:-1])
        except (ValueError, RecursionError):  # not written by the package
            return row_id

    def _deletion(self, entry: Entry, key: str) -> Entry:
        """The entry of a row that is deleted with its entity."""
        return entry._replace(
            id=self.row_id(entry.id, key),
            last=entry.deleted,
            values={},
            operations={},
            merges={},
            tombstones={},
            firsts={},
        )

    def whole(self, entry: Entry) -> Entry:
        """The entry of an entity for the entry of one of its rows: the reverse of `row_entries`."""
        parts = [*key_texts(entry.id)]
        if len(parts) < len(self.rows.key):
            return entry
        name = parts.pop().replace(":", "\\u003a")

        def named(of: dict[str, Any]) -> dict[str, Any]:
            return dict.fromkeys([name] if of else [], next(iter(of.values()), None))

        return entry._replace(
            id=",".join(parts),
            deleted=0,
            values=named(entry.values),
            operations=named(entry.operations),
            merges=named(entry.merges),
            tombstones={name: entry.deleted} if entry.deleted else {},
            firsts={name: entry.first},
        )

    def read(
        self, entry: Entry, stored: Rows | None, fence_of: Callable[[str], Fence | None]
    ) -> Rows | None:
        """The rows of an entity after the entry, for a reader; None if there are none.

        `stored` is changed in place.
        """
        try:
            of_rows = self.row_entries(entry, stored)
        except REFUSALS:  # not written by the package: the flush will refuse it
            return stored
        rows = stored or {}
        for key, row_entry in of_rows.items():
            try:
                row = self.rows.read(row_entry, rows.get(key), fence_of(row_entry.id))
            except REFUSALS:  # the same
                continue
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
        return rows or None

    def values(self, rows: Rows | None) -> dict[str, Any]:
        """The value of each meta key."""
        return {key: getattr(row, self._value.attname) for key, row in (rows or {}).items()}

    def described(self, entry: Entry) -> dict[str, Any]:
        """The values, operations or DELETED that an entry writes, by meta key."""
        return {
            key: described(self.rows, row_entry)[self._value.name] if row_entry.exists else DELETED
            for key, row_entry in self.row_entries(entry).items()
        }

    def by_key(self, rows: Sequence[Any]) -> Rows:
        """The rows of one entity, by meta key."""
        return {getattr(row, self._name.attname): row for row in rows}
