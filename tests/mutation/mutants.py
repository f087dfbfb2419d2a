"""All mutants."""

from __future__ import annotations

from tests.mutation import around, calls, flushes

MUTANTS = [*around.MUTANTS, *flushes.MUTANTS, *calls.MUTANTS]
