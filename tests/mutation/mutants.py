"""All mutants."""

from __future__ import annotations

from tests.mutation import (
    admin,
    around,
    automation,
    bases,
    calls,
    divisions,
    edits,
    endpoints,
    fields,
    flushes,
    held,
    locks,
    orm,
    outages,
    store,
)

MUTANTS = [
    *admin.MUTANTS,
    *around.MUTANTS,
    *automation.MUTANTS,
    *bases.MUTANTS,
    *outages.MUTANTS,
    *flushes.MUTANTS,
    *calls.MUTANTS,
    *divisions.MUTANTS,
    *edits.MUTANTS,
    *endpoints.MUTANTS,
    *fields.MUTANTS,
    *held.MUTANTS,
    *locks.MUTANTS,
    *orm.MUTANTS,
    *store.MUTANTS,
]
