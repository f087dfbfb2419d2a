"""Breaks safeguards of the package, one after the other; the tests must notice every time.

    python tests/mutation/run.py                  those that a change touches: since this branch
                                                  left main, or --base, to the working tree
    python tests/mutation/run.py --all            every one
    python tests/mutation/run.py words of a name  those of that name

A mutant is a copy of the project in which some code is other code (see mutant.py); the tests that
it names are run on it. All these tests are also run on a copy that is not changed: there they must
pass. Exits with 1 if a mutant survives, or its code is not there any more.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.mutation.anchors import Lost, Package  # noqa: E402
from tests.mutation.job import Job, job  # noqa: E402
from tests.mutation.mutant import Mutant  # noqa: E402
from tests.mutation.mutants import MUTANTS  # noqa: E402
from tests.mutation.touched import default_base, touched  # noqa: E402

CONTROL = "the project as it is"
Try = tuple[str, Callable[[Job], str]]  # of this name; what is to complain about


def main(chosen: Sequence[Mutant], jobs: int) -> int:
    started = time.monotonic()
    tries = deque([*_controls(chosen), *_mutants(chosen)])
    databases = sorted({name for mutant in chosen for name in mutant.databases})
    complaints: list[str] = []

    def work() -> None:
        with job(ROOT, databases) as here:
            while True:
                try:
                    name, complaint_of = tries.popleft()
                except IndexError:
                    return
                since = time.monotonic()
                complaint = complaint_of(here)
                print(
                    f"{time.monotonic() - since:5.1f} s  {name}: {complaint or 'fine'}", flush=True
                )
                if complaint:
                    complaints.append(f"{name}: {complaint.splitlines()[0]}")

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done in [pool.submit(work) for _ in range(min(jobs, len(chosen)))]:
                done.result()
        finally:
            tries.clear()  # after a Ctrl-C the others do not begin any more
    print(f"\n{len(chosen)} mutants in {time.monotonic() - started:.0f} s")
    print("\n".join(complaints) or "The tests noticed all of them.")
    return 1 if complaints else 0


def _controls(mutants: Sequence[Mutant]) -> Iterator[Try]:
    for databases in dict.fromkeys(mutant.databases for mutant in mutants):
        tests = dict.fromkeys(t for m in mutants if m.databases == databases for t in m.tests)
        yield CONTROL, lambda job, tests=tests, databases=databases: job.control(tests, databases)


def _mutants(mutants: Sequence[Mutant]) -> Iterator[Try]:
    package = Package(ROOT / "writebehind_app")
    for mutant in mutants:
        try:
            broken = package.broken(mutant)
        except Lost as error:
            yield mutant.name, lambda job, message=str(error): message
        else:
            yield mutant.name, lambda job, m=mutant, broken=broken: job.complaint(m, broken)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Break safeguards; the tests must notice.")
    parser.add_argument("words", nargs="*", help="of the names of the mutants to try")
    parser.add_argument("--all", action="store_true", help="try every mutant")
    parser.add_argument("--base", help="try those that changed since this revision")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants tried at a time")
    arguments = parser.parse_args()
    if arguments.words:
        chosen = [m for m in MUTANTS if all(word in m.name for word in arguments.words)]
        if not chosen:
            parser.error(f"no mutant has {' '.join(arguments.words)!r} in its name")
    elif arguments.all:
        chosen = MUTANTS
    else:
        base = arguments.base or default_base(ROOT)
        chosen = touched(ROOT, base, MUTANTS)
        print(f"{len(chosen)} of {len(MUTANTS)} mutants changed since {base[:12]}.", flush=True)
    sys.exit(main(chosen, arguments.jobs) if chosen else 0)
