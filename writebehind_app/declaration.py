"""What a model declares: a buffer without its verbs.

A flush, a call that goes around Redis and the admin need no more of a buffer than stands here. The
verbs are in `buffers/`: they import those who need this, and not the other way round.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Self

from django.db import models
from django.db.models.signals import class_prepared

from writebehind_app import conf, registry
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.layout import Layout
from writebehind_app.fields.versions import Names, upgraded
from writebehind_app.store.connection import client
from writebehind_app.store.keys import shard_key, shard_number
from writebehind_app.store.shard import Shard

if TYPE_CHECKING:
    from writebehind_app.fields.fence import Fence
    from writebehind_app.fields.writes import Write

MASK = "•••"  # in place of a sensitive value


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushedRow:
    """What a flush wrote to one row, or of one record."""

    key: dict[str, Any]  # by attname; of a record, nothing
    values: dict[str, Any]  # by the name of the field: values, and operations
    delete: bool  # what was stored went first
    at: datetime  # when the last of these writes came: the time of a record that was given none


def nearest(name: str, names: Sequence[str]) -> str:
    """What may be meant by a name, and all the names there are."""
    near = get_close_matches(name, names, n=1)
    return (f"Did you mean {near[0]!r}? " if near else "") + f"There are: {', '.join(names)}."


class Declaration(ABC):
    """Which rows of a model may be written behind, and how.

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
        **unknown: Any,
    ) -> None:
        for name in unknown:
            raise TypeError(
                f"{type(self).__name__} has no option {name!r}. {nearest(name, self._names())}"
            )
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

    @classmethod
    def _names(cls) -> list[str]:
        """What its options are called, those of its kind first."""
        given = [
            parameter
            for kind in cls.__mro__
            if "__init__" in vars(kind)
            for parameter in signature(vars(kind)["__init__"]).parameters.values()
        ]
        return [parameter.name for parameter in given if parameter.kind is Parameter.KEYWORD_ONLY]

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

    # Its entries

    @abstractmethod
    def names(self) -> Names:
        """What the names in its entries are called, and which columns they are for."""

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

    @abstractmethod
    def described(self, entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
        """For people: the key of an entry, and what is written to it."""

    def description(self, entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same of an entry into which several versions of the declaration wrote."""
        return self.described(upgraded(self, entry))

    # Hooks

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


class KeyedDeclaration(Declaration):
    """One whose entries have keys: all writes to an id go into one entry.

    `retain` keeps what is stored after a flush in Redis, to be read without the database; see
    retained.py.
    """

    def __init__(self, *, retain: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        if retain is not None:
            self.options["RETAIN"] = retain

    @abstractmethod
    def stored(self, ids: Sequence[str], *, lock: bool = False) -> dict[str, Any]:
        """What the database has of those ids, by id. `lock` holds it until the transaction ends."""

    def rows_in(self, stored: dict[str, Any]) -> dict[str, Any]:
        """The rows of that, by their own ids."""
        return stored

    @abstractmethod
    def every_row(self, found: Any) -> list[Any]:
        """The rows of what the database has of an id."""

    @abstractmethod
    def of_rows(self, rows: Sequence[Any]) -> Any:
        """The opposite."""

    @abstractmethod
    def merged(
        self, entry: Entry, stored: Any | None, fence_of: Callable[[str], Fence | None]
    ) -> Any | None:
        """What is there after the entry, of what was there before; None for nothing. Of each row
        it is told the fence."""

    @abstractmethod
    def row_ids(self, entry: Entry) -> Sequence[str]:
        """The ids of the rows that an entry writes."""

    @abstractmethod
    def key_layout(self) -> Layout:
        """The fields that name an id."""

    def place_of(self, write: Write, name: str) -> tuple[str, str]:
        """The row, and the field of it, that a text of a write is for."""
        return write.id, name

    def refused_fields(self, entry: Entry, names: Iterable[str]) -> Iterable[str]:
        """What people call fields of a row."""
        return names
