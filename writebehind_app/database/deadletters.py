"""Dead letters: entries that the database refused, kept until someone mends or discards them.

A letter goes into the table in the transaction of its batch. One that is retried is written and
removed in one transaction as well, and never over a value that was written after it: each flush
strikes out of the letters of its rows what it writes itself.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from hashlib import sha1
from typing import Any

from django.core.exceptions import FieldError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import Error, models, transaction
from django.utils import timezone

from writebehind_app import conf, registry
from writebehind_app.database import retained
from writebehind_app.database.failures import kind, storable
from writebehind_app.database.isolation import Refused, write_isolating
from writebehind_app.declaration import MASK, Declaration
from writebehind_app.exceptions import NewerVersion
from writebehind_app.fields.entry import Entry, dumped, loaded
from writebehind_app.fields.entry import entry_of as entry_of_write
from writebehind_app.fields.fold import described as described_entry
from writebehind_app.fields.operations import Operation
from writebehind_app.fields.versions import current
from writebehind_app.models import DeadLetter, DiscardedLetter


class UnreadableLetter(FieldError):
    """What is in the table is no entry, or one of a newer release."""


logger = logging.getLogger("writebehind")

_CHUNK = 2000
_LONGEST = 2000  # characters of a reason


def bury(buffer: Declaration, shard: int, refused: Sequence[Refused]) -> list[DeadLetter]:
    """Put refused entries into the table, in the transaction of their batch."""
    now = timezone.now()
    letters = [
        DeadLetter(
            buffer=buffer.label,
            shard=shard,
            number=entry.no,
            digest=_digest(buffer.entry_id(entry.id)),
            entry=dumped(entry),
            error=type(error).__name__,
            reason=_reason(buffer, entry, error),
            first_seen=now,
            last_seen=now,
        )
        for entry, error, _ in refused
    ]
    return letters_of(buffer).bulk_create(letters) if letters else []


def letters_of(buffer: Declaration) -> models.QuerySet[DeadLetter]:
    """The dead letters of a buffer, in the database of its rows."""
    return DeadLetter.objects.using(buffer.layout().using).filter(buffer=buffer.label)


def entry_of(letter: DeadLetter) -> Entry:
    """The entry as it was refused, without what was written since; `UnreadableLetter`."""
    try:
        return loaded(letter.entry)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnreadableLetter(f"The letter cannot be read: {type(error).__name__}.") from error


def readable(letter: DeadLetter) -> Entry | None:
    """The same; None for a letter that cannot be read."""
    try:
        return entry_of(letter)
    except UnreadableLetter:
        return None


# What is written after a letter


def supersede(
    buffer: Declaration,
    rows: Sequence[Entry],
    entries: Sequence[Entry],
    refused: Sequence[Refused] = (),
) -> None:
    """Strike out of the letters of a buffer what is written to their rows, in its transaction.

    `entries` are those of the batch, which `rows` come from. One that deletes all there is of an
    entity does so to letters of meta keys which are neither stored nor named.
    """
    letters = letters_of(buffer)
    if not buffer.layout().key or not letters.exists():  # no record of a log is about another one
        return
    newer: dict[str, list[Entry]] = defaultdict(list)
    for entry in rows:
        newer[entry.id].append(entry)
    layers = [layer for entry in entries for layer in (*entry.older, entry)]
    deletions = {entry.id: entry for entry in layers if entry.deleted}
    for each in refused:
        deletions.pop(each.entry.id, None)
    digests = list({_digest(buffer.entry_id(id)) for id in newer} | set(map(_digest, deletions)))
    for start in range(0, len(digests), _CHUNK):
        chunk = digests[start : start + _CHUNK]
        for letter in letters.filter(digest__in=chunk).order_by("pk").select_for_update():
            if (found := readable(letter)) is None:
                continue
            left = older = _as_now(buffer, found)
            deletion = deletions.get(buffer.entry_id(older.id))
            for writer in newer.get(older.id) or ([deletion] if deletion else []):
                left = _without(left, writer)
            if left != older:
                letter.superseded = sorted(
                    {*letter.superseded, *(older.texts().keys() - left.texts())}
                )
                letter.entry = dumped(left)
                letter.save(update_fields=["superseded", "entry"])


def _without(older: Entry, newer: Entry) -> Entry:
    """What remains to be written of an entry after a newer one of its row. A sum counts whenever it
    is added; a value does not come back over anything."""
    layers = () if newer.deleted else tuple(_without(layer, newer) for layer in older.older)
    names = older.names() if newer.deleted else newer.names()
    values = {name: value for name, value in older.values.items() if name not in names}
    operations, merges = {}, {}
    for name, segments in older.operations.items():
        if newer.deleted or name in newer.values:
            continue
        if name in newer.merges:
            segments = tuple(segment for segment in segments if segment.sign == "&")
        if segments:
            operations[name] = segments
            keys = older.merges.get(name, {})
            merges[name] = {k: v for k, v in keys.items() if k not in newer.merges.get(name, {})}
    tombstones = {name: at for name, at in older.tombstones.items() if name not in names}
    something = values or operations or tombstones
    exists = older.exists and something  # a row that was written since stays
    return older._replace(
        first=older.first if exists else older.last,
        last=older.last if exists else 0,
        deleted=0,
        values=values,
        operations=operations,
        merges=merges,
        apart={name: s for name, s in older.apart.items() if name in values},
        tombstones=tombstones,
        older=layers,
    )


def _as_now(buffer: Declaration, entry: Entry) -> Entry:
    """An entry by the names that its fields have now, where that is known and it stays one."""
    if entry.version != buffer.version or entry.older:
        try:
            rows = buffer.row_entries(current(buffer, [buffer.whole(entry)]))
        except Exception as error:
            if kind(error) != "row" and not isinstance(error, NewerVersion):
                raise
            return entry
        if [row.id for row in rows] == [entry.id]:
            return rows[0]
    return entry


# What becomes of a letter


def retry(buffer: Declaration, ids: Iterable[int]) -> tuple[int, int]:
    """Write letters now; says how many are stored, and how many were refused again.

    `DeadLetter.DoesNotExist`, and nothing is written, if one of them is not the buffer's.
    """
    wanted = list(ids)
    missing = set(wanted) - set(
        letters_of(buffer).filter(pk__in=wanted).values_list("pk", flat=True)
    )
    if missing:
        raise DeadLetter.DoesNotExist(f"{buffer} has no dead letter {min(missing)}.")
    with retained.past(buffer):
        outcomes = [_retry(buffer, id) for id in wanted]
    return outcomes.count(True), outcomes.count(False)


def _retry(buffer: Declaration, id: int) -> bool | None:
    """Whether a letter is stored now; None where somebody else had it."""
    layout = buffer.layout()
    with transaction.atomic(using=layout.using):
        letter = letters_of(buffer).select_for_update().filter(pk=id).first()
        if letter is None:
            return None
        why: tuple[Exception, str] | None = None
        try:
            entry = entry_of(letter)
        except UnreadableLetter as error:
            why = error, str(error)
        else:
            _, _, refused = write_isolating(buffer, [entry], of_rows=True)
            if refused:
                why = refused[0].error, _reason(buffer, entry, refused[0].error)
        if why:
            letter.attempts += 1
            letter.last_seen = timezone.now()
            letter.error, letter.reason = type(why[0]).__name__, why[1]
            letter.save(using=layout.using)
            return False
        letter.delete(using=layout.using)
    return True


def discard(buffer: Declaration, ids: Iterable[int]) -> int:
    """Throw letters away; says how many went. The receipts of their writes say so."""
    layout, wanted, count, now = buffer.layout(), list(ids), 0, timezone.now()
    with transaction.atomic(using=layout.using):
        for start in range(0, len(wanted), _CHUNK):
            letters = letters_of(buffer).filter(pk__in=wanted[start : start + _CHUNK])
            found = list(letters.order_by("pk").select_for_update())
            DiscardedLetter.objects.using(layout.using).bulk_create(
                DiscardedLetter(
                    buffer=letter.buffer,
                    shard=letter.shard,
                    number=letter.number,
                    digest=_digest(entry.id) if (entry := readable(letter)) else letter.digest,
                    discarded_at=now,
                )
                for letter in found
            )
            count += letters_of(buffer).filter(pk__in=[letter.pk for letter in found]).delete()[0]
    return count


def discard_all(letters: Iterable[DeadLetter]) -> int:
    """Throw away letters of any buffers; says how many went."""
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


def is_discarded(buffer: Declaration, shard: int, number: int, ids: Sequence[str] = ()) -> bool:
    """Whether a letter of that entry was discarded: one of these ids, if there are any."""
    discarded = _discarded_of(buffer).filter(shard=shard, number=number)
    return (discarded.filter(digest__in=map(_digest, ids)) if ids else discarded).exists()


def _discarded_of(buffer: Declaration) -> models.QuerySet[DiscardedLetter]:
    return DiscardedLetter.objects.using(buffer.layout().using).filter(buffer=buffer.label)


def expire(buffer: Declaration) -> None:
    """Delete letters that were last refused longer ago than the settings keep them, and what is
    known of those that were discarded as long ago."""
    days = conf.settings().DEAD_LETTER_DAYS
    if days:
        since = timezone.now() - timedelta(days=days)
        _discarded_of(buffer).filter(discarded_at__lt=since).delete()
        count, _ = letters_of(buffer).filter(last_seen__lt=since).delete()
        if count:
            logger.warning("%s: %d dead letters of more than %g days went", buffer, count, days)


def edit(buffer: Declaration, id: int, values: Mapping[str, Any]) -> DeadLetter:
    """Change what a letter writes, before it is retried. Values are checked as in a write; the
    row that it is for stays the same."""
    layout = buffer.layout()
    key = {alias for c in layout.key for alias in (c.name, c.attname)}
    if named := sorted(key & values.keys()):
        raise FieldError(f"{named[0]!r} is in the key of {layout.model._meta.label}: write anew.")
    if any(isinstance(value, Operation) for value in values.values()):
        raise TypeError("A dead letter takes values, not operations.")
    with transaction.atomic(using=layout.using):
        letter = letters_of(buffer).select_for_update().get(pk=id)
        entry = entry_of(letter)
        if entry.version != buffer.version or entry.older:
            raise FieldError(
                f"The letter was written under version {entry.version} of {buffer}, which has "
                f"{buffer.version}: retry it once upgrade() takes it, or discard it and write anew."
            )
        _, texts = layout.split({**layout.key_of(entry.id), **values})
        last = max(entry.last, entry.first, entry.deleted + 1)  # there is a row afterwards
        new = entry_of_write(entry.id, texts, last)
        kept = entry.only(name for name in entry.names() if name not in new.values)
        entry = kept._replace(values={**kept.values, **new.values}, last=last)
        letter.entry = dumped(entry)
        letter.save(using=layout.using, update_fields=["entry"])
    return letter


def described(letter: DeadLetter) -> dict[str, Any]:
    """What a letter says, for people and for JSON."""
    entry = readable(letter)
    key: Any = entry.id if entry else ""
    values: Any = entry.texts() if entry else {"entry": letter.entry}
    buffer = registry.buffers().get(letter.buffer)
    if buffer is not None and entry is not None:
        key, values = _parts(buffer, entry) or (key, values)
    return {
        "id": letter.pk,
        "buffer": letter.buffer,
        "key": key,
        "values": values,
        "delete": entry is not None and entry.deleted > 0,
        "superseded": letter.superseded,
        "error": letter.error,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "first_seen": letter.first_seen,
        "last_seen": letter.last_seen,
    }


def _parts(buffer: Declaration, entry: Entry) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The key and the values of an entry; None where they are not to be understood."""
    try:
        return buffer.layout().key_of(entry.id), described_entry(buffer.layout(), entry)
    except Exception as error:  # the model may be another one by now
        if kind(error) != "row":
            raise
        return None


