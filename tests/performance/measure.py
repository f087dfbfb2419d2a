"""Measures what single calls of the buffers cost and save on every database there is:
`manage.py writebehind_bench` with more rows. Many clients at a time are in ycsb.py.

python -m pytest tests/performance/measure.py -s
"""

from __future__ import annotations

import os

from django.core.management import call_command

ROWS = os.environ.get("WRITEBEHIND_ROWS", "2000")


def test_bench(database, redis_server):
    print()
    args = [
        "--no-input",
        "--workload=calls",
        "--writes=1",
        "--rounds=5",
        "--rows",
        ROWS,
        "--database",
        database,
    ]
    call_command("writebehind_bench", *args)
