"""A meta buffer's declaration, worked out: entities, and the rows that their meta keys are."""

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
from writebehind_app.fields.layout import Layout, parts_of
from writebehind_app.fields.limits import REFUSALS, refusal, refuse_oversized
from writebehind_app.fields.limits import shown as shown_value
from writebehind_app.fields.operations import DELETED, Operation, operation_texts

Rows = dict[str, Any]  # of one entity, by meta key


@dataclass(frozen=True, eq=False)
class EntityLayout:
    """How an entity is named, and how its meta keys are rows."""

    entity: Layout  # has the fields that name an entity, and no others
    rows: Layout  # has those and the meta key for its key, and the value

    @property
    def _name(self) -> Column:
        return self.rows.key[-1]

    @property
    def _value(self) -> Column:
        (value,) = self.rows.columns.values()
        return value

    # What a caller gives

    def encode(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The texts of values, or operations, by meta key in JSON."""
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
        refuse_oversized(texts, lambda name: self.shown(name.lstrip("&").partition(":")[0]))
        return texts

    def _operation(self, quoted: str, operation: Operation) -> Iterator[tuple[str, str]]:
        for name, text in operation_texts(self._value, operation).items():
            _, colon, key = name.partition(":")
            yield (merge_name(quoted, key) if colon else quoted), text

    # The names of an entry: meta keys in JSON

    is_entity = True

    def name(self, shown: str) -> str:
        """A meta key as an entry has it."""
        if not isinstance(shown, str):
            raise TypeError(f"A meta key is a str, not {shown_value(shown)}.")
        try:
            # A colon ends the key in the name of a merge.
            return self._name.encode(shown).replace(":", "\\u003a")
        except ValidationError as error:
            raise ValidationError({shown: error.error_list}) from None

    def shown(self, name: str) -> str:
        """The meta key of a name."""
        key = json.loads(name)
        if not isinstance(key, str):
            raise ValueError(f"{name[:100]!r} is no meta key")
        return key

    def column(self, shown: str) -> Column:
        return self._value

    @cached_property
    def is_stamped(self) -> bool:
        """Whether rows have a time at which they came to be, or were written."""
        return bool(self.rows.stamped or self.rows.stamped_once)

    # Entries and rows

    def row_entries(self, entry: Entry, stored: Rows | None = None) -> dict[str, Entry]:
        """What an entry of an entity comes to for each of its rows, by meta key: those it names,
        and those that are stored if all of them go."""
        value = self._value.name
        found: dict[str, Entry] = {}
        if not entry.firsts.keys() <= entry.names():
            raise ValueError("it has times of meta keys that it does not write")
        for name in entry.names():
            key = self.shown(name)
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
                apart={value: entry.apart[name]} if name in entry.apart else {},
                tombstones={},
                firsts={},
            )
        if entry.deleted:
            for key in (stored or {}).keys() - found:
                found[key] = self._deletion(entry, key)
        return found

    def row_ids(self, id: str, names: Iterable[str]) -> tuple[str, ...]:
        """The ids of the rows that names in the entry of an entity are for."""
        return tuple(self.row_id(id, self.shown(name)) for name in names)

    def row_id(self, id: str, key: str) -> str:
        """The id of the row of a meta key of an entity."""
        return f"{id},{json_string(key)}"

    def entity_id(self, row_id: str) -> str:
        """The id of the entity that a row belongs to."""
        try:
            return ",".join([*parts_of(row_id)][:-1])
        except (ValueError, RecursionError):  # somebody else wrote it to Redis
            return row_id

    def _deletion(self, entry: Entry, key: str) -> Entry:
        """Of a row that goes with its entity."""
        return entry._replace(
            id=self.row_id(entry.id, key),
            last=entry.deleted,
            values={},
            operations={},
            merges={},
            apart={},
            tombstones={},
            firsts={},
        )

    def whole(self, entry: Entry) -> Entry:
        """The entry of an entity that comes to this one of a row."""
        parts = [*parts_of(entry.id)]
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
            apart={},
            tombstones={name: entry.deleted} if entry.deleted else {},
            firsts={name: entry.first},
        )

    def read(
        self, entry: Entry, stored: Rows | None, fence_of: Callable[[str], Fence | None]
    ) -> Rows | None:
        """The rows of an entity after the entry, for who reads: changed in place; None for none."""
        try:
            of_rows = self.row_entries(entry, stored)
        except REFUSALS:  # somebody else wrote it to Redis, and it will not be stored
            return stored
        rows = stored or {}
        for key, row_entry in of_rows.items():
            try:
                row = self.rows.read(row_entry, rows.get(key), fence_of(row_entry.id))
            except REFUSALS:  # as above
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
        """What an entry writes, by meta key: values, operations, DELETED."""
        return {
            key: described(self.rows, row_entry)[self._value.name] if row_entry.exists else DELETED
            for key, row_entry in self.row_entries(entry).items()
        }

    def by_key(self, rows: Sequence[Any]) -> Rows:
        """Rows of one entity by their meta key."""
        return {getattr(row, self._name.attname): row for row in rows}
