"""What a model declares: a buffer without its verbs.

A flush, a call that goes around Redis and the admin need no more of a buffer than stands here. The
verbs are in `buffers/`: they import those who need this, and not the other way round.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from inspect import Parameter, signature
from operator import is_not
from typing import TYPE_CHECKING, Any, Self, Unpack

from django.conf import settings
from django.core import checks
from django.db import connections, models, router
from django.db.models.signals import class_prepared

from writebehind_app import conf, registry
from writebehind_app.declaration_checks import error, nearest
from writebehind_app.fields.bases import BaseFormat
from writebehind_app.fields.columns import Unsupported
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.layout import Layout
from writebehind_app.fields.versions import Names, upgraded
from writebehind_app.options import SETTINGS, Options, option_problem
from writebehind_app.store import divisions
from writebehind_app.store.bases import BaseTerms
from writebehind_app.store.connection import client
from writebehind_app.store.keys import buffer_key, shard_number
from writebehind_app.store.shard import Shard

if TYPE_CHECKING:
    from writebehind_app.fields.fence import Fence

MASK = "•••"  # in place of a sensitive value


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A database that was chosen for the rows of a buffer, whatever the routers say."""

    buffer: Declaration
    alias: str
    named: str  # the database that the routers named for the buffer

    def of(self, other: Declaration) -> str:
        """The database of another buffer. It is the same if the other's rows are always next to
        the buffer's: if the routers name one database for both, and the other's may be in this
        one. A router may choose by the tenant, and a flusher visits the tenants from outside."""
        named = router.db_for_write(other.model)
        if named != self.named or not router.allow_migrate_model(self.alias, other.model):
            return named
        return self.alias


