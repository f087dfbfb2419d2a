"""The verbs that all kinds of buffers have."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import models

from writebehind_app import conf
from writebehind_app.buffers import fallback, outbox
from writebehind_app.buffers.blocks import may_hold_tasks
from writebehind_app.buffers.fallback import ask_redis
from writebehind_app.buffers.plan import Plan, plan
from writebehind_app.buffers.sending import Sending
from writebehind_app.checkpoints import reach
from writebehind_app.database.divided import renew
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import NotDurable
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.limits import REFUSALS, as_dict, excerpt
from writebehind_app.fields.stamps import moment
from writebehind_app.flush import discards, engine
from writebehind_app.flush.engine import FlushResult
from writebehind_app.store import divisions, listing, state
from writebehind_app.store.codec import understood
from writebehind_app.store.connection import client
from writebehind_app.store.delivery import delivering
from writebehind_app.store.dialogue import arun_dialogue
from writebehind_app.store.listing import Listed

if TYPE_CHECKING:
    from writebehind_app.buffers.receipt import Receipt

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    Row = TypeVarWithDefault("Row", bound=models.Model, default=Any)
else:
    Row = TypeVar("Row", bound=models.Model)
"""The model of a buffer, and the type of its instances."""

Owner = TypeVar("Owner", bound=models.Model)
_Self = TypeVar("_Self")
_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingEntry:
    """One unflushed entry, of a row, an entity or a record: key, values, state."""

    key: dict[str, Any]
    values: dict[str, Any]
    delete: bool  # the stored row is deleted first
    since: datetime  # when the first write came
    attempts: int  # how often the database refused its batch
    # Held: in this process, by a batch() or a transaction.
    state: Literal["pending", "in_flight", "held"]


class Raw(dict[str, Any]):
    """A key that this code cannot read: any part of it may be sensitive."""


def asynchronous(
    verb: Callable[Concatenate[_Self, _Params], _Result],
    on_loop: Callable[..., Coroutine[Any, Any, _Result]] | None = None,
) -> Callable[Concatenate[_Self, _Params], Coroutine[Any, Any, _Result]]:
    """Return the twin of a verb, which does not block the event loop. It runs `on_loop` if the call
    asks only Redis; else it runs the verb in a thread."""

    @wraps(verb)
    async def twin(self: _Self, /, *args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        method: Any = getattr(self, verb.__name__)  # of the subclass, where it has its own
        if on_loop is not None and kwargs.get("once") is None:
            subject: Any = self
            if getattr(method, "__func__", None) is verb and subject.asks_redis_alone():
                return await on_loop(self, *args, **kwargs)
        result: _Result = await sync_to_async(method)(*args, **kwargs)
        return result

    return twin


class Buffer(Declaration):
    """A declaration, and the verbs of every kind."""

    # Writing

    flush_when: Callable[[Any], bool] | None = None  # of rows

    def contribute_to_class(self, model: type[models.Model], name: str) -> None:
        self._plans: dict[str, Plan] = {}  # by the database
        super().contribute_to_class(model, name)

    def plan(self) -> Plan:
        """Return how writes go now. This is worked out anew if settings or options change."""
        using = self.using()
        found = self._plans.get(using)
        if (
            found is None
            or found.settings is not conf.settings()
            or found.known is not divisions.known
            or found.options is not self.options
        ):
            found = self._plans[using] = plan(self, using)
        return found

    def asks_redis_alone(self) -> bool:
        """Return whether a plain write in an event loop needs only Redis, as far as is known before
        the write: no database, no code of the project, no transaction to wait for."""
        try:
            plan = self.plan()
        except SynchronousOnlyOperation:  # the router asks the database
            return False
        return (
            plan.is_plain
            and self.flush_when is None
            and not self._has_clean()
            and not may_hold_tasks()
        )

    async def _asend(self, parts: Sequence[Any]) -> list[Receipt]:
        """Send checked plain writes, or records, in an event loop."""
        sending, redis = self.sending(parts), client()
        reach("write.sending")
        outcomes = await arun_dialogue(redis, delivering(redis, sending.calls))
        reach("write.accepted")
        receipts: dict[int, Receipt] = {}
        settle = partial(sending.settle, outcomes, receipts, {})
        if fallback.direct_calls or not all(type(outcome) is int for outcome in outcomes):
            await sync_to_async(settle)()
        else:
            settle()
        return [receipts[i] for i in range(len(parts))]

    # Held back, see outbox.py

    @abstractmethod
    def place_in_order(self, part: Any) -> object:
        """Return a name for what a write changes: writes to the same name keep their order."""

    @abstractmethod
    def sending(self, parts: Sequence[Any]) -> Sending:
        """Return how plain writes, or records, are sent together with those of other buffers."""

    def _held_entries(self) -> Iterator[tuple[str, PendingEntry]]:
        """Yield the entries that held writes would make, with their ids."""
        for held in outbox.held_of(self):
            for entry in held.entries():
                yield entry.id, self._describe(entry, 0, "held")

    # Verbs

    def _cleaned(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if type(values) is dict and getattr(self.clean, "__func__", None) is Declaration.clean:
            return values
        found: Any = self.clean(as_dict(values))
        if not isinstance(found, dict):
            raise TypeError(f"{self}: clean() must return a dict of values, not {excerpt(found)}.")
        return found

    def _has_clean(self) -> bool:
        """Return whether the project has a `clean()` of its own."""
        return getattr(self.clean, "__func__", None) is not Declaration.clean

    def durable(self, receipts: list[Receipt], missing: str) -> list[Receipt]:
        """Return the receipts of writes that were taken. Raise `NotDurable` if something is
        `missing` for their durability."""
        if missing:
            raise NotDurable(
                "The write was taken and will be flushed: do not repeat it. But a crash of Redis "
                f"before the flush may lose it: {missing}.",
                receipts,
            )
        return receipts

    def count_pending(self) -> int:
        """Return how many entries are unflushed, with those in flight."""
        nothing: dict[str, state.Counts] = {}
        counts = ask_redis(
            lambda: divisions.asked(client(), lambda: state.count(client(), self.shards())), nothing
        )
        in_redis = sum(count.pending + count.in_flight for count in counts.values())
        return in_redis + outbox.count_of(self)

    def pending(self, limit: int = 100) -> list[PendingEntry]:
        """Return the unflushed entries, oldest first; of more than `limit`, those due first."""
        if not isinstance(limit, int) or not 0 <= limit < 2**31:
            raise TypeError(f"limit is a number of entries, not {excerpt(limit)}.")
        found: list[PendingEntry] = []
        pages = partial(_pages, self, int(limit))
        nothing: tuple[list[Listed], list[Listed]] = ([], [])
        in_flight, pending = ask_redis(pages, nothing) if limit else nothing
        found += [self._describe(each.entry, each.attempts, "in_flight") for each in in_flight]
        found += [self._describe(each.entry, 0, "pending") for each in pending]
        found += [entry for _, entry in self._held_entries()]
        return sorted(found, key=lambda entry: entry.since)[:limit]

    acount_pending = asynchronous(count_pending)
    apending = asynchronous(pending)

    def _describe(self, entry: Entry, attempts: int, state: Any) -> PendingEntry:
        try:
            (entry,) = understood([entry])
            key, values = self.description(entry)
        except REFUSALS:  # somebody else wrote it to Redis: the flush will say what is wrong
            key, values = Raw(id=entry.id), entry.texts()
        return PendingEntry(
            key=key,
            values=values,
            delete=any(layer.deleted for layer in (*entry.older, entry)),
            since=moment(entry.since),
            attempts=attempts,
            state=state,
        )

    def _flush(self, ids: Sequence[str] = ()) -> FlushResult:
        outbox.send(self)

        def act() -> FlushResult:
            # A flusher waits long for a Redis that is away, a caller does not: try it first.
            renew([self])
            return engine.flush(self, ids=ids, ignore_backoff=True, raise_errors=True)

        return ask_redis(act, FlushResult())

    def _discard(self, ids: Sequence[str] = ()) -> int:
        # Redis first: if it refuses, nothing is thrown away.
        return ask_redis(lambda: discards.discard(self, ids), 0) + outbox.discard(self, ids)


def _pages(buffer: Buffer, limit: int) -> tuple[list[Listed], list[Listed]]:
    """Return the first entries in flight, and the pending ones that are due first."""
    renew([buffer])
    keys, is_log = buffer.shard_keys(), buffer.is_log
    return (
        listing.in_flight(client(), keys, limit, is_log=is_log, longest=0).rows,
        listing.pending(client(), keys, limit, is_log=is_log, longest=0).rows,
    )
