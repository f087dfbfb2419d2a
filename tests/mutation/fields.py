"""Safeguards of what pending writes come to."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_FENCE = "tests/unit/test_fence.py"
_FOLD = "tests/unit/test_fold.py"
_ENTRY = "tests/unit/test_entry.py"

MUTANTS = [
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
