"""A meta buffer's declaration, worked out: entities, and the rows that their meta keys are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring as json_string
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError

from writebehind_app.buffers.columns import Column
from writebehind_app.buffers.layout import Layout, parts_of
from writebehind_app.buffers.operations import (
    DELETED,
    Operation,
    is_kept_operation,
    operation_texts,
)
from writebehind_app.buffers.refusals import REFUSALS, refusal, refuse_oversized, shown
from writebehind_app.buffers.versions import Texts, renewed, value_of
from writebehind_app.store.codec import APART, Entry

if TYPE_CHECKING:
    from writebehind_app.database.fences import Fences
    from writebehind_app.declaration import Declaration

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
        refuse_oversized(texts, lambda name: json.loads(name.lstrip("&").partition(":")[0]))
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
            raise TypeError(f"A meta key is a str, not {shown(key)}.")
        try:
            # A colon ends the key in the name of a merge.
            return self._name.encode(key).replace(":", "\\u003a")
        except ValidationError as error:
            raise ValidationError({key: error.error_list}) from None

    @property
    def _is_stamped(self) -> bool:
        return bool(self.rows.stamped or self.rows.stamped_once)

    # Entries and rows

    def row_entries(self, entry: Entry, stored: Rows | None = None) -> dict[str, Entry]:
        """What an entry of an entity comes to for each of its rows, by meta key: those it names,
        and those that are stored if all of them go."""
        texts: dict[str, dict[str, str]] = defaultdict(dict)
        times: dict[str, dict[str, str]] = defaultdict(dict)
        apart: dict[str, dict[str, str]] = defaultdict(dict)
        stamps = {}
        for name, text in entry.texts.items():
            if name[0] == "@":
                stamps[name[1:]] = text
                continue
            quoted, field = name, self._value.name
            if name[0] == "&":
                quoted, _, key = name[1:].partition(":")
                field = f"&{field}:{key}"
            texts[quoted][field] = text
            times[quoted][field] = entry.times.get(name, "")
            if name in entry.apart:
                apart[quoted][field] = entry.apart[name]
                times[quoted][APART + field] = entry.times[APART + name]
        if not stamps.keys() <= texts.keys():
            raise ValueError("it has times of meta keys that it does not write")
        named = {
            (key := json.loads(quoted)): self._row_entry(
                entry, key, found, times[quoted], stamps.get(quoted, "!"), apart[quoted]
            )
            for quoted, found in texts.items()
        }
        others = (stored or {}).keys() - named if entry.delete else ()
        return named | {key: self._deletion(entry, key) for key in others}

    def _row_entry(
        self,
        entry: Entry,
        key: str,
        texts: dict[str, str],
        times: dict[str, str],
        stamp: str,
        apart: dict[str, str],
    ) -> Entry:
        text = texts.get(self._value.name, "")
        deleted = text.startswith("!")
        if deleted:
            text = texts[self._value.name] = text[1:]
            if not text:
                del texts[self._value.name]
        # The entity may have been written to since, for another key.
        own = max((int(at) for at in times.values() if at), default=entry.at)
        born, at = (entry.since, own) if stamp == "!" else map(int, stamp.split())
        return entry._replace(
            id=self.row_id(entry.id, key),
            at=at,
            born=born,
            delete=entry.delete or deleted,
            gone=at if deleted and not texts else born if deleted else entry.gone,
            keep=bool(texts),
            relative=len(texts) > 1 or self._value.name not in texts or is_kept_operation(text),
            texts=texts,
            times=times,
            apart=apart,
        )

    def row_ids(self, id: str, texts: Iterable[str]) -> tuple[str, ...]:
        """The ids of the rows that the texts of an entity are for."""
        quoted = {name[1:].partition(":")[0] if name[0] == "&" else name for name in texts}
        return tuple(self.row_id(id, json.loads(q)) for q in quoted if q[0] != "@")

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
        id = self.row_id(entry.id, key)
        return entry._replace(id=id, delete=True, keep=False, relative=False, texts={})

    # Entries of another version

    def upgraded(self, buffer: Declaration, entry: Entry) -> Entry:
        """What `upgrade()` makes of an entry of an entity, by meta key."""
        given: dict[str, Texts] = {}
        quoted: dict[str | None, str] = {}
        gone: set[str | None] = set()  # the meta keys whose rows go
        for name, text in entry.texts.items():
            if name[0] == "@":
                continue
            own, _, suffix = name[1:].partition(":") if name[0] == "&" else (name, "", "")
            key = json.loads(own)
            quoted[key], texts = own, given.setdefault(key, {})
            if name[0] == "&":
                texts[f":{suffix}"] = text
                continue
            if text.startswith("!"):
                gone.add(key)
                text = text[1:]
            if text:
                texts[""] = text
        values = {key: value_of(texts) for key, texts in given.items()}
        fields = renewed(buffer, entry.version, given, values, lambda key: self._value)
        made = entry._replace(texts={}, times={}, apart={})
        for key, (texts, source, is_same) in fields.items():
            new, old = self._quoted(key), quoted.get(source, "")
            if source in gone or not texts:
                texts = {**texts, "": f"!{texts.get('', '')}"}
            for suffix, text in texts.items():
                name, before = ((f"&{q}{suffix}" if suffix else q) for q in (new, old))
                made.texts[name] = text
                made.times[name] = entry.times.get(before, f"{entry.at:016}")
            if f"@{old}" in entry.texts:
                made.texts[f"@{new}"] = entry.texts[f"@{old}"]
            if is_same and old in entry.apart:
                made.apart[new] = entry.apart[old]
                made.times[APART + new] = entry.times[APART + old]
        return made

    def whole(self, entry: Entry) -> Entry:
        """The entry of an entity that comes to this one of a row."""
        parts = [*parts_of(entry.id)]
        if len(parts) < len(self.rows.key):
            return entry
        quoted, value = parts.pop().replace(":", "\\u003a"), self._value.name

        def named(name: str) -> str:
            return quoted if name == value else f"&{quoted}{name.removeprefix(f'&{value}')}"

        texts = {named(name): text for name, text in entry.texts.items()}
        if entry.delete:
            texts[quoted] = f"!{texts.get(quoted, '')}"
        times = {named(name): at for name, at in entry.times.items() if name[0] != APART}
        if self._is_stamped:
            texts[f"@{quoted}"] = f"{entry.born} {entry.at}"
        id = ",".join(parts)
        return entry._replace(id=id, texts=texts, times=times, apart={}, delete=False, keep=True)

    def merge(self, entry: Entry, stored: Rows | None, fences: Fences) -> Rows | None:
        """The rows of an entity after the entry: changed in place; None where there are none."""
        try:
            of_rows = self.row_entries(entry, stored)
        except REFUSALS:  # somebody else wrote it to Redis, and it will not be stored
            return stored
        rows = stored or {}
        for key, row_entry in of_rows.items():
            try:
                left = fences.left_of(row_entry, rows.get(key))
            except REFUSALS:  # as above
                continue
            row = self.rows.merge(left, rows.get(key)) if left else rows.get(key)
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
