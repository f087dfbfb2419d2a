"""The counting of `writebehind_bench`, for measurements of our own."""

from __future__ import annotations

from writebehind_app.bench.counting import counted

counting = counted
"""`with counting("default") as counts:` `.statements` of SQL, and `.trips` to Redis."""
