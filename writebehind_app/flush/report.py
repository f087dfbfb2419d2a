"""Report a stored batch: a line in the log, signals, and the buffer's `on_flushed`."""

from __future__ import annotations

import logging

from writebehind_app.database.failures import is_end, kind
from writebehind_app.database.own_tables import migrate_first
from writebehind_app.declaration import Declaration, FlushedRow
from writebehind_app.english import counted
from writebehind_app.fields.fold import described
from writebehind_app.fields.stamps import moment
from writebehind_app.flush.writer import Applied
from writebehind_app.signals import dead_lettered, flushed
from writebehind_app.store.shard import Batch

logger = logging.getLogger("writebehind")

_without_tables: set[str] = set()  # the databases whose missing tables were logged


def report(buffer: Declaration, number: int, batch: Batch, applied: Applied) -> None:
    _without_tables.discard(buffer.layout().using)
    _log(buffer, number, batch, applied)
    if letters := applied.dead_letters:
        refused = counted(len(letters), "entry", "entries")
        logger.error("%s: the database refused %s: %s", buffer, refused, letters[0])
        dead_lettered.send_robust(buffer.model, buffer=buffer, shard=number, letters=letters)
    flushed.send_robust(buffer.model, buffer=buffer, shard=number, applied=applied)
    _call_hook(buffer, applied)


def _log(buffer: Declaration, number: int, batch: Batch, applied: Applied) -> None:
    """Log one line for a batch, for people and for machines."""
    found = {
        "buffer": buffer.label,
        "shard": number,
        "token": batch.token,
        "entries": len(batch.entries),
        "rows": applied.rows,
        "dead_letters": len(applied.dead_letters),
        "statements": applied.statements,
        "seconds": round(applied.seconds, 4),
        "attempts": batch.attempts,
    }
    line = " ".join(f"{name}={value}" for name, value in found.items())
    logger.info("batch %s", line, extra={"writebehind": found})


def _call_hook(buffer: Declaration, applied: Applied) -> None:
    """Call `on_flushed` of the buffer, if it has one."""
    if type(buffer).on_flushed is Declaration.on_flushed or not applied.written:
        return
    layout = buffer.layout()
    try:
        buffer.on_flushed(
            [
                FlushedRow(
                    key=layout.key_of(entry.id),
                    values=described(layout, entry),
                    delete=entry.deleted > 0,
                    at=moment(entry.last),
                )
                for entry in applied.written
            ]
        )
    except Exception as error:  # the hook is code of the project, and the batch is stored
        if is_end(error):
            raise
        logger.exception("%s: on_flushed failed", buffer)


def lacks_tables(buffer: Declaration, error: BaseException) -> bool:
    """Whether an error means that the package's own tables are missing. The first time for each
    database, log a line that says so."""
    using = buffer.layout().using
    if kind(error) != "schema":
        return False
    said = migrate_first(using)
    if said and using not in _without_tables:
        _without_tables.add(using)
        logger.error("%s Nothing is flushed to it, and what is pending waits meanwhile.", said)
    return bool(said)
