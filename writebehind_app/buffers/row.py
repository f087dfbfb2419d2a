"""The row buffer: one entry for each row, named by the fields of its key."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Generic, Unpack

from asgiref.sync import sync_to_async
from django.core import checks
from django.core.exceptions import ValidationError
from django.db import models

from writebehind_app.buffers import expiry, flush_when, outbox, reading
from writebehind_app.buffers.base import Owner, Row, asynchronous
from writebehind_app.buffers.coalescing import CoalescingBuffer
from writebehind_app.buffers.fallback import with_fallback
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.database.lookup import rows_by_id
from writebehind_app.declaration_checks import (
    error,
    left_out,
    named_fields,
    names_a_row,
    sets_itself,
    supported,
)
from writebehind_app.exceptions import AlreadyExists
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.fold import described
from writebehind_app.fields.layout import Layout, layout, may_be_written
from writebehind_app.fields.limits import as_dict, excerpt
from writebehind_app.fields.versions import Names, RowNames
from writebehind_app.fields.writes import Write
from writebehind_app.options import Options


class RowBuffer(CoalescingBuffer, Generic[Row]):
    """Buffers writes to the rows of a model.

    `key` names a row: a field, several, or "pk"; they carry a unique constraint. `fields` are
    those that may be written: by default all that are not in the key, not the primary key, and
    do not set themselves. `on_missing` says what becomes of a write to a missing row: "insert"
    makes the row, "discard" drops the write (the default if the key is the primary key).
    `expires` names the field with the time from which the next flush removes a stored row.
    `flush_when` takes a row after a write to the field that it reads first, and says whether to
    flush the entry at once. `cache_seconds` says for how long reads may be answered from a copy
    of the stored row in Redis.
    """

    def __init__(
        self,
        *,
        key: str | Iterable[str],
        fields: str | Iterable[str] | None = None,
        on_missing: str | None = None,
        expires: str | None = None,
        flush_when: Callable[[Any], bool] | None = None,
        cache_seconds: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        if cache_seconds is not None:
            self.options["CACHE_SECONDS"] = cache_seconds
        self.key = (key,) if isinstance(key, str) else tuple(key)
        names = (fields,) if isinstance(fields, str) else fields
        self.fields = None if names is None else tuple(names)
        self.on_missing = on_missing or ("discard" if self.key == ("pk",) else "insert")
        self.expires = expires
        self.flush_when = flush_when

    def layout(self) -> Layout:
        """The declaration, worked out for the database that the rows are written to."""
        using = self.using()
        if using not in self._layouts:
            self._layouts[using] = layout(
                self.model,
                using,
                key=self.key,
                fields=self.fields,
                insert=self.on_missing == "insert",
            )
        found: Layout = self._layouts[using]
        return found

    key_layout = layout

    if TYPE_CHECKING:  # `Ticket.buffered` is a `RowBuffer[Ticket]`

        def __get__(  # type: ignore[override]
            self, instance: models.Model | None, owner: type[Owner]
        ) -> RowBuffer[Owner]: ...

    # Checking

    def check_fields(self) -> Iterator[checks.CheckMessage]:
        if self.on_missing not in ("insert", "discard"):
            yield error(
                13,
                f"on_missing is {self.on_missing!r}.",
                "Set it to 'insert' or 'discard'.",
                self,
            )
        yield from named_fields(self, self.sensitive, "sensitive")
        key = yield from named_fields(self, self.key, "key")
        named = written = yield from named_fields(self, self.fields or (), "fields")
        if not self.key:
            yield error(15, "The key is empty.", "Name the fields that name a row.", self)
        if key and len(key) == len(self.key):
            yield from names_a_row(self, key, "key")
        for field in written:
            if field.primary_key or field in key:
                yield error(
                    16,
                    f"The field {field.name!r} names the row and is among the written ones.",
                    f"Leave {field.name!r} out of `fields`.",
                    self,
                )
            elif sets_itself(field):
                yield error(
                    17,
                    f"The field {field.name!r} sets itself and is among the written ones.",
                    f"Leave {field.name!r} out of `fields`; it gets the time of the write.",
                    self,
                )
        if self.flush_when is not None and not callable(self.flush_when):
            yield error(
                22,
                f"flush_when is {self.flush_when!r}.",
                "Set it to a function that takes a row and says whether to flush it at once.",
                self,
            )
        yield from expiry.check(self)
        if self.fields is None:
            written = [f for f in self.model._meta.concrete_fields if may_be_written(f)]
        yield from supported(self, key, "Choose another key.")
        others = [field for field in written if field not in key]
        hint = "Name the fields to be written in `fields`, without this one."
        yield from supported(self, others, hint)
        if self.on_missing == "insert" and len(named) == len(self.fields or ()):
            hint = (
                "Name it in `fields`, give it a default, let it be NULL; or set "
                "on_missing='discard', if all rows are there."
            )
            yield from left_out(self, [*key, *written], hint)

    # Writing

    # Of calls with the same text as `once`, one is carried out; see once.py.

    def set(self, /, *, once: str | None = None, **values: Any) -> Receipt:
        """Write fields of the row that the key fields name: values, or operations on what is
        there, such as `Add(1)`. Returns the receipt.

        If there is no such row, it is made or not, as `on_missing` says.
        """
        plan = self.plan()
        write = Write(*plan.layout.split(self._cleaned(values)))
        return self._write_one(plan, write, once)

    def set_many(
        self, rows: Iterable[Mapping[str, Any] | models.Model], *, once: str | None = None
    ) -> list[Receipt]:
        """Write many rows in few round trips. Return the receipts, in the order of the rows.

        An instance is written with all its loaded fields.

        All are checked before the first is sent. The rows of a shard go two hundred at a time, and
        each two hundred are taken all or not at all. If some are not taken, the others are, and
        then the error is raised.
        """
        return self._write(self._checked_many(rows), once)

    def save(
        self,
        row: Row,
        update_fields: Iterable[str] | None = None,
        *,
        once: str | None = None,
    ) -> Receipt:
        """Write an instance as its own save() would, through the buffer: all its buffered fields
        that were loaded, or the named ones. `on_missing` says whether a missing row is made. No
        signal is sent."""
        write = self._instance(row, update_fields)
        if update_fields is not None and not write.texts:
            return Receipt("", write.id, 0)
        return self._write_one(self.plan(), write, once)

    def create(self, /, *, once: str | None = None, **values: Any) -> Receipt:
        """Write a new row. `AlreadyExists` if there is one, pending or stored. The buffer must have
        on_missing="insert"."""
        if not self.layout().insert:
            raise TypeError(
                f'{self} has on_missing="discard": it makes no rows. Declare on_missing="insert", '
                "or create the row through the ORM."
            )
        write = self._checked(values)
        self.layout().refuse_incomplete(write.texts)
        taken = AlreadyExists(f"{self.label} with the key ({write.id}) exists already.")
        receipt = self._write_if(
            write.id,
            lambda row: write if row is None else None,
            whole=True,
            once=once,
            overtaken=taken,
        )
        if receipt is None:
            raise taken
        return receipt

    def set_if(
        self,
        expected: Mapping[str, Any] | Callable[[Any], bool],
        /,
        *,
        once: str | None = None,
        **values: Any,
    ) -> bool:
        """Write to the row only if it is there and as expected. Return whether it was written. No
        other write comes in between.

        `expected` is a dict of values of fields, or a function that returns whether a row is as
        expected.
        """
        layout = self.layout()
        write = self._checked(values)
        if callable(expected):
            is_expected = expected
        else:
            wanted = layout.expected(as_dict(expected))

            def is_expected(row: Any) -> bool:
                return layout.is_as_expected(row, wanted)

        def write_for(row: Any | None) -> Write | None:
            return write if row is not None and is_expected(row) else None

        return self._write_if(write.id, write_for, once=once) is not None

    def delete(self, /, *, once: str | None = None, **key: Any) -> Receipt:
        """Delete the row, with what its deletion cascades to, when it is flushed. Reads do not show
        it any more. If there is no such row, nothing is deleted."""
        return self._write_one(self.plan(), Write(self._id(key), {}, delete=True), once)

    def as_before(self, row: Any | None, before: Any | None, names: Set[str]) -> Any | None:
        if not names or row is None or before is None:
            return row
        row, columns = copy.copy(row), self.layout().columns
        for name in names:
            setattr(row, columns[name].attname, getattr(before, columns[name].attname))
        return row

    def took(self, writes: Sequence[Write]) -> None:
        if self.flush_when is not None:
            flush_when.hasten(self, writes)

    def _checked_many(self, rows: Iterable[Mapping[str, Any] | models.Model]) -> list[Write]:
        layout, cleaned = self.layout(), self._cleaned
        split, values_of, instances = layout.split, layout.values_of, models.Model
        return [
            Write(*split(cleaned(values_of(row) if isinstance(row, instances) else row)))
            for row in rows
        ]

    def _instance(self, row: Row, update_fields: Iterable[str] | None) -> Write:
        """Return the write of an instance."""
        layout = self.layout()
        values = layout.values_of(row)
        named = None if update_fields is None else layout.named(update_fields)
        for c in layout.key:
            values[c.name] = getattr(row, c.attname)  # loaded now, if it was deferred
            if values[c.name] is None:
                raise ValidationError(
                    {
                        c.name: f"The instance has no {c.name}, by which {self} names its row. "
                        "Save it by its own save() before."
                    }
                )
        if named is not None:
            key = {c.name for c in layout.key}
            values = {name: value for name, value in values.items() if name in key | named}
            values |= {name: getattr(row, name) for name in named - values.keys()}
        return self._checked(values)

    def _checked(self, values: Mapping[str, Any]) -> Write:
        return Write(*self.layout().split(self._cleaned(values)))

    # Reading

    def get(self, /, **key: Any) -> Row:
        """Return the row with all its writes. `Model.DoesNotExist` if there is none."""
        plan = self.plan()
        row: Row | None = self._row(plan, plan.key.id(key))
        if row is None:
            given = ", ".join(f"{name}={excerpt(value)}" for name, value in key.items())
            missing: Any = self.model
            raise missing.DoesNotExist(f"{self.label} with {given} does not exist.")
        return row

    def get_many(self, keys: Iterable[Any]) -> dict[Any, Row]:
        """Return the rows that exist, by the keys as they were given.

        A key of one field is given as its value, a key of several fields as a tuple in the order of
        the declaration.
        """
        ids = {key: self._id(self._key(key)) for key in keys}
        rows = self._rows(list(dict.fromkeys(ids.values())))
        return {key: rows[id] for key, id in ids.items() if id in rows}

    def overlay(self, queryset: models.QuerySet[Row]) -> list[Row]:
        """Return the rows of a queryset, with pending values over the stored ones.

        The database chooses and orders the rows. A row that is not stored yet is not among them. A
        row that a pending write deletes is left out.
        """
        reading.check_queryset(self, queryset)
        with self.in_database(reading.database_of(self, queryset)):
            rows = with_fallback(
                self,
                lambda: reading.overlay(self, queryset),
                lambda: reading.matching(queryset),
            )
            held = {part.id for one in outbox.held_of(self) for part in one.parts.values()}
            return reading.reread(self, rows, held, self._rows) if held else rows

    def stored(
        self, ids: Sequence[str], *, lock: bool = False, nowait: bool = False
    ) -> dict[str, Any]:
        return rows_by_id(self.layout(), ids, lock=lock, nowait=nowait)

    def gathered(self, rows: Sequence[Any]) -> Any | None:
        return rows[0] if rows else None

    def merged(
        self, entry: Entry, stored: Any | None, fence_of: Callable[[str], Fence | None]
    ) -> Any | None:
        return self.layout().read(entry, stored, fence_of(entry.id))

    def names(self) -> Names:
        return RowNames(self.layout())

    def row_ids(self, entry: Entry) -> Sequence[str]:
        return [entry.id]

    def described(self, entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
        layout = self.layout()
        return layout.key_of(entry.id), described(layout, layout.known(entry))

    def expire(self, size: int) -> int:
        return 0 if self.expires is None else expiry.remove(self, self.expires, size)

    async def _aset(self, /, *, once: None = None, **values: Any) -> Receipt:
        plan = self.plan()
        return await self._awrite_one(plan, Write(*plan.layout.split(self._cleaned(values))))

    async def _aset_many(
        self, rows: Iterable[Mapping[str, Any] | models.Model], *, once: None = None
    ) -> list[Receipt]:
        if not isinstance(rows, list | tuple):  # an iterator may ask the database
            return await sync_to_async(self.set_many)(rows)
        return await self._asend(self._checked_many(rows))

    async def _asave(
        self, row: Row, update_fields: Iterable[str] | None = None, *, once: None = None
    ) -> Receipt:
        is_loaded = isinstance(row, self.model) and not row.get_deferred_fields()
        if update_fields is not None or not is_loaded:  # it may have to be loaded
            return await sync_to_async(self.save)(row, update_fields)
        return await self._awrite_one(self.plan(), self._instance(row, None))

    aset = asynchronous(set, _aset)
    asave = asynchronous(save, _asave)
    acreate = asynchronous(create)
    aset_if = asynchronous(set_if)
    aset_many = asynchronous(set_many, _aset_many)
    adelete = asynchronous(delete)
    aget = asynchronous(get)
    aget_many = asynchronous(get_many)
    aoverlay = asynchronous(overlay)
