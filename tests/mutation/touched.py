"""Which mutants a change touches: of a function, a script, a test or the mutant itself."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.anchors import Package
from tests.mutation.mutant import Mutant

_PRINT_MUTANTS = """
import json
from tests.mutation.mutants import MUTANTS
print(json.dumps(MUTANTS, default=vars))
"""


def default_base(root: Path) -> str:
    """Where this branch left main, which is on a remote or here; on main itself, one commit ago."""
    head = _git(root, "rev-parse", "HEAD")
    for main in ("origin/main", "main"):
        base = _git(root, "merge-base", "HEAD", main, or_else=head)
        if base != head:
            return base
    return _git(root, "rev-parse", "HEAD~1")


def touched(root: Path, base: str, mutants: Sequence[Mutant]) -> list[Mutant]:
    """Those that the working tree of `root` has not as `base` had them."""
    with tempfile.TemporaryDirectory(prefix="writebehind-base-") as directory:
        before = Path(directory)
        packed = before / "base.zip"
        _git(root, "archive", f"--output={packed}", base, "writebehind_app", "tests")
        with zipfile.ZipFile(packed) as files:
            files.extractall(before)
        known = _mutants(before)
        now, then = Package(root / "writebehind_app"), Package(before / "writebehind_app")
        return [
            mutant
            for mutant in mutants
            if json.loads(json.dumps(vars(mutant))) not in known
            or any(_text(root / file) != _text(before / file) for file in mutant.test_files)
            or not now.texts(mutant) <= then.texts(mutant)
        ]


def _mutants(root: Path) -> list[dict[str, object]]:
    """Those of another state of the project; none where they are not in this form."""
    printed = subprocess.run(
        [sys.executable, "-c", _PRINT_MUTANTS], cwd=root, capture_output=True, text=True
    )
    return json.loads(printed.stdout) if printed.returncode == 0 else []


def _text(file: Path) -> str | None:
    return file.read_text() if file.exists() else None


def _git(root: Path, *arguments: str, or_else: str | None = None) -> str:
    git = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    if git.returncode == 0:
        return git.stdout.strip()
    if or_else is not None:
        return or_else
    raise SystemExit(f"{git.stderr.strip()}\nName the revision to compare with, or --all.")
