"""The quick start of README.md, carried out as it is written: its code blocks, in their order.

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
SECOND_TERMINAL = "# In a second terminal, in shop\n"
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
    said = re.match(r"# (Append to|Replace) (\S+)\n", block)
    assert said, f"It does not say where it belongs:\n{block}"
    path = project / said[2]
    before = path.read_text()  # a file that Django has made
    path.write_text(before + block if said[1] == "Append to" else block)


@pytest.mark.slow
def test_the_quick_start_ends_with_a_stored_row(start: START, checkout: Path) -> None:
    project = checkout.parent / "shop"
    terminal = Terminal(start, checkout)
    flusher = None
    output = ""

    for language, block in blocks(README, "Quick start"):
        if language == "python":
            edit(project, block)
        elif language == "text":
            assert output == block
        elif block.startswith(SECOND_TERMINAL):
            # Without a shell: the signal at the end has to reach the flusher.
            flusher = start(shlex.split(block, comments=True), cwd=project)
            wait_until(lambda: rows(project, "SELECT * FROM tickets_ticket"))
        else:
            assert language == "sh", block
            output = terminal.paste(block)

    assert flusher is not None
    assert rows(project, "SELECT number, status, views FROM tickets_ticket") == [(5, "solved", 1)]
    flusher.send_signal(signal.SIGTERM)
    assert flusher.wait(20) == 0
