"""Examinations of the entries in Redis: does anybody flush them?"""

from __future__ import annotations

from collections.abc import Iterator

from writebehind_app.database.divided import renew
from writebehind_app.declaration import Declaration
from writebehind_app.doctor.finding import Finding, warning
from writebehind_app.doctor.redis_server import Examined
from writebehind_app.english import counted
from writebehind_app.store import overdue, state

_MINUTE = 60.0


def waiting(examined: Examined) -> Iterator[Finding]:
    """Whether entries wait that should be in the database by now."""
    for buffer, overview in _overviews(examined):
        shards = overview.values()
        age = max((shard.oldest for shard in shards), default=0)
        if not overdue.is_overdue(age, buffer.option("MAX_AGE")):
            continue
        what = (
            f"{buffer.label}: the oldest pending entry is {_duration(age)} old; max_age is "
            f"{buffer.option('MAX_AGE'):g} s."
        )
        if any(shard.paused for shard in shards):
            yield warning(
                137,
                what,
                "The buffer is paused: no flusher takes anything from it.",
                f"Run manage.py writebehind_resume {buffer.label} once the cause is mended.",
                buffer.label,
            )
        else:
            yield warning(
                130,
                what,
                "No flusher runs, or it cannot keep up, or a batch fails.",
                "Run manage.py flush_writebehind --loop, as a service, and see its log.",
                buffer.label,
            )


def failing(examined: Examined) -> Iterator[Finding]:
    """Whether the database refused a batch."""
    for buffer, overview in _overviews(examined):
        for key, shard in overview.items():
            if attempts := shard.attempts:
                reason = str(examined.client.hget(key, "error"))
                yield warning(
                    133,
                    f"{buffer.label}: a batch has failed, tries so far: {attempts}. The last one: "
                    f"{reason.splitlines()[0][:200]}",
                    "Its entries wait, and so do all later ones in its shard.",
                    "See the log 'writebehind' of the flusher; it is tried again by itself.",
                    buffer.label,
                )


def divided(examined: Examined) -> Iterator[Finding]:
    """Whether as many shards are in force as the settings say."""
    renew(examined.buffers, to_write=False)
    for buffer in examined.buffers:
        wished, in_force = buffer.option("SHARDS"), len(buffer.shard_keys())
        if wished != in_force:
            yield warning(
                136,
                f"{buffer.label} is to have {counted(wished, 'shard')} by these settings, and has "
                f"{in_force}.",
                "The number in Redis is in force for all processes, until somebody changes it.",
                f"Run manage.py writebehind_shards {buffer.label}. All processes may go on.",
            )


def _overviews(examined: Examined) -> Iterator[tuple[Declaration, dict[str, state.Overview]]]:
    renew(examined.buffers, to_write=False)
    for buffer in examined.buffers:
        yield buffer, state.overview(examined.client, buffer.shards())


def _duration(seconds: float) -> str:
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    minutes = seconds / _MINUTE
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"


EXAMINATIONS = {"oldest entries": waiting, "failed batches": failing, "number of shards": divided}
