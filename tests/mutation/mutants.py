"""All mutants."""

from __future__ import annotations

from tests.mutation import calls, flushes

MUTANTS = [*flushes.MUTANTS, *calls.MUTANTS]
