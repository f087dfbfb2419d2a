"""The tables that a measurement writes to. They are made for it and dropped after it. It touches no
row and no key of the project."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from django.apps.registry import Apps
from django.core.management.base import CommandError
from django.db import connections, models

from writebehind_app import conf, registry
from writebehind_app.buffers.log import LogBuffer
from writebehind_app.buffers.row import RowBuffer
from writebehind_app.database.own_tables import migrate_first
from writebehind_app.declaration import Declaration
from writebehind_app.models import AppliedBatch, DeadLetter, Fence
from writebehind_app.store import locks
from writebehind_app.store.connection import client
from writebehind_app.store.keys import buffer_key, shared_key
from writebehind_app.store.removal import remove, remove_all

BRANCHES, TELLERS = 10, 10  # branches of the bank, tellers of each branch
_PAGE = 1000  # rows in one read
_ALIVE = 600  # seconds after which a measurement that did not end counts as dead
_BASES = (":bases", ":bytes")  # the keys of a shard that list its bases and their sizes
_KEPT = ("", ":due", ":flight", ":senders", ":log", ":times", *_BASES)  # of a shard


class _Own(Declaration):
    """Uses the database of the measurement, not that of a router, and keys of its own."""

    def use(self, using: str, prefix: str) -> None:
        self._using, self.prefix = using, prefix

    def using(self) -> str:
        return self._using

    def databases(self) -> list[str]:
        return [self._using]

    def redis_key(self) -> str:
        return buffer_key(self.prefix, self.label, self._using)

    def cache(self, seconds: float) -> None:
        """From here on, answer reads from bases that are at most this old."""
        if has_bases():
            self.options = {**self.options, "CACHE_SECONDS": seconds}


class OwnRowBuffer(_Own, RowBuffer):
    @property
    def raw_key(self) -> str:
        """The beginning of the keys of plain hashes."""
        return shared_key(self.prefix, "raw")


class OwnLogBuffer(_Own, LogBuffer):
    pass


# With MODE="direct", the measurement would not use Redis at all.
_STRICT: Any = {"when_down": "raise", "when_full": "raise"}
# Not the registry of Django: migrations, commands and flushers do not see these models.
_APPS = Apps()


class Row(models.Model):
    """A row that is written and read one call at a time."""

    id = models.BigAutoField(primary_key=True)
    number = models.BigIntegerField(unique=True)
    status = models.CharField(max_length=20)
    subject = models.CharField(max_length=100)
    quantity = models.IntegerField()
    updated_at = models.DateTimeField(auto_now=True)

    buffered = OwnRowBuffer(key="number", **_STRICT)

    class Meta:
        app_label = "writebehind"
        apps = _APPS
        db_table = "writebehind_bench"

    def __str__(self) -> str:
        return f"{self.number}"


class User(models.Model):
    """A record of YCSB: a key, ten texts of a hundred characters each, and a counter."""

    id = models.BigAutoField(primary_key=True)
    ycsb_key = models.CharField(max_length=40, unique=True)
    counter = models.BigIntegerField(default=0)
    field0 = models.CharField(max_length=100)
    field1 = models.CharField(max_length=100)
    field2 = models.CharField(max_length=100)
    field3 = models.CharField(max_length=100)
    field4 = models.CharField(max_length=100)
    field5 = models.CharField(max_length=100)
    field6 = models.CharField(max_length=100)
    field7 = models.CharField(max_length=100)
    field8 = models.CharField(max_length=100)
    field9 = models.CharField(max_length=100)

    buffered = OwnRowBuffer(key="ycsb_key", **_STRICT)

    class Meta:
        app_label = "writebehind"
        apps = _APPS
        db_table = "writebehind_bench_user"

    def __str__(self) -> str:
        return self.ycsb_key


class Balance(models.Model):
    """A balance of pgbench, whose rows have a filler too."""

    id = models.BigAutoField(primary_key=True)
    number = models.BigIntegerField(unique=True)
    balance = models.BigIntegerField(default=0)
    filler = models.CharField(max_length=88, default="x" * 88)

    buffered = OwnRowBuffer(key="number", **_STRICT)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.number}: {self.balance}"


class Account(Balance):
    class Meta:
        app_label = "writebehind"
        apps = _APPS
        db_table = "writebehind_bench_account"


class Teller(Balance):
    class Meta:
        app_label = "writebehind"
        apps = _APPS
        db_table = "writebehind_bench_teller"


class Branch(Balance):
    class Meta:
        app_label = "writebehind"
        apps = _APPS
        db_table = "writebehind_bench_branch"


class History(models.Model):
    id = models.BigAutoField(primary_key=True)
    account = models.BigIntegerField()
    teller = models.BigIntegerField()
    branch = models.BigIntegerField()
    delta = models.BigIntegerField()
    at = models.DateTimeField()

    buffered = OwnLogBuffer(time="at", **_STRICT)

    class Meta:
        app_label = "writebehind"
        apps = _APPS
        db_table = "writebehind_bench_history"

    def __str__(self) -> str:
        return f"{self.account}: {self.delta}"


MODELS: tuple[type[models.Model], ...] = (Row, User, Account, Teller, Branch, History)
TABLES = tuple(model._meta.db_table for model in MODELS)


def buffer_of(model: type[models.Model]) -> OwnRowBuffer | OwnLogBuffer:
    return cast("OwnRowBuffer | OwnLogBuffer", vars(model)["buffered"])


BUFFERS = tuple(map(buffer_of, MODELS))
BUFFER = cast(OwnRowBuffer, buffer_of(Row))
for _buffer in BUFFERS:
    registry.remove(_buffer)


def has_bases() -> bool:
    """Whether reads can be answered from Redis."""
    return "CACHE_SECONDS" in conf.NAMES


def prefix(using: str) -> str:
    """The beginning of the keys of a measurement."""
    return f"{conf.prefix()}:bench:{using}"


def use(using: str, prefix: str) -> None:
    """Let all buffers of a measurement use this database, and keys with this prefix."""
    for buffer in BUFFERS:
        buffer.use(using, prefix)


class Hold:
    """Makes sure that there is one measurement at a time."""

    def __init__(self) -> None:
        self._place, self._token = shared_key(conf.prefix(), "bench"), secrets.token_hex(8)

    def renew(self) -> None:
        if not locks.hold(client(), self._place, self._token, _ALIVE):
            raise CommandError(
                "Another writebehind_bench is under way. If it was killed: its place is free "
                f"{_ALIVE // 60} minutes after."
            )

    def leave(self) -> None:
        locks.release(client(), self._place, self._token)


@contextmanager
def made(using: str, rows: int, records: int) -> Iterator[Hold]:
    """Make the tables in a database, for this many rows of `Row`, and records of the others. At the
    end they are dropped, with everything that was written."""
    connection = connections[using]
    with ExitStack() as last_first:
        hold = Hold()
        hold.renew()
        last_first.callback(hold.leave)
        with connection.cursor() as cursor:
            found = connection.introspection.table_names(cursor)
        left = [model for model in MODELS if model._meta.db_table in found]
        for model in left:
            _check_ours(using, model)
        if said := migrate_first(using):
            raise CommandError(said)
        use(using, prefix(using))
        if left:  # a measurement that was killed has left them
            remove_all(client(), BUFFER.prefix)
            _drop(using)
        last_first.callback(_drop, using)
        with connection.schema_editor() as editor:
            for model in MODELS:
                editor.create_model(model)
        last_first.callback(_remove_keys, rows, records)
        last_first.callback(connection.close_if_unusable_or_obsolete)
        yield hold


def _check_ours(using: str, model: type[models.Model]) -> None:
    table = model._meta.db_table
    with connections[using].cursor() as cursor:
        description = connections[using].introspection.get_table_description(cursor, table)
    if {column.name for column in description} != {f.column for f in model._meta.concrete_fields}:
        raise CommandError(
            f"There is a table {table} in the database {using!r} that is none of a measurement: "
            "it is left as it is. Rename it, or measure in another one (--database)."
        )


def _drop(using: str) -> None:
    labels = [buffer.label for buffer in BUFFERS]
    for own in (AppliedBatch, DeadLetter, Fence):
        own.objects.using(using).filter(buffer__in=labels).delete()
    connection = connections[using]
    with connection.cursor() as cursor:
        found = connection.introspection.table_names(cursor)
    with connection.schema_editor() as editor:
        for model in MODELS:
            if model._meta.db_table in found:
                editor.delete_model(model)


def _remove_keys(rows: int, records: int) -> None:
    """Remove the keys by their names, as a scan of all keys of a Redis would be slow."""
    keys = [f"{BUFFER.raw_key}:{number}" for number in range(rows)]
    for buffer in BUFFERS:
        keys += [shard + part for shard in buffer.shard_keys() for part in _KEPT]
        keys.append(buffer.redis_key())
    for model, of_rows in row_keys(rows, records).items():
        keys += _names(model, of_rows, ("e", "f", "b"))
    remove(client(), keys)


def remove_bases(records: int) -> None:
    """Remove all bases: they are older than what the ORM has written since."""
    keys = [shard + part for buffer in BUFFERS for shard in buffer.shard_keys() for part in _BASES]
    for model, of_rows in row_keys(0, records).items():
        keys += _names(model, of_rows, ("b",))
    remove(client(), keys)


def fill_bases(of: Sequence[type[models.Model]], records: int, seconds: float) -> None:
    """Read each row of these tables once, so that the trial does not begin with empty bases."""
    keys_of = row_keys(0, records)
    for model in of:
        buffer = buffer_of(model)
        if isinstance(buffer, OwnRowBuffer):
            buffer.cache(seconds)
            keys = keys_of[model]
            for start in range(0, len(keys), _PAGE):
                buffer.get_many(keys[start : start + _PAGE])


def _names(model: type[models.Model], keys: Sequence[Any], parts: Sequence[str]) -> list[str]:
    buffer = buffer_of(model)
    layout = buffer.layout()
    ids = [layout.id({layout.key[0].name: key}) for key in keys]
    return [f"{buffer.shard_key_of(id)}:{part}:{id}" for id in ids for part in parts]


def row_keys(rows: int, records: int) -> dict[type[models.Model], Sequence[Any]]:
    """The keys of the rows of each table."""
    return {
        Row: range(rows),
        User: [f"user{number}" for number in range(records)],
        Account: range(records * BRANCHES),
        Teller: range(TELLERS * BRANCHES),
        Branch: range(BRANCHES),
    }
