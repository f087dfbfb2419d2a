"""The log buffer: records that are appended, and never changed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from typing import Any

from django.core.exceptions import FieldError, ValidationError
from django.db import IntegrityError, models, router

from writebehind_app.buffers import outbox
from writebehind_app.buffers.base import Buffer, asynchronous
from writebehind_app.buffers.fallback import goes_around, otherwise, report
from writebehind_app.buffers.outbox import Outcomes, Sending
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.buffers.window import Window
from writebehind_app.conf import is_direct
from writebehind_app.database import direct
from writebehind_app.database.keyed import stored_values
from writebehind_app.database.once import Once
from writebehind_app.exceptions import (
    AlreadyExists,
    BufferFull,
    BufferUnavailable,
    NotDurable,
)
from writebehind_app.fields.columns import Column
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fold import described
from writebehind_app.fields.layout import Layout, layout, may_be_written, micros_of
from writebehind_app.fields.limits import refuse_nameless, shown
from writebehind_app.fields.operations import Operation
from writebehind_app.fields.versions import Names, RowNames
from writebehind_app.flush.engine import FlushResult
from writebehind_app.steps import reach
from writebehind_app.store import shard as store
from writebehind_app.store.calls import Delivery, Fleeting, Outcome
from writebehind_app.store.connection import client
from writebehind_app.store.shard import Moved, Record, Taken

_CHUNK = 1000  # records in one call to Redis


class LogBuffer(Buffer):
    """Buffers new rows of a model, in the order in which they come.

    `time` is the field that says when a record came: where it is not given, the moment at which
    Redis took the record. `unique` are the fields of which no two records have the same values;
    they carry a unique constraint. `fields` are those that may be written: by default all that do
    not set themselves. Order is kept within a shard, and a log has one unless `shards` says more.
    """

    def __init__(
        self,
        *,
        time: str,
        unique: str | Iterable[str] = (),
        fields: str | Iterable[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**{"shards": 1, **options})
        self.time = time
        self.unique = (unique,) if isinstance(unique, str) else tuple(unique)
        self.fields = (fields,) if isinstance(fields, str) else tuple(fields or ()) or None
        # How each shard looked when it was last found changed, see _append().
        self._guards: dict[str, str] = {}

    def layout(self) -> Layout:
        """The declaration, worked out for the database that the rows are written to."""
        using = router.db_for_write(self.model)
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
        """The fields that travel, those that make up the unique id first."""
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

    # Writing

    # Of calls with the same text as `once`, one is carried out; see once.py.

    def append(self, /, *, once: str | None = None, **values: Any) -> Receipt:
        """Append a record; `AlreadyExists` where one with its unique id is pending or stored."""
        return self._append([self._checked(values)], once)[0]

    def extend(
        self, records: Iterable[Mapping[str, Any] | models.Model], *, once: str | None = None
    ) -> list[Receipt]:
        """Append many records in few round trips.

        All are checked before the first is sent. Those of a shard go a thousand at a time, and each
        thousand is appended all or not at all. Where one fails, because Redis did not answer or
        somebody took a unique id in between, those before it are in.
        """
        values_of = self.layout().values_of
        return self._append(
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
                message = f"A record is new: there is no value for {shown(value)} to change."
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

    def _append(self, records: Sequence[Record], once: str | None = None) -> list[Receipt]:
        """Append checked records; receipts in their order.

        No two have one unique id: of the pending ones Redis knows, of the stored ones the database
        is asked. A record that is stored only after that has left Redis, and then the shard does
        not look as it did before that any more.
        """
        self._refuse_repeated(records)
        if not outbox.holds(self.plan()):
            return self.append_now(records, once)
        # What is unique, or has a name, is looked at now, and once more when it is sent.
        return outbox.hold(
            self,
            records,
            [("", ())] * len(records),
            lambda left: self.append_now(left, once),
            together=once is None and not self.unique,
            once=once,
            calls=lambda: self.calls(records, once),
            check=self._refuse_taken,
        )

    def place_in_order(self, part: Record) -> str:
        return self.label

    def sending(self, parts: Sequence[Record]) -> Sending:
        """How records without unique values are sent, those of a shard a thousand at a time."""
        calls = list(self.calls(parts, None))
        deliveries = []
        for key, indexes in calls:
            call = store.append_call(
                key,
                [parts[i] for i in indexes],
                guard="",
                max_age=self.option("MAX_AGE"),
                quiet=self.option("QUIET"),
                unique=0,
                version=self.version,
            )
            limit = self.plan().limit._replace(size=len(indexes))
            deliveries.append(Delivery("append", [call], limit))

        def settle(
            outcomes: Outcomes, receipts: dict[int, Receipt], failures: dict[int, Exception]
        ) -> None:
            errors: list[Exception] = []
            for (key, indexes), [outcome] in zip(calls, outcomes, strict=True):
                taken: Sequence[Receipt] = ()
                try:
                    taken = self._receipts(key, [parts[i] for i in indexes], outcome)
                except NotDurable as short:
                    errors.append(short)
                    taken = short.receipts
                except Exception as error:  # noqa: BLE001 - the others are in all the same
                    errors.insert(0, error)
                    failures |= dict.fromkeys(indexes, error)
                receipts |= zip(indexes, taken, strict=False)
            for gravest in errors:
                raise gravest

        return Sending(deliveries, settle)

    def _receipts(self, key: str, records: Sequence[Record], outcome: Outcome) -> list[Receipt]:
        """Of records that Redis took, or that go around it."""
        missing = ""
        if isinstance(outcome, Fleeting):
            missing, outcome = str(outcome), outcome.outcome
        try:
            first = store.appended(outcome)
        except (BufferUnavailable, BufferFull) as error:
            if not goes_around(self, error):
                raise
            return self.direct(records)
        assert isinstance(first, int)
        report(self)
        receipts = [Receipt(key, "", first + n) for n in range(len(records))]
        return self.durable(receipts, missing)

    def append_now(self, records: Sequence[Record], once: str | None = None) -> list[Receipt]:
        guards = {key: self._guards.get(key, "unknown") for key in self.shard_keys()}
        if once is None:
            self.refuse_stored(records)
            if is_direct():
                return self.direct(records)
        receipts: dict[int, Receipt] = {}
        short: NotDurable | None = None
        reach("write.sending")
        for number, (key, indexes) in enumerate(self.calls(records, once)):
            part = [records[i] for i in indexes]
            try:
                if once is not None:
                    found = self._append_once(key, part, guards[key], once, number)
                else:
                    found = self._send(key, part, guards[key])
            except NotDurable as taken:
                short, found = taken, taken.receipts
            except (BufferUnavailable, BufferFull) as error:
                if once is not None or not goes_around(self, error):
                    most = self.option("MAX_PENDING")
                    if isinstance(error, BufferFull) and len(records) > most:
                        raise BufferFull(
                            f"{len(records)} records at once never fit, as max_pending is {most}: "
                            f"give fewer to a call. {len(receipts)} of these were taken, and "
                            f"then: {error}"
                        ) from error
                    raise
                found = self.direct(part)
            receipts |= zip(indexes, found, strict=True)
        reach("write.accepted")
        found = [receipts[i] for i in range(len(records))]
        if short:
            raise NotDurable(str(short), found)
        return found

    def _append_once(
        self, key: str, records: Sequence[Record], guard: str, once: str, part: int
    ) -> list[Receipt]:
        note = Once(self, once, part, key)

        def buffered() -> list[Receipt]:
            self.refuse_stored(records)
            return self._send(key, records, guard, note)

        done = [Receipt("", "", 0)] * len(records)
        directly, around = partial(self.direct, records, note), partial(goes_around, self)
        return note.carry_out(buffered, directly, done, around) or []

    def direct(self, records: Sequence[Record], once: Once | None = None) -> list[Receipt]:
        try:
            direct.append(self, records, once=once)
        except IntegrityError:
            self.refuse_stored(records)  # somebody was quicker
            raise
        return [Receipt("", "", 0)] * len(records)

    def _send(
        self, key: str, records: Sequence[Record], guard: str, once: Once | None = None
    ) -> list[Receipt]:
        """Append records that are not stored as far as the guard knows."""
        missing = ""  # what their durability leaves to be desired
        while True:
            try:
                appended = store.append(
                    client(),
                    key,
                    records,
                    guard=guard if self.unique else "",
                    max_age=self.option("MAX_AGE"),
                    quiet=self.option("QUIET"),
                    unique=len(self.unique),
                    limit=self.plan().limit._replace(size=len(records)),
                    durability=self.plan().durability,
                    once=once.digest if once else "",
                    version=self.version,
                )
            except Fleeting as short:
                (appended,), missing = short.outcome, str(short)
            match appended:
                case Moved(guard):
                    self._guards[key] = guard
                    self.refuse_stored(records)
                case Taken(index):
                    raise self.exists(self.unique_values(records[index]))
                case int(first):
                    report(self)
                    receipts = [Receipt(key, "", first + n) for n in range(len(records))]
                    return self.durable(receipts, missing)

    def calls(self, records: Sequence[Record], once: str | None) -> Iterator[tuple[str, list[int]]]:
        """Shards, and which of the records go there in one call."""
        by_shard: dict[str, list[int]] = defaultdict(list)
        if once is not None:
            refuse_nameless(once)
        # A call that comes again has to find what the first one left.
        anywhere = random.choice(self.shard_keys()) if once is None else self.shard_key_of(once)
        for i, record in enumerate(records):
            by_shard[self.shard_key_of(record.id) if record.id else anywhere].append(i)
        for key, indexes in by_shard.items():
            for start in range(0, len(indexes), _CHUNK):
                yield key, indexes[start : start + _CHUNK]

    def _refuse_repeated(self, records: Sequence[Record]) -> None:
        seen: set[str] = set()
        for record in records:
            if self.unique and record.id in seen:
                raise self.exists(self.unique_values(record))
            seen.add(record.id)

    def _refuse_taken(self, records: Sequence[Record]) -> None:
        """Refuse unique ids that are in use: held back, in Redis, or stored."""
        if not self.unique:
            return
        held = {part.id for one in outbox.held_of(self) for part in one.parts.values()}
        places = [(self.shard_key_of(record.id), record.id) for record in records]
        pending = otherwise(
            self, lambda: store.are_taken(client(), places), lambda: [False] * len(places)
        )
        for record, is_pending in zip(records, pending, strict=True):
            if is_pending or record.id in held:
                raise self.exists(self.unique_values(record))
        self.refuse_stored(records)

    def refuse_stored(self, records: Sequence[Record]) -> None:
        if not self.unique:
            return
        keys = [self.unique_values(record) for record in records]
        stored = stored_values(self.layout(), self.unique_columns(), keys)
        if stored is not None:
            raise self.exists(stored)

    def unique_values(self, record: Record) -> dict[str, Any]:
        return {c.attname: c.decode(record.texts[c.name]) for c in self.unique_columns()}

    def exists(self, values: Mapping[str, Any]) -> AlreadyExists:
        given = ", ".join(f"{name}={shown(value)}" for name, value in values.items())
        return AlreadyExists(f"{self.label} with {given} exists already.")

    # Reading

    def window(
        self, /, since: datetime | None = None, until: datetime | None = None, **filters: Any
    ) -> list[Any]:
        """The records, stored or not, from one time up to, and without, the other, in their order;
        None for no bound. Of those, the ones whose fields have the values of the filters."""
        return Window(self, since, until, filters).records()

    def count(
        self, /, since: datetime | None = None, until: datetime | None = None, **filters: Any
    ) -> int:
        """How many records `window()` has."""
        return Window(self, since, until, filters).count()

    def described(self, entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
        values = described(self.layout(), self.layout().known(entry))
        return {c.attname: values.pop(c.name) for c in self.unique_columns()}, values

    def names(self) -> Names:
        return RowNames(self.layout())

    # Acting

    def flush(self) -> FlushResult:
        """Bring what is pending to the database, and return when it is there. An error of the
        database is raised; nothing is lost by it."""
        return self._flush()

    def discard(self, /, **unique: Any) -> int:
        """Throw away what is pending: the record of these unique values, or all; says how many
        went. Their unique ids are free then.

        What a flusher works on is not touched: it may be in the database already.
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
        # What is unique may be stored; a default of the project's own may ask the database, too.
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
    """The fields whose default is worked out at the call: whoever did it again would get another.
    Those that take the time of the record are not among them."""
    return [
        c
        for c in layout.columns.values()
        if callable(default := c.field.default)
        and getattr(default, "__module__", None) != "builtins"
        and c.field not in layout.stamped_once
        and c.field.has_default()
    ]
