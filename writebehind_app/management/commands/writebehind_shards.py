"""`manage.py writebehind_shards`: put as many shards in force as the settings say."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from writebehind_app.database.divided import renew
from writebehind_app.database.own_tables import migrate_first
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.flush.dividing import divide
from writebehind_app.management.arguments import NO_BUFFERS, buffers_of, databases_of, unusable

_PATIENCE = 60.0  # seconds for each buffer


class Command(BaseCommand):
    help = (
        "Divides buffers into as many shards as SHARDS says, while other processes write, read and "
        "flush, with these settings or the former ones. Run it after a deploy that changed SHARDS. "
        "Writes wait for two seconds at most. It is tried for a minute: exits with 1 if that was "
        "not possible, and says why."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("labels", nargs="*", metavar="app.Model", help="buffers (default: all)")

    def handle(self, *args: Any, **options: Any) -> None:
        buffers = buffers_of(options["labels"])
        if not buffers:
            self.stdout.write(NO_BUFFERS)
        with databases_of(buffers):
            done = [self._divide(each, alias) for each in buffers for alias in each.databases()]
        if not all(done):
            sys.exit(1)

    def _divide(self, buffer: Declaration, alias: str) -> bool:
        """Return whether as many shards as wished are in force."""
        wished = buffer.option("SHARDS")
        with buffer.in_database(alias):
            try:
                renew([buffer])
                before = len(buffer.shard_keys())
                if wished != before and (said := migrate_first(alias)):
                    raise CommandError(said)  # not after a minute in which nothing is stored
                why = divide(buffer, seconds=_PATIENCE)
            except BufferUnavailable as error:
                raise CommandError(unusable(error)) from None
            now = len(buffer.shard_keys())
        text = f"{buffer.label} in {alias!r}: {now} in force"
        if why:
            self.stderr.write(self.style.ERROR(f"{text}, and not {wished}: {why}."))
        else:
            self.stdout.write(text + (f", {before} before" if now != before else ""))
        return not why
