"""What row and meta buffers share: an entry for each id, into which all its writes go."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async

from writebehind_app import steps
from writebehind_app.buffers import fallback, outbox, reading
from writebehind_app.buffers.base import Buffer, PendingEntry, asynchronous
from writebehind_app.buffers.fallback import (
    goes_around,
    if_there,
    is_cautious,
    otherwise,
    report,
)
from writebehind_app.buffers.outbox import Held, HeldWrite, Outcomes, Sending
from writebehind_app.buffers.plan import Plan
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.conf import is_direct
from writebehind_app.database import direct, fences
from writebehind_app.database.once import Once
from writebehind_app.declaration import KeyedDeclaration
from writebehind_app.exceptions import (
    BufferFull,
    BufferUnavailable,
    NotDurable,
    Overtaken,
    WritebehindError,
    WriteUncertain,
)
from writebehind_app.fields.limits import out_of_range, shown
from writebehind_app.fields.writes import Write
from writebehind_app.flush.engine import FlushResult
from writebehind_app.steps import reach
from writebehind_app.store import shard as store
from writebehind_app.store.calls import Call, Delivery, Fleeting, Outcome
from writebehind_app.store.connection import client
from writebehind_app.store.delivery import adeliver_one, deliver, deliver_one


class CoalescingBuffer(Buffer, KeyedDeclaration):
    """Writes to an id, and reads of what is there with all of them."""

    def flush(self, /, **key: Any) -> FlushResult:
        """Bring what is pending, for one key or for all, to the database, and return when it is
        there. An error of the database is raised; nothing is lost by it."""
        return self._flush([self._id(key)] if key else ())

    def discard(self, /, **key: Any) -> int:
        """Throw away what is pending, for one key or for all; says how many entries went.

        What a flusher works on is not touched: it may be in the database already.
        """
        return self._discard([self._id(key)] if key else ())

    aflush = asynchronous(flush)
    adiscard = asynchronous(discard)

    def rows_of(self, write: Write) -> tuple[str, ...]:
        """The rows that a receipt asks for, of those of the id; none for all there are."""
        return ()

    def field_of(self, name: str) -> str:
        """What people call the field of that name in Redis."""
        return name

    def took(self, writes: Sequence[Write]) -> None:
        """Called with writes that Redis took."""

    def _write_one(self, plan: Plan, write: Write, once: str | None = None) -> Receipt:
        """Write what was checked: mostly that is one call of Redis, and no more."""
        if not plan.is_plain or once is not None or is_cautious() or outbox.holds(plan):
            return self._write([write], once)[0]
        call = plan.call(write)
        if steps.hook:
            reach("write.sending")
        outcome = deliver_one(client(), "write", call, plan.limit)
        if steps.hook:
            reach("write.accepted")
        return self._receipt(plan, write, call, outcome)

    async def _awrite_one(self, plan: Plan, write: Write) -> Receipt:
        """The same from an event loop, where `asks_redis_alone()` says so."""
        call = plan.call(write)
        reach("write.sending")
        outcome = await adeliver_one(client(), "write", call, plan.limit)
        reach("write.accepted")
        if type(outcome) is list and not fallback.around:
            return self._receipt(plan, write, call, outcome)
        return await sync_to_async(self._receipt)(plan, write, call, outcome)

    def _receipt(self, plan: Plan, write: Write, call: Call, outcome: Outcome) -> Receipt:
        """The receipt of what was sent alone."""
        is_all = self.flush_when is None and not fallback.around
        if is_all and type(outcome) is list and outcome[0]:
            rows = self.rows_of(write) if plan.names.is_entity else ()
            return Receipt(str(call[0]), write.id, outcome[0], rows)
        [receipt] = self._accepted([write], [outcome], around=True)
        return receipt

    def _write(self, writes: list[Write], once: str | None = None) -> list[Receipt]:
        """Write what was checked, through Redis or around it, or hold it back."""
        if not outbox.holds(self.plan()):
            return self._write_now(writes, once)
        return outbox.hold(
            self,
            writes,
            [(write.id, self.rows_of(write)) for write in writes],
            lambda left: self._write_now([*left], once),
            together=once is None,
            once=once,
            calls=lambda: [(self.shard_key_of(write.id), [i]) for i, write in enumerate(writes)],
        )

    def _write_now(self, writes: list[Write], once: str | None = None) -> list[Receipt]:
        if once is not None:
            return self._write_parts(writes, once)
        if is_direct():
            return self._directly(writes)
        return self._buffered(writes, around=True)

    def _directly(self, writes: Sequence[Write], once: Once | None = None) -> list[Receipt]:
        direct.write(self, writes, once=once)
        return [Receipt("", write.id, 0, self.rows_of(write)) for write in writes]

    def _write_parts(self, writes: Sequence[Write], key: str) -> list[Receipt]:
        receipts: list[Receipt] = []
        short: NotDurable | None = None
        for part, write in enumerate(writes):
            try:
                receipts.append(self._write_once(write, key, part))
            except NotDurable as taken:
                short = taken
                receipts += taken.receipts
        if short:
            raise NotDurable(str(short), receipts)
        return receipts

    def _write_once(self, write: Write, key: str, part: int) -> Receipt:
        once = Once(self, key, part, self.shard_key_of(write.id))

        def buffered() -> Receipt:
            for receipt in self._buffered([write], once=once):
                return receipt
            raise WriteUncertain("A call under the same key is on its way to Redis: repeat this.")

        receipt = once.carry_out(
            buffered,
            lambda: self._directly([write], once)[0],
            Receipt("", write.id, 0, self.rows_of(write)),
            partial(goes_around, self, again=write.is_idempotent),
        )
        assert receipt is not None
        return receipt

    def _buffered(
        self,
        writes: list[Write],
        *,
        max_age: float | None = None,
        around: bool = False,
        once: Once | None = None,
    ) -> list[Receipt]:
        """Send checked writes; those whose row no longer looks as expected are left out, and one
        that was taken `once`.

        Those that are not taken go `around` Redis, if they may. Where some cannot, the others are
        written all the same, and then it is raised.
        """
        delivery = self._delivery(writes, max_age, once)
        reach("write.sending")
        try:
            named = once.digest if once else ""
            durability = self.plan().durability
            outcomes = deliver(client(), *delivery, durability=durability, once=named)
        except BufferUnavailable as error:
            outcomes = [error] * len(writes)
        reach("write.accepted")
        return self._accepted(writes, outcomes, around)

    def _accepted(
        self, writes: Sequence[Write], outcomes: Sequence[Outcome], around: bool
    ) -> list[Receipt]:
        """The receipts of writes that were sent; what was not taken goes `around` Redis, if it may,
        or is raised."""
        receipts, failures, left, missing = self._settled(writes, outcomes, around)
        if left:
            receipts |= zip(left, self._directly([writes[i] for i in left]), strict=True)
        return self.durable(self._taken(receipts, failures, len(writes)), missing)

    def sending(self, parts: Sequence[Write]) -> Sending:
        writes = [*parts]

        def settle(
            outcomes: Outcomes, receipts: dict[int, Receipt], failures: dict[int, Exception]
        ) -> None:
            taken, failed, left, missing = self._settled(writes, outcomes[0], True)
            receipts |= taken
            failures |= failed
            if left:
                around = self._directly([writes[i] for i in left])
                receipts.update(zip(left, around, strict=True))
            self.durable(self._taken(receipts, failures, len(writes)), missing)

        return Sending([self._delivery(writes)], settle)

    def place_in_order(self, part: Write) -> tuple[str, str]:
        return self.label, part.id

    def _settled(
        self,
        writes: Sequence[Write],
        outcomes: Sequence[Outcome],
        around: bool,
    ) -> tuple[dict[int, Receipt], dict[int, Exception], list[int], str]:
        """The receipts of those writes that Redis took; what kept others from it, and which are to
        go around it; and what the durability of some leaves to be desired."""
        missing = next((str(outcome) for outcome in outcomes if isinstance(outcome, Fleeting)), "")
        outcomes = [o.outcome if isinstance(o, Fleeting) else o for o in outcomes]
        sent = zip(writes, outcomes, strict=True)
        if taken := [write for write, outcome in sent if isinstance(outcome, list) and outcome[0]]:
            self.took(taken)
            report(self)
        receipts: dict[int, Receipt] = {}
        failures: dict[int, Exception] = {}
        left: list[int] = []
        for i, (write, outcome) in enumerate(zip(writes, outcomes, strict=True)):
            match outcome:
                case Exception() if around and goes_around(
                    self, outcome, again=write.is_idempotent
                ):
                    left.append(i)
                case Exception():
                    failures[i] = outcome
                case [no] if no:
                    shard = self.shard_key_of(write.id)
                    receipts[i] = Receipt(shard, write.id, no, self.rows_of(write))
        return receipts, failures, left, missing

    def _delivery(
        self, writes: Sequence[Write], max_age: float | None = None, once: Once | None = None
    ) -> Delivery:
        """The outcome of each is the number of the entry that took it, or 0."""
        plan = self.plan()
        age = None if max_age is None else round(max_age * 1e6)
        # What was written directly before an operation is told to Redis, which does not know of it.
        void = fences.told(self, writes) if is_cautious() else [{}] * len(writes)
        named = once.digest if once else ""
        calls = [
            plan.call(write, numbers, max_age=age, once=named)
            for write, numbers in zip(writes, void, strict=True)
        ]
        return Delivery("write", calls, plan.limit)

    def _taken(
        self, receipts: Mapping[int, Receipt], failed: Mapping[int, Exception], count: int
    ) -> list[Receipt]:
        """The receipts, where nothing failed; else the gravest error is raised, and says how many
        of so many writes were taken."""
        if not failed:
            return [receipts[i] for i in sorted(receipts)]
        failures = list(failed.values())
        outcome = f"{count - len(failures)} of {count} writes were taken"
        for kind in (WriteUncertain, BufferUnavailable, BufferFull):
            for failure in failures:
                if isinstance(failure, kind):
                    if count > 1:
                        failure.args = (f"{outcome} for certain. {failure}",)
                    raise failure
        outcome = outcome if count > 1 else "nothing was changed"
        raise out_of_range({self.field_of(str(failure)) for failure in failures}, outcome)

    def _write_if(
        self,
        id: str,
        write_for: Callable[[Any | None], Write | None],
        *,
        whole: bool = False,
        once: str | None = None,
        answer: Callable[[Any | None], Any] = lambda found: None,
        overtaken: WritebehindError | None = None,
    ) -> Receipt | None:
        """The receipt of the write that is made for what is there of the id; None where none is.
        Nobody's write comes between the look and the write. `whole` if it makes the row.

        One that is held back is made for what is there now, and once more when it is sent: then
        the `answer` that the caller made of it has to be the same, or `overtaken` is raised.
        """
        if not outbox.holds(self.plan()):
            return self._write_if_now(id, write_for, whole=whole, once=once)
        if once is not None and (earlier := outbox.named(self, once)):
            return Receipt("", id, 0, (), HeldWrite(earlier, 0))
        found = self._rows([id]).get(id)
        said, write = answer(found), write_for(found)
        if once is not None and outbox.is_known(self, once, 0, self.shard_key_of(id)):
            return Receipt("", id, 0)
        if write is None:
            return None

        def again(row: Any | None) -> Write | None:
            return write_for(row) if answer(row) == said else None

        def act(writes: Sequence[Write]) -> list[Receipt]:
            receipt = self._write_if_now(id, again, whole=whole, once=once)
            if receipt is None:
                raise overtaken or Overtaken(
                    f"{self.label} with the key ({id}) was written to by somebody else before what "
                    "was decided about it was sent, and it would be decided otherwise now: nothing "
                    "was written."
                )
            return [receipt]

        held = Held(self, [write], act, once=once)
        return outbox.add(held, [(id, self.rows_of(write))])[0]

    def _write_if_now(
        self,
        id: str,
        write_for: Callable[[Any | None], Write | None],
        *,
        whole: bool = False,
        once: str | None = None,
    ) -> Receipt | None:
        note = None if once is None else Once(self, once, 0, self.shard_key_of(id))

        def buffered() -> Receipt | None:
            while True:
                found, guard = reading.guarded(self, [id])[id]
                write = write_for(found)
                if write is not None:
                    if receipts := self._buffered([write._replace(guard=guard)], once=note):
                        return receipts[0]
                elif reading.is_unchanged(self, id, guard):
                    return None

        def directly() -> Receipt | None:
            write = direct.write_if(self, id, write_for, whole=whole, once=note)
            return write and Receipt("", id, 0, self.rows_of(write))

        if note is None:
            return otherwise(self, buffered, directly)
        return note.carry_out(buffered, directly, Receipt("", id, 0), partial(goes_around, self))

    def _pending_of(self, id: str) -> list[PendingEntry]:
        """The entries of one id, the one in flight first."""
        shard = self.shard_key_of(id)
        readings: dict[str, store.Reading] = if_there(
            lambda: store.read(client(), {shard: [id]}), {}
        )
        found = []
        for one in readings.values():
            found += [self._describe(e, one.attempts, "in_flight") for e in one.in_flight.values()]
            found += [self._describe(e, 0, "pending") for e in one.pending.values()]
        return found + [entry for id_, entry in self._held_entries() if id_ == id]

    def _rows(self, ids: Sequence[str]) -> dict[str, Any]:
        """What is there of those ids with all writes, by id."""
        found = otherwise(self, lambda: reading.rows(self, ids), lambda: self.stored(ids))
        return outbox.over(self, ids, found)

    def _id(self, key: Mapping[str, Any]) -> str:
        layout = self.key_layout()
        layout.only_key(key)
        return layout.id(key)

    def _key(self, key: Hashable) -> dict[str, Any]:
        """A key as get_many() takes it."""
        names = [column.name for column in self.key_layout().key]
        values = key if isinstance(key, tuple) and len(names) > 1 else (key,)
        if len(values) != len(names):
            raise TypeError(f"A key of {self.label} is ({', '.join(names)}), not {shown(key)}.")
        return dict(zip(names, values, strict=True))
