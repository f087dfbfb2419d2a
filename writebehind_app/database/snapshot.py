"""Read stored rows, the ledger and the fences with one statement, and so as of one moment.

The ledger says whether the batch in flight is stored already, and whether a later one is. The
fences say which writes went past Redis. A second statement, before the rows or after them, would
see another moment: then a sum would count twice, or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from django.db import connections

from writebehind_app.database.fences import Fences, digests, no_fence
from writebehind_app.database.lookup import answered, instances, may_be_equal, params_of, select
from writebehind_app.database.statements import parts, placeholders, size_of
from writebehind_app.declaration import KeyedDeclaration
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.layout import Layout
from writebehind_app.models import AppliedBatch
from writebehind_app.models import Fence as StoredFence

_LEDGER, _FENCES = AppliedBatch._meta.db_table, StoredFence._meta.db_table


class Asked(NamedTuple):
    """What to ask about one id, beside its rows."""

    acked: str = ""  # the token of a batch that is known to be stored: is it?
    token: str = ""  # the token of the batch in flight with the id: is it stored?
    shard: int = -1  # is a batch of this shard stored that is later than …
    batch: int = 0  # … the batch with this number?
    row_ids: frozenset[str] = frozenset()  # the rows whose fences count


class Seen(NamedTuple):
    """What the statement says about one id."""

    stored: Any | None  # the row, or the rows of the entity
    fence_of: Callable[[str], Fence | None]  # the fence of a row, by the id of the row
    is_applied: bool = False  # the batch in flight is stored
    is_overtaken: bool = False  # a later batch is stored
    is_too_old: bool = False  # the snapshot lacks a batch that is known to be stored


class _Found(NamedTuple):
    """The answer to one statement."""

    rows: list[Any]
    tokens: frozenset[str] = frozenset()  # tokens that are in the ledger
    shards: frozenset[int] = frozenset()  # shards of which a later batch is stored
    fences: Mapping[str, Fence] = {}  # by digest

    def of(self, buffer: KeyedDeclaration, rows: Sequence[Any], asked: Asked) -> Seen:
        return Seen(
            buffer.gathered(rows),
            Fences.found(buffer, asked.row_ids, self.fences).of if asked.row_ids else no_fence,
            asked.token in self.tokens,
            asked.shard in self.shards,
            bool(asked.acked) and asked.acked not in self.tokens,
        )


def snapshot(buffer: KeyedDeclaration, asked: Mapping[str, Asked]) -> dict[str, Seen]:
    """What is stored for each id. One statement, or a few if one would be too large; each id is
    read by a single statement."""
    layout, is_entity = buffer.key_layout(), buffer.names().is_entity
    found: dict[str, Seen] = {}
    if len(asked) == 1:  # what is found belongs to this id, even if its text differs
        [(id, of)] = asked.items()
        said = _execute(buffer, [id], [of])
        return {id: said.of(buffer, said.rows, of)}
    for chunk in parts(connections[layout.using], [*asked], size_of):
        whole = _execute(buffer, chunk, [asked[id] for id in chunk])
        by_id: dict[str, list[Any]] = defaultdict(list)
        for row in whole.rows:
            by_id[layout.id_of(row)].append(row)
        others = by_id.keys() - {*chunk}
        every = bool(others) and is_entity
        left = [id for id in chunk if every or id not in by_id]
        apart: dict[str, _Found] = {}
        # The database may treat another spelling of a key as equal, and only the database knows.
        # Mostly there is none, and one statement says so.
        if left and by_id and (others or may_be_equal(layout, left, [*by_id.items()])):
            several = len(left) > 1 and not every
            if not several or _execute(buffer, left, [asked[id] for id in left]).rows:
                apart = {id: _execute(buffer, [id], [asked[id]]) for id in left}
        for id in chunk:
            said = apart.get(id, whole)
            found[id] = said.of(buffer, said.rows if id in apart else by_id.get(id, []), asked[id])
    return found


def _execute(buffer: KeyedDeclaration, ids: Sequence[str], asked: Sequence[Asked]) -> _Found:
    layout = buffer.key_layout()
    acked = {each.acked for each in asked if each.acked}
    in_flight = {each.token for each in asked if each.token}
    later = {each.shard: each.batch for each in asked if each.shard >= 0}
    row_ids = {id for each in asked for id in each.row_ids}
    fences = digests(buffer, row_ids) if row_ids else ()
    rows, params = select(layout, len(ids)), params_of(layout, ids)
    if not (acked or in_flight or later or fences):  # as mostly
        return _Found(instances(layout, answered(layout, rows.sql, params)))
    params = [*params[rows.ordering :], *params[: rows.ordering], *acked, *in_flight]
    for batch in later.values():
        params += (buffer.label, batch)
    if fences:
        params += (buffer.label, *fences)
    sql = _text(layout, len(ids), len(acked), len(in_flight), (*later,), len(fences))
    answer = answered(layout, sql, params)
    of_kind: dict[int, list[Sequence[Any]]] = {kind: [] for kind in range(4)}
    for kind, _, *rest in sorted(answer, key=itemgetter(1)) if rows.order else answer:
        of_kind[kind].append(rest)
    return _Found(
        instances(layout, [row[2:] for row in of_kind[_ROW]]),
        frozenset(token for token, *_ in of_kind[_TOKEN]),
        frozenset(int(shard) for shard, *_ in of_kind[_LATER]),
        {digest: Fence.loaded(marks) for digest, marks, *_ in of_kind[_FENCE]},
    )


_ROW, _TOKEN, _LATER, _FENCE = range(4)
_TEXTS = 1000  # statements that are kept


@lru_cache(_TEXTS)
def _text(
    layout: Layout, ids: int, acked: int, in_flight: int, later: Sequence[int], fences: int
) -> str:
    """The statement that asks for these shards, and so many of everything else."""
    rows = select(layout, ids)
    # The other parts have NULL for the columns of rows. Rows come first: they set the types.
    place = f"ROW_NUMBER() OVER (ORDER BY {rows.order})" if rows.order else "0"
    found = [f"SELECT {_ROW}, {place}, NULL, NULL, {rows.rows}"]

    def add(kind: int, said: str, rest: str) -> None:
        found.append(f"SELECT {kind}, 0, {said}, {rows.nulls} {rest}")

    if acked:  # that of a division is void
        add(_TOKEN, "token, NULL", f"FROM {_LEDGER} WHERE token IN ({placeholders(acked)})")
    if in_flight:  # void: nothing was applied under it
        own = f"FROM {_LEDGER} WHERE duration IS NOT NULL AND token IN ({placeholders(in_flight)})"
        add(_TOKEN, "token, NULL", own)
    dual = "FROM DUAL " if connections[layout.using].vendor == "mysql" else ""
    for shard in later:
        batch = f"SELECT 1 FROM {_LEDGER} WHERE buffer = %s AND shard = {shard:d} AND upto > %s"
        add(_LATER, f"'{shard:d}', NULL", f"{dual}WHERE EXISTS ({batch})")
    if fences:
        own = f"FROM {_FENCES} WHERE buffer = %s AND digest IN ({placeholders(fences)})"
        add(_FENCE, "digest, marks", own)
    return " UNION ALL ".join(found)
