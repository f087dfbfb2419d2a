"""Breaks each safeguard of the package in turn; the tests must notice every time.

    python tests/mutation/run.py [--jobs N] [words of a mutant's name …]

A mutant is a copy of the project in which one text is another one (see flushes.py and calls.py);
the tests that it names are run on it. First they all run on a copy that is not changed: there they
must pass. Exits with 1 if a mutant survives, or its text is not there any more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.mutation.mutant import Mutant  # noqa: E402
from tests.mutation.mutants import MUTANTS  # noqa: E402

CONTROL = "the project as it is"
COPIED = ("writebehind_app", "tests", "pyproject.toml")
TESTS_FAILED = 1  # pytest's exit code; any other says that they did not run
LONGEST = 60  # seconds for one test: a mutant may wait for ever


def main(words: Sequence[str], jobs: int) -> int:
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.name for word in words)]
    if not chosen:
        print(f"No mutant has {' '.join(words)!r} in its name.")
        return 2
    started = time.monotonic()
    controls = [
        Mutant(CONTROL, (), tuple(_tests(chosen, databases)), databases)
        for databases in dict.fromkeys(mutant.databases for mutant in chosen)
    ]
    complaints = []
    with ThreadPoolExecutor(jobs) as pool:
        for mutant, complaint, seconds in pool.map(_tried, [*controls, *chosen]):
            print(f"{seconds:5.1f} s  {mutant.name}: {complaint or 'fine'}", flush=True)
            if complaint:
                complaints.append(f"{mutant.name}: {complaint}")
    print(f"\n{len(chosen)} mutants in {time.monotonic() - started:.0f} s")
    print("\n".join(complaints) or "The tests noticed all of them.")
    return 1 if complaints else 0


def _tests(mutants: Sequence[Mutant], databases: tuple[str, ...]) -> dict[str, None]:
    """Those of all mutants that are tried on these databases."""
    return dict.fromkeys(t for m in mutants if m.databases == databases for t in m.tests)


def _tried(mutant: Mutant) -> tuple[Mutant, str, float]:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="writebehind-mutant-") as directory:
        copy = Path(directory)
        complaint = _copied(mutant, copy) or _judged(mutant, copy)
    return mutant, complaint, time.monotonic() - started


def _copied(mutant: Mutant, copy: Path) -> str:
    """What is wrong with the mutant, after the project was copied and changed."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, copy / name)
    for name, old, new in mutant.changes:
        file = copy / "writebehind_app" / name
        text = file.read_text()
        if text.count(old) != 1:
            return f"{name} has the text {text.count(old)} times, not once: {old!r}"
        file.write_text(text.replace(old, new))
    return ""


def _judged(mutant: Mutant, copy: Path) -> str:
    """What is wrong with the tests."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"]
    command += [f"--timeout={LONGEST}", *([] if mutant.name == CONTROL else ["-x"])]
    run = subprocess.run(
        [*command, *mutant.tests],
        cwd=copy,
        env={
            **os.environ,
            "WRITEBEHIND_TEST_DATABASES": ",".join(mutant.databases),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if mutant.name == CONTROL:
        return "" if run.returncode == 0 else f"its tests do not pass\n{run.stdout}"
    if run.returncode == 0:
        return f"SURVIVED {' '.join(mutant.tests)}"
    if run.returncode != TESTS_FAILED:
        return f"its tests did not run\n{run.stdout}"
    return ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Break each safeguard; the tests must notice.")
    parser.add_argument("words", nargs="*", help="of the names of the mutants to try")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tried at a time")
    arguments = parser.parse_args()
    sys.exit(main(arguments.words, arguments.jobs))
