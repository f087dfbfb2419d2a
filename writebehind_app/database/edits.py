"""What somebody edited in the row of a dead letter since the letter was made.

A later flush removes from a letter the fields that it writes itself. The ORM, an admin or raw SQL
do not. So a letter keeps the values that were stored when it was made. If a retry finds other
values in the row, it raises `EditedSince` instead of overwriting them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha1
from typing import Any, NamedTuple

from django.db import models, transaction
from django.utils.translation import gettext_lazy as _

from writebehind_app.database.bisect import Refused
from writebehind_app.database.failures import is_refusal
from writebehind_app.database.letters import as_now, readable
from writebehind_app.database.lookup import rows_by_id
from writebehind_app.declaration import MASK, Declaration
from writebehind_app.exceptions import EditedSince
from writebehind_app.fields.columns import Column, default_of
from writebehind_app.fields.entry import DIGITS, Entry
from writebehind_app.fields.fold import Folded, fold
from writebehind_app.fields.layout import Layout
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.models import DeadLetter

NO_ROW = _("no row")
DELETED = _("deleted")
_LONGEST = 10_000  # characters of a stored value that a letter keeps

Texts = Mapping[str, str]  # the stored values of fields, as JSON, by name


class Edit(NamedTuple):
    """A field that was edited since the letter was made."""

    name: str
    letter: Any  # the value that a retry would store
    then: Any  # the value when the letter was made
    now: Any  # the value that is stored now


# When a letter is made


def remembered(buffer: Declaration, refused: Sequence[Refused]) -> dict[str, str]:
    """The stored values that the letters of refused entries keep, by the ids of the entries.

    There are none for a record of a log, nor for an entry whose key cannot be read.
    """
    layout = buffer.layout()
    if not layout.key:
        return {}
    entries = [each.entry for each in refused]
    found = _stored(layout, [entry.id for entry in entries])
    return {
        entry.id: _dumped(layout, found[entry.id], _names(buffer, entry))
        for entry in entries
        if entry.id in found
    }


def _stored(layout: Layout, ids: Sequence[str], *, lock: bool = False) -> dict[str, Any]:
    """The rows of these ids; None for an id without a row.

    If the database refuses an id, each id is looked up by itself, and the refused one is left out.
    """
    try:
        with transaction.atomic(using=layout.using):
            rows = rows_by_id(layout, ids, lock=lock)
    except Exception as error:
        if not is_refusal(error, insist=True):
            raise
        if len(ids) == 1:
            return {}
        return {name: row for id in ids for name, row in _stored(layout, [id]).items()}
    return {id: rows.get(id) for id in ids}


def _names(buffer: Declaration, entry: Entry) -> Iterable[str]:
    """The fields that a retry of the entry may write.

    These are all fields if the entry deletes the row, or is of another version of the declaration.
    """
    layout = buffer.layout()
    if entry.deleted or entry.older or entry.broken or entry.version != buffer.version:
        return layout.columns
    return [name for name in layout.columns if name in entry.names()]


def _dumped(layout: Layout, row: Any | None, names: Iterable[str]) -> str:
    if row is None:
        return json.dumps(None)
    return json.dumps({name: _kept(_text(layout.columns[name], row)) for name in names})


def _kept(text: str) -> str:
    """What a letter keeps of a value: of a long one a digest, so that the letter stays small."""
    if len(text) <= _LONGEST:
        return text
    digest = sha1(text.encode(), usedforsecurity=False).hexdigest()
    return json.dumps(f"({len(text):,} characters, SHA-1 {digest})")


def remembered_anew(
    buffer: Declaration, letter: DeadLetter, entry: Entry, corrected: Iterable[str]
) -> str:
    """The stored values that a letter keeps after somebody corrected these fields in it.

    For a field that the entry did not write before, this is the value that is stored now.
    """
    layout, new = buffer.layout(), [name for name in corrected if name not in entry.names()]
    row = _stored(layout, [entry.id]).get(entry.id) if letter.stored and new else None
    if row is None:
        return letter.stored
    texts = _then(buffer, letter, entry)
    return json.dumps({**texts, **{name: _kept(_text(layout.columns[name], row)) for name in new}})


# When it is retried


def edits_since(buffer: Declaration, letter: DeadLetter, *, lock: bool = False) -> list[Edit]:
    """The edits that a retry of the letter would overwrite; none if they are not known.

    `lock` locks the row until the end of the transaction. A sum overwrites nothing: it is added to
    the stored value. A Merge overwrites its own keys only.
    """
    entry = readable(letter)
    if entry is None or not letter.stored:
        return []
    layout, entry = buffer.layout(), as_now(buffer, entry)
    row = _stored(layout, [entry.id], lock=lock).get(entry.id)
    try:
        folded = fold(layout, layout.known(entry), None if row is None else row.__dict__)
    except REFUSALS:
        return []  # the retry will be refused anyway
    return [*_edits(layout, entry, _loaded(letter), row, folded)]


def _edits(
    layout: Layout, entry: Entry, then: Texts | None, row: Any | None, folded: Folded
) -> Iterable[Edit]:
    if row is None:
        if then is not None and folded.values is not None:
            names = entry.names() & layout.columns.keys() or layout.columns
            for name, column in layout.columns.items():
                if name not in names:
                    continue
                new = folded.values.get(column.attname, default_of(column.field))
                yield Edit(name, _plain(new), _decoded(column, then.get(name)), NO_ROW)
        return
    goes = folded.delete and folded.values is None
    if not goes and folded.values is None:
        return
    for name, column in layout.columns.items():
        if not folded.delete and (name not in entry.names() or _is_sum(entry, name)):
            continue
        before = _text_of(column, default_of(column.field)) if then is None else then.get(name)
        now = _text(column, row)
        if before is None or before in (now, _kept(now)):
            continue
        letter = None if goes else _letter_text(column, entry, name, folded)
        if letter == now or (letter and _keeps(column, entry, before, now)):
            continue
        yield Edit(
            name,
            DELETED if goes else _decoded(column, letter),
            NO_ROW if then is None else _decoded(column, before),
            _decoded(column, now),
        )


def _is_sum(entry: Entry, name: str) -> bool:
    segments = entry.operations.get(name, ())
    return name not in entry.values and all(segment.sign == "+" for segment in segments)


def _keeps(column: Column, entry: Entry, then: str, now: str) -> bool:
    """Whether the keys that a Merge sets still have the values that they had."""
    name = column.name
    if name in entry.values or name not in entry.merges or entry.deleted:
        return False
    before, after = column.decode(then) or {}, column.decode(now) or {}
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return False
    keys = {json.loads(key) for key in entry.merges[name]}
    return not any(before.get(k) != after.get(k) or (k in before) != (k in after) for k in keys)


def _letter_text(column: Column, entry: Entry, name: str, folded: Folded) -> str:
    if name in entry.values and name not in entry.operations:
        return entry.values[name][DIGITS:]
    assert folded.values is not None
    new = folded.values.get(column.attname, default_of(column.field))
    return _text_of(column, _plain(new))


def digest_of(edits: Sequence[Edit]) -> str:
    """A digest of edits that were shown to somebody, to notice later ones.

    The letter's own values are not part of it: the person may correct these in the same step.
    """
    texts = [[edit.name, str(edit.then), str(edit.now)] for edit in edits]
    return sha1(json.dumps(texts).encode(), usedforsecurity=False).hexdigest()


def refuse(buffer: Declaration, letter: DeadLetter, entry: Entry, edits: Sequence[Edit]) -> None:
    """Raise `EditedSince` with what a retry would overwrite. Sensitive values are masked."""
    hidden = buffer.secret_names(buffer.layout().key_of(entry.id))

    def said(edit: Edit) -> str:
        if edit.name in hidden:
            return f"{edit.name} is another one ({MASK})"
        then, now, new = (
            str(value) if value in (NO_ROW, DELETED) else repr(value)
            for value in (edit.then, edit.now, edit.letter)
        )
        return f"{edit.name} is {now} now, was {then} when it died, and would be {new}"

    raise EditedSince(
        f"Dead letter {letter.pk} of {buffer.label} would overwrite what was edited since: "
        f"{'; '.join(map(said, edits))}."
    )


# When an earlier letter of its row is retried


def unedited(buffer: Declaration, letters: Iterable[DeadLetter]) -> dict[int, set[str]]:
    """By letter, the fields that are stored as they were when it was made.

    The rows are locked until the end of the transaction. Letters that remember nothing are left
    out.
    """
    entries = _remembering(letters)
    rows = _rows(buffer, entries.values(), lock=True)
    columns, found = buffer.layout().columns, {}
    for letter in letters:
        entry = entries.get(letter.pk)
        if entry is None or entry.id not in rows:
            continue
        row, then = rows[entry.id], _then(buffer, letter, entry)
        if row is None:
            found[letter.pk] = set[str]() if _loaded(letter) is not None else {*then}
        else:
            now = {name: _text(columns[name], row) for name in then.keys() & columns.keys()}
            found[letter.pk] = {
                name for name, text in now.items() if then[name] in (text, _kept(text))
            }
    return found


def remember_retry(
    buffer: Declaration,
    later: Iterable[DeadLetter],
    unedited: Mapping[int, Iterable[str]],
    written: Iterable[Entry],
    number: int,
) -> None:
    """Have `later` letters know what the retry of an earlier letter has written, as no edit of it.

    These are the fields that were `unedited` before the retry. What somebody corrected in the
    earlier letter remains an edit. `number` is the letter's own last one.
    """
    entries = {pk: e for pk, e in _remembering(later).items() if pk in unedited}
    rows = _rows(buffer, entries.values())
    writers = {entry.id: entry for entry in written}
    for letter in later:
        entry = entries.get(letter.pk)
        if entry is None or not (writer := writers.get(entry.id)):
            continue
        if (row := rows.get(entry.id)) is not None:
            texts = _then(buffer, letter, entry)
            for name in unedited[letter.pk]:
                if writer.number_of(name) <= number:
                    texts[name] = _kept(_text(buffer.layout().columns[name], row))
            letter.stored = json.dumps(texts)
        elif writer.deleted:
            letter.stored = json.dumps(None)
        letter.save(update_fields=["stored"])


def _remembering(letters: Iterable[DeadLetter]) -> dict[int, Entry]:
    """The entries of the letters that know what was stored, by the letter."""
    return {letter.pk: entry for letter in letters if letter.stored and (entry := readable(letter))}


def _rows(buffer: Declaration, entries: Iterable[Entry], *, lock: bool = False) -> dict[str, Any]:
    ids = sorted({entry.id for entry in entries})
    return _stored(buffer.layout(), ids, lock=lock) if ids else {}


def _then(buffer: Declaration, letter: DeadLetter, entry: Entry) -> dict[str, str]:
    """The stored values that the letter keeps. If there was no row, these are the defaults."""
    if (texts := _loaded(letter)) is not None:
        return texts
    columns = [buffer.layout().columns[name] for name in _names(buffer, entry)]
    return {c.name: _text_of(c, default_of(c.field)) for c in columns}


# Texts


def _loaded(letter: DeadLetter) -> dict[str, str] | None:
    """The stored values that the letter keeps; None if there was no row."""
    found: dict[str, str] | None = json.loads(letter.stored) if letter.stored else {}
    return found


def _text(column: Column, row: Any) -> str:
    return _text_of(column, getattr(row, column.attname))


def _text_of(column: Column, value: Any) -> str:
    """The JSON of a stored value, even of one that the field itself would refuse."""
    if value is None:
        return json.dumps(None)
    try:
        return column.encode(value)
    except REFUSALS:
        return json.dumps(repr(value))


def _decoded(column: Column, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return column.decode(text)
    except REFUSALS:
        return json.loads(text)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, models.Value) else value
