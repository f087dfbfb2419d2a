"""What row and meta buffers share: an entry for each id, into which all its writes go."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from typing import Any

from asgiref.sync import sync_to_async

from writebehind_app import checkpoints, conf
from writebehind_app.buffers import fallback, outbox, reading
from writebehind_app.buffers.base import Buffer, PendingEntry, asynchronous
from writebehind_app.buffers.fallback import ask_redis, with_fallback
from writebehind_app.buffers.held import Held, HeldWrite
from writebehind_app.buffers.plan import Plan
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.buffers.sending import Sending
from writebehind_app.buffers.settlement import Settlement
from writebehind_app.checkpoints import reach
from writebehind_app.conf import is_direct
from writebehind_app.database import direct, divided
from writebehind_app.database.once import Once
from writebehind_app.declaration import KeyedDeclaration
from writebehind_app.exceptions import (
    BufferUnavailable,
    NotDurable,
    Overtaken,
    WritebehindError,
)
from writebehind_app.fields.limits import excerpt
from writebehind_app.fields.writes import Write
from writebehind_app.flush.engine import FlushResult
from writebehind_app.store.calls import Call, Outcome, Refused
from writebehind_app.store.connection import client
from writebehind_app.store.delivery import adeliver_one, deliver, deliver_one
from writebehind_app.store.reads import Reading

_POLL = 0.02  # seconds between two reads of a row that is in flight


class CoalescingBuffer(Buffer, KeyedDeclaration):
    """A buffer with one entry for each id. Reads return what is stored with the entry over it."""

    def flush(self, /, **key: Any) -> FlushResult:
        """Flush what is pending, for one key or for all, and return when it is in the database. An
        error of the database is raised, and nothing is lost."""
        return self._flush([self._id(key)] if key else ())

    def discard(self, /, **key: Any) -> int:
        """Throw away what is pending, for one key or for all. Return how many entries went.

        An entry that a flusher works on stays: it may be in the database already.
        """
        return self._discard([self._id(key)] if key else ())

    aflush = asynchronous(flush)
    adiscard = asynchronous(discard)

    def rows_of(self, write: Write) -> tuple[str, ...]:
        """Return the ids of the rows that a write changes, for its receipt; () if it is its id."""
        return ()

    def took(self, writes: Sequence[Write]) -> None:
        """Hook: called with the writes that Redis took."""

    def _write_one(self, plan: Plan, write: Write, once: str | None = None) -> Receipt:
        """Send a checked write. Mostly this is one call of Redis."""
        if not plan.is_plain or once is not None or outbox.holds(plan):
            return self._write([write], once)[0]
        call = plan.call(write)
        if checkpoints.hook:
            reach("write.sending")
        outcome = deliver_one(client(), call)
        if checkpoints.hook:
            reach("write.accepted")
        return self._receipt(plan, write, call, outcome)

    async def _awrite_one(self, plan: Plan, write: Write) -> Receipt:
        """Do the same in an event loop, if `asks_redis_alone()`."""
        call = plan.call(write)
        reach("write.sending")
        outcome = await adeliver_one(client(), call)
        reach("write.accepted")
        if type(outcome) is int and not fallback.direct_calls:
            return self._receipt(plan, write, call, outcome)
        return await sync_to_async(self._receipt)(plan, write, call, outcome)

    def _receipt(self, plan: Plan, write: Write, call: Call, outcome: Outcome) -> Receipt:
        """Return the receipt of a write that was sent alone."""
        if type(outcome) is int and self.flush_when is None and not fallback.direct_calls:
            rows = self.rows_of(write) if plan.names.is_entity else ()
            return Receipt(call.shard, write.id, outcome, rows)
        settled = Settlement(self, [write])
        settled.note([0], outcome, call.shard)
        return settled.receipts_or_raise()[0]

    def _write(self, writes: list[Write], once: str | None = None) -> list[Receipt]:
        """Send checked writes: now, directly, or with the open batch or transaction."""
        if not outbox.holds(self.plan()):
            return self._write_now(writes, once)
        if once is not None:
            names = self._once_of(writes, once)
            return [self._hold_once(*pair) for pair in zip(writes, names, strict=True)]
        return outbox.hold(
            self,
            writes,
            [(write.id, self.rows_of(write)) for write in writes],
            lambda left: self._write_now([*left]),
            is_plain=True,
            once=None,
        )

    def _hold_once(self, write: Write, once: Once) -> Receipt:
        def send(left: Sequence[Write]) -> list[Receipt]:
            if not left:
                once.remember()
            return [self._write_once(part, once) for part in left]

        row = (write.id, self.rows_of(write))
        return outbox.hold(self, [write], [row], send, is_plain=False, once=[(once, [0])])[0]

    def _write_now(self, writes: list[Write], once: str | None = None) -> list[Receipt]:
        if once is not None:
            return self._write_parts(writes, once)
        if is_direct():
            return self.directly(writes)
        return self._buffered(writes)

    def directly(self, writes: Sequence[Write], once: Once | None = None) -> list[Receipt]:
        """Write straight to the database. Return the receipts."""
        direct.write(self, writes, once=once)
        return [Receipt("", write.id, 0, self.rows_of(write)) for write in writes]

    def _once_of(self, writes: Sequence[Write], name: str) -> list[Once]:
        """Return the idempotency keys of the writes of a call. Each of several writes to one row
        has its own."""
        earlier: Counter[str] = Counter()
        found = []
        for write in writes:
            place = f"{earlier[write.id]} {write.id}"
            found.append(Once(self, name, place, self.shard_key_of(write.id)))
            earlier[write.id] += 1
        return found

    def _write_parts(self, writes: Sequence[Write], name: str) -> list[Receipt]:
        receipts: list[Receipt] = []
        short: NotDurable | None = None
        for write, once in zip(writes, self._once_of(writes, name), strict=True):
            try:
                receipts.append(self._write_once(write, once))
            except NotDurable as taken:
                short = taken
                receipts += taken.receipts
        if short:
            raise NotDurable(str(short), receipts)
        return receipts

    def _write_once(self, write: Write, once: Once) -> Receipt:
        receipt = once.carry_out(
            lambda: self._send_one(write, once),
            lambda: self.directly([write], once)[0],
            Receipt("", write.id, 0, self.rows_of(write)),
        )
        assert receipt is not None
        return receipt

    def _send_one(self, write: Write, once: Once | None = None) -> Receipt | None:
        """Send a write with a guard or an idempotency key. Return its receipt, also if Redis took
        it earlier under the same key; None if the row has changed since the guard, or has another
        shard. Raise an error if the write was not taken."""
        while True:
            plan = self.plan()
            call = plan.once_call(write, once.digest) if once else plan.call(write)
            reach("write.sending")
            [outcome] = deliver(client(), [call], plan.durability)
            reach("write.accepted")
            match outcome:
                case Refused("stale"):
                    return None
                case Refused("elsewhere"):
                    if once and once.is_stored():  # its shard knew the name
                        return Receipt("", write.id, 0, self.rows_of(write))
                    if write.guard:
                        return None
                    continue
                case Refused("known", number):
                    return Receipt(call.shard, write.id, int(number), self.rows_of(write))
            settled = Settlement(self, [write], may_go_around=False)
            settled.note([0], outcome, call.shard)
            return settled.receipts_or_raise()[0]

    def _buffered(self, writes: Sequence[Write]) -> list[Receipt]:
        """Send checked writes. Those that Redis does not take are written directly, if they may be.
        If some cannot be written, the others still are, and then the error is raised."""
        settled = Settlement(self, writes)
        reach("write.sending")
        settled.send(range(len(writes)))
        reach("write.accepted")
        return settled.receipts_or_raise()

    def send_if_unchanged(self, writes: Sequence[Write]) -> int:
        """Send writes with guards, due at once. Return how many were taken."""
        parts = self.plan().calls(writes, is_at_once=True)
        taken = 0
        for (indexes, _), outcome in zip(
            parts, deliver(client(), [call for _, call in parts]), strict=True
        ):
            match outcome:
                case Exception():
                    raise outcome
                case int():
                    taken += len(indexes)
                case Refused("stale") if len(indexes) > 1:  # none is taken, for one that is stale
                    taken += sum(self.send_if_unchanged([writes[i]]) for i in indexes)
        return taken

    def sending(self, parts: Sequence[Write]) -> Sending:
        writes = [*parts]
        calls = self.plan().calls(writes)

        def settle(
            outcomes: Sequence[Outcome],
            receipts: dict[int, Receipt],
            failures: dict[int, Exception],
        ) -> None:
            settled = Settlement(self, writes)
            for (indexes, call), outcome in zip(calls, outcomes, strict=True):
                settled.note(indexes, outcome, call.shard)
            try:
                settled.receipts_or_raise()
            finally:
                receipts |= settled.receipts
                failures |= settled.failures

        return Sending([call for _, call in calls], settle)

    def place_in_order(self, part: Write) -> tuple[str, str]:
        return self.label, part.id

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
        """Read an id, and send the write that `write_for` makes of what is there. Return its
        receipt, or None if there is no write. No other write comes in between. `whole` says that
        the write makes the row.

        A write that is held back is decided now, and again when it is sent. If `answer` then says
        something else of what is there than now, `overtaken` is raised. What a later save() of the
        same transaction has written does not count: it is sent without these fields, and they are
        as they were.
        """
        if not outbox.holds(self.plan()):
            return self._write_if_now(id, write_for, whole=whole, once=once)
        name = None if once is None else self._name(id, once)
        if name and (earlier := outbox.held_by_name(self, [name.digest])):
            return Receipt("", id, 0, (), HeldWrite(earlier, 0))
        found = self._rows([id]).get(id)
        said, write = answer(found), write_for(found)
        if name and name.was_taken():
            return Receipt("", id, 0)
        if write is None:
            return None

        def act(left: Sequence[Write]) -> list[Receipt]:
            if not left:
                if name:
                    name.remember()
                return []

            def again(row: Any | None) -> Write | None:
                row = self.as_before(row, found, held.replaced)
                return left[0] if answer(row) == said and write_for(row) is not None else None

            receipt = self._write_if_now(id, again, whole=whole, once=once)
            if receipt is None:
                raise overtaken or Overtaken(
                    f"Somebody else wrote to {self.label} with the key ({id}) before this write "
                    "was sent, and the decision would be different now: nothing was written."
                )
            return [receipt]

        held = Held(self, [write], act, names=[name.digest] if name else ())
        return outbox.add(held, [(id, self.rows_of(write))])[0]

    def _write_if_now(
        self,
        id: str,
        write_for: Callable[[Any | None], Write | None],
        *,
        whole: bool = False,
        once: str | None = None,
    ) -> Receipt | None:
        note = None if once is None else self._name(id, once)

        def buffered() -> Receipt | None:
            until = time.monotonic() + conf.settings().LEASE
            while True:
                found, guard, is_moving = reading.guarded(self, [id])[id]
                if is_moving:  # the outcome depends on whether that is stored
                    self._wait_for_others(id, until)
                    continue
                write = write_for(found)
                if write is not None:
                    if receipt := self._send_one(write._replace(guard=guard), note):
                        return receipt
                elif reading.is_unchanged(self, id, guard):
                    return None

        def directly() -> Receipt | None:
            write = direct.write_if(self, id, write_for, whole=whole, once=note)
            return write and Receipt("", id, 0, self.rows_of(write))

        if note is None:
            return with_fallback(self, buffered, directly)
        return note.carry_out(buffered, directly, Receipt("", id, 0), is_decided=True)

    def as_before(self, row: Any | None, before: Any | None, names: Set[str]) -> Any | None:
        """Return a row with the fields of these names as they were before. Metadata needs nothing:
        what is decided about one meta key is a write to that key alone."""
        return row

    def _name(self, id: str, name: str) -> Once:
        return Once(self, name, f"0 {id}", self.shard_key_of(id))

    def _wait_for_others(self, id: str, until: float) -> None:
        """Wait a moment for a flusher that has the row, or for a save of it."""
        if time.monotonic() > until:
            raise Overtaken(
                f"{self.label} with the key ({id}) is being flushed, or saved, for longer "
                "than a lease, and what is decided about it depends on the outcome: nothing was "
                "written."
            )
        time.sleep(_POLL)

    def _pending_of(self, id: str) -> list[PendingEntry]:
        """Return the unflushed entries of one id, the one in flight first."""
        readings: dict[str, Reading] = ask_redis(lambda: divided.read(self, [id]), {})
        found = []
        for one in readings.values():
            found += [self._describe(e, one.attempts, "in_flight") for e in one.in_flight.values()]
            found += [self._describe(e, 0, "pending") for e in one.pending.values()]
        return found + [entry for id_, entry in self._held_entries() if id_ == id]

    def _row(self, plan: Plan, id: str) -> Any | None:
        """Return what an id has with all writes. With a base, this is one call of Redis."""
        if plan.is_direct or outbox.may_hold(plan):
            return self._rows([id]).get(id)
        try:
            return reading.row(self, plan, id)
        except BufferUnavailable as error:
            if not fallback.goes_around(self, error):
                raise
        return self.stored([id]).get(id)

    def _rows(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return the rows, or entities, of these ids with all accepted writes, by id."""
        found = with_fallback(self, lambda: reading.rows(self, ids), lambda: self.stored(ids))
        return outbox.overlay(self, ids, found)

    def _id(self, key: Mapping[str, Any]) -> str:
        return self.key_layout().id(key)

    def _key(self, key: Hashable) -> dict[str, Any]:
        """Return the fields of a key that is given as in get_many()."""
        names = [column.name for column in self.key_layout().key]
        values = key if isinstance(key, tuple) and len(names) > 1 else (key,)
        if len(values) != len(names):
            raise TypeError(f"A key of {self.label} is ({', '.join(names)}), not {excerpt(key)}.")
        return dict(zip(names, values, strict=True))
