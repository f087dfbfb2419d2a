"""The table that a measurement writes to: made for it and dropped after it, so that no row, and no
key in Redis, of the project is touched."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from django.apps.registry import Apps
from django.core.management.base import CommandError
from django.db import connections, models

from writebehind_app import conf, registry
from writebehind_app.buffers.row import RowBuffer
from writebehind_app.fields.layout import Layout, layout
from writebehind_app.models import AppliedBatch, DeadLetter, Fence
from writebehind_app.store import delivery, places
from writebehind_app.store.connection import client
from writebehind_app.store.keys import place_key, shard_key
from writebehind_app.store.removal import remove, remove_all

TABLE = "writebehind_bench"
_ALIVE = 600  # seconds for which a measurement is taken for one that goes on


class _OwnBuffer(RowBuffer):
    """In the database of a measurement, whatever routers say, and under keys of its own."""

    def use(self, using: str) -> None:
        self._layout = layout(self.model, using, key=self.key, fields=self.fields, insert=True)
        self.prefix = f"{conf.prefix()}:bench:{using}"
        shards = range(self.option("SHARDS"))
        self._own_keys = [shard_key(self.prefix, self.label, number) for number in shards]

    def layout(self) -> Layout:
        return self._layout

    key_layout = layout

    def shard_keys(self) -> list[str]:
        return self._own_keys

    @property
    def raw_key(self) -> str:
        """What the keys of bare hashes begin with."""
        return shard_key(self.prefix, "raw", 0)


class Row(models.Model):
    """Is in no registry: no migration, no command and no flusher knows of it."""

    id = models.BigAutoField(primary_key=True)
    number = models.BigIntegerField(unique=True)
    status = models.CharField(max_length=20)
    subject = models.CharField(max_length=100)
    quantity = models.IntegerField()
    updated_at = models.DateTimeField(auto_now=True)

    # A measurement of something that goes around Redis would be of nothing.
    buffered = _OwnBuffer(key="number", when_down="raise", when_full="raise")

    class Meta:
        app_label = "writebehind"
        apps = Apps()
        db_table = TABLE

    def __str__(self) -> str:
        return f"{self.number}"


BUFFER: _OwnBuffer = Row.buffered
registry.remove(BUFFER)


class Hold:
    """The place of the one measurement at a time."""

    def __init__(self) -> None:
        self._place, self._token = place_key(conf.prefix(), "bench"), secrets.token_hex(8)

    def renew(self) -> None:
        if not places.hold(client(), self._place, self._token, _ALIVE):
            raise CommandError(
                "Another writebehind_bench is under way. If it was killed: its place is free "
                f"{_ALIVE // 60} minutes after."
            )

    def leave(self) -> None:
        places.leave(client(), self._place, self._token)


@contextmanager
def made(using: str, rows: int) -> Iterator[Hold]:
    """The table, in that database, for so many rows; it and all that was written are gone after."""
    connection = connections[using]
    with ExitStack() as last_first:
        hold = Hold()
        hold.renew()
        last_first.callback(hold.leave)
        with connection.cursor() as cursor:
            found = connection.introspection.table_names(cursor)
            is_left = TABLE in found
            if is_left:
                _check_ours(using)
        if AppliedBatch._meta.db_table not in found:
            raise CommandError(
                f"The database {using!r} lacks the tables of writebehind: run manage.py migrate."
            )
        BUFFER.use(using)
        if is_left:  # by one that was killed
            remove_all(client(), BUFFER.prefix)
            _drop(using)
        last_first.callback(_drop, using)
        with connection.schema_editor() as editor:
            editor.create_model(Row)
        last_first.callback(_remove_keys, rows)
        last_first.callback(connection.close_if_unusable_or_obsolete)
        yield hold


def _check_ours(using: str) -> None:
    with connections[using].cursor() as cursor:
        description = connections[using].introspection.get_table_description(cursor, TABLE)
    if {column.name for column in description} != {f.column for f in Row._meta.concrete_fields}:
        raise CommandError(
            f"There is a table {TABLE} in the database {using!r} that is none of a measurement: "
            "it is left as it is. Rename it, or measure in another one (--database)."
        )


def _drop(using: str) -> None:
    for model in (AppliedBatch, DeadLetter, Fence):
        model.objects.using(using).filter(buffer=BUFFER.label).delete()
    connection = connections[using]
    with connection.cursor() as cursor:
        is_there = TABLE in connection.introspection.table_names(cursor)
    if is_there:
        with connection.schema_editor() as editor:
            editor.delete_model(Row)


def _remove_keys(rows: int) -> None:
    """By their names, as nobody wants to look through all of a Redis."""
    keys = [f"{BUFFER.raw_key}:{number}" for number in range(rows)]
    for shard in BUFFER.shard_keys():
        keys += [shard, f"{shard}:due", f"{shard}:flight", *delivery.memories(shard)]
    for number in range(rows):
        shard = BUFFER.shard_key_of(str(number))
        keys += [f"{shard}:e:{number}", f"{shard}:f:{number}"]
    remove(client(), keys)