_chosen: ContextVar[_Chosen | None] = ContextVar("writebehind_database", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushedRow:
    """What a flush wrote to one row, or of one record."""

    key: dict[str, Any]  # by attname; of a record, nothing
    values: dict[str, Any]  # by the name of the field: values, and operations
    delete: bool  # what was stored went first
    at: datetime  # when the last of these writes came: the time of a record that was given none


@dataclass(frozen=True, slots=True)
class Bases:
    """How copies of stored rows are kept in Redis, from which reads are answered."""

    format: BaseFormat
    terms: BaseTerms


class Declaration(ABC):
    """Which rows of a model may be written behind, and how.

    An option that is not given is as in `WRITEBEHIND`. `sensitive` names fields, or meta keys of a
    meta buffer: the admin shows their values only to people with a permission for it. `version` is
    raised when earlier writes mean something else to the model now; see `upgrade()`.
    """

    model: type[models.Model]
    name: str
    is_log = False  # whether its entries are records, that are appended

    def __init__(self, **options: Unpack[Options]) -> None:
        for name in options:
            if name not in Options.__annotations__:
                names = [*self._own_options(), *Options.__annotations__]
                raise TypeError(
                    f"{type(self).__name__} has no option {name!r}. {nearest(name, names)}"
                )
        self.version = options.get("version", 0)
        sensitive = options.get("sensitive", ())
        self.sensitive = (sensitive,) if isinstance(sensitive, str) else tuple(sensitive)
        given: dict[str, Any] = {**options}
        self.options = {n.upper(): given[n] for n in SETTINGS if given.get(n) is not None}

    @classmethod
    def _own_options(cls) -> list[str]:
        """The names of the options that only its kind has."""
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

    def bases(self) -> Bases | None:
        """How bases are kept; None where there are none."""
        return None

    @property
    def label(self) -> str:
        """Names the buffer: a model has one at most."""
        return self.model._meta.label

    def option(self, name: str) -> Any:
        """An option of this buffer, or the project's."""
        return self.options[name] if name in self.options else getattr(conf.settings(), name)

    def using(self) -> str:
        """The database that the rows are written to."""
        chosen = _chosen.get()
        if chosen is None:
            return router.db_for_write(self.model)
        return chosen.alias if chosen.buffer is self else chosen.of(self)

    @contextmanager
    def in_database(self, alias: str) -> Iterator[None]:
        """Within it the rows of this buffer belong to this database, whatever the routers say. So
        do the rows of buffers that go where its rows go. Code of the project may run within it, and
        write to any buffer."""
        chosen = _Chosen(self, alias, router.db_for_write(self.model))
        token = _chosen.set(chosen)
        try:
            yield
        finally:
            _chosen.reset(token)

    def databases(self) -> list[str]:
        """Where its rows may be: the database that they are written to now, and those to which a
        router lets the model migrate."""
        now = self.using()
        if not settings.DATABASE_ROUTERS:
            return [now]
        others = (alias for alias in connections if alias != now)
        return [now, *(a for a in others if router.allow_migrate_model(a, self.model))]

    @abstractmethod
    def layout(self) -> Layout:
        """The key and the fields, worked out for the database that the rows are written to."""

    # Checking

    def check(self) -> Iterator[checks.CheckMessage]:
        """What is wrong with the declaration: messages of the command `check`."""
        yield from self._check_options()
        table = list(self._check_table())
        yield from table
        if not table:
            yield from self.check_fields()

    @abstractmethod
    def check_fields(self) -> Iterator[checks.CheckMessage]:
        """What is wrong with the fields that its options name."""

    def _check_options(self) -> Iterator[checks.CheckMessage]:
        version: Any = self.version
        if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version < 10**9:
            hint = "Set it to a whole number from 0 on, one greater with each change."
            yield error(11, f"version is {version!r}.", hint, self)
        elif version == 0 and type(self).upgrade is not Declaration.upgrade:
            yield checks.Warning(
                "upgrade() is never called, as the buffer has no version.",
                hint="Give it version=1: what was written before that is handed to upgrade().",
                obj=self,
                id="writebehind.W010",
            )
        for name, value in self.options.items():
            if problem := option_problem(name, value):
                yield error(11, *problem, self)

    def _check_table(self) -> Iterator[checks.CheckMessage]:
        meta = self.model._meta
        if meta.proxy or meta.parents:
            yield error(
                12,
                f"{self.label} keeps its rows in the table of another model too.",
                "Multi-table inheritance and proxies cannot be written in bulk: declare the "
                "buffer on a model with one table of its own.",
                self,
            )
        elif len(meta.pk_fields) > 1:
            yield error(
                12,
                f"{self.label} has a composite primary key.",
                "Rows with one cannot be written in bulk: give the model a primary key of one "
                "field, and a unique constraint over those fields.",
                self,
            )

    # In Redis

    def shards(self, *, patient: bool = False) -> list[Shard]:
        """All shards; `patient` as in `client()`."""
        connection = client(patient=patient)
        return [Shard(connection, key, is_log=self.is_log) for key in self.shard_keys()]

    def shard_keys(self) -> list[str]:
        """The keys of the shards in force, as far as this process knows."""
        return divisions.shard_keys(self.redis_key(), self.option("SHARDS"))

    def redis_key(self) -> str:
        """The key that says how it is divided into shards."""
        return buffer_key(conf.prefix(), self.label, self.using())

    def every_shard(self, *, patient: bool = False) -> list[Shard]:
        """The shards of all its databases."""
        found = []
        for alias in self.databases():
            with self.in_database(alias):
                found += self.shards(patient=patient)
        return found

    def shard_key_of(self, id: str) -> str:
        keys = self.shard_keys()
        return keys[shard_number(id, len(keys))]

    # Its entries

    @abstractmethod
    def names(self) -> Names:
        """How the names in its entries read for people, and which columns they are for."""

    def whole(self, entry: Entry) -> Entry:
        """The entry of the buffer that a dead letter of one row makes."""
        return entry

    def row_entries(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The entries split into one for each row. Called in the transaction of their flush."""
        return entries

    def entry_id(self, row_id: str) -> str:
        """The id of the entry that writes a row, by the id of the row."""
        return row_id

    def expire(self, size: int) -> int:
        """Before a flush of all that is due: write that stored rows go whose time has passed, at
        most so many of them, or delete them in direct mode; says how many."""
        return 0

    def secret_names(self, key: Mapping[str, Any]) -> set[str]:
        """The names of the sensitive values of an entry, or a row, of that key."""
        meta = self.model._meta
        names = {"pk": meta.pk.name, **{f.name: f.attname for f in meta.concrete_fields}}
        return {alias for name in self.sensitive for alias in (name, names.get(name, name))}

    @abstractmethod
    def described(self, entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
        """For people: the key of an entry, and what is written to it."""

    def description(self, entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same for an entry into which several versions of the declaration wrote."""
        return self.described(upgraded(self, entry))

    # Hooks

    def clean(self, values: dict[str, Any]) -> dict[str, Any]:
        """Hook: the values of one write, to be checked or changed before they are taken."""
        return values

    def upgrade(self, values: dict[str, Any], version: int) -> dict[str, Any]:
        """Hook: what values that were written under an older version are under this one, by the
        names of the fields. Both may have operations among them; see docs/deploys.md."""
        return values

    def on_flushed(self, rows: list[FlushedRow]) -> None:  # noqa: B027
        """Hook: called with what a batch wrote, after it was committed and acknowledged; at most
        once for each batch, in the process that flushed it."""


class KeyedDeclaration(Declaration):
    """A declaration whose entries have keys: all writes to an id go into one entry."""

    def contribute_to_class(self, model: type[models.Model], name: str) -> None:
        self._bases: dict[str, tuple[Any, Any, Any, Bases | None]] = {}  # by the database
        super().contribute_to_class(model, name)

    def check(self) -> Iterator[checks.CheckMessage]:
        yield from super().check()
        if self.options.get("CACHE_SECONDS"):
            try:
                BaseFormat(self.model, self.using())
            except Unsupported as reason:
                yield error(
                    27,
                    f"There can be no copy of a row in Redis: {reason}.",
                    "Leave out cache_seconds, or set it to 0.",
                    self,
                )

    def bases(self) -> Bases | None:
        using, valid = self.using(), (conf.settings(), self.options, divisions.known)
        found = self._bases.get(using)
        if found is None or any(map(is_not, found, valid)):
            found = self._bases[using] = (*valid, self._new_bases(using))
        return found[3]

    def _new_bases(self, using: str) -> Bases | None:
        micros = round(self.option("CACHE_SECONDS") * 1e6)
        try:
            format = BaseFormat(self.model, using) if micros else None
        except Unsupported:  # a check says so
            return None
        share = max(conf.settings().CACHE_BYTES // len(self.shard_keys()), 1)
        if format is None:
            return None
        return Bases(format, BaseTerms(format.prefix, micros, share))

    @abstractmethod
    def stored(
        self, ids: Sequence[str], *, lock: bool = False, nowait: bool = False
    ) -> dict[str, Any]:
        """The stored rows, or entities, of these ids, by id. `lock` locks them until the
        transaction ends; with `nowait`, a row that somebody else has locked is an error."""

    @abstractmethod
    def gathered(self, rows: Sequence[Any]) -> Any | None:
        """What the stored rows of one id are together; None where there are none."""

    def rows_in(self, stored: dict[str, Any]) -> dict[str, Any]:
        """The rows in what `stored()` returned, by their own ids."""
        return stored

    @abstractmethod
    def merged(
        self, entry: Entry, stored: Any | None, fence_of: Callable[[str], Fence | None]
    ) -> Any | None:
        """What is there after the entry, if `stored` was there before; None for nothing. `fence_of`
        returns the fence of a row."""

    @abstractmethod
    def row_ids(self, entry: Entry) -> Sequence[str]:
        """The ids of the rows that an entry writes."""

    def fenced_row(self, id: str) -> str:
        """The id of a row whose fence is also that of all rows of an id."""
        return id

    @abstractmethod
    def key_layout(self) -> Layout:
        """The fields that name an id."""

    def refused_fields(self, entry: Entry, names: Iterable[str]) -> Iterable[str]:
        """The names of fields of a row, as people write them."""
        return names
