"""Safeguards of writes that are held back: for each, a change that makes it void, and who must
notice."""

from __future__ import annotations

from tests.mutation.mutant import SCRIPTS, mutant

_BATCH = "tests/integration/test_batch.py::"
_COMMIT = "tests/integration/test_on_commit.py::"

MUTANTS = [
    mutant(
        "what is held is not read",
        "over",
        "write.id in wanted",
        "False",
        f"{_BATCH}TestReading::test_operations_on_every_kind",
    ),
    mutant(
        "what is held is not in a window",
        "Window._held",
        "outbox.held_of(self.buffer)",
        "()",
        f"{_BATCH}TestReading::test_a_window",
    ),
    mutant(
        "what is held of a unique value does not count",
        "_refuse_taken",
        "is_pending or record.id in held",
        "is_pending",
        f"{_BATCH}TestWhatIsRefused::test_a_unique_value_that_is_taken",
    ),
    mutant(
        "held writes are sent although an exception left the block",
        "Block._end",
        "failed or self.failed",
        "False",
        f"{_BATCH}TestWhatIsRefused::test_an_exception_that_leaves_the_block_sends_nothing",
        f"{_BATCH}TestMiddleware::test_sends_nothing_where_the_view_fails",
    ),
    mutant(
        "held writes outlive a savepoint",
        "add",
        "connection.on_commit(held)",
        "connection.run_on_commit.append((set(), held, False))",
        f"{_COMMIT}TestCommitAndRollback::test_savepoints",
    ),
    mutant(
        "a write is held for a commit of which nobody tells",
        "_transaction",
        "check_commit_is_told(connection.alias)",
        "",
        "tests/integration/test_autocommit.py::TestWritesInsideAtomic::test_are_refused",
    ),
    mutant(
        "held writes of one commit leave one by one",
        "_of_the_same_commit",
        'sys._getframe(2).f_locals.get("current_run_on_commit", ())',
        "()",
        f"{_COMMIT}TestCommitAndRollback::test_it_leaves_with_the_commit",
    ),
    mutant(
        "a commit goes ahead of what a batch has held for longer",
        "_with_those_before",
        "[*before, *held]",
        "[*held]",
        f"{_COMMIT}TestWithABatch::test_a_transaction_inside_one",
    ),
    mutant(
        "held writes go ahead of one that is decided before them",
        "leave",
        "one.together and keys_alone.isdisjoint(one.keys)",
        "one.together",
        f"{_BATCH}TestWhatIsDecidedByWhatIsThere::test_it_sees_what_is_held_and_goes_after_it",
    ),
    mutant(
        "a held pop deletes another value than the one it gave",
        "CoalescingBuffer._write_if",
        "write_for(row) if answer(row) == said else None",
        "write_for(row)",
        f"{_BATCH}TestWhatIsDecidedByWhatIsThere::test_somebody_else_comes_first",
    ),
    mutant(
        "held writes to one row are carried out without the one before",
        "delivery.lua",
        "after ~= ''",
        "false",
        f"{SCRIPTS}TestDelivery",
    ),
    mutant(
        "an endpoint answers while its write is held",
        "JsonView.dispatch",
        "send()",
        "",
        f"{_COMMIT}TestServices::test_an_endpoint_answers_when_it_is_taken",
    ),
]
