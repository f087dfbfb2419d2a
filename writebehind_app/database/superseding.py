"""Remove from dead letters what was written later.

Each flush removes from the letters of its rows the fields that it writes itself. The retry of a
letter removes them from earlier letters. So a retry never overwrites a newer value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from writebehind_app.database.bisect import Refused
from writebehind_app.database.letters import as_now, digest, letters_of, readable, text_of
from writebehind_app.declaration import Declaration
from writebehind_app.fields.entry import Entry

_CHUNK = 2000


def supersede(
    buffer: Declaration,
    rows: Sequence[Entry],
    entries: Sequence[Entry],
    refused: Sequence[Refused] = (),
    before: int | None = None,
) -> None:
    """Remove from the letters of a buffer what a batch or a retry writes, in its transaction.

    `rows` are the `entries`, split into rows. An entry that deletes a whole entity also counts for
    letters of meta keys that are neither stored nor named in it. `before` is the number of a letter
    that was retried: only earlier letters are changed then, without what was corrected in them.
    """
    letters = letters_of(buffer)
    if before is not None:
        letters = letters.filter(last__lt=before)
    if not buffer.layout().key or not letters.exists():  # records of a log are never overwritten
        return
    newer: dict[str, list[Entry]] = defaultdict(list)
    for entry in rows:
        newer[entry.id].append(entry)
    layers = [layer for entry in entries for layer in (*entry.older, entry)]
    deletions = {entry.id: entry for entry in layers if entry.deleted}
    for each in refused:
        deletions.pop(each.entry.id, None)
    digests = list({digest(buffer.entry_id(id)) for id in newer} | set(map(digest, deletions)))
    for start in range(0, len(digests), _CHUNK):
        chunk = digests[start : start + _CHUNK]
        for letter in letters.filter(digest__in=chunk).order_by("pk").select_for_update():
            if (found := readable(letter)) is None:
                continue
            left = older = as_now(buffer, found)
            deletion = deletions.get(buffer.entry_id(older.id))
            for writer in newer.get(older.id) or ([deletion] if deletion else []):
                if before is not None:
                    corrected = {n for n in writer.names() if older.number_of(n) > letter.last}
                    # A retry that only added to an older value has not replaced it.
                    added_to = older.values.keys() & writer.operations.keys() - writer.values.keys()
                    writer = writer.only(writer.names() - corrected - added_to)
                left = _without(left, writer)
            if left != older:
                letter.superseded = sorted(
                    {*letter.superseded, *(older.texts().keys() - left.texts())}
                )
                letter.entry = text_of(buffer, left)
                letter.save(update_fields=["superseded", "entry"])


def _without(older: Entry, newer: Entry) -> Entry:
    """What remains of an older entry after a newer one of its row.

    Sums remain, as their order does not matter. Values that were written again do not.
    """
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
            if keys := older.merges.get(name):
                own = newer.merges.get(name, {})
                merges[name] = {k: v for k, v in keys.items() if k not in own}
    tombstones = {name: at for name, at in older.tombstones.items() if name not in names}
    something = values or operations or tombstones
    exists = older.exists and something
    # What is left deletes no row that was written since, and makes no row out of nothing.
    return older._replace(
        first=older.first if exists else older.last,
        last=older.last if exists else 0,
        deleted=0,
        values=values,
        operations=operations,
        merges=merges,
        tombstones=tombstones,
        older=layers,
    )
