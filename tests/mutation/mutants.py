"""All mutants."""

from __future__ import annotations

from tests.mutation import admin, around, automation, calls, fields, flushes, held, outages, store

MUTANTS = [
    *admin.MUTANTS,
    *around.MUTANTS,
    *automation.MUTANTS,
    *outages.MUTANTS,
    *flushes.MUTANTS,
    *calls.MUTANTS,
    *fields.MUTANTS,
    *held.MUTANTS,
    *store.MUTANTS,
]
