"""All mutants."""

from __future__ import annotations

from tests.mutation import around, automation, calls, flushes, outages

MUTANTS = [
    *around.MUTANTS,
    *automation.MUTANTS,
    *outages.MUTANTS,
    *flushes.MUTANTS,
    *calls.MUTANTS,
]
