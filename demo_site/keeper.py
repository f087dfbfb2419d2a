"""Runs a server that ends with its owner, also when the owner is killed.

A process of its own between the two: `python keeper.py <command…>`. Its standard input is a pipe
from the owner, which closes when the owner is gone, in whatever way. It imports nothing of Django,
so that it is there at once and stays small.
"""

from __future__ import annotations

import subprocess
import sys
import threading

_PATIENCE = 20  # seconds that a server may take to write its data and end


def main(command: list[str]) -> int:
    # The server inherits no pipe, but all else: the lock on its data above all.
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)

    def end_with_owner() -> None:
        sys.stdin.buffer.read()
        server.terminate()
        try:
            server.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()

    threading.Thread(target=end_with_owner, daemon=True).start()
    return server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
