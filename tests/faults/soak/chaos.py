"""Kills and freezes processes and servers at random moments, and brings them back."""

from __future__ import annotations

import heapq
import itertools
import random
import signal
import subprocess
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests import child
from tests.keeper import keeper
from tests.servers import RedisServer
from tests.servers.databases import PrivateServer

_PAUSE = 0.8  # seconds between two acts, on average


class Decision(NamedTuple):
    """What is done next."""

    pause: float
    act: str
    target: float  # from 0 to 1: which of the workers
    seconds: float  # how long it stays frozen, or down


def decisions(seed: int) -> Iterator[Decision]:
    """The same for the same seed."""
    choose = random.Random(seed)
    acts = ["kill worker"] * 5 + ["freeze worker"] * 4
    acts += ["kill redis", "freeze redis", "kill database"]
    while True:
        choose.shuffle(acts)
        for act in acts:
            pause = min(choose.expovariate(1 / _PAUSE), 3 * _PAUSE)
            yield Decision(pause, act, choose.random(), choose.uniform(0, 2.5))


class Worker:
    """A process that is started again when it was killed."""

    def __init__(self, function: Callable[..., None], *args: Any) -> None:
        self.name = function.__name__
        self._function, self._args = function, args
        self._life = 0
        self.start()

    def start(self) -> None:
        self._life += 1
        self.process: subprocess.Popen[str] = child.start(
            self._function, *self._args, life=self._life
        )

    def kill(self) -> None:
        self.process.kill()  # a frozen one dies frozen
        child.end(self.process)

    def end(self) -> int:
        """Tell it to end; its exit code."""
        keeper().end(self.process, signal.SIGTERM, timeout=60)
        child.end(self.process)
        # One that was told before it could listen did nothing yet.
        return 0 if self.process.returncode == -signal.SIGTERM else self.process.returncode


class Chaos:
    """Carries decisions out, and undoes what has to be undone."""

    def __init__(
        self,
        workers: list[Worker],
        redis: RedisServer | None,
        database: PrivateServer | None,
    ) -> None:
        self.workers, self.redis, self.database = workers, redis, database
        self.done: Tally[str] = Tally()
        self.problems: list[str] = []
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._down: set[str] = set()

    def run(self, seed: int, until: float) -> None:
        for decision in decisions(seed):
            self._wait(min(time.monotonic() + decision.pause, until))
            if time.monotonic() >= until:
                break
            self._carry_out(decision)
        for *_, undo in sorted(self._later):
            undo()

    def _wait(self, until: float) -> None:
        while (now := time.monotonic()) < until:
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            self.watch()
            time.sleep(0.02)

    def watch(self) -> None:
        """A worker may be killed, and never end by itself."""
        for worker in self.workers:
            if (code := worker.process.poll()) is not None:
                self.problems.append(f"{worker.name} ended by itself, with {code}")
                worker.kill()
                worker.start()

    def _carry_out(self, decision: Decision) -> None:
        worker = self.workers[int(decision.target * len(self.workers))]
        match decision.act:
            case "kill worker":
                self.done[f"{worker.name} killed"] += 1
                worker.kill()
                worker.start()
            case "freeze worker":
                self.done[f"{worker.name} frozen"] += 1
                frozen = worker.process
                frozen.send_signal(signal.SIGSTOP)
                self._undo(decision, lambda: frozen.send_signal(signal.SIGCONT))
            case "kill redis" if self.redis:
                self._take_down("redis", "killed", decision, self.redis.kill, self.redis.start)
            case "freeze redis" if self.redis:
                self._take_down("redis", "frozen", decision, self.redis.pause, self.redis.resume)
            case "kill database" if self.database:
                start, kill = self.database.start, self.database.kill
                self._take_down("database", "killed", decision, kill, start)

    def _take_down(
        self,
        name: str,
        how: str,
        decision: Decision,
        act: Callable[[], None],
        undo: Callable[[], None],
    ) -> None:
        if name in self._down:
            return
        self.done[f"{name} {how}"] += 1
        self._down.add(name)
        act()

        def bring_back() -> None:
            undo()
            self._down.remove(name)

        self._undo(decision, bring_back)

    def _undo(self, decision: Decision, undo: Callable[[], None]) -> None:
        at = time.monotonic() + decision.seconds
        heapq.heappush(self._later, (at, next(self._count), undo))

    @property
    def kills(self) -> int:
        return sum(count for what, count in self.done.items() if what.endswith("killed"))
