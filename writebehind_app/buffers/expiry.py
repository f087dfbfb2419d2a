"""The option `expires`: stored rows whose time has passed are removed by the next flush."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from django.core import checks
from django.db import Error, models
from django.utils import timezone

from writebehind_app.buffers import reading
from writebehind_app.buffers.fallback import ask_redis
from writebehind_app.conf import is_direct
from writebehind_app.database import direct
from writebehind_app.database.failures import is_refusal
from writebehind_app.database.letters import refused_deletions
from writebehind_app.database.lookup import all_rows
from writebehind_app.declaration_checks import error, named_fields
from writebehind_app.fields.custom import own_methods
from writebehind_app.fields.writes import Write

if TYPE_CHECKING:
    from writebehind_app.buffers.row import RowBuffer

logger = logging.getLogger("writebehind")

_PAGE = 2000  # rows that are looked at in one query


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

    A row that somebody writes to at this moment stays, as the write may set a later time. A row
    whose deletion is a dead letter stays too. In direct mode the rows are deleted now.
    """
    layout, now = buffer.layout(), timezone.now()
    passed = all_rows(layout).filter(**{f"{expires}__lte": now}).order_by(expires, "pk")
    ids = _removable(buffer, passed.only(*(c.name for c in layout.key)), size)

    def removal(id: str, row: Any | None, guard: str = "") -> Write | None:
        ends = None if row is None else getattr(row, expires)
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


def _removable(buffer: RowBuffer, passed: models.QuerySet[Any], size: int) -> list[str]:
    """The ids of the first rows, at most so many, without those whose deletion was refused."""
    layout, ids = buffer.layout(), list[str]()
    page = min(size, _PAGE)
    for start in count(0, page):
        found = [layout.id_of(row) for row in passed[start : start + page]]
        refused = refused_deletions(buffer, found) if found else set()
        ids += [id for id in found if id not in refused]
        if len(found) < page or len(ids) >= size:
            break
    return ids[:size]


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
    removed = 0
    for id in ids:
        try:
            write = direct.write_if(buffer, id, partial(removal, id), whole=False)
        except Error as problem:
            if not is_refusal(problem):
                raise
            logger.warning("%s: an expired row cannot be deleted: %s", buffer, problem)
        else:
            removed += write is not None
    return removed
