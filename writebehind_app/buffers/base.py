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
from django.db import models, router

from writebehind_app import conf
from writebehind_app.buffers import fallback, outbox
from writebehind_app.buffers.fallback import if_there, is_cautious
from writebehind_app.buffers.outbox import Sending
from writebehind_app.buffers.plan import Plan, plan
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import NotDurable
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.layout import moment
from writebehind_app.fields.limits import REFUSALS, as_dict, shown
from writebehind_app.flush import engine, giving_up
from writebehind_app.flush.engine import FlushResult
from writebehind_app.steps import reach
from writebehind_app.store import shard as store
from writebehind_app.store.codec import understood
from writebehind_app.store.connection import client
from writebehind_app.store.delivery import delivering
from writebehind_app.store.dialogue import ahold

if TYPE_CHECKING:
    from writebehind_app.buffers.receipt import Receipt

_Self = TypeVar("_Self")
_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingEntry:
    """What is not in the database yet for one row, one entity, or of one record."""

    key: dict[str, Any]
    values: dict[str, Any]
    delete: bool  # what is stored goes first
    writes: int  # how many writes are coalesced in it
    since: datetime  # when the first of them came
    attempts: int  # how often the database refused its batch
    state: Literal["pending", "in_flight", "held"]  # the last, in this process, by a batch() or a
    # transaction


class Raw(dict[str, Any]):
    """A key that was not understood: nobody knows which of its parts are sensitive."""


def asynchronous(
    verb: Callable[Concatenate[_Self, _Params], _Result],
    on_loop: Callable[..., Coroutine[Any, Any, _Result]] | None = None,
) -> Callable[Concatenate[_Self, _Params], Coroutine[Any, Any, _Result]]:
    """The twin of a verb that does not block the event loop: `on_loop` where that asks Redis alone,
    which the loop can do by itself; else the verb, in a thread."""

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
        """What holds for all writes now."""
        using = router.db_for_write(self.model)
        found = self._plans.get(using)
        if (
            found is None
            or found.settings is not conf.settings()
            or found.options is not self.options
        ):
            found = self._plans[using] = plan(self, using)
        return found

    def asks_redis_alone(self) -> bool:
        """Whether a plain write of an event loop needs nothing but Redis, as far as is known before
        it: no database, no code of the project, no transaction to wait for."""
        try:
            plan = self.plan()
        except SynchronousOnlyOperation:  # the router asks the database
            return False
        return (
            plan.is_plain
            and self.flush_when is None
            and not self._has_clean()
            and not is_cautious()
            and not outbox.may_hold_tasks()
        )

    async def _asend(self, parts: Sequence[Any]) -> list[Receipt]:
        """Send plain writes, or records, that were checked, from an event loop."""
        sending, redis = self.sending(parts), client()
        reach("write.sending")
        outcomes = await ahold(redis, delivering(redis, sending.deliveries))
        reach("write.accepted")
        receipts: dict[int, Receipt] = {}
        settle = partial(sending.settle, outcomes, receipts, {})
        if fallback.around or not all(type(o) is list for each in outcomes for o in each):
            await sync_to_async(settle)()
        else:
            settle()
        return [receipts[i] for i in range(len(parts))]

    # Held back, see outbox.py

    @abstractmethod
    def place_in_order(self, part: Any) -> object:
        """Of writes, or records, that have the same the order counts."""

    @abstractmethod
    def sending(self, parts: Sequence[Any]) -> Sending:
        """How plain writes, or records, that were held back are sent."""

    def _held_entries(self) -> Iterator[tuple[str, PendingEntry]]:
        """What is held back, by ids."""
        for held in outbox.held_of(self):
            for entry in held.entries():
                yield entry.id, self._describe(entry, 0, "held")

    # Verbs

    def _cleaned(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if type(values) is dict and not self._has_clean():
            return values
        found: Any = self.clean(as_dict(values))
        if not isinstance(found, dict):
            raise TypeError(f"{self}: clean() must return a dict of values, not {shown(found)}.")
        return found

    def _has_clean(self) -> bool:
        """Whether the project checks, or changes, the values."""
        return getattr(self.clean, "__func__", None) is not Declaration.clean

    def durable(self, receipts: list[Receipt], missing: str) -> list[Receipt]:
        """The receipts of writes that were taken; `NotDurable` for what is missing."""
        if missing:
            raise NotDurable(
                "What was written was taken, and will be flushed: do not repeat it. But a crash of "
                f"Redis before that may lose it: {missing}.",
                receipts,
            )
        return receipts

    def count_pending(self) -> int:
        """How many entries are not in the database yet, those in flight included."""
        counts: dict[str, store.Counts] = if_there(
            lambda: store.count(client(), self.shard_keys()), {}
        )
        in_redis = sum(count.pending + count.in_flight for count in counts.values())
        return in_redis + outbox.count_of(self)

    def pending(self, limit: int = 100) -> list[PendingEntry]:
        """What is not in the database yet, oldest first; of many, those due first."""
        if not isinstance(limit, int) or not 0 <= limit < 2**31:
            raise TypeError(f"limit is a number of entries, not {shown(limit)}.")
        found: list[PendingEntry] = []
        nothing: tuple[int, list[Entry], list[Entry]] = (0, [], [])
        for shard in self.shards() if limit else ():  # Redis takes none for no limit
            attempts, in_flight, pending = if_there(partial(shard.pending, int(limit)), nothing)
            found += [self._describe(entry, attempts, "in_flight") for entry in in_flight]
            found += [self._describe(entry, 0, "pending") for entry in pending]
        found += [entry for _, entry in self._held_entries()]
        return sorted(found, key=lambda entry: entry.since)[:limit]

    acount_pending = asynchronous(count_pending)
    apending = asynchronous(pending)

    def _describe(self, entry: Entry, attempts: int, state: Any) -> PendingEntry:
        try:
            (entry,) = understood([entry], records=not self.layout().key)
            key, values = self.description(entry)
        except REFUSALS:  # somebody else wrote it to Redis: a flush will say what is wrong with it
            key, values = Raw(id=entry.id), entry.texts()
        return PendingEntry(
            key=key,
            values=values,
            delete=any(layer.deleted for layer in (*entry.older, entry)),
            writes=entry.writes,
            since=moment(entry.since),
            attempts=attempts,
            state=state,
        )

    def _flush(self, ids: Sequence[str] = ()) -> FlushResult:
        outbox.send(self)

        def act() -> FlushResult:
            # A flusher is patient; who calls this does not wait so long for a Redis that is away.
            store.count(client(), self.shard_keys()[:1])
            return engine.flush(self, ids=ids, ignore_backoff=True, raise_errors=True)

        return if_there(act, FlushResult())

    def _discard(self, ids: Sequence[str] = ()) -> int:
        # Redis first: where that is refused, nothing goes.
        return if_there(lambda: giving_up.discard(self, ids), 0) + outbox.discard(self, ids)
