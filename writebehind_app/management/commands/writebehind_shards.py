"""`manage.py writebehind_shards`: put as many shards in force as the settings say."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from writebehind_app.database.divided import renew
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.flush.dividing import divide
from writebehind_app.management.arguments import NO_BUFFERS, buffers_of, unusable

_PATIENCE = 60.0  # seconds for each buffer


class Command(BaseCommand):
    help = (
        "Divides buffers into as many shards as SHARDS says, while other processes write, read and "
        "flush. Run it after a deploy that changed SHARDS, once no process with other settings "
        "runs any more. Writes wait for two seconds at most. It is tried for a minute: exits with "
        "1 if that was not possible, and says why."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("labels", nargs="*", metavar="app.Model", help="buffers (default: all)")

    def handle(self, *args: Any, **options: Any) -> None:
        buffers = buffers_of(options["labels"])
        if not buffers:
            self.stdout.write(NO_BUFFERS)
        is_done = True
        for buffer in buffers:
            for alias in buffer.databases():
                with buffer.in_database(alias):
                    try:
                        renew([buffer])
                        before = len(buffer.shard_keys())
                        why = divide(buffer, seconds=_PATIENCE)
                    except BufferUnavailable as error:
                        raise CommandError(unusable(error)) from None
                    now = len(buffer.shard_keys())
                text = f"{buffer.label} in {alias!r}: {now} in force"
                if why:
                    is_done = False
                    wished = buffer.option("SHARDS")
                    self.stderr.write(self.style.ERROR(f"{text}, and not {wished}: {why}."))
                else:
                    self.stdout.write(text + (f", {before} before" if now != before else ""))
        if not is_done:
            sys.exit(1)
