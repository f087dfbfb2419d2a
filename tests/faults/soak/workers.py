"""The processes of a soak. Each may be killed at any moment, and begins another life then."""

from __future__ import annotations

import datetime
import logging
import random
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import redis
from django import db
from django.core.management import call_command
from django.db.models import F

from tests.backdoor.breaker import failures, is_asked
from tests.backdoor.connection import ping
from tests.faults.soak.facts import Effect, Facts, Journal, Outcome
from tests.models import Counter, Line, Member, Note, Owner, Team
from tests.router import current
from writebehind_app import Add, BufferedQuerySet, checkpoints, conf
from writebehind_app.exceptions import AlreadyExists, BufferUnavailable, Overtaken, WriteUncertain

OUTAGES = (BufferUnavailable, db.Error)
SHARED = [f"s{n}" for n in range(4)]
CONTENDED = "cas"
OWNER = 1
LABELS = ("tests.Counter", "tests.Note", "tests.Line", "tests.Team", "tests.Member")


def flush(directory: str, life: int) -> None:
    """The command as it is run in production, which ends at SIGTERM; only that it dawdles at each
    step, so that death finds it at any of them, and not asleep between two passes."""
    _prepare(directory)
    checkpoints.hook = lambda step: time.sleep(random.expovariate(50))
    call_command("flush_writebehind", *LABELS, loop=True, interval=0.05, verbosity=0)


def write(directory: str, number: int, seed: int, life: int) -> None:
    _prepare(directory)
    _until_told(Writer(Path(directory), number, seed, life).step)


def save(directory: str, number: int, seed: int, life: int) -> None:
    _prepare(directory)
    _until_told(Saver(Path(directory), number, seed, life).step)


def read(directory: str, number: int, life: int) -> None:
    _prepare(directory)
    _until_told(Reader(Path(directory), number, life).step)


def _prepare(directory: str) -> None:
    """What the package logs goes to a file: in a soak it has much to say."""
    logger = logging.getLogger("writebehind")
    logger.addHandler(logging.FileHandler(Path(directory) / "log"))
    logger.propagate = False


def _until_told(step: Callable[[], None]) -> None:
    told = False

    def stop(*args: Any) -> None:
        nonlocal told
        told = True

    signal.signal(signal.SIGTERM, stop)
    while not told:
        step()


Call = tuple[list[Effect], Callable[[], Any]]  # what it does, and how it is made


class Beaten(Exception):
    """Another writer came first."""


