"""Safeguards of calls around Redis: for each, a change that makes it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_ONCE = "tests/faults/test_once.py::"
_FENCES = "tests/integration/test_fallback.py::TestFences"


def once(test: str, what: str) -> str:
    return f"{_ONCE}{test}[{what}]"


MUTANTS = [
    # Calls with a key
    mutant(
        "a flush does not note the calls that it stores",
        "apply",
        "once.settle(buffer, batch.entries)",
        "",
        once("test_a_call_comes_again", "sqlite-emptied-set-valkey"),
    ),
    mutant(
        "a delete forgets the calls before it",
        "write.lua",
        "string.byte(name) == 42",
        "false",
        f"{_ONCE}test_a_delete_does_not_forget_it",
    ),
    mutant(
        "Redis knows a key for one round only",
        "delivery.lua",
        "(once ~= '-' and outcome_before ~= '0')",
        "false",
        once("test_a_call_comes_again", "sqlite-nothing-set-valkey"),
    ),
    mutant(
        "a call goes around Redis although another may be in there",
        "Once.settled",
        "calls > 1",
        "calls > 99",
        once("test_redis_may_have_taken_it_and_is_gone", "sqlite-set-valkey"),
    ),
    mutant(
        "a call that may be in Redis is no more counted",
        "Once._taken",
        "not may_be_in_redis",
        "True",
        once("test_redis_may_have_taken_it_and_is_gone", "sqlite-set-valkey"),
    ),
    mutant(
        "a call that went around Redis is not noted",
        "Once.settled",
        "self._note.update(done=True)",
        "",
        once("test_a_call_went_around_redis", "later-set-valkey-sqlite"),
    ),
    mutant(
        "a call that finds nothing to do does not ask whether it did it",
        "Once.carry_out",
        "done if found is None and self.was_taken() else found",
        "found",
        once("test_a_call_comes_again", "sqlite-nothing-set_if-valkey"),
    ),
    # Fences
    mutant(
        "a direct write leaves no fence",
        "_write",
        "fences.leave(buffer, [*rows, *deleted], now, whole=whole)",
        "",
        _FENCES,
    ),
    mutant(
        "a flush does not look for fences",
        "apply",
        "found := of_rows(buffer, ids)",
        "False",
        _FENCES,
    ),
    mutant(
        "a read does not look for fences",
        "RowBuffer.merged",
        "fence_of(entry.id)",
        "None",
        _FENCES,
    ),
    mutant(
        "an earlier delete takes a row that was made directly",
        "Fence.left_of",
        "entry.deleted if entry.deleted > self.row else 0",
        "entry.deleted",
        f"{_FENCES}::test_a_row_that_is_new_since_a_delete",
    ),
    mutant(
        "operations on a pending value are void with it",
        "Fence.left_of",
        "segments = (*entry.apart.get(name, ()), *segments)",
        "",
        "tests/faults/test_fences.py::test_a_process_that_knows_of_no_outage",
        "tests/unit/test_fence.py",
        "tests/unit/test_fold.py",
    ),
    mutant(
        "fences go although older values are pending",
        "expire",
        "old = old.filter(at__lt=micros_of(first))",
        "",
        f"{_FENCES}::test_they_go_when_nothing_older_can_be_there",
    ),
]
