"""Records of a log that are held back: what is known of them at the call, and how they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from writebehind_app.buffers import batch
from writebehind_app.buffers.batch import Held
from writebehind_app.buffers.fallback import goes_around, otherwise, report
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.buffers.sending import Sending
from writebehind_app.exceptions import BufferFull, BufferUnavailable, NotDurable
from writebehind_app.store import shard as store
from writebehind_app.store.calls import Delivery, Fleeting, Outcome
from writebehind_app.store.connection import client
from writebehind_app.store.shard import Record

if TYPE_CHECKING:
    from writebehind_app.buffers.log import LogBuffer


def hold(buffer: LogBuffer, records: Sequence[Record], once: str | None) -> list[Receipt]:
    """Append checked records later. What is unique, or has a name, is looked at now, and once more
    then."""
    rows: list[tuple[str, tuple[str, ...]]] = [("", ())] * len(records)
    shown = [*range(len(records))]
    if once is not None:
        for held in batch.held_of(buffer):
            if held.once == once:
                return [Receipt("", "", 0, (), (held, i)) for i in shown]
        shown = _unknown(buffer, records, once)
        if not shown:
            return [Receipt("", "", 0)] * len(records)
    if buffer.unique:
        _refuse_taken(buffer, [records[i] for i in shown])

    def act(left: Sequence[Record]) -> list[Receipt]:
        return buffer.append_now(left if once is None else records, once)

    plain = once is None and not buffer.unique
    return batch.hold(Held(buffer, records, act, shown=shown, together=plain, once=once), rows)


def _unknown(buffer: LogBuffer, records: Sequence[Record], once: str) -> list[int]:
    """Those that no call of that name has appended, as far as can be told."""
    unknown = []
    for number, (key, indexes) in enumerate(buffer.calls(records, once)):
        unknown += [] if batch.is_known(buffer, once, number, key) else indexes
    return sorted(unknown)


def _refuse_taken(buffer: LogBuffer, records: Sequence[Record]) -> None:
    """Refuse unique ids that are in use: held back, in Redis, or stored."""
    held = {part.id for one in batch.held_of(buffer) for part in one.parts.values()}
    places = [(buffer.shard_key_of(record.id), record.id) for record in records]
    pending = otherwise(
        buffer, lambda: store.are_taken(client(), places), lambda: [False] * len(places)
    )
    for record, is_pending in zip(records, pending, strict=True):
        if is_pending or record.id in held:
            raise buffer.exists(buffer.unique_values(record))
    buffer.refuse_stored(records)


def sending(buffer: LogBuffer, held: Sequence[Held]) -> Sending:
    """How records without unique values are sent, those of a shard a thousand at a time."""
    places = [(one, i) for one in held for i in one.parts]
    records: list[Record] = [one.parts[i] for one, i in places]
    calls = [(key, indexes) for key, indexes in buffer.calls(records, None)]
    deliveries = []
    for key, indexes in calls:
        call = store.append_call(
            key,
            [records[i] for i in indexes],
            guard="",
            max_age=buffer.option("MAX_AGE"),
            quiet=buffer.option("QUIET"),
            unique=0,
            version=buffer.version,
        )
        deliveries.append(Delivery("append", [call], buffer.limit(len(indexes))))

    def settle(outcomes: Sequence[Sequence[Outcome]]) -> None:
        errors: list[Exception] = []
        for (key, indexes), [outcome] in zip(calls, outcomes, strict=True):
            receipts: Sequence[Receipt] = ()
            try:
                receipts = _receipts(buffer, key, [records[i] for i in indexes], outcome)
            except NotDurable as taken:
                errors.append(taken)
                receipts = taken.receipts
            except Exception as error:  # noqa: BLE001 - the others are in all the same
                errors.insert(0, error)
                for i in indexes:
                    places[i][0].error = error
            for i, receipt in zip(indexes, receipts, strict=False):
                one, index = places[i]
                one.receipts[index] = receipt
        for gravest in errors:
            raise gravest

    return Sending(deliveries, settle)


def _receipts(
    buffer: LogBuffer, key: str, records: Sequence[Record], outcome: Outcome
) -> list[Receipt]:
    """Of records that Redis took, or that go around it."""
    missing = ""
    if isinstance(outcome, Fleeting):
        missing, outcome = str(outcome), outcome.outcome
    try:
        first = store.appended(outcome)
    except (BufferUnavailable, BufferFull) as error:
        if not goes_around(buffer, error):
            raise
        return buffer.direct(records)
    assert isinstance(first, int)
    report(buffer)
    receipts = [Receipt(key, "", first + n) for n in range(len(records))]
    return buffer.durable(receipts, missing)
