"""What `writebehind_pause` and `writebehind_resume` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.management.arguments import NO_BUFFERS, buffers_of, entries_are, unusable
from writebehind_app.store import shard as store
from writebehind_app.store.client import Client
from writebehind_app.store.connection import client


class PausingCommand(BaseCommand):
    """Does something to all shards of buffers, and says what that comes to."""

    act: Callable[[Client, Sequence[str]], bool]
    outcomes: tuple[str, str]  # where that changed anything, and where it did not

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("labels", nargs="*", metavar="app.Model", help="buffers (default: all)")

    def handle(self, *args: Any, **options: Any) -> None:
        buffers = buffers_of(options["labels"])
        if not buffers:
            self.stdout.write(NO_BUFFERS)
        for buffer in buffers:
            try:
                changed = type(self).act(client(), buffer.shard_keys())
                counts = store.count(client(), buffer.shard_keys()).values()
            except BufferUnavailable as error:
                raise CommandError(unusable(error)) from None
            pending = sum(count.pending for count in counts)
            in_flight = sum(count.in_flight for count in counts)
            self.stdout.write(
                f"{buffer.label} {self.outcomes[not changed]}; {entries_are(pending)} pending, "
                f"{in_flight} in flight"
            )
