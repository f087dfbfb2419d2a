"""The row buffer: one entry for each row, named by the fields of its key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.db import models, router
from django.utils import timezone

from writebehind_app.buffers import outbox, reading, urgency
from writebehind_app.buffers.base import asynchronous
from writebehind_app.buffers.coalescing import CoalescingBuffer
from writebehind_app.buffers.fallback import if_there, otherwise
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.conf import is_direct
from writebehind_app.database import direct
from writebehind_app.database.keyed import all_rows, rows_by_id
from writebehind_app.exceptions import AlreadyExists
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.fold import described
from writebehind_app.fields.layout import Layout, layout
from writebehind_app.fields.limits import as_dict, shown
from writebehind_app.fields.versions import Names, RowNames
from writebehind_app.fields.writes import Write


class RowBuffer(CoalescingBuffer):
    """Buffers writes to the rows of a model.

    `key` names a row: a field, several, or "pk"; they carry a unique constraint. `fields` are
    those that may be written: by default all that are not in the key, not the primary key, and
    not set by themselves. `on_missing` says what becomes of a write to a row that is not there:
    "insert" makes one, "discard" forgets the write (the default where the key is the primary key).
    `expires` names the date and time from which on a stored row is removed by the next flush.
    `flush_when` says of a row, after a write to a field that it looks at first, whether the entry
    is to be flushed at once.
    """

    def __init__(
        self,
        *,
        key: str | Iterable[str],
        fields: str | Iterable[str] | None = None,
        on_missing: str | None = None,
        expires: str | None = None,
        flush_when: Callable[[Any], bool] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.key = (key,) if isinstance(key, str) else tuple(key)
        names = (fields,) if isinstance(fields, str) else fields
        self.fields = None if names is None else tuple(names)
        self.on_missing = on_missing or ("discard" if self.key == ("pk",) else "insert")
        self.expires = expires
        self.flush_when = flush_when

    def layout(self) -> Layout:
        """The declaration, worked out for the database that the rows are written to."""
        using = router.db_for_write(self.model)
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

    # Writing

    # Of calls with the same text as `once`, one is carried out; see once.py.

    def set(self, /, *, once: str | None = None, **values: Any) -> Receipt:
        """Write fields of the row that the key fields name: values, or operations on what is
        there, as `Add(1)`."""
        plan = self.plan()
        write = Write(*plan.layout.split(self._cleaned(values)))
        return self._write_one(plan, write, once)

    def set_many(
        self, rows: Iterable[Mapping[str, Any] | models.Model], *, once: str | None = None
    ) -> list[Receipt]:
        """Write many rows in few round trips; an instance is written with all its loaded fields.

        All are checked before the first is sent.
        """
        return self._write(self._checked_many(rows), once)

    def create(self, /, *, once: str | None = None, **values: Any) -> Receipt:
        """Write a new row; `AlreadyExists` where there is one, pending or stored. For buffers that
        make rows: with on_missing="insert"."""
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
        """Write to the row only while it is there and as expected; says whether it did. Nobody's
        write comes between the look and the write.

        Expected are values of fields, or what a function says of the row.
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
        """Delete the row, with what its deletion cascades to, when it is flushed."""
        return self._write_one(self.plan(), Write(self._id(key), {}, delete="1"), once)

    def took(self, writes: Sequence[Write]) -> None:
        if self.flush_when is not None:
            urgency.hasten(self, writes)

    def _checked_many(self, rows: Iterable[Mapping[str, Any] | models.Model]) -> list[Write]:
        values_of = self.layout().values_of
        return [
            self._checked(values_of(row) if isinstance(row, models.Model) else row) for row in rows
        ]

    def _checked(self, values: Mapping[str, Any]) -> Write:
        return Write(*self.layout().split(self._cleaned(values)))

    # Reading

    def get(self, /, **key: Any) -> Any:
        """The row as it is with all its writes; `Model.DoesNotExist` where there is none."""
        id = self._id(key)
        row = self._rows([id]).get(id)
        if row is None:
            given = ", ".join(f"{name}={shown(value)}" for name, value in key.items())
            missing: Any = self.model
            raise missing.DoesNotExist(f"{self.label} with {given} does not exist.")
        return row

    def get_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """The rows that there are, by the keys as they were given.

        A key of one field is its value; of several, a tuple in the order of the declaration.
        """
        ids = {key: self._id(self._key(key)) for key in keys}
        rows = self._rows(list(dict.fromkeys(ids.values())))
        return {key: rows[id] for key, id in ids.items() if id in rows}

    def overlay(self, queryset: models.QuerySet[Any]) -> list[Any]:
        """The rows of a queryset, with pending values over the stored ones.

        Rows that a pending write deletes are left out. Which rows there are, and their order, is
        what the database says: a row that is not stored yet is not among them.
        """
        rows = otherwise(
            self,
            lambda: reading.overlay(self, queryset),
            lambda: reading.matching(self, queryset),
        )
        held = {part.id for one in outbox.held_of(self) for part in one.parts.values()}
        return reading.renewed(self, rows, held, self._rows) if held else rows

    def stored(self, ids: Sequence[str], *, lock: bool = False) -> dict[str, Any]:
        return rows_by_id(self.layout(), ids, lock=lock)

    def every_row(self, found: Any) -> list[Any]:
        return [found]

    def of_rows(self, rows: Sequence[Any]) -> Any:
        (row,) = rows
        return row

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
        """Write that stored rows go whose time has passed: due at once, and none of those to which
        anything is written in this moment, as that may be a later time. In direct mode the rows go
        now."""
        if (expires := self.expires) is None:
            return 0
        layout, now = self.layout(), timezone.now()
        passed = all_rows(layout).filter(**{f"{expires}__lte": now}).order_by(expires)
        passed = passed.only(*(c.name for c in layout.key))
        ids = [layout.id_of(row) for row in passed[:size]]

        def removal(id: str, row: Any | None, guard: str = "") -> Write | None:
            ends = row and getattr(row, expires)
            is_over = ends is not None and ends <= now
            return Write(id, {}, delete="1", guard=guard) if is_over else None

        if is_direct():
            return self._remove(ids, removal)
        found = reading.guarded(self, ids).items()
        removals = [write for id, (row, guard) in found if (write := removal(id, row, guard))]
        return len(self._buffered(removals, max_age=0)) if removals else 0

    def _remove(
        self, ids: Sequence[str], removal: Callable[[str, Any | None], Write | None]
    ) -> int:
        """Delete stored rows directly, if `removal` still says so under the lock of the row; says
        how many. Where Redis holds a write that gives a row more time, the row stays."""
        rows = if_there(lambda: reading.rows(self, ids), None)
        if rows is not None:
            ids = [id for id in ids if removal(id, rows.get(id))]
        removed = [direct.write_if(self, id, partial(removal, id), whole=False) for id in ids]
        return sum(write is not None for write in removed)

    async def _aset(self, /, *, once: None = None, **values: Any) -> Receipt:
        plan = self.plan()
        return await self._awrite_one(plan, Write(*plan.layout.split(self._cleaned(values))))

    async def _aset_many(
        self, rows: Iterable[Mapping[str, Any] | models.Model], *, once: None = None
    ) -> list[Receipt]:
        if not isinstance(rows, list | tuple):  # to go through it may be to ask the database
            return await sync_to_async(self.set_many)(rows)
        return await self._asend(self._checked_many(rows))

    aset = asynchronous(set, _aset)
    acreate = asynchronous(create)
    aset_if = asynchronous(set_if)
    aset_many = asynchronous(set_many, _aset_many)
    adelete = asynchronous(delete)
    aget = asynchronous(get)
    aget_many = asynchronous(get_many)
    aoverlay = asynchronous(overlay)
