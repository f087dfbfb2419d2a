"""The option `retain`: for some seconds after a flush, what it wrote is read from Redis alone.

A flush reads its rows once more in its transaction, as the database has them by then; the script
that drops the batch keeps these copies. One counts where nothing of its id is pending or in
flight, and goes with the next batch that its id is in. So a read is right that meets it, as long as
nobody writes past the flushers, which Redis would not know of. Hence there are copies only where no
write goes around Redis, and none are read for a while where a dead letter is retried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from writebehind_app.conf import is_direct
from writebehind_app.fields.columns import Column, Unsupported, column
from writebehind_app.fields.layout import Layout
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration, KeyedDeclaration

_MOST_BYTES = 4_000_000  # of the copies of a batch: as much as its entries have
_PAUSE = 60.0  # seconds for which no copies are read where something is written past the flushers


def seconds(buffer: Declaration) -> float:
    """How long copies are kept."""
    found: float = buffer.option("RETAIN")
    goes_around = "direct" in (buffer.option("WHEN_DOWN"), buffer.option("WHEN_FULL"))
    if not found or goes_around or is_direct():
        return 0.0
    return found if buffer.layout().key and _columns(buffer.layout()) else 0.0


def copies(buffer: KeyedDeclaration, ids: Sequence[str]) -> dict[str, str]:
    """What the database has of those ids, in the transaction that wrote it."""
    layout, found, size = buffer.layout(), {}, 0
    for id, stored in buffer.stored(ids, lock=True).items():
        try:
            rows = [_texts(layout, row) for row in buffer.every_row(stored)]
        except REFUSALS:  # the field would not take again what is stored
            continue
        text = json.dumps(rows, ensure_ascii=False)
        size += len(text)
        if size > _MOST_BYTES:
            break
        found[id] = text
    return found


def rows(buffer: KeyedDeclaration, kept: Mapping[str, str]) -> dict[str, Any]:
    """What there is of ids, by copies of it."""
    layout, found = buffer.layout(), {}
    columns = _columns(layout)
    names = [c.attname for c in columns]
    for id, text in kept.items():
        try:
            found[id] = buffer.of_rows(
                [
                    layout.model.from_db(
                        layout.using,
                        names,
                        [c.decode(text) for c, text in zip(columns, texts, strict=True)],
                    )
                    for texts in json.loads(text)
                ]
            )
        except REFUSALS:  # of another model, by now, or somebody else's
            continue
    return found


@contextmanager
def past(buffer: Declaration) -> Iterator[None]:
    """Something is written to the database within, and not by a flush."""
    is_needed = seconds(buffer) > 0

    def keep_dry() -> None:
        if is_needed:
            pause = _PAUSE + buffer.option("RETAIN")
            store.keep_dry(client(patient=True), buffer.shard_keys(), pause)

    keep_dry()
    try:
        yield
    finally:
        keep_dry()  # it may have taken long, and batches may have been claimed meanwhile


@cache
def _columns(layout: Layout) -> list[Column]:
    """Those of all fields; none where one of them cannot travel."""
    try:
        return [column(field, layout.using) for field in layout.model._meta.concrete_fields]
    except Unsupported:
        return []


def _texts(layout: Layout, row: Any) -> list[str]:
    return [c.encode(getattr(row, c.attname)) for c in _columns(layout)]