def _secrets(buffer: Declaration, entry: Entry) -> list[str]:
    """The texts of the sensitive values of an entry that was understood, the longest first."""
    key, values = _parts(buffer, entry) or ({}, {})
    names = buffer.secret_names(key)
    secret = [value for name, value in {**key, **values}.items() if name in names]
    found = {str(value) for value in secret} | {repr(str(value))[1:-1] for value in secret}
    return sorted(found - {"", "None"}, key=len, reverse=True)


class Encoder(DjangoJSONEncoder):
    """Writes operations, and what else JSON does not know, as people read it."""

    def default(self, value: Any) -> Any:
        try:
            return super().default(value)
        except TypeError:
            return repr(value)


def _digest(id: str) -> str:
    return sha1(id.encode(errors="backslashreplace"), usedforsecurity=False).hexdigest()


def _reason(buffer: Declaration, entry: Entry, error: Exception) -> str:
    """In a form that each database takes, and without sensitive values, which databases quote."""
    if not buffer.sensitive:
        return storable(str(error)[:_LONGEST])
    if entry.version != buffer.version or entry.older:
        return "upgrade() did not take it. What it says is not told, as it may quote what it got."
    if _parts(buffer, entry) is None:
        return "It is not to be understood. What is wrong is not told, as it may quote what it got."
    if isinstance(error, Error) and not hasattr(error.__cause__, "sqlite_errorname"):
        return storable(_facts(error)[:_LONGEST])
    reason = str(error)
    for secret in _secrets(buffer, entry):
        reason = reason.replace(secret, MASK)
    return storable(reason[:_LONGEST])


def _facts(error: Error) -> str:
    """What an error of PostgreSQL or MariaDB says besides its text: that quotes values, cut and
    escaped, and of the stored row as well."""
    cause: Any = error.__cause__
    diag = getattr(cause, "diag", None)
    facts = {
        "error": next((arg for arg in getattr(cause, "args", ()) if isinstance(arg, int)), None),
        "SQLSTATE": getattr(cause, "sqlstate", None),
        "constraint": getattr(diag, "constraint_name", None),
        "column": getattr(diag, "column_name", None),
    }
    told = ", ".join(f"{name} {fact}" for name, fact in facts.items() if fact)
    why = type(cause or error).__name__
    return f"{why}{told and ': '}{told}. The rest is not told, as it may quote values."
