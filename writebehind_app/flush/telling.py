"""What is told of a batch that is in the database: to the log, by signals, and to its buffer."""

from __future__ import annotations

import logging

from writebehind_app.declaration import Declaration, FlushedRow
from writebehind_app.fields.fold import described
from writebehind_app.fields.layout import moment
from writebehind_app.flush.writer import Applied
from writebehind_app.signals import dead_lettered, flushed
from writebehind_app.store.shard import Batch

logger = logging.getLogger("writebehind")


def tell(buffer: Declaration, number: int, batch: Batch, applied: Applied) -> None:
    _log(buffer, number, batch, applied)
    if letters := applied.dead_letters:
        logger.error("%s: the database refused %d entries: %s", buffer, len(letters), letters[0])
        dead_lettered.send_robust(buffer.model, buffer=buffer, shard=number, letters=letters)
    flushed.send_robust(buffer.model, buffer=buffer, shard=number, applied=applied)
    _call_hook(buffer, applied)


def _log(buffer: Declaration, number: int, batch: Batch, applied: Applied) -> None:
    """One line for a batch, for people and for machines."""
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
    """Call the hook of the buffer, if it has one."""
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
    except Exception:  # it is the project's; the batch is stored
        logger.exception("%s: on_flushed failed", buffer)
