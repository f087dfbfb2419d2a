"""Sends held calls in their order: plain ones in one round trip, each other one alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from writebehind_app.checkpoints import reach
from writebehind_app.exceptions import (
    BufferFull,
    BufferUnavailable,
    NotDurable,
    WritebehindError,
    WriteUncertain,
)
from writebehind_app.store.calls import Call, Outcome
from writebehind_app.store.connection import client
from writebehind_app.store.delivery import deliver
from writebehind_app.store.durability import Durability

if TYPE_CHECKING:
    from writebehind_app.buffers.base import Buffer
    from writebehind_app.buffers.held import Held
    from writebehind_app.buffers.receipt import Receipt


class Sending(NamedTuple):
    """How plain writes of one buffer are sent together with those of others."""

    calls: Sequence[Call]
    # Takes the outcomes of the calls. Fills in the receipts of writes that were taken, and the
    # errors of the others, by the index of the write. Raises the gravest error.
    settle: Callable[[Sequence[Outcome], dict[int, Receipt], dict[int, Exception]], None]


def send_calls(held: Iterable[Held]) -> None:
    """Send held calls. If some are not taken, still send the rest, and then raise the gravest
    error."""
    in_order = sorted({*held}, key=lambda one: one.order)
    for strike in [strike for one in in_order for strike in one.strikes if strike.is_waiting]:
        strike()
    waiting = [one for one in in_order if one.state == "held"]
    errors: list[Exception] = []
    for is_plain, group in groupby(waiting, key=lambda one: one.is_plain):
        calls = [*group]
        for one in calls:
            one.state = "sent"
        if is_plain:
            _send_together(calls, errors)
            continue
        for one in calls:
            try:
                with one.buffer.in_database(one.using):
                    one.send()
            except Exception as error:  # noqa: BLE001 - the others are sent all the same
                errors.append(error)
    if errors:
        gravest = min(errors, key=_gravity)
        for other in errors:
            if other is not gravest:
                gravest.add_note(f"Another write failed too: {type(other).__name__}: {other}")
        raise gravest


_GRAVEST = (WriteUncertain, BufferUnavailable, BufferFull, WritebehindError, Exception)


def _gravity(error: Exception) -> int:
    if isinstance(error, NotDurable):  # the write was taken
        return len(_GRAVEST)
    return next(n for n, kind in enumerate(_GRAVEST) if isinstance(error, kind))


def _send_together(held: Sequence[Held], errors: list[Exception]) -> None:
    """Send plain calls in one round trip for each durability."""
    by_place: dict[tuple[Buffer, str], list[Held]] = {}
    for one in held:
        by_place.setdefault((one.buffer, one.using), []).append(one)
    by_durability: dict[Durability | None, list[tuple[Held, Sending, list[tuple[Held, int]]]]] = {}
    for (buffer, using), its in by_place.items():
        parts = [(one, i) for one in its for i in one.parts]
        try:
            with buffer.in_database(using):
                sending = buffer.sending([one.parts[i] for one, i in parts])
                durability = buffer.plan().durability
        except Exception as error:  # noqa: BLE001 - the others are sent all the same
            errors.append(error)
        else:
            by_durability.setdefault(durability, []).append((its[0], sending, parts))
    for durability, sendings in by_durability.items():
        calls = [call for _, sending, _ in sendings for call in sending.calls]
        reach("write.sending")
        try:
            outcomes = iter(deliver(client(), calls, durability))
        except Exception as error:  # noqa: BLE001 - as above
            errors.append(error)
            continue
        reach("write.accepted")
        for first, sending, parts in sendings:
            try:
                with first.buffer.in_database(first.using):
                    _settle(sending, [next(outcomes) for _ in sending.calls], parts)
            except Exception as error:  # noqa: BLE001 - the others are sent already
                errors.append(error)


def _settle(
    sending: Sending, outcomes: Sequence[Outcome], parts: Sequence[tuple[Held, int]]
) -> None:
    """Give each held call the receipts, or the error, of its parts."""
    receipts: dict[int, Receipt] = {}
    failures: dict[int, Exception] = {}
    try:
        sending.settle(outcomes, receipts, failures)
    finally:  # what Redis took has a receipt, even if others failed
        for n, (one, i) in enumerate(parts):
            if n in receipts:
                one.receipts[i] = receipts[n]
            elif n in failures:
                one.error = failures[n]
