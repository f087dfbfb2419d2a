"""The demo's cluster of Django-Q2, which carries out the schedules that `migrate` has made.

A process of its own, `manage.py qcluster`, that ends with the one that started it, as Valkey does.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from django.conf import settings

from demo_site import keeper

_PATIENCE = 30  # seconds for what its workers are at


class Cluster:
    """`start()` and `end()`; between them what is due goes to the database."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._keeper is not None and self._keeper.poll() is None

    def start(self) -> None:
        manage = settings.BASE_DIR / "manage.py"
        with self.log.open("wb") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", keeper.__file__, sys.executable, str(manage), "qcluster"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal is for the demo
            )

    def end(self) -> None:
        """Returns when no worker is at anything; does nothing where it does not run."""
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self._keeper.wait(_PATIENCE)
            self._keeper = None
