"""Safeguards of what pending writes come to."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_FENCE = "tests/unit/test_fence.py"
_FOLD = "tests/unit/test_fold.py"
_ENTRY = "tests/unit/test_entry.py"
_DEFAULT = "tests/integration/test_operations.py::TestDefaultOfTheDatabase::"

MUTANTS = [
    mutant(
        "an operation on a new row does not begin with the literal of db_default",
        "fold",
        "default_of(column.field)",
        "column.field.get_default()",
        f"{_DEFAULT}test_a_literal_counts",
    ),
    mutant(
        "a pending row shows an expression in place of the literal of db_default",
        "NewRows.instance",
        "self._db_defaults() | folded.values",
        "folded.values",
        f"{_DEFAULT}test_a_literal_is_shown_while_the_row_is_pending",
    ),
    mutant(
        "whoever reads a pending row can change the literal of db_default",
        "default_of",
        "deepcopy(expression.value)",
        "expression.value",
        f"{_DEFAULT}test_a_literal_is_shown_while_the_row_is_pending",
    ),
    mutant(
        "an operation that the flush will refuse for its db_default is taken",
        "Layout._operation",
        "refuse_computed(default_of(column.field))",
        "",
        f"{_DEFAULT}test_without_a_literal_operations_are_refused",
    ),
    mutant(
        "a Merge forgets a db_default that only the database computes",
        "fold",
        "refuse_computed(value)",
        "",
        f"{_DEFAULT}test_where_an_upgrade_makes_such_an_operation_it_is_a_dead_letter",
    ),
    mutant(
        "a value comes over a later one that was written past Redis",
        "Fence.left_of",
        "value is not None and number_of(value) > until",
        "value is not None",
        _FENCE,
        _FOLD,
    ),
    mutant(
        "an operation counts although a later value was written past Redis",
        "Fence.left_of",
        "tuple(s for s in segments if s.last > until)",
        "segments",
        _FENCE,
        _FOLD,
    ),
    mutant(
        "an operation past Redis is not carried out on an older pending value",
        "Fence.left_of",
        "_in_order(segments, [s for s in own if s.last > since])",
        "segments",
        _FENCE,
        _FOLD,
    ),
    mutant(
        "an operation past Redis is carried out on a newer pending value",
        "Fence.left_of",
        "[s for s in own if s.last > since]",
        "own",
        _FENCE,
        _FOLD,
    ),
    mutant(
        "a pending write to another field goes with a fence",
        "Fence.void_until",
        "max(self.row, self.values.get(name, 0))",
        "self.last",
        _FENCE,
        _FOLD,
    ),
    mutant(
        "a key of a merge comes over a later one that was written past Redis",
        "Fence._merged_keys",
        "{**own, **later}",
        "{**own, **entry.merges.get(name, {})}",
        _FENCE,
        _FOLD,
    ),
    mutant(
        "a value under a later version leaves the operations before it",
        "_followed",
        "operations.pop(name, None)",
        "",
        _ENTRY,
        _FOLD,
    ),
    mutant(
        "a delete is forgotten where another version wrote after it",
        "_followed",
        "later._replace(once=once, since=entry.since)",
        "later._replace(once=once, since=entry.since, deleted=0)",
        _ENTRY,
        _FOLD,
    ),
    mutant(
        "a sum that leaves the range of its field is stored",
        "outcome",
        "column.encode(value)",
        "",
        _FOLD,
        "tests/unit/test_operations.py",
    ),
    mutant(
        "an entry is read otherwise where all its fields are read at once",
        "decoded",
        "tuple(map(type, read)) == shape.types",
        "True",
        _FOLD,
        "tests/unit/test_columns.py",
    ),
    mutant(
        "a value that is no choice of its field is taken",
        "Layout._check",
        "check(value)",
        "",
        "tests/integration/test_errors.py::TestValues::"
        "test_that_is_no_choice_or_that_a_validator_refuses",
    ),
]
