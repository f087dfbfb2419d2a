"""The option `expires`: stored rows whose time has passed are removed by the next flush."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core import checks
from django.db import models
from django.utils import timezone

from writebehind_app.buffers import reading
from writebehind_app.buffers.fallback import ask_redis
from writebehind_app.conf import is_direct
from writebehind_app.database import direct
from writebehind_app.database.lookup import all_rows
from writebehind_app.declaration_checks import error, named_fields
from writebehind_app.fields.custom import own_methods
from writebehind_app.fields.writes import Write

if TYPE_CHECKING:
    from writebehind_app.buffers.row import RowBuffer


def check(buffer: RowBuffer) -> Iterator[checks.CheckMessage]:
    if buffer.expires is None:
        return
    for field in (yield from named_fields(buffer, [buffer.expires], "expires")):
        if not isinstance(field, models.DateTimeField) or own_methods(field):
            wrong = f"is a {type(field).__name__}"
        elif field.auto_now or field.auto_now_add:
            wrong = "is the time of a write"
        else:
            continue
        yield error(
            20,
            f"`expires` names the field {field.name!r}, which {wrong}: no row can expire by it.",
            "Name a DateTimeField that writes set, with null=True for rows that stay.",
            buffer,
        )


def remove(buffer: RowBuffer, expires: str, size: int) -> int:
    """Write deletions for stored rows whose time has passed, due at once; return how many.

    A row that somebody writes to at this moment stays, as the write may set a later time. In direct
    mode the rows are deleted now.
    """
    layout, now = buffer.layout(), timezone.now()
    passed = all_rows(layout).filter(**{f"{expires}__lte": now}).order_by(expires)
    passed = passed.only(*(c.name for c in layout.key))
    ids = [layout.id_of(row) for row in passed[:size]]

    def removal(id: str, row: Any | None, guard: str = "") -> Write | None:
        ends = row and getattr(row, expires)
        is_over = ends is not None and ends <= now
        return Write(id, {}, delete=True, guard=guard) if is_over else None

    if is_direct():
        return _remove_now(buffer, ids, removal)
    removals = [
        write
        for id, (row, guard, is_moving) in reading.guarded(buffer, ids).items()
        if not is_moving and (write := removal(id, row, guard))
    ]
    return buffer.send_if_unchanged(removals)


def _remove_now(
    buffer: RowBuffer,
    ids: Sequence[str],
    removal: Callable[[str, Any | None], Write | None],
) -> int:
    """Delete stored rows directly, if `removal` still says so under the lock of the row; return
    how many. If Redis holds a write that gives a row more time, the row stays."""
    rows = ask_redis(lambda: reading.rows(buffer, ids), None)
    if rows is not None:
        ids = [id for id in ids if removal(id, rows.get(id))]
    removed = [direct.write_if(buffer, id, partial(removal, id), whole=False) for id in ids]
    return sum(write is not None for write in removed)
