"""A soak on servers of its own; exits with 0 where nothing is wrong."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests import router, servers
from tests.keeper import keeper
from tests.servers import RedisServer
from tests.servers.databases import ENGINES, PrivateServer
from tests.servers.process import Absent

if TYPE_CHECKING:
    from tests.faults.soak.chaos import Worker

ABSENT = 3  # the exit code where there is no such server

OPTIONS = {
    "LEASE": 1,
    "MAX_AGE": 0.2,
    "BATCH_SIZE": 40,
    "SHARDS": 2,
    "BACKOFF": 0.05,
    "MAX_BACKOFF": 1,
    "SOCKET_TIMEOUT": 0.5,
}
FLUSHERS, WRITERS, READERS, SAVERS = 3, 3, 1, 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    engines = {engine.alias: engine for engine in ENGINES}
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--database", choices=["sqlite", *engines], default="sqlite")
    parser.add_argument("--redis", choices=RedisServer.KINDS, default="valkey")
    parser.add_argument("--when-down", choices=["raise", "direct"], default="raise")
    parser.add_argument("--orm", action="store_true", help="with processes that save rows")
    # Who cannot reach Redis leaves bases as they are: nothing happens to it.
    parser.add_argument("--bases", action="store_true", help="with bases, and a Redis that stays")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"soak of {options.minutes:g} minutes on {options.database}, SEED={options.seed}")
    try:
        redis = RedisServer(options.redis, appendfsync="always")
        engine = engines.get(options.database)
        database = engine and PrivateServer(engine)
    except Absent as reason:
        print(reason)
        return ABSENT
    redis.start()
    OPTIONS["WHEN_DOWN"] = options.when_down
    if options.bases:
        OPTIONS.update(CACHE_SECONDS=60, SOCKET_TIMEOUT=20)  # no answer comes too late
    _set_up(options.database, redis, database)
    return _soak(options, redis, database)


def _set_up(alias: str, redis: RedisServer, database: PrivateServer | None) -> None:
    """Tables, and an environment from which this process and the workers take their settings."""
    os.environ[servers.ENVIRONMENT] = json.dumps(
        {
            "directory": str(keeper().directory),
            "database_name": "writebehind_soak",
            "databases": {alias: database.login} if database else {},
            "redis": {redis.kind: redis.url},
        }
    )
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    os.environ["WRITEBEHIND_TEST_REDIS"] = redis.url
    os.environ["WRITEBEHIND_TEST_OPTIONS"] = json.dumps(OPTIONS)
    alias = "default" if alias == "sqlite" else alias
    router.use(alias)
    import django
    from django.test.utils import setup_databases, setup_test_environment

    django.setup()
    setup_test_environment()
    setup_databases(verbosity=0, interactive=False, aliases={"default", alias})


def _soak(options: argparse.Namespace, redis: RedisServer, database: PrivateServer | None) -> int:
    # What has models comes after the settings.
    from django.db import connections

    from tests.backdoor.connection import hang_up
    from tests.faults.soak import workers
    from tests.faults.soak.chaos import Chaos, Worker
    from tests.faults.soak.verdict import judge
    from tests.models import Counter, Owner
    from writebehind_app import registry

    Owner.objects.create(pk=workers.OWNER, name="everyone")
    there = [workers.CONTENDED, *(workers.SHARED if options.orm else ())]
    Counter.objects.bulk_create(Counter(name=name, big=0) for name in there)
    connections.close_all()  # which the soak would cut
    directory = keeper().directory / "soak"
    directory.mkdir()
    where = str(directory)
    flushers = [Worker(workers.flush, where) for _ in range(FLUSHERS)]
    readers = [Worker(workers.read, where, n) for n in range(READERS)]
    writers = [Worker(workers.write, where, n, options.seed) for n in range(WRITERS)]
    if options.orm:
        numbers = range(WRITERS, WRITERS + SAVERS)
        writers += [Worker(workers.save, where, n, options.seed) for n in numbers]

    started = time.monotonic()
    everyone = [*flushers, *readers, *writers]
    chaos = Chaos(everyone, None if options.bases else redis, database)
    chaos.run(options.seed, started + options.minutes * 60)
    problems = chaos.problems

    def left() -> int:
        hang_up()
        return sum(registry.buffers()[label].count_pending() for label in workers.LABELS)

    problems += _ended(writers)
    deadline = time.monotonic() + 120
    while left() and time.monotonic() < deadline:
        time.sleep(0.1)
    problems += _ended([*readers, *flushers])

    found, figures = judge(directory)
    problems += found
    print(f"{time.monotonic() - started:.0f} s on {redis.kind} and {options.database}")
    for name, count in sorted({**chaos.done, **figures}.items()):
        print(f"  {count:7} {name}")
    print(f"  {chaos.kills:7} kills in all")
    for kind in ("lost", "doubled", "backwards"):
        print(f"  {sum(problem.startswith(kind) for problem in problems):7} {kind}")
    if problems:
        print(*problems[:50], sep="\n")
        print((directory / "log").read_text()[-5000:])
        kept = tempfile.mkdtemp(prefix="soak")
        shutil.copytree(directory, kept, dirs_exist_ok=True)
        print(f"What each process did, and the log: {kept}")
        print(
            f"Again: make soak MINUTES={options.minutes:g} DATABASE={options.database} "
            f"WHEN_DOWN={options.when_down} SEED={options.seed}{' ORM=1' if options.orm else ''}"
            f"{' BASES=1' if options.bases else ''}"
        )
    return 1 if problems else 0


def _ended(workers: Iterable[Worker]) -> list[str]:
    codes = [(worker.name, worker.end()) for worker in workers]
    return [f"{name} ended with {code}" for name, code in codes if code]


if __name__ == "__main__":
    sys.exit(main())
