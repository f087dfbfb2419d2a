"""A copy of the project in which mutants are tried, and the process that runs their tests."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.mutation.mutant import Mutant

COPIED = ("writebehind_app", "tests", "pyproject.toml")
TESTS_FAILED = 1  # pytest's exit code; any other says that they did not run


@dataclass(frozen=True)
class Job:
    copy: Path
    worker: subprocess.Popen[str]
    _times: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def control(self, tests: Collection[str], databases: Collection[str]) -> str:
        """What is wrong with the tests on the package as it is."""
        outcome = self._outcome(tests, databases, is_control=True)
        return "" if outcome["code"] == 0 else f"its tests do not pass\n{outcome['output']}"

    def complaint(self, mutant: Mutant, broken: dict[str, str]) -> str:
        """What is wrong with the tests of a mutant, of which these files are other ones."""
        with self._changed(broken):
            outcome = self._outcome(mutant.tests, mutant.databases, is_control=False)
        if outcome["code"] == 0 and "call-passed" in outcome["reports"]:
            return f"SURVIVED {' '.join(mutant.tests)}"
        # A mutant breaks what a test is about, and not what it needs before it begins.
        failed = {"call-failed", "teardown-failed"} & {*outcome["reports"]}
        if outcome["code"] != TESTS_FAILED or not failed:
            return f"its tests did not run\n{outcome['output']}"
        return ""

    def _outcome(self, tests: Collection[str], databases: Collection[str], **how: Any) -> Any:
        assert self.worker.stdin is not None
        assert self.worker.stdout is not None
        run = {"tests": [*tests], "databases": [*databases], **how}
        self.worker.stdin.write(json.dumps(run) + "\n")
        self.worker.stdin.flush()
        if line := self.worker.stdout.readline():
            return json.loads(line)
        raise RuntimeError("The process that runs the tests has ended: see above.")

    @contextmanager
    def _changed(self, broken: dict[str, str]) -> Iterator[None]:
        files = {self.copy / "writebehind_app" / name: text for name, text in broken.items()}
        for file, text in files.items():
            file.rename(_aside(file))
            file.write_text(text)
            # Of no other mutant, and not of the file as it was: what is compiled of one of them is
            # known by this time, in seconds.
            os.utime(file, (next(self._times),) * 2)
        try:
            yield
        finally:
            for file in files:
                _aside(file).replace(file)


def _aside(file: Path) -> Path:
    return file.with_name(f"{file.name}.whole")


@contextmanager
def job(root: Path, databases: Collection[str]) -> Iterator[Job]:
    with tempfile.TemporaryDirectory(prefix="writebehind-mutants-") as directory:
        copy = Path(directory)
        for name in COPIED:
            if (root / name).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(root / name, copy / name, ignore=ignore)
            else:
                shutil.copy(root / name, copy / name)
        # In a session of its own, a Ctrl-C leaves it the time to clean up.
        with subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.worker"],
            cwd=copy,
            env={**os.environ, "WRITEBEHIND_TEST_DATABASES": ",".join(databases)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as worker:
            yield Job(copy, worker)
