"""`manage.py writebehind_deadletters`: list dead letters, retry or discard them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from writebehind_app import registry
from writebehind_app.database import deadletters
from writebehind_app.database.letters import Encoder, described
from writebehind_app.database.parents import ParentPending
from writebehind_app.english import be, counted
from writebehind_app.exceptions import EditedSince
from writebehind_app.management.arguments import databases_of, positive
from writebehind_app.models import DeadLetter

ACTIONS = ("list", "show", "retry", "discard", "export")


class Command(BaseCommand):
    help = (
        "Lists the dead letters, which are entries that the database refused, shows them with all "
        "they say, retries or discards them, or exports them as a line of JSON each. A retry that "
        "would undo what was edited since the letter died is not made, unless with --over. Exits "
        "with 1 when a retried letter is not stored, with 2 for bad arguments."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("action", choices=ACTIONS)
        add("which", nargs="*", metavar="app.Model|ID", help="of these buffers, with these ids")
        add("--error", metavar="CLASS", help="only those with this error, as IntegrityError")
        add("--limit", type=positive(int), metavar="N", help="the N oldest at most")
        add("--all", action="store_true", help="retry or discard all of them")
        add("--over", action="store_true", help="retry them over what was edited since")
        add("--json", action="store_true", help="report as one JSON object")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        chosen = options["which"] or options["error"] or options["limit"] is not None
        if action in ("retry", "discard") and bool(chosen) == options["all"]:
            raise CommandError(
                f"Say which to {action}: ids, buffers, --error or --limit; or --all.", returncode=2
            )
        if options["over"] and action != "retry":
            raise CommandError("--over is for retry.", returncode=2)
        with databases_of(registry.buffers().values()):
            letters = _letters(options)
            if action == "retry":
                self._retry(letters, options["json"], over=options["over"])
            else:
                getattr(self, f"_{action}")(letters, options["json"])

    def _list(self, letters: Sequence[DeadLetter], as_json: bool) -> None:
        if as_json:
            self._print({"dead_letters": [described(letter) for letter in letters]})
            return
        for letter in letters:
            key = described(letter)["key"]
            self.stdout.write(
                f"{letter.pk:>6}  {letter.buffer}  {_inline(key)}  {letter.error}: {letter.reason}"
            )
        self.stdout.write(f"{counted(len(letters), 'dead letter')}.")

    def _show(self, letters: Sequence[DeadLetter], as_json: bool) -> None:
        if as_json:
            self._list(letters, as_json)
            return
        for letter in letters:
            for name, value in described(letter).items():
                self.stdout.write(f"{name + ':':<12} {_inline(value)}")
            self.stdout.write("")

    def _export(self, letters: Sequence[DeadLetter], as_json: bool) -> None:
        for letter in letters:
            self._print({**described(letter), "entry": json.loads(letter.entry)})

    def _discard(self, letters: Sequence[DeadLetter], as_json: bool) -> None:
        discarded = deadletters.discard_all(letters)
        if as_json:
            self._print({"discarded": discarded})
        else:
            self.stdout.write(f"Discarded {counted(discarded, 'dead letter')}.")

    def _retry(self, letters: Sequence[DeadLetter], as_json: bool, *, over: bool) -> None:
        stored = refused = edited = 0
        for letter in letters:
            buffer = registry.buffers().get(letter.buffer)
            if buffer is None:
                raise CommandError(
                    f"{letter.buffer} has no buffer any more: export {letter.pk}, then discard it."
                )
            try:
                taken, not_taken = deadletters.retry(buffer, [letter.pk], over=over)
            except DeadLetter.DoesNotExist:  # somebody else had it
                continue
            except EditedSince as error:
                self.stderr.write(f"{error} To write it all the same, pass --over.")
                edited += 1
                continue
            except ParentPending as error:
                self.stderr.write(f"{letter.pk} waits: {error}")
                taken, not_taken = 0, 1
            stored, refused = stored + taken, refused + not_taken
        if as_json:
            self._print({"stored": stored, "refused": refused, "edited": edited})
        else:
            it = "it" if edited == 1 else "they"
            kept = f", {edited} {be(edited)} kept as {it} would undo an edit" if edited else ""
            self.stdout.write(
                f"{counted(stored, 'dead letter')} {be(stored)} stored, "
                f"{refused} {be(refused)} refused again{kept}."
            )
        if refused or edited:
            sys.exit(1)

    def _print(self, value: Any) -> None:
        self.stdout.write(json.dumps(value, cls=Encoder, ensure_ascii=False))


def _letters(options: dict[str, Any]) -> list[DeadLetter]:
    """The letters that the arguments choose, oldest first, of each database with buffers."""
    ids = [int(which) for which in options["which"] if _is_id(which)]
    labels = [which.lower() for which in options["which"] if not _is_id(which)]
    found: list[DeadLetter] = []
    known = {buffer.layout().using for buffer in registry.buffers().values()}
    for using in sorted(known):
        letters = DeadLetter.objects.using(using).order_by("pk")
        if ids:
            letters = letters.filter(pk__in=ids)
        if options["error"]:
            letters = letters.filter(error=options["error"])
        found += [x for x in letters if not labels or x.buffer.lower() in labels]
    _check_ids(ids, found)
    names = {label.lower() for label in registry.buffers()} | {x.buffer.lower() for x in found}
    for label in labels:
        if label not in names:
            raise CommandError(
                f"No buffer is called {label!r}. There are: {', '.join(registry.buffers())}.",
                returncode=2,
            )
    return found[: options["limit"]]


def _is_id(which: str) -> bool:
    return which.isascii() and which.isdigit() and len(which) < 19  # of 64 bits


def _check_ids(ids: Sequence[int], found: Sequence[DeadLetter]) -> None:
    """Check that each id names one letter. Several databases may have the same id."""
    for id in ids:
        buffers = [letter.buffer for letter in found if letter.pk == id]
        if not buffers:
            raise CommandError(f"There is no dead letter {id}.", returncode=2)
        if len(buffers) > 1:
            raise CommandError(
                f"{id} is a dead letter in {len(buffers)} databases: name the buffer as well, "
                f"{' or '.join(buffers)}.",
                returncode=2,
            )


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={each!r}" for name, each in value.items())
    return str(value)
