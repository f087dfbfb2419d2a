"""All mutants."""

from __future__ import annotations

from tests.mutation import around, automation, calls, flushes

MUTANTS = [*around.MUTANTS, *automation.MUTANTS, *flushes.MUTANTS, *calls.MUTANTS]
