"""Safeguards of writes that are held back: for each, a change that makes it void, and who must
notice."""

from __future__ import annotations

from tests.mutation.mutant import SCRIPTS, mutant

_BATCH = "tests/integration/test_batch.py::"
_COMMIT = "tests/integration/test_on_commit.py::"

MUTANTS = [
    mutant(
        "what is held is not read",
        "buffers/batch.py",
        "if write.id in wanted:",
        "if False:",
        f"{_BATCH}TestReading::test_operations_on_every_kind",
    ),
    mutant(
        "what is held is not in a window",
        "buffers/window.py",
        "for held in batch.held_of(self.buffer):",
        "for held in ():",
        f"{_BATCH}TestReading::test_a_window",
    ),
    mutant(
        "what is held of a unique value does not count",
        "buffers/held_records.py",
        "if is_pending or record.id in held:",
        "if is_pending:",
        f"{_BATCH}TestWhatIsRefused::test_a_unique_value_that_is_taken",
    ),
    mutant(
        "held writes are sent although an exception left the block",
        "buffers/batch.py",
        "if failed or self.failed:",
        "if False:",
        f"{_BATCH}TestWhatIsRefused::test_an_exception_that_leaves_the_block_sends_nothing",
        f"{_BATCH}TestMiddleware::test_sends_nothing_where_the_view_fails",
    ),
    mutant(
        "held writes outlive a savepoint",
        "buffers/batch.py",
        "        connection.on_commit(held)\n",
        "        connection.run_on_commit.append((set(), held, False))\n",
        f"{_COMMIT}TestCommitAndRollback::test_savepoints",
    ),
    mutant(
        "held writes of one commit leave one by one",
        "buffers/batch.py",
        'callbacks = sys._getframe(2).f_locals.get("current_run_on_commit", ())',
        "callbacks: tuple = ()",
        f"{_COMMIT}TestCommitAndRollback::test_it_leaves_with_the_commit",
    ),
    mutant(
        "a commit goes ahead of what a batch has held for longer",
        "buffers/batch.py",
        "return [*before, *held]",
        "return [*held]",
        f"{_COMMIT}TestWithABatch::test_a_transaction_inside_one",
    ),
    mutant(
        "held writes go ahead of one that is decided before them",
        "buffers/sending.py",
        "if one.together and keys_alone.isdisjoint(one.keys):",
        "if one.together:",
        f"{_BATCH}TestWhatIsDecidedByWhatIsThere::test_it_sees_what_is_held_and_goes_after_it",
    ),
    mutant(
        "a held pop deletes another value than the one it gave",
        "buffers/coalescing.py",
        "return write_for(row) if answer(row) == said else None",
        "return write_for(row)",
        f"{_BATCH}TestWhatIsDecidedByWhatIsThere::test_somebody_else_comes_first",
    ),
    mutant(
        "held writes to one row are carried out without the one before",
        "store/scripts/delivery.lua",
        "if after ~= '' then",
        "if false then",
        f"{SCRIPTS}TestDelivery",
    ),
    mutant(
        "an endpoint answers while its write is held",
        "meta/views.py",
        "            send()  #",
        "            #",
        f"{_COMMIT}TestServices::test_an_endpoint_answers_when_it_is_taken",
    ),
]