class Sight:
    """Notes what is wrong with what was seen, while Redis was there: without it, what is pending is
    not to be seen."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._before = -1
        self._problems: list[str] = []

    def problem(self, problem: str) -> None:
        self._problems.append(problem)

    def begin(self) -> None:
        self._before = failures()
        self._problems.clear()

    def end(self) -> bool:
        """Says whether Redis was there all the time."""
        was_there = self._before == failures() and is_asked()
        if was_there:
            for problem in self._problems:
                self._journal.problem(problem)
        return was_there


class Writer:
    """Writes to places of its own, and to some that all writers add to."""

    saves = False  # whether it writes past Redis while that is there
    own = "wg"  # what the names of its rows begin with

    def __init__(self, directory: Path, number: int, seed: int, life: int) -> None:
        self.journal = Journal(directory / f"writer-{number}-{life}")
        self.sight = Sight(self.journal)
        self.facts = Facts()
        self.choose = random.Random(f"{seed} {number} {life}")
        self.me = f"{number}.{life}"
        self.metadata = Note.buffered.of(page=f"w{self.me}", owner=Owner(pk=OWNER))
        self.lines: deque[tuple[float, str]] = deque(maxlen=200)  # when they were sent
        self.calls = 0

    def kinds(self) -> Sequence[Callable[[int], Call]]:
        return (
            self.row,
            *(self.shared, self.several) * 2,
            self.meta,
            self.shared_meta,
            self.come_and_go,
            self.line,
            *(() if conf.settings().WHEN_DOWN == "direct" else self.not_in_outages()),
        )

    def not_in_outages(self) -> Sequence[Callable[[int], Call]]:
        """What may come out otherwise where it goes past what Redis holds."""
        return (self.family, self.family, self.compare_and_set, self.repeated)

    def step(self) -> None:
        self.calls += 1
        kind = self.choose.choice(self.kinds())
        effects, call = kind(self.calls)
        outcome: Outcome = "acknowledged"
        self.journal.begin(kind.__name__, effects)
        self.sight.begin()
        try:
            call()
        except WriteUncertain:
            outcome = "unsure"
        except (Overtaken, Beaten):  # create() waited for a flusher, which was killed
            outcome = "refused"
        except BufferUnavailable:  # of several writes, some may have been taken
            is_one = len({e.where for e in effects}) <= 2 and not self.saves
            is_one &= kind not in (self.family, self.repeated)
            outcome = "refused" if is_one else "unsure"
        except db.Error:  # met before anything was sent, unless it is a direct write that ended so
            is_direct = self.saves or conf.settings().WHEN_DOWN == "direct"
            outcome = "unsure" if is_direct else "refused"
        except AlreadyExists as error:  # create() is called where there is no row for sure
            outcome = "refused"
            self.sight.problem(f"backwards: {error}")
        self.sight.end()
        self.journal.end(outcome)
        self.facts.take(effects, outcome)
        if outcome != "acknowledged":
            _recover()
        elif self.choose.random() < 0.15:
            self.sight.begin()
            try:
                self.read_own()
            except OUTAGES:
                _recover()
            self.sight.end()
        time.sleep(self.choose.expovariate(200))

    # Calls, and what they do

    def amount(self) -> int:
        return self.choose.randrange(1, 10**9)

    def row(self, n: int) -> Call:
        x, name = self.amount(), f"w{self.me}"
        effects = [
            Effect("set", f"Counter {name} small", n),
            Effect("add", f"Counter {name} big", x),
        ]
        return effects, lambda: Counter.buffered.set(name=name, small=n, big=Add(x))

    def shared(self, n: int) -> Call:
        x, name = self.amount(), self.choose.choice(SHARED)
        effects = [Effect("add", f"Counter {name} big", x)]
        return effects, lambda: Counter.buffered.set(name=name, big=Add(x))

    def several(self, n: int) -> Call:
        amounts = {name: self.amount() for name in SHARED}
        effects = [Effect("add", f"Counter {name} big", x) for name, x in amounts.items()]
        rows = [{"name": name, "big": Add(x)} for name, x in amounts.items()]
        return effects, lambda: Counter.buffered.set_many(rows)

    def meta(self, n: int) -> Call:
        x, where = self.amount(), f"Note w{self.me}"
        effects = [Effect("set", f"{where} last", n), Effect("add", f"{where} sum", x)]
        return effects, lambda: self.metadata.update(last=n, sum=Add(x))

    def shared_meta(self, n: int) -> Call:
        x = self.amount()
        everyones = Note.buffered.of(page="all", owner=Owner(pk=OWNER))
        return [Effect("add", "Note all sum", x)], lambda: everyones.update(sum=Add(x))

    def come_and_go(self, n: int) -> Call:
        name = f"g{self.me}"
        where = f"Counter {name} small"
        if self.choose.random() < 0.4:
            return [Effect("set", where, None)], lambda: Counter.buffered.delete(name=name)
        verb = Counter.buffered.set
        if self.facts.states[where] == [None]:
            verb = Counter.buffered.create
        return [Effect("set", where, n)], lambda: verb(name=name, small=n)

    def family(self, n: int) -> Call:
        """A team and its members are written, and the team goes, with all its members."""
        team = f"t{self.me}.{self.choose.randrange(2)}"
        members = [f"{team}.{i}" for i in range(2)]
        chosen = self.choose.choice(members)
        if self.choose.random() < 0.3:
            effects = [Effect("set", f"Member {slug} points", None) for slug in members]
            effects.append(Effect("set", f"Team {team} points", None))
            return effects, lambda: Team.buffered.delete(slug=team)

        def made() -> None:
            Team.buffered.set(slug=team, points=n)
            Member.buffered.set(slug=chosen, team=team, points=n)

        effects = [Effect("set", f"{of} points", n) for of in (f"Team {team}", f"Member {chosen}")]
        return effects, made

    def compare_and_set(self, n: int) -> Call:
        x = self.amount()

        def call() -> None:
            big = Counter.buffered.get(name=CONTENDED).big
            if not Counter.buffered.set_if({"big": big}, name=CONTENDED, big=big + x):
                raise Beaten

        return [Effect("add", f"Counter {CONTENDED} big", x)], call

    def repeated(self, n: int) -> Call:
        """Again, where nobody is sure, with the same idempotency key."""
        x, name = self.amount(), self.choose.choice(SHARED)

        def call() -> None:
            for _ in range(3):
                try:
                    return add()
                except (WriteUncertain, BufferUnavailable):
                    time.sleep(0.3)
            add()

        def add() -> None:
            Counter.buffered.set(name=name, big=Add(x), once=f"{self.me} {n}")

        return [Effect("add", f"Counter {name} big", x)], call

    def line(self, n: int) -> Call:
        text = f"{self.me}.{n}"
        self.lines.append((time.time(), text))
        return [Effect("append", text)], lambda: Line.buffered.append(text=text)

    # Own writes are read

    def read_own(self) -> None:
        names = [f"{kind}{self.me}" for kind in self.own]
        rows = Counter.buffered.get_many(names)
        for name in names:
            row = rows.get(name)
            self.check(f"Counter {name} small", row and row.small)
            self.check(f"Counter {name} big", row and row.big)
        values = dict(self.metadata.items())
        self.check(f"Note w{self.me} last", values.get("last"))
        self.check(f"Note w{self.me} sum", values.get("sum"))
        self.read_lines()

    def check(self, where: str, found: int | None) -> None:
        if problem := self.facts.problem(where, found):
            self.sight.problem(f"{problem} (read by the writer itself)")

    def read_lines(self) -> None:
        since = time.time() - 1.5
        at = datetime.datetime.fromtimestamp(since, datetime.UTC)
        texts = [line.text for line in Line.buffered.window(at)]
        if len(set(texts)) < len(texts):
            self.sight.problem("doubled: a line, in a window")
        for sent, text in self.lines:
            acknowledged = self.facts.appended.get(text) == "acknowledged"
            # What goes around Redis has the time as this process knows it, which is a little late.
            if sent > since + 0.5 and acknowledged and text not in texts:
                self.sight.problem(f"lost: line {text}, in a window")


class Saver(Writer):
    """Reads and saves with the ORM rows that it, or all writers, write through the buffer, too."""

    saves = True
    own = "od"

    def kinds(self) -> Sequence[Callable[[int], Call]]:
        return (
            *(self.save_some, self.save_all, self.add, self.update),
            *(self.come_and_go, self.buffered, self.meta),
            *(self.add_shared, self.touch_shared) * 4,  # where writers and savers meet
        )

    def small(self, *values: int) -> list[Effect]:
        """`mine()` makes the row with 0 first, in a transaction of its own."""
        where = f"Counter o{self.me} small"
        made = (0,) if self.facts.states[where] == [None] else ()
        return [Effect("set", where, value) for value in (*made, *values)]

    def mine(self) -> Counter:
        return Counter.objects.get_or_create(name=f"o{self.me}", defaults={"big": 0})[0]

    def save_some(self, n: int) -> Call:
        def call() -> None:
            row = self.mine()
            row.small = n
            row.save(update_fields=["small"])

        return self.small(n), call

    def save_all(self, n: int) -> Call:
        def call() -> None:
            self.mine()
            with db.transaction.atomic(using=current()):
                row = Counter.objects.select_for_update().get(name=f"o{self.me}")
                row.small = n
                row.save()

        return self.small(n), call

    def add(self, n: int) -> Call:
        x = self.amount()

        def call() -> None:
            row = self.mine()
            row.big = F("big") + x
            row.save(update_fields=["big"])

        return [*self.small(), Effect("add", f"Counter o{self.me} big", x)], call

    def update(self, n: int) -> Call:
        def call() -> None:
            self.mine()
            rows: BufferedQuerySet[Counter] = BufferedQuerySet(Counter, using=current())
            rows.filter(name=f"o{self.me}").update(small=n)

        return self.small(n), call

    def add_shared(self, n: int) -> Call:
        x, name = self.amount(), self.choose.choice(SHARED)

        def call() -> None:
            row = Counter.objects.get(name=name)
            row.big = F("big") + x
            row.save(update_fields=["big"])

        return [Effect("add", f"Counter {name} big", x)], call

    def touch_shared(self, n: int) -> Call:
        """A form of another field, saved in full: what all add to is not to be touched by it."""
        name = self.choose.choice(SHARED)

        def call() -> None:
            with db.transaction.atomic(using=current()):
                row = Counter.objects.select_for_update().get(name=name)
                row.real = n
                row.save()

        return [], call

    def buffered(self, n: int) -> Call:
        x, name = self.amount(), f"o{self.me}"
        effects = [*self.small(n), Effect("add", f"Counter {name} big", x)]

        def call() -> None:
            self.mine()
            Counter.buffered.set(name=name, small=n, big=Add(x))

        return effects, call

    def come_and_go(self, n: int) -> Call:
        """Deleted and made by either."""
        name = f"d{self.me}"
        where = f"Counter {name} small"

        def gone() -> None:
            Counter.objects.get_or_create(name=name)[0].delete()  # it may be pending alone

        def made() -> None:
            row = Counter.objects.filter(name=name).first() or Counter(name=name)
            row.small = n
            row.save()

        if self.choose.random() < 0.3:
            return [Effect("set", where, n)], lambda: Counter.buffered.set(name=name, small=n)
        if self.choose.random() < 0.2:
            return [Effect("set", where, None)], lambda: Counter.buffered.delete(name=name)
        if self.choose.random() < 0.4:
            return [Effect("set", where, 0), Effect("set", where, None)], gone
        return [Effect("set", where, n)], made


class Reader:
    """Sees sums that only grow, through the buffer and in the database."""

    def __init__(self, directory: Path, number: int, life: int) -> None:
        self.sight = Sight(Journal(directory / f"reader-{number}-{life}"))
        self.buffered: dict[str, int] = {}
        self.stored: dict[str, int] = {}

    def step(self) -> None:
        before = self.buffered.copy()
        self.sight.begin()
        try:
            latest = Counter.objects.filter(name__startswith="w").order_by("-pk")[:20]
            shared = Counter.objects.filter(name__in=SHARED)
            self.see(self.stored, _places([*latest, *shared]), "stored")
            rows = Counter.buffered.get_many(SHARED).values()
            self.see(self.buffered, _places(rows), "get_many")
            self.see(self.buffered, _places(Counter.buffered.overlay(shared)), "overlay")
            key = ("all", Owner(pk=OWNER))
            values = Note.buffered.get_many([key])[key]
            notes = {f"Note all {name}": value for name, value in values.items()}
            self.see(self.buffered, notes, "metadata")
        except OUTAGES:
            _recover()
        if not self.sight.end():
            self.buffered = before
        time.sleep(0.02)

    def see(self, before: dict[str, int], now: dict[str, int], how: str) -> None:
        for where, value in now.items():
            # What is stored was pending before.
            least = max(before.get(where, 0), self.stored.get(where, 0))
            if value < least:
                self.sight.problem(f"backwards: {where} was {least}, then {value} ({how})")
            before[where] = value


def _places(rows: Iterable[Counter]) -> dict[str, int]:
    small = {f"Counter {row.name} small": row.small for row in rows}
    return small | {f"Counter {row.name} big": row.big or 0 for row in rows}


def _recover() -> None:
    """Wait for Redis, if nothing is done without it, and leave a broken connection to the database
    behind."""
    for connection in db.connections.all(initialized_only=True):
        connection.close_if_unusable_or_obsolete()
    while conf.settings().WHEN_DOWN == "raise":
        try:
            if is_asked():
                ping()
                return
        except redis.RedisError:
            pass
        time.sleep(0.05)
