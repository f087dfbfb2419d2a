"""The base of `writebehind_pause` and `writebehind_resume`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from writebehind_app import registry
from writebehind_app.database.divided import on_all_shards
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.management.arguments import NO_BUFFERS, buffers_of, entries_are, unusable
from writebehind_app.store import state
from writebehind_app.store.client import Client
from writebehind_app.store.connection import client


class PausingCommand(BaseCommand):
    """Pauses or resumes all shards of some buffers, and prints the outcome."""

    act: Callable[[Client, Sequence[str]], bool]
    outcomes: tuple[str, str]  # texts for: it changed something, it changed nothing

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("labels", nargs="*", metavar="app.Model", help="buffers (default: all)")

    def handle(self, *args: Any, **options: Any) -> None:
        buffers = buffers_of(options["labels"])
        if not buffers:
            self.stdout.write(NO_BUFFERS)
        problems = []
        for group in registry.by_server(buffers):
            try:
                for buffer in group:
                    self._act(buffer)
            except BufferUnavailable as error:
                problems.append(unusable(error, group))
        if problems:
            raise CommandError("\n".join(problems))

    def _act(self, buffer: Declaration) -> None:
        changed = on_all_shards(buffer, type(self).act)
        counts = state.count(client(), buffer.every_shard()).values()
        pending = sum(count.pending for count in counts)
        in_flight = sum(count.in_flight for count in counts)
        self.stdout.write(
            f"{buffer.label} {self.outcomes[not changed]}; {entries_are(pending)} pending, "
            f"{in_flight} in flight"
        )
