"""G2 and G4, with somebody who acts before one of the statements of a flush, whichever it is.

What was accepted before the act comes first, whenever it is stored. So what the act found says what
there is in the end, and the moment does not matter. A nightly run:

    WRITEBEHIND_EXAMPLES=500 make test-all ARGS=tests/faults/test_between_statements.py
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connections
from django.db.models import F

from tests.backdoor.batches import end_lease
from tests.backdoor.flushes import isolate_at_once
from tests.faults.stories import EXAMPLES
from tests.models import Counter
from tests.router import current
from writebehind_app import Add, BufferedQuerySet, conf

pytestmark = [
    pytest.mark.parametrize("redis_server", ["valkey"], indirect=True),
    # SQLite lets nobody write while a flusher does.
    pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True),
]

Row = dict[str, Any]
Outcomes = Sequence[Row | None]

_PATIENCE = 0.12  # seconds for an act, which may have to wait for the flusher
_STATEMENTS = 16  # of a flush, at most


def row_with(row: Row | None, **values: Any) -> Row:
    return {**(row or {"small": 0, "big": None}), **values}


# What waits: the write, and what it makes of a row

WRITTEN: dict[str, tuple[Callable[[str], Any], Callable[[Row | None], Row | None]]] = {
    "set": (
        lambda name: Counter.buffered.set(name=name, small=22, big=Add(5)),
        lambda row: row_with(row, small=22, big=(row_with(row)["big"] or 0) + 5),
    ),
    "add": (
        lambda name: Counter.buffered.set(name=name, small=Add(5)),
        lambda row: row_with(row, small=row_with(row)["small"] + 5),
    ),
    "delete": (
        lambda name: Counter.buffered.delete(name=name),
        lambda row: None,
    ),
    "delete, set": (
        lambda name: (
            Counter.buffered.delete(name=name),
            Counter.buffered.set(name=name, small=22),
        ),
        lambda row: row_with(None, small=22),
    ),
}


# Acts: each returns what it found, and has what there may be afterwards


ACTS: dict[str, tuple[Callable[[str], Any], Callable[[Row | None, Any], Outcomes]]] = {}


def act(name: str, outcomes: Callable[[Row | None, Any], Outcomes]) -> Callable[..., None]:
    def note(function: Callable[[str], Any]) -> None:
        ACTS[name] = function, outcomes

    return note


def found(name: str) -> list[Counter]:
    return [*Counter.objects.filter(name=name)]


def rows(name: str) -> Any:
    return BufferedQuerySet(Counter, using=current()).filter(name=name)


def either(row: Row | None, count: int, **values: Any) -> Outcomes:
    """What there may be after a write to a stored row, if it found one. If that row is to go with a
    pending deletion, what was written goes along, or makes a row anew."""
    if not count:
        return [row]
    if row is None:
        return [None, row_with(None, **{n: v for n, v in values.items() if not callable(v)})]
    return [row | {name: v(row[name]) if callable(v) else v for name, v in values.items()}]


@act("create", lambda row, is_new: [row_with(None, big=1) if is_new else row])
def _(name: str) -> bool:
    try:
        Counter.objects.create(name=name, big=1)
    except IntegrityError:
        return False
    return True


@act("make and delete", lambda row, is_new: [None if is_new else row])
def _(name: str) -> bool:
    try:
        Counter.objects.create(name=name, big=1).delete()
    except IntegrityError:
        return False
    return True


@act(
    "update_or_create",
    lambda row, is_new: [row_with(None, small=7)] if is_new else either(row, 1, small=7),
)
def _(name: str) -> bool:
    return Counter.objects.update_or_create(name=name, defaults={"small": 7})[1]


@act(  # it writes what differs from the stored row, which may be newer than what was loaded
    "save",
    lambda row, count: (
        [*either(row, count, small=9), row_with(None, small=9, big=1)] if count else [row]
    ),
)
def _(name: str) -> int:
    loaded = found(name)
    for row in loaded:
        row.small = 9
        try:
            row.save()
        except IntegrityError:  # it was deleted and made anew
            return 0
    return len(loaded)


@act("delete", lambda row, count: {0: [row], 1: [None]}.get(count, [row, None]))
def _(name: str) -> int:
    loaded = found(name)
    if not loaded:
        return 0
    return 1 if sum(row.delete()[0] for row in loaded) else -1  # it was made anew meanwhile


@act("delete rows", lambda row, count: [None if count else row])
def _(name: str) -> int:
    return rows(name).delete()[0]


@act("update", lambda row, count: either(row, count, small=9))
def _(name: str) -> int:
    return rows(name).update(small=9)


@act("update by a sum", lambda row, count: either(row, count, small=lambda v: v + 100))
def _(name: str) -> int:
    return rows(name).update(small=F("small") + 100)


@act("bulk_update", lambda row, count: either(row, count, small=9))
def _(name: str) -> int:
    loaded = found(name)
    for row in loaded:
        row.small = 9
    return BufferedQuerySet(Counter, using=current()).bulk_update(loaded, ["small"])


@act("bulk_create", lambda row, _: [row_with(row, small=8)])
def _(name: str) -> None:
    unique = {} if connections[current()].vendor == "mysql" else {"unique_fields": ["name"]}
    BufferedQuerySet(Counter, using=current()).bulk_create(
        [Counter(name=name, small=8)], update_conflicts=True, update_fields=["small"], **unique
    )


def is_renamed(name: str, new: str) -> bool:
    for row in found(name):
        row.name = new
        try:
            row.save(update_fields=["name"])
        except DatabaseError:  # it was deleted, and perhaps made anew
            return False
        return True
    return False


@act("rename", lambda row, is_done: [None if is_done else row])
def _(name: str) -> bool:
    return is_renamed(name, f"{name}'")


@act("rename and back", lambda row, _: [row])
def _(name: str) -> None:
    if is_renamed(name, f"{name}'"):
        assert is_renamed(f"{name}'", name)


@act("rename another", lambda row, is_done: [{"small": 70, "big": 70} if is_done else row])
def _(name: str) -> bool:
    other = Counter.objects.create(name=f"o{name}", small=70, big=70)
    other.name = name
    try:
        other.save()
    except IntegrityError:
        return False
    return True


@act("direct set", lambda row, _: [row_with(row, small=50)])
def _(name: str) -> None:
    Counter.buffered.set(name=name, small=50)


@act("direct sum", lambda row, _: [row_with(row, big=(row_with(row)["big"] or 0) + 3)])
def _(name: str) -> None:
    Counter.buffered.set(name=name, big=Add(3))


@act("set", lambda row, _: [row_with(row, small=60)])
def _(name: str) -> None:
    Counter.buffered.set(name=name, small=60)


@act("take over", lambda row, _: [row])
def _(name: str) -> None:
    end_lease(Counter.buffered)
    Counter.buffered.flush()


class Other:
    """Somebody who acts before the n-th statement of this thread, or after the last one."""

    def __init__(self, act: Callable[[], Any], at: int) -> None:
        self._act, self._left = act, at
        self._thread: threading.Thread | None = None
        self.result: Any = None
        self.error: Exception | None = None

    def notice(self, execute: Any, *args: Any) -> Any:
        if not self._left:
            self._begin()
        self._left -= 1
        return execute(*args)

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        try:
            self.result = self._act()
        except Exception as error:  # noqa: BLE001 - it is raised in the thread of the test
            self.error = error
        finally:
            connections.close_all()

    def wait(self) -> None:
        if self._thread is None:
            self._begin()
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error:
            raise self.error


@pytest.fixture
def own_mode(configure: Callable[..., None]) -> Iterator[threading.local]:
    """Threads in which `own_mode.is_direct` is set write around Redis."""
    configure(CACHE_SECONDS=60)
    mine, found = conf.settings(), threading.local()
    theirs = replace(mine, MODE="direct")
    with pytest.MonkeyPatch.context() as patch:  # at an end before that of `settings`
        patch.setattr(
            conf, "settings", lambda: theirs if getattr(found, "is_direct", False) else mine
        )
        yield found


def stored(name: str) -> Row | None:
    return Counter.objects.filter(name=name).values("small", "big").first()


def read(name: str) -> Row | None:
    row = Counter.buffered.get_many([name]).get(name)
    return row and {"small": row.small, "big": row.big}


def play(
    own_mode: threading.local, *, written: str, what: str, is_there: bool, is_fenced: bool, at: int
) -> None:
    name = secrets.token_hex(5)
    row = {"small": 1, "big": 1} if is_there else None
    if row is not None:
        Counter.objects.create(name=name, **row)
    if is_fenced:  # another row of the batch is
        Counter.buffered.set(name=f"f{name}", small=5)
        Counter.objects.create(name=f"f{name}", big=1)
    write, after = WRITTEN[written]
    carry_out, outcomes = ACTS[what]
    read(name)  # so that there is a base
    write(name)
    expected, seen = after(row), []
    is_direct = what.startswith("direct")
    # What is pending is not seen around Redis, and a base may be older. A base may also be older
    # than an update() of rows that a flusher was about to commit: see the limits.
    reads = not is_direct and what not in ("update", "update by a sum")

    def act() -> Any:
        own_mode.is_direct = is_direct
        result = carry_out(name)
        if reads:
            seen.append(read(name))
        return result

    other = Other(act, at)
    with connections[current()].execute_wrapper(other.notice):
        flushed = [Counter.buffered.flush()]
    try:
        other.wait()
    except OperationalError:  # two that make one row at once may be in a deadlock: see the limits
        assert not is_direct
        return
    if reads:
        seen.append(read(name))
    flushed.append(Counter.buffered.flush())
    allowed = outcomes(expected, other.result)
    for one in (*seen, stored(name)):
        assert one in allowed
    for result in flushed:
        assert (result.errors, result.dead_letters) == (0, 0)
    if what == "rename" and other.result:
        assert stored(f"{name}'") == expected


@pytest.mark.parametrize("is_isolating", [False, True])
@pytest.mark.parametrize("what", [*ACTS])
def test_a_row(database, redis_server, own_mode, monkeypatch, rng, what, is_isolating):
    if is_isolating:
        isolate_at_once(monkeypatch)
    for _ in range(max(EXAMPLES // 6, 1)):
        details = {
            "written": rng.choice([*WRITTEN]),
            "is_there": rng.random() < 0.5,
            "is_fenced": rng.random() < 0.3,
            "at": rng.randrange(_STATEMENTS),
        }
        try:
            play(own_mode, what=what, **details)
        except Exception as error:
            raise AssertionError(f"{details}: {error!r}") from error
