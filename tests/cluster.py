"""`manage.py qcluster` as a process of its own, on the database and the Redis of its test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.signing import SignedPackage
from django_q.status import Status

from tests import child, router
from tests.keeper import keeper
from tests.servers import RedisServer
from writebehind_app import checkpoints


def run(hang: str) -> None:
    """In the process of a cluster. While there is a file of that name, the first worker that comes
    to the middle of a batch takes it away, and hangs."""

    def hook(step: str) -> None:
        if step == "flush.token":
            with suppress(FileNotFoundError):
                Path(hang).unlink()
                time.sleep(3600)

    checkpoints.hook = hook
    call_command("qcluster")


class Cluster:
    """A cluster that runs until `end()`."""

    def __init__(self, log: Path, **options: Any) -> None:
        self.log = log
        self.hang = log.with_name("hang")
        settings = {"orm": router.current(), "workers": 2, "catch_up": False, **options}
        with log.open("a") as output:
            self.process = child.process(
                run,
                [str(self.hang)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "WRITEBEHIND_TEST_CLUSTER": json.dumps(settings)},
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def ticking(self) -> int | None:
        """The process of a worker that is at a tick. One that waits for a task must not be killed:
        it has the lock of the queue, and Django-Q2 never gets it back."""
        output = self.output
        tasks = re.findall(r"(\S+) processing (\S+) '\S+flush_due'", output)
        for name, task in reversed(tasks):
            if f"({task})" not in output:
                return int(re.search(rf"{name} ready for work at (\d+)", output)[1])
        return None

    def wait_for(self, pattern: str, timeout: float = 30) -> re.Match[str]:
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.output)):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)
        return found

    def end(self) -> None:
        keeper().end(self.process, signal.SIGTERM, timeout=15)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@contextmanager
def cluster_that_runs(server: RedisServer, settings: Any) -> Iterator[None]:
    """One says that it runs, in a cache that all processes see."""
    before = settings.CACHES
    location = server.url.replace("/0", "/3")
    shared = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": location}
    settings.CACHES = {**before, "default": shared}
    key = f"{Conf.Q_STAT}:1"
    get_broker().set_stat(key, SignedPackage.dumps(Status(1, "1"), True), 30)
    try:
        yield
    finally:
        get_broker().cache.delete(key)
        get_broker().cache.delete(Conf.Q_STAT)
