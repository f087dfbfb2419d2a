"""How what was held back is sent: see batch.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from writebehind_app.exceptions import (
    BufferFull,
    BufferUnavailable,
    NotDurable,
    WritebehindError,
    WriteUncertain,
)
from writebehind_app.steps import reach
from writebehind_app.store.calls import Delivery, Durability, Outcome
from writebehind_app.store.connection import client
from writebehind_app.store.delivery import deliver_all

if TYPE_CHECKING:
    from writebehind_app.buffers.base import Buffer
    from writebehind_app.buffers.batch import Held


class Sending(NamedTuple):
    """How held writes of a buffer go in a pipeline with others."""

    deliveries: Sequence[Delivery]
    settle: Callable[[Sequence[Sequence[Outcome]]], None]  # raises what became of some


def leave(held: Iterable[Held]) -> None:
    """Send what is held. Where some of it is not taken the rest is sent all the same; then the
    gravest of the errors is raised."""
    waiting = [one for one in sorted({*held}, key=lambda one: one.order) if one.state == "held"]
    together, alone, keys_alone = [], [], set[object]()
    for one in waiting:
        one.state = "sent"
        if one.together and keys_alone.isdisjoint(one.keys):
            together.append(one)
        else:
            keys_alone |= one.keys
            alone.append(one)
    errors: list[Exception] = []
    for act in (lambda: _send_together(together, errors), *(one.act for one in alone)):
        try:
            act()
        except Exception as error:  # noqa: BLE001 - the others are sent all the same
            errors.append(error)
    if errors:
        gravest = min(errors, key=_gravity)
        for other in errors:
            if other is not gravest:
                gravest.add_note(f"Likewise {type(other).__name__}: {other}")
        raise gravest


_GRAVEST = (WriteUncertain, BufferUnavailable, BufferFull, WritebehindError, Exception)


def _gravity(error: Exception) -> int:
    if isinstance(error, NotDurable):  # it was taken
        return len(_GRAVEST)
    return next(n for n, kind in enumerate(_GRAVEST) if isinstance(error, kind))


def _send_together(held: Sequence[Held], errors: list[Exception]) -> None:
    """One round trip, but for buffers of another durability."""
    by_buffer: dict[Buffer, list[Held]] = {}
    for one in held:
        by_buffer.setdefault(one.buffer, []).append(one)
    by_durability: dict[Durability | None, list[Sending]] = {}
    for buffer, its in by_buffer.items():
        try:
            sending = buffer.sending(its)
        except Exception as error:  # noqa: BLE001 - the others are sent all the same
            errors.append(error)
        else:
            by_durability.setdefault(buffer.durability(), []).append(sending)
    for durability, sendings in by_durability.items():
        deliveries = [delivery for sending in sendings for delivery in sending.deliveries]
        reach("write.sending")
        try:
            outcomes = iter(deliver_all(client(), deliveries, durability=durability))
        except BufferUnavailable as error:
            outcomes = iter([[error] * len(delivery.calls) for delivery in deliveries])
        except Exception as error:  # noqa: BLE001 - as above
            errors.append(error)
            continue
        reach("write.accepted")
        for sending in sendings:
            try:
                sending.settle([next(outcomes) for _ in sending.deliveries])
            except Exception as error:  # noqa: BLE001 - the others are sent already
                errors.append(error)
