"""Runs a function of the tests in a process of its own, on the database and the Redis of its test.

    child = start(worker, 5, shard=2)       # any importable function; arguments that are JSON

Tests use the fixture `start_child`, which ends what is left of it.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.keeper import keeper


def start(function: Callable[..., Any], *args: Any, **kwargs: Any) -> subprocess.Popen[str]:
    """Its standard input and output are pipes, unbuffered on its side; errors go to ours."""
    return process(function, args, kwargs, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def process(
    function: Callable[..., Any], args: Any = (), kwargs: Any = None, **options: Any
) -> subprocess.Popen[str]:
    """The same with options of a process."""
    return keeper().start(
        [
            sys.executable,
            "-u",
            "-m",
            "tests.child",
            function.__module__,
            function.__qualname__,
            json.dumps([args, kwargs or {}]),
        ],
        cwd=Path(__file__).parent.parent,
        text=True,
        **options,
    )


def end(child: subprocess.Popen[str]) -> None:
    keeper().end(child)
    for pipe in (child.stdin, child.stdout):
        assert pipe is not None
        pipe.close()


def _main(module: str, name: str, arguments: str) -> None:
    import django
    from django.test.utils import setup_test_environment

    django.setup()
    setup_test_environment()  # as pytest does: the keys in Redis are those of tests
    args, kwargs = json.loads(arguments)
    getattr(importlib.import_module(module), name)(*args, **kwargs)


if __name__ == "__main__":
    _main(*sys.argv[1:])
