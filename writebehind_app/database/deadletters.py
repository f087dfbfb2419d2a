"""Dead letters: entries that the database refused, kept until someone mends or discards them.

A letter goes into the table in the transaction of its batch. One that is retried is written and
removed in one transaction as well, and never over a value that was written after it: each flush
strikes out of the letters of its rows what it writes itself, and each retry strikes it out of the
earlier letters of its row. For the later ones, what it writes is no edit.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from django.core.exceptions import FieldError
from django.db import DataError, connections
from django.utils import timezone

from writebehind_app import conf, registry
from writebehind_app.database import edits, superseding
from writebehind_app.database.bases import passing
from writebehind_app.database.bisect import Refused
from writebehind_app.database.isolation import write_isolating
from writebehind_app.database.letters import (
    UnreadableLetter,
    digest,
    entry_in,
    letters_of,
    text_of,
)
from writebehind_app.database.reasons import LONGEST, reason_of
from writebehind_app.database.statements import parts, size_of, too_large
from writebehind_app.database.transactions import committed
from writebehind_app.declaration import Declaration
from writebehind_app.english import counted
from writebehind_app.fields.entry import entry_of
from writebehind_app.fields.limits import excerpt
from writebehind_app.fields.operations import Operation
from writebehind_app.models import DeadLetter

logger = logging.getLogger("writebehind")

_CHUNK = 2000


def bury(buffer: Declaration, shard: int, refused: Sequence[Refused]) -> list[DeadLetter]:
    """Put refused entries into the table, in the transaction of their batch."""
    if not refused:
        return []
    now = timezone.now()
    stored = edits.remembered(buffer, refused)
    letters = [
        DeadLetter(
            buffer=buffer.label,
            shard=shard,
            first=entry.since,
            last=max(entry.last, entry.deleted),
            digest=digest(buffer.entry_id(entry.id)),
            row=digest(entry.id),
            entry=text_of(buffer, entry),
            stored=stored.get(entry.id, ""),
            error=type(error).__name__,
            reason=reason_of(buffer, entry, error),
            first_seen=now,
            last_seen=now,
        )
        for entry, error, *_ in refused
    ]

    connection = connections[buffer.layout().using]
    for letter, each in zip(letters, refused, strict=True):
        if excess := too_large(connection, [letter.entry, letter.stored, letter.reason]):
            raise DataError(
                f"The database refused the row {excerpt(each.entry.id)} ({letter.error}), and its "
                f"dead letter {excess}: raise max_allowed_packet. The batch waits until then."
            )

    def size(letter: DeadLetter) -> int:
        return size_of(letter.entry) + size_of(letter.stored) + LONGEST

    for part in parts(connection, letters, size):
        letters_of(buffer).bulk_create(part)
    return letters


def letter_with(
    buffer: Declaration, shard: int, id: str, number: int, rows: Sequence[str] = ()
) -> DeadLetter | None:
    """The letter that has the write with that number to an id, even if it was discarded.

    For metadata, `rows` are the rows that the write changes: each row has a letter of its own. An
    entity that could not be read has one letter. A record without an id has its number as its id.
    """
    id = id or str(number)
    found = DeadLetter.every.using(buffer.layout().using).filter(
        buffer=buffer.label,
        digest__in={digest(id), digest(buffer.entry_id(id))},
        shard=shard,
        first__lte=number,
        last__gte=number,
    )
    if rows:
        found = found.filter(row__in={*map(digest, (id, *rows))})
    return min(found, key=lambda letter: letter.discarded_at is not None, default=None)


# What becomes of a letter


def retry(buffer: Declaration, ids: Iterable[int], *, over: bool | str = False) -> tuple[int, int]:
    """Write letters now. Returns how many are stored, and how many were refused again.

    Raises `EditedSince` at the first letter whose row was edited since the letter was made. With
    `over=True`, letters overwrite any edit; with a digest of `edits.digest_of()`, only the edits in
    it. Raises `DeadLetter.DoesNotExist`, and writes nothing, if the buffer lacks one of the
    letters.
    """
    wanted = list(ids)
    missing = set(wanted) - set(
        letters_of(buffer).filter(pk__in=wanted).values_list("pk", flat=True)
    )
    if missing:
        raise DeadLetter.DoesNotExist(f"{buffer} has no dead letter {min(missing)}.")
    using = buffer.layout().using
    outcomes = [committed(using, partial(_retry, buffer, id, over)) for id in wanted]
    return outcomes.count(True), outcomes.count(False)


def _retry(buffer: Declaration, id: int, over: bool | str) -> bool | None:
    """Whether a letter is stored now; None if somebody else stored or discarded it before."""
    using = buffer.layout().using
    same = letters_of(buffer).filter(pk=id).values("digest", "row").first()
    if same is None:
        return None
    # All letters of the row, locked in the order in which a flush locks them.
    every = letters_of(buffer).filter(**same).order_by("pk").select_for_update()
    letters = {each.pk: each for each in every}
    letter = letters.get(id)
    if letter is None:
        return None
    later = [each for each in letters.values() if each.last > letter.last]
    why: tuple[Exception, str] | None = None
    try:
        entry = entry_in(letter)
    except UnreadableLetter as error:
        why = error, str(error)
    else:
        if over is not True:
            found = edits.edits_since(buffer, letter, lock=True)
            if found and over != edits.digest_of(found):
                edits.refuse(buffer, letter, entry, found)
        unedited = edits.unedited(buffer, later)
        with passing(buffer, [buffer.entry_id(entry.id)]):
            [written] = write_isolating([(buffer, [entry])], of_rows=True)
        if refused := written.refused:
            why = refused[0].error, reason_of(buffer, entry, refused[0].error)
    if why:
        letter.attempts += 1
        letter.last_seen = timezone.now()
        letter.error, letter.reason = type(why[0]).__name__, why[1]
        letter.save(using=using)
        return False
    superseding.supersede(buffer, written.entries, [entry], before=letter.last)
    edits.remember_retry(buffer, later, unedited, written.entries, letter.last)
    letter.delete(using=using)
    return True


def discard(buffer: Declaration, ids: Iterable[int]) -> int:
    """Throw letters away. Returns how many went. The receipts of their writes say "discarded"."""
    wanted = list(ids)
    nothing = dict.fromkeys(("entry", "stored", "error", "reason"), "")

    def act() -> int:
        return sum(
            letters_of(buffer)
            .filter(pk__in=wanted[start : start + _CHUNK])
            .update(**nothing, superseded=[], discarded_at=timezone.now())
            for start in range(0, len(wanted), _CHUNK)
        )

    return committed(buffer.layout().using, act)


def discard_all(letters: Iterable[DeadLetter]) -> int:
    """Throw away letters of any buffers; return how many."""
    count = 0
    by_buffer: dict[str, list[DeadLetter]] = defaultdict(list)
    for letter in letters:
        by_buffer[letter.buffer].append(letter)
    for label, found in by_buffer.items():
        if buffer := registry.buffers().get(label):
            count += discard(buffer, [letter.pk for letter in found])
        else:  # nobody has a receipt of it any more
            count += sum(letter.delete()[0] for letter in found)
    return count


def expire(buffer: Declaration) -> None:
    """Delete letters that were last refused, or discarded, more than DEAD_LETTER_DAYS ago."""
    days = conf.settings().DEAD_LETTER_DAYS
    if days:
        since = timezone.now() - timedelta(days=days)
        every = DeadLetter.every.using(buffer.layout().using).filter(buffer=buffer.label)
        every.filter(discarded_at__lt=since).delete()
        count, _ = letters_of(buffer).filter(last_seen__lt=since).delete()
        if count:
            letters = counted(count, "dead letter")
            logger.warning("%s: deleted %s of more than %g days ago", buffer, letters, days)


def edit(buffer: Declaration, id: int, values: Mapping[str, Any]) -> DeadLetter:
    """Change what a letter writes, before it is retried. Returns the letter.

    Values are checked as in a write, and may raise `ValidationError`. The row stays the same: a
    field of its key raises `FieldError`. Operations raise `TypeError`.
    """
    layout = buffer.layout()
    key = {alias for c in layout.key for alias in (c.name, c.attname)}
    if named := sorted(key & values.keys()):
        raise FieldError(
            f"{named[0]!r} is in the key of {layout.model._meta.label}, which stays as it is: "
            "discard the letter and write again."
        )
    if any(isinstance(value, Operation) for value in values.values()):
        raise TypeError("A dead letter takes values, not operations.")

    def act() -> DeadLetter:
        letter = letters_of(buffer).select_for_update().get(pk=id)
        entry = entry_in(letter)
        if entry.version != buffer.version or entry.older:
            raise FieldError(
                f"The letter was written under version {entry.version} of {buffer}, which has "
                f"{buffer.version}: retry it after upgrade() can convert it, or discard it and "
                "write again."
            )
        _, texts = layout.split({**layout.key_of(entry.id), **values})
        # After each write in it: so there is a row afterwards, and a retry sees what was corrected.
        last = letter.last + 1
        new = entry_of(entry.id, texts, last)
        letter.stored = edits.remembered_anew(buffer, letter, entry, new.values)
        kept = entry.only(name for name in entry.names() if name not in new.values)
        entry = kept._replace(values={**kept.values, **new.values}, last=last)
        letter.entry = text_of(buffer, entry)
        letter.save(using=layout.using, update_fields=["entry", "stored"])
        return letter

    return committed(layout.using, act)
