"""Appends records to a log: through Redis, directly, or later.

No two records have the same unique id. Redis knows the ids of pending records, and the database is
asked for those of stored ones. In between, a record may move from Redis to the database. Then the
guard of the shard has changed, and Redis refuses the call until the database was asked again.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError

from writebehind_app.buffers import outbox
from writebehind_app.buffers.fallback import goes_around, report, with_fallback
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.buffers.sending import Sending
from writebehind_app.checkpoints import reach
from writebehind_app.conf import is_direct
from writebehind_app.database import direct
from writebehind_app.database.lookup import stored_values
from writebehind_app.database.once import Once
from writebehind_app.exceptions import (
    AlreadyExists,
    BufferFull,
    BufferUnavailable,
    NotDurable,
)
from writebehind_app.fields.limits import excerpt, refuse_nameless
from writebehind_app.store.calls import (
    Call,
    Fleeting,
    Outcome,
    Record,
    Refused,
    append_call,
    cut,
)
from writebehind_app.store.connection import client
from writebehind_app.store.delivery import deliver
from writebehind_app.store.records import are_taken

if TYPE_CHECKING:
    from writebehind_app.buffers.log import LogBuffer


class Appending:
    """Appends checked records of one buffer."""

    def __init__(self, buffer: LogBuffer) -> None:
        self._buffer = buffer
        # The guard of each shard, as Redis last told it.
        self._guards: dict[str, str] = {}

    def append(self, records: Sequence[Record], once: str | None = None) -> list[Receipt]:
        """Append checked records now, or hold them back. Return their receipts in order."""
        self._refuse_repeated(records)
        if not outbox.holds(self._buffer.plan()):
            return self._append_now(records, once)
        # Unique ids and idempotency keys are looked up now, and again when the call is sent.
        return outbox.hold(
            self._buffer,
            records,
            [("", ())] * len(records),
            lambda left: self._append_now(left, once),
            is_plain=once is None and not self._buffer.unique,
            once=None
            if once is None
            else [
                (Once(self._buffer, once, str(number), key), indexes)
                for number, (key, indexes) in enumerate(self._split(records, once))
            ],
            check=self._refuse_taken,
        )

    def sending(self, parts: Sequence[Record]) -> Sending:
        """Return how records without unique ids are sent together with other writes."""
        places = list(self._split(parts, None))
        calls = [self._call(key, [parts[i] for i in indexes]) for key, indexes in places]

        def settle(
            outcomes: Sequence[Outcome],
            receipts: dict[int, Receipt],
            failures: dict[int, Exception],
        ) -> None:
            errors: list[Exception] = []
            for (key, indexes), outcome in zip(places, outcomes, strict=True):
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

        return Sending(calls, settle)

    def _call(
        self, key: str, records: Sequence[Record], guard: str = "", once: Once | None = None
    ) -> Call:
        plan = self._buffer.plan()
        return append_call(
            key,
            records,
            plan.terms,
            guard=guard,
            unique=len(self._buffer.unique),
            once=once.digest if once else "",
            once_ms=plan.once_ms if once else 0,
        )

    def _receipts(self, key: str, records: Sequence[Record], outcome: Outcome) -> list[Receipt]:
        """Return the receipts of records that Redis took, or that go around it now."""
        missing = ""
        if isinstance(outcome, Fleeting):
            missing, outcome = outcome.why, outcome.first
        if isinstance(outcome, BufferUnavailable | BufferFull) and goes_around(
            self._buffer, outcome
        ):
            return self._append_directly(records)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome == Refused("elsewhere"):
            return self._send_anew(records)
        assert isinstance(outcome, int)
        report(self._buffer)
        receipts = [Receipt(key, "", outcome + n) for n in range(len(records))]
        return self._buffer.durable(receipts, missing)

    def _append_now(self, records: Sequence[Record], once: str | None = None) -> list[Receipt]:
        guards = {key: self._guards.get(key, "unknown") for key in self._buffer.shard_keys()}
        if once is None:
            self._refuse_stored(records)
            if is_direct():
                return self._append_directly(records)
        receipts: dict[int, Receipt] = {}
        short: NotDurable | None = None
        reach("write.sending")
        for number, (key, indexes) in enumerate(self._split(records, once)):
            part = [records[i] for i in indexes]
            try:
                if once is not None:
                    found = self._append_once(key, part, guards[key], once, number)
                else:
                    found = self._send(key, part, guards[key])
            except NotDurable as taken:
                short, found = taken, taken.receipts
            except (BufferUnavailable, BufferFull) as error:
                # A unique record may not go around a full Redis: Redis may still take a record
                # with the same id.
                is_decided = bool(self._buffer.unique) and isinstance(error, BufferFull)
                if once is not None or is_decided or not goes_around(self._buffer, error):
                    most = self._buffer.option("MAX_PENDING")
                    if isinstance(error, BufferFull) and len(records) > most:
                        raise BufferFull(
                            f"{len(records)} records at once never fit, as max_pending is {most}: "
                            f"give fewer to a call. {len(receipts)} of these were taken, and "
                            f"then: {error}"
                        ) from error
                    raise
                found = self._append_directly(part)
            receipts |= zip(indexes, found, strict=True)
        reach("write.accepted")
        found = [receipts[i] for i in range(len(records))]
        if short:
            raise NotDurable(str(short), found)
        return found

    def _append_once(
        self, key: str, records: Sequence[Record], guard: str, once: str, part: int
    ) -> list[Receipt]:
        note = Once(self._buffer, once, str(part), key)

        def buffered() -> list[Receipt]:
            self._refuse_stored(records)
            return self._send(key, records, guard, note)

        done = [Receipt("", "", 0)] * len(records)
        return note.carry_out(buffered, partial(self._append_directly, records, note), done) or []

    def _append_directly(
        self, records: Sequence[Record], once: Once | None = None
    ) -> list[Receipt]:
        try:
            direct.append(self._buffer, records, once=once)
        except IntegrityError:
            self._refuse_stored(records)  # somebody was quicker
            raise
        return [Receipt("", "", 0)] * len(records)

    def _send(
        self, key: str, records: Sequence[Record], guard: str, once: Once | None = None
    ) -> list[Receipt]:
        """Append records through Redis, if none of them was stored under this guard."""
        while True:
            call = self._call(key, records, guard if self._buffer.unique else "", once)
            [outcome] = deliver(client(), [call], self._buffer.plan().durability)
            missing = ""  # why the durability was not reached
            if isinstance(outcome, Fleeting):
                missing, outcome = outcome.why, outcome.first
            match outcome:
                case Refused("moved", guard):
                    self._guards[key] = guard
                    self._refuse_stored(records)
                case Refused("elsewhere"):
                    return self._send_anew(records, once)
                case Refused("taken", n):
                    raise self._exists(self._unique_values(records[n - 1]))
                case int(first) | Refused("known", first):
                    report(self._buffer)
                    receipts = [Receipt(key, "", int(first) + n) for n in range(len(records))]
                    return self._buffer.durable(receipts, missing)
                case Exception():
                    raise outcome

    def _send_anew(self, records: Sequence[Record], once: Once | None = None) -> list[Receipt]:
        """Append records that have other shards by now. What these shards had is stored, also the
        name of the call."""
        if once and once.is_stored():
            return [Receipt("", "", 0)] * len(records)
        receipts: dict[int, Receipt] = {}
        short: NotDurable | None = None
        for key, indexes in self._split(records, once.name if once else None):
            try:
                found = self._send(key, [records[i] for i in indexes], "unknown", once)
            except NotDurable as taken:
                short, found = taken, taken.receipts
            receipts |= zip(indexes, found, strict=True)
        every = [receipts[i] for i in range(len(records))]
        if short:
            raise NotDurable(str(short), every)
        return every

    def _split(
        self, records: Sequence[Record], once: str | None
    ) -> Iterator[tuple[str, list[int]]]:
        """Yield the calls that the records make: the shard, and the indexes of the records."""
        by_shard: dict[str, list[int]] = defaultdict(list)
        if once is not None:
            refuse_nameless(once)
        # A call that is repeated under its name must come to the same shard.
        anywhere = (
            random.choice(self._buffer.shard_keys())
            if once is None
            else self._buffer.shard_key_of(once)
        )
        for i, record in enumerate(records):
            by_shard[self._buffer.shard_key_of(record.id) if record.id else anywhere].append(i)
        for key, indexes in by_shard.items():
            for part in cut(indexes):
                yield key, part

    def _refuse_repeated(self, records: Sequence[Record]) -> None:
        seen: set[str] = set()
        for record in records:
            if self._buffer.unique and record.id in seen:
                raise self._exists(self._unique_values(record))
            seen.add(record.id)

    def _refuse_taken(self, records: Sequence[Record]) -> None:
        """Refuse records whose unique ids are in use: held back, in Redis, or stored."""
        if not self._buffer.unique:
            return
        held = {part.id for one in outbox.held_of(self._buffer) for part in one.parts.values()}
        places = [(self._buffer.shard_key_of(record.id), record.id) for record in records]
        pending = with_fallback(
            self._buffer, lambda: are_taken(client(), places), lambda: [False] * len(places)
        )
        for record, is_pending in zip(records, pending, strict=True):
            if is_pending or record.id in held:
                raise self._exists(self._unique_values(record))
        self._refuse_stored(records)

    def _refuse_stored(self, records: Sequence[Record]) -> None:
        if not self._buffer.unique:
            return
        keys = [self._unique_values(record) for record in records]
        stored = stored_values(self._buffer.layout(), self._buffer.unique_columns(), keys)
        if stored is not None:
            raise self._exists(stored)

    def _unique_values(self, record: Record) -> dict[str, Any]:
        return {c.attname: c.decode(record.texts[c.name]) for c in self._buffer.unique_columns()}

    def _exists(self, values: Mapping[str, Any]) -> AlreadyExists:
        given = ", ".join(f"{name}={excerpt(value)}" for name, value in values.items())
        return AlreadyExists(f"{self._buffer.label} with {given} exists already.")
