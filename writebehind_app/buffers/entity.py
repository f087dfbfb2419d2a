"""A meta buffer's declaration, worked out: entities, and the rows that their meta keys are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring as json_string
from typing import Any

from django.core.exceptions import ValidationError

from writebehind_app.buffers.columns import Column
from writebehind_app.buffers.layout import Layout, parts_of
from writebehind_app.buffers.operations import Operation, is_kept_operation, operation_texts
from writebehind_app.buffers.refusals import REFUSALS, refusal
from writebehind_app.store.codec import Entry

Rows = dict[str, Any]  # of one entity, by meta key


class _Deleted:
    def __repr__(self) -> str:
        return "DELETED"


DELETED = _Deleted()  # in place of the value of a meta key that is deleted


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

    def texts(self, values: Mapping[str, Any]) -> dict[str, str]:
        """What goes to Redis for values, or operations, by meta key; see scripts/write.lua."""
        texts: dict[str, str] = {}
        for key, value in values.items():
            quoted = self._quoted(key)
            try:
                if isinstance(value, Operation):
                    texts.update(self._operation(quoted, value))
                else:
                    texts[quoted] = self._value.encode(value)
            except REFUSALS as error:
                raise ValidationError({key: refusal(self._value.field, value, error)}) from error
            if self._is_stamped:
                texts[f"@{quoted}"] = "^"
        return texts

    def deletions(self, keys: Iterable[str]) -> dict[str, str]:
        """What goes to Redis to delete meta keys."""
        texts = {}
        for quoted in map(self._quoted, keys):
            texts[quoted] = "!"
            if self._is_stamped:
                texts[f"@{quoted}"] = "!"
        return texts

    def _operation(self, quoted: str, operation: Operation) -> Iterator[tuple[str, str]]:
        for name, text in operation_texts(self._value, operation, self.rows.using).items():
            _, colon, key = name.partition(":")
            yield (f"&{quoted}:{key}" if colon else quoted), text

    def _quoted(self, key: str) -> str:
        if not isinstance(key, str):
            raise TypeError(f"A meta key is a str, not {key!r}.")
        try:
            # A colon ends the key in the name of a merge.
            return self._name.encode(key).replace(":", "\\u003a")
        except ValidationError as error:
            raise ValidationError({key: error.error_list}) from None

    @property
    def _is_stamped(self) -> bool:
        return bool(self.rows.stamped or self.rows.stamped_once)

    # Entries and rows

    def row_entries(self, entry: Entry) -> dict[str, Entry]:
        """What an entry of an entity comes to for each of its rows, by meta key."""
        texts: dict[str, dict[str, str]] = defaultdict(dict)
        stamps = {}
        for name, text in entry.texts.items():
            if name[0] == "@":
                stamps[name[1:]] = text
            elif name[0] == "&":
                quoted, _, key = name[1:].partition(":")
                texts[quoted][f"&{self._value.name}:{key}"] = text
            else:
                texts[name][self._value.name] = text
        return {
            (key := json.loads(quoted)): self._row_entry(entry, key, found, stamps.get(quoted, "!"))
            for quoted, found in texts.items()
        }

    def _row_entry(self, entry: Entry, key: str, texts: dict[str, str], stamp: str) -> Entry:
        text = texts.get(self._value.name, "")
        deleted = text.startswith("!")
        if deleted:
            text = texts[self._value.name] = text[1:]
            if not text:
                del texts[self._value.name]
        born, at = (entry.since, entry.at) if stamp == "!" else map(int, stamp.split())
        return entry._replace(
            id=f"{entry.id},{json_string(key)}",
            at=at,
            born=born,
            delete=entry.delete or deleted,
            keep=bool(texts),
            relative=len(texts) > 1 or self._value.name not in texts or is_kept_operation(text),
            texts=texts,
        )

    def row_ids(self, id: str, texts: Iterable[str]) -> tuple[str, ...]:
        """The ids of the rows that the texts of an entity are for."""
        quoted = {name[1:].partition(":")[0] if name[0] == "&" else name for name in texts}
        return tuple(f"{id},{json_string(json.loads(q))}" for q in quoted if q[0] != "@")

    def entity_id(self, row_id: str) -> str:
        """The id of the entity that a row belongs to."""
        try:
            return ",".join([*parts_of(row_id)][:-1])
        except ValueError:  # somebody else wrote it to Redis
            return row_id

    def deletion(self, entry: Entry, key: str) -> Entry:
        """Of a row that goes with its entity."""
        id = f"{entry.id},{json_string(key)}"
        return entry._replace(id=id, delete=True, keep=False, relative=False, texts={})

    def merge(self, entry: Entry, stored: Rows | None) -> Rows | None:
        """The rows of an entity after the entry: changed in place; None where there are none."""
        rows = stored if stored and not entry.delete else {}
        for key, row_entry in self.row_entries(entry).items():
            row = self.rows.merge(row_entry, rows.get(key))
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
            key: self.rows.values(row_entry)[self._value.name] if row_entry.keep else DELETED
            for key, row_entry in self.row_entries(entry).items()
        }

    def by_key(self, rows: Sequence[Any]) -> Rows:
        """Rows of one entity by their meta key."""
        return {getattr(row, self._name.attname): row for row in rows}
