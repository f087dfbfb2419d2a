"""The log buffer: records that are appended, and never changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Unpack

from django.core import checks
from django.core.exceptions import FieldError, ValidationError
from django.db import models

from writebehind_app.buffers.appending import Appending
from writebehind_app.buffers.base import Buffer, Owner, Row, asynchronous
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.buffers.sending import Sending
from writebehind_app.buffers.window import Window
from writebehind_app.declaration_checks import (
    error,
    left_out,
    named_fields,
    names_a_row,
    sets_itself,
    supported,
)
from writebehind_app.fields.columns import Column
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fold import described
from writebehind_app.fields.layout import Layout, layout, may_be_written
from writebehind_app.fields.limits import excerpt
from writebehind_app.fields.operations import Operation
from writebehind_app.fields.stamps import micros_of
from writebehind_app.fields.versions import Names, RowNames
from writebehind_app.flush.engine import FlushResult
from writebehind_app.options import Options
from writebehind_app.store.calls import Record


class LogBuffer(Buffer, Generic[Row]):
    """Buffers new rows of a model, in the order in which they come.

    `time` is the field that says when a record came. A record without a time gets the moment at
    which Redis took it. No two records have the same values in the `unique` fields, which carry a
    unique constraint. `fields` are those that may be written: by default all that do not set
    themselves. Order is kept within a shard. A log has one shard unless `shards` says more.
    """

    def __init__(
        self,
        *,
        time: str,
        unique: str | Iterable[str] = (),
        fields: str | Iterable[str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        options.setdefault("shards", 1)
        super().__init__(**options)
        self.time = time
        self.unique = (unique,) if isinstance(unique, str) else tuple(unique)
        self.fields = (fields,) if isinstance(fields, str) else tuple(fields or ()) or None

    def contribute_to_class(self, model: type[models.Model], name: str) -> None:
        super().contribute_to_class(model, name)
        self._appending = Appending(self)

    is_log = True

    def layout(self) -> Layout:
        """The declaration, worked out for the database that the rows are written to."""
        using = self.using()
        if using not in self._layouts:
            self._layouts[using] = layout(
                self.model,
                using,
                key=(),
                fields=[field.name for field in self.written()],
                insert=True,
                time=self.time,
            )
        found: Layout = self._layouts[using]
        return found

    def written(self) -> list[models.Field[Any, Any]]:
        """Return the fields that go through Redis, those of the unique id first."""
        meta = self.model._meta
        names = self.fields
        if names is None:
            names = tuple(field.name for field in meta.concrete_fields if may_be_written(field))
        found: list[Any] = [meta.pk if n == "pk" else meta.get_field(n) for n in self.unique]
        if not isinstance(meta.pk, models.AutoField):
            found.append(meta.pk)
        found += [meta.get_field(name) for name in names]
        time: Any = meta.get_field(self.time)
        if may_be_written(time):
            found.append(time)
        return list(dict.fromkeys(found))

    def unique_columns(self) -> list[Column]:
        return list(self.layout().columns.values())[: len(self.unique)]

    if TYPE_CHECKING:  # `Registration.buffered` is a `LogBuffer[Registration]`

        def __get__(  # type: ignore[override]
            self, instance: models.Model | None, owner: type[Owner]
        ) -> LogBuffer[Owner]: ...

    # Checking

    def check_fields(self) -> Iterator[checks.CheckMessage]:
        yield from named_fields(self, self.sensitive, "sensitive")
        time = yield from named_fields(self, [self.time], "time")
        unique = yield from named_fields(self, self.unique, "unique")
        written = yield from named_fields(self, self.fields or (), "fields")
        if time and not isinstance(time[0], models.DateTimeField):
            kind = type(time[0]).__name__
            yield error(
                20,
                f"The field {time[0].name!r} of the time is a {kind}.",
                "The time of a record needs microseconds: make it a DateTimeField.",
                self,
            )
        if unique and len(unique) == len(self.unique):
            yield from names_a_row(self, unique, "unique")
        for field in (*unique, *written):
            if isinstance(field, models.AutoField) or sets_itself(field):
                yield error(
                    17,
                    f"The field {field.name!r} sets itself and is among the written ones.",
                    f"Leave {field.name!r} out; it gets its value with the record.",
                    self,
                )
        if not time or len(unique) < len(self.unique) or len(written) < len(self.fields or ()):
            return
        given = self.written()
        hint = "Name the fields to be written in `fields`, without this one."
        yield from supported(self, unique, "Choose other unique fields.")
        yield from supported(self, [field for field in given if field not in unique], hint)
        hint = "Name it in `fields`, give it a default, or let it be NULL."
        yield from left_out(self, [*given, *time], hint)

    # Writing

    # Of calls with the same text as `once`, one is carried out; see once.py.

    def append(self, /, *, once: str | None = None, **values: Any) -> Receipt:
        """Append a record. `AlreadyExists` if one with its unique id is pending or stored."""
        return self._appending.append([self._checked(values)], once)[0]

    def extend(
        self, records: Iterable[Mapping[str, Any] | models.Model], *, once: str | None = None
    ) -> list[Receipt]:
        """Append many records in few round trips.

        All are checked before the first is sent. The records of a shard go in calls of two hundred,
        and a call appends all of its records or none. If a call fails, because Redis did not answer
        or somebody took a unique id in between, the records of earlier calls are in.
        """
        values_of = self.layout().values_of
        return self._appending.append(
            [
                self._checked(values_of(record) if isinstance(record, models.Model) else record)
                for record in records
            ],
            once,
        )

    def _checked(self, values: Mapping[str, Any]) -> Record:
        layout = self.layout()
        given = self._cleaned(values)
        for name, value in given.items():
            if isinstance(value, Operation):
                message = f"A record is new: there is no value for {excerpt(value)} to change."
                raise ValidationError({name: message})
        if given.get(self.time, "") is None:
            given = {name: value for name, value in given.items() if name != self.time}
        texts = layout.split(given)[1]
        unique = self.unique_columns()
        for c in (*unique, *_travelling(layout)):
            if c.name not in texts and c.field.has_default():
                texts |= layout.expected({c.name: c.field.get_default()})
        if missing := [c.name for c in unique if c.name not in texts]:
            raise FieldError(
                f"{self.label}: {missing[0]!r} is missing; a record is unique by "
                f"{', '.join(c.name for c in unique)} (given: {', '.join(values) or 'nothing'})."
            )
        layout.refuse_incomplete(texts)
        time = layout.columns[self.time].decode(texts[self.time]) if self.time in texts else None
        return Record(
            ",".join([texts[c.name] for c in unique]),
            time and micros_of(time),
            {name: texts[name] for name in layout.columns if name in texts},
        )

    def place_in_order(self, part: Record) -> str:
        return self.label

    def sending(self, parts: Sequence[Record]) -> Sending:
        return self._appending.sending(parts)

    # Reading

    def window(
        self, /, since: datetime | None = None, until: datetime | None = None, **filters: Any
    ) -> list[Row]:
        """Return the records with `since <= time < until`, stored or not, in the order of their
        times. None is no bound. With filters, only records whose fields have these values."""
        return Window(self, since, until, filters).records()

    def count(
        self, /, since: datetime | None = None, until: datetime | None = None, **filters: Any
    ) -> int:
        """Return how many records `window()` would return."""
        return Window(self, since, until, filters).count()

    def described(self, entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
        values = described(self.layout(), self.layout().known(entry))
        return {c.attname: values.pop(c.name) for c in self.unique_columns()}, values

    def names(self) -> Names:
        return RowNames(self.layout())

    # Acting

    def flush(self) -> FlushResult:
        """Flush what is pending, and return when it is in the database. An error of the database is
        raised, and nothing is lost."""
        return self._flush()

    def discard(self, /, **unique: Any) -> int:
        """Throw away what is pending: the record of these unique values, or all. Return how many
        went. Their unique ids are free then.

        A record that a flusher works on stays: it may be in the database already.
        """
        if not unique:
            return self._discard()
        columns = self.unique_columns()
        texts = self.layout().expected(unique)
        if texts.keys() != {c.name for c in columns}:
            raise FieldError(
                f"A record of {self.label} is named by "
                f"{', '.join(c.name for c in columns) or 'nothing: it has no unique fields'} "
                f"(given: {', '.join(unique)})."
            )
        return self._discard([",".join([texts[c.name] for c in columns])])

    def asks_redis_alone(self) -> bool:
        # A unique record may be stored already, and a default of the project may ask the database.
        return super().asks_redis_alone() and not (self.unique or _travelling(self.layout()))

    async def _aappend(self, /, *, once: None = None, **values: Any) -> Receipt:
        [receipt] = await self._asend([self._checked(values)])
        return receipt

    aappend = asynchronous(append, _aappend)
    aextend = asynchronous(extend)
    awindow = asynchronous(window)
    acount = asynchronous(count)
    aflush = asynchronous(flush)
    adiscard = asynchronous(discard)


@cache
def _travelling(layout: Layout) -> list[Column]:
    """Return the fields whose default is worked out at the call, because a later call would return
    another value. Fields that take the time of the record are not among them."""
    return [
        c
        for c in layout.columns.values()
        if callable(default := c.field.default)
        and getattr(default, "__module__", None) != "builtins"
        and c.field not in layout.stamped_once
        and c.field.has_default()
    ]
