"""The quick start of README.md, and docs/tutorial.md, carried out as they are written: their code
blocks, in their order.

Two things differ from a reader's machine. Redis is the Valkey of the tests, named in REDIS_URL as
the README allows. And pip installs this package alone: PYTHONPATH has what it depends on, from the
environment of the tests, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.demo import rows, wait_until
from tests.documents import README, ROOT, blocks
from tests.keeper import keeper
from tests.servers import RedisServer

BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "writebehind_app")
TUTORIAL = ROOT / "docs" / "tutorial.md"
SECOND_TERMINAL = re.compile(r"# In a second terminal, in \w+\n")
TO_BE_EDITED = re.compile(r"(?:#|<!--) (Append to|Replace|Add) (\S+)(?: -->)?\n")
START = Callable[..., subprocess.Popen[Any]]


class Terminal:
    """A shell that takes one block after the other, and stops at the first command that fails."""

    _END = "the block has ended"

    def __init__(self, start: START, directory: Path) -> None:
        self.errors = directory.parent / "errors"
        with self.errors.open("w") as errors:
            self.shell = start(
                ["bash", "-e"],
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def paste(self, block: str) -> str:
        """What it prints."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{block}\necho {self._END}\n")
        self.shell.stdin.flush()
        output = ""
        for line in self.shell.stdout:
            if line == f"{self._END}\n":
                return output
            output += line
        raise AssertionError(f"{block}\n{output}\n{self.errors.read_text()}")


@pytest.fixture
def start(plain: RedisServer) -> Iterator[START]:
    """`start(command, …)`: a process in the environment of a reader."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "REDIS_URL": plain.url,
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # the build backend is there too; pip wants a 0 for a yes
    }
    started = []

    def act(command: list[str], **options: Any) -> subprocess.Popen[Any]:
        started.append(keeper().start(command, env=environment, **options))
        return started[-1]

    yield act
    for process in started:
        keeper().end(process)
        for pipe in filter(None, (process.stdin, process.stdout)):
            pipe.close()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy, as the README puts the new project beside it."""
    copy = tmp_path / "django-writebehind"
    copy.mkdir()
    for name in BUILT_FROM:
        copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copied(ROOT / name, copy / name)
    return copy


def edit(project: Path, block: str) -> None:
    """Does with the block what its first line says."""
    said = TO_BE_EDITED.match(block)
    assert said, f"It does not say where it belongs:\n{block}"
    what, path = said[1], project / said[2]
    assert path.exists() != (what == "Add")  # else Django has made it, or an earlier block
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.read_text() + block if what == "Append to" else block)


class Reader:
    """Does what the blocks of a page say, one after the other."""

    def __init__(self, start: START, checkout: Path, project: str) -> None:
        self.start = start
        self.project = checkout.parent / project
        self.terminal = Terminal(start, checkout)
        self.flusher: subprocess.Popen[Any] | None = None

    def follow(
        self, page: list[tuple[str, str]], flushed: Callable[[], object] = lambda: True
    ) -> None:
        """`flushed` is waited for after a flusher was started."""
        output = ""
        for language, block in page:
            if language in ("python", "html"):
                edit(self.project, block)
            elif language == "text":
                assert re.fullmatch(re.escape(block).replace("…", ".*"), output), output
            elif SECOND_TERMINAL.match(block):
                # Without a shell: the signal at the end has to reach the flusher.
                self.flusher = self.start(shlex.split(block, comments=True), cwd=self.project)
                wait_until(flushed)
            else:
                assert language == "sh", block
                output = self.terminal.paste(block)

    def end(self) -> None:
        """Tells the flusher to end, as Ctrl-C does."""
        assert self.flusher is not None
        self.flusher.send_signal(signal.SIGTERM)
        assert self.flusher.wait(20) == 0


@pytest.mark.slow
def test_the_quick_start_ends_with_a_stored_row(start: START, checkout: Path) -> None:
    reader = Reader(start, checkout, "shop")

    reader.follow(
        blocks(README, "Quick start"),
        flushed=lambda: rows(reader.project, "SELECT * FROM tickets_ticket"),
    )

    found = rows(reader.project, "SELECT number, status, views FROM tickets_ticket")
    assert found == [(5, "solved", 1)]
    reader.end()


@pytest.mark.slow
def test_the_tutorial_ends_with_a_stored_row(start: START, checkout: Path) -> None:
    reader = Reader(start, checkout, "school")

    reader.follow(blocks(TUTORIAL))

    found = rows(reader.project, "SELECT student, lesson, watched FROM lessons_progress")
    assert found == [("ada", 7, 45)]
    reader.end()
