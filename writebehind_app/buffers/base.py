"""What every buffer is: a declaration on a model, whose entries are spread over shards."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar

from asgiref.sync import sync_to_async
from django.db import models
from django.db.models.signals import class_prepared

from writebehind_app import conf, registry
from writebehind_app.buffers import batch
from writebehind_app.buffers.batch import Held
from writebehind_app.buffers.fallback import if_there
from writebehind_app.buffers.layout import Layout, moment
from writebehind_app.buffers.refusals import REFUSALS, as_dict, shown
from writebehind_app.buffers.sending import Sending
from writebehind_app.buffers.versions import layers
from writebehind_app.exceptions import NotDurable
from writebehind_app.store import shard as store
from writebehind_app.store.calls import Durability, Limit
from writebehind_app.store.codec import Entry, understood
from writebehind_app.store.connection import client
from writebehind_app.store.keys import shard_key, shard_number
from writebehind_app.store.shard import Shard

if TYPE_CHECKING:
    from writebehind_app.buffers.receipt import Receipt
    from writebehind_app.flush.engine import FlushResult

MASK = "•••"  # in place of a sensitive value

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


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushedRow:
    """What a flush wrote to one row, or of one record."""

    key: dict[str, Any]  # by attname; of a record, nothing
    values: dict[str, Any]  # by the name of the field: values, and operations
    delete: bool  # what was stored went first
    at: datetime  # when the last of these writes came: the time of a record that was given none


def asynchronous(
    verb: Callable[Concatenate[_Self, _Params], _Result],
) -> Callable[Concatenate[_Self, _Params], Coroutine[Any, Any, _Result]]:
    """The twin of a verb that does not block the event loop."""

    @wraps(verb)
    async def twin(self: _Self, /, *args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        method = getattr(self, verb.__name__)  # of the subclass, where it has its own
        result: _Result = await sync_to_async(method)(*args, **kwargs)
        return result

    return twin


class Buffer(ABC):
    """A declaration, and the verbs that all kinds of buffers have.

    Options that are not given are those of `WRITEBEHIND`. `sensitive` names fields, of a meta
    buffer meta keys, whose values the admin shows to those alone who may see them. `version` is
    raised where what was written before means something else to the model now; see `upgrade()`.
    """

    model: type[models.Model]
    name: str

    def __init__(
        self,
        *,
        max_age: float | None = None,
        quiet: float | None = None,
        batch_size: int | None = None,
        shards: int | None = None,
        durability: str | int | None = None,
        max_pending: int | None = None,
        when_down: str | None = None,
        when_full: str | None = None,
        sensitive: str | Iterable[str] = (),
        version: int = 0,
    ) -> None:
        self.version = version
        self.sensitive = (sensitive,) if isinstance(sensitive, str) else tuple(sensitive)
        self.options = {
            name: value
            for name, value in {
                "MAX_AGE": max_age,
                "QUIET": quiet,
                "BATCH_SIZE": batch_size,
                "SHARDS": shards,
                "DURABILITY": durability,
                "MAX_PENDING": max_pending,
                "WHEN_DOWN": when_down,
                "WHEN_FULL": when_full,
            }.items()
            if value is not None
        }

    # On the model

    def contribute_to_class(self, model: type[models.Model], name: str) -> None:
        setattr(model, name, self)
        if model._meta.abstract:
            # Each concrete child has rows, and so a buffer, of its own.
            def contribute(sender: type[models.Model], **kwargs: Any) -> None:
                inherits = issubclass(sender, model) and sender.__dict__.get(name) is None
                if inherits and not sender._meta.abstract and not sender._meta.proxy:
                    copy.copy(self).contribute_to_class(sender, name)

            class_prepared.connect(contribute, weak=False)
            return
        self.model = model
        self.name = name
        self._layouts: dict[str, Any] = {}  # by the database
        self._keys: list[str] = []
        self._keys_for: conf.Settings | None = None
        registry.add(self)

    def __get__(self, instance: models.Model | None, owner: type[models.Model]) -> Self:
        if instance is not None:
            raise AttributeError(
                f"A buffer is used through the class: {owner.__name__}.{self.name}."
            )
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __str__(self) -> str:
        return f"{self.label}.{self.name}" if hasattr(self, "model") else "without a model"

    @property
    def label(self) -> str:
        """Names the buffer: a model has one at most."""
        return self.model._meta.label

    def option(self, name: str) -> Any:
        """An option of this buffer, or the project's."""
        return self.options[name] if name in self.options else getattr(conf.settings(), name)

    @abstractmethod
    def layout(self) -> Layout:
        """The declaration, worked out for the database that the rows are written to."""

    @abstractmethod
    def upgraded(self, entry: Entry) -> Entry:
        """What `upgrade()` makes of an entry of an older version."""

    def whole(self, entry: Entry) -> Entry:
        """The entry that comes to one for a row, of a dead letter."""
        return entry

    def row_entries(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """What the entries come to for single rows. Called in the transaction of their flush."""
        return entries

    def entry_id(self, row_id: str) -> str:
        """The id of the entries that write a row, by the id of the row."""
        return row_id

    def expire(self, size: int) -> int:
        """Before a flush of all that is due: write that stored rows go whose time has passed, at
        most so many of them, or delete them in direct mode; says how many."""
        return 0

    def secret_names(self, key: Mapping[str, Any]) -> set[str]:
        """What values are called that are sensitive, of an entry or a row of that key."""
        meta = self.model._meta
        names = {"pk": meta.pk.name, **{f.name: f.attname for f in meta.concrete_fields}}
        return {alias for name in self.sensitive for alias in (name, names.get(name, name))}

    # In Redis

    def shards(self, *, patient: bool = False) -> list[Shard]:
        """All shards; `patient` as in `client()`."""
        connection = client(patient=patient)
        return [Shard(connection, key) for key in self.shard_keys()]

    def shard_of(self, id: str) -> Shard:
        return Shard(client(), self.shard_key_of(id))

    def shard_keys(self) -> list[str]:
        settings = conf.settings()
        if self._keys_for is not settings:
            shards = range(self.option("SHARDS"))
            self._keys = [shard_key(conf.prefix(), self.label, n) for n in shards]
            self._keys_for = settings
        return self._keys

    def shard_key_of(self, id: str) -> str:
        keys = self.shard_keys()
        return keys[shard_number(id, len(keys))]

    def limit(self, size: int = 1) -> Limit:
        """How many entries there may be, for a call that makes so many. One that adds to a pending
        entry makes none, and is taken however many there are."""
        return Limit(self.shard_keys(), self.option("MAX_PENDING"), size)

    def durability(self) -> Durability | None:
        """What a write waits for, once Redis has it."""
        level = self.option("DURABILITY")
        return None if level == "memory" else Durability(level, conf.settings().DURABILITY_TIMEOUT)

    # Held back, see batch.py

    @abstractmethod
    def place_in_order(self, part: Any) -> object:
        """Of writes, or records, that have the same the order counts."""

    @abstractmethod
    def sending(self, held: Sequence[Held]) -> Sending:
        """How plain writes that were held back are sent."""

    def _held_entries(self) -> Iterator[tuple[str, PendingEntry]]:
        """What is held back, by ids."""
        for held in batch.held_of(self):
            for entry in held.entries():
                yield entry.id, self._describe(entry, 0, "held")

    # Verbs

    def clean(self, values: dict[str, Any]) -> dict[str, Any]:
        """Hook: the values of one write, to be checked or changed before they are taken."""
        return values

    def upgrade(self, values: dict[str, Any], version: int) -> dict[str, Any]:
        """Hook: what values that were written under an older version are under this one, by the
        names of the fields. Both may have operations among them; see docs/running.md."""
        return values

    def on_flushed(self, rows: list[FlushedRow]) -> None:  # noqa: B027
        """Hook: what a batch wrote, once it was committed and acknowledged; for each batch once at
        most, in the process that flushed it."""

    def _cleaned(self, values: Mapping[str, Any]) -> dict[str, Any]:
        found: Any = self.clean(as_dict(values))
        if not isinstance(found, dict):
            raise TypeError(f"{self}: clean() must return a dict of values, not {shown(found)}.")
        return found

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
        return in_redis + batch.count_of(self)

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

    @abstractmethod
    def described(self, entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
        """For people: the key of an entry, and what is written to it."""

    def description(self, entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same of an entry into which several versions of the declaration wrote."""
        key: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for layer in layers(self, entry):
            key, more = self.described(layer)
            values |= more
        return key, values

    def _describe(self, entry: Entry, attempts: int, state: Any) -> PendingEntry:
        try:
            (entry,) = understood([entry], records=not self.layout().key)
            key, values = self.description(entry)
        except REFUSALS:  # somebody else wrote it to Redis: a flush will say what is wrong with it
            key, values = Raw(id=entry.id), dict(entry.texts)
        return PendingEntry(
            key=key,
            values=values,
            delete=any(layer.delete for layer in (*entry.older, entry)),
            writes=entry.writes,
            since=moment(entry.since),
            attempts=attempts,
            state=state,
        )

    def _flush(self, ids: Sequence[str] = ()) -> FlushResult:
        from writebehind_app.flush.engine import FlushResult, flush

        batch.send(self)

        def act() -> FlushResult:
            # A flusher is patient; who calls this does not wait so long for a Redis that is away.
            store.count(client(), self.shard_keys()[:1])
            return flush(self, ids=ids, ignore_backoff=True, raise_errors=True)

        return if_there(act, FlushResult())

    def _discard(self, ids: Sequence[str] = ()) -> int:
        from writebehind_app.flush.giving_up import discard

        return batch.discard(self, ids) + if_there(lambda: discard(self, ids), 0)
