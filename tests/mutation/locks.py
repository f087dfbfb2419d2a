"""The order in which rows are locked: for each rule, a change that makes it void, and who must
notice."""

from __future__ import annotations

from tests.mutation.mutant import Mutant, mutant

_TESTS = "tests/faults/test_deadlocks.py::"


def _deadlock(name: str, where: str, old: str, new: str, test: str) -> Mutant:
    return mutant(name, where, old, new, f"{_TESTS}{test}", databases=("mariadb",))


MUTANTS = [
    _deadlock(
        "an update locks only the rows of which something is pending first",
        "locked_for_update",
        "lock_rows(layout, pks)",
        "pass",
        "test_all_rows_of_a_statement_are_locked_together[valkey-mariadb-update]",
    ),
    _deadlock(
        "a delete locks only the rows of which something is pending first",
        "_leave",
        "lock_rows(layout, (row.pk for row in rows))",
        "lock_rows(layout, (r.pk for r in rows if find_older(buffer, row_ids_of(layout, [r]))))",
        "test_all_rows_of_a_statement_are_locked_together[valkey-mariadb-delete]",
    ),
    _deadlock(
        "an update finds locked rows by an index",
        "locked_for_update",
        "rows.query = found.query",
        "pass",
        "test_a_locked_row_is_found_by_its_primary_key[valkey-mariadb-update]",
    ),
    _deadlock(
        "a save finds its row by the index on the key",
        "Check.as_sql",
        "connection.vendor == 'mysql'",
        "False",
        "test_a_locked_row_is_found_by_its_primary_key[valkey-mariadb-save]",
    ),
    _deadlock(
        "a write around Redis locks the fence before the row",
        "_locked",
        "stored = buffer.stored(ids, lock=True)",
        "fences.lock(buffer, ids); stored = buffer.stored(ids, lock=True)",
        "test_a_write_around_redis_locks_the_row_before_its_fence[valkey-mariadb]",
    ),
]
