"""Safeguards of writes that are held back: for each, a change that makes it void, and who must
notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_BATCH = "tests/integration/test_batch.py::"
_COMMIT = "tests/integration/test_on_commit.py::"
_SAVES = "tests/integration/test_orm.py::TestTransactions::"

MUTANTS = [
    mutant(
        "what is held is not read",
        "overlay",
        "_held_at(buffer, id)",
        "()",
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
        "Held.wait_for_commit",
        "connection.on_commit(self)",
        "connection.run_on_commit.append((set(), self, False))",
        f"{_COMMIT}TestCommitAndRollback::test_savepoints",
    ),
    mutant(
        "a write is held for a commit of which nobody tells",
        "_transaction",
        "check_commit_is_announced(connection.alias)",
        "",
        "tests/integration/test_autocommit.py::TestWritesInsideAtomic::test_are_refused",
    ),
    mutant(
        "held writes of one commit leave one by one",
        "Held._called_after",
        "isinstance(entry[1], Held)",
        "False",
        f"{_COMMIT}TestCommitAndRollback::test_it_leaves_with_the_commit",
    ),
    mutant(
        "held writes leave with a commit although their savepoint was rolled back",
        "Held._called_after",
        "any(entry[1] is self for entry in self.callbacks)",
        "False",
        f"{_COMMIT}TestCommitAndRollback::test_a_savepoint_that_is_rolled_back_after_the_last_write",
    ),
    mutant(
        "held writes leave one by one as a savepoint was rolled back before the last of them",
        "Held.wait_for_commit",
        "callback.callbacks is connection.run_on_commit",
        "callback.callbacks",
        f"{_COMMIT}TestCommitAndRollback::test_savepoints",
    ),
    mutant(
        "what is saved over is sent before anybody knows that the save is committed",
        "Strike.wait_for_commit",
        "callbacks.insert(first, callbacks.pop())",
        "pass",
        "tests/integration/test_orm.py::TestTransactions::test_a_savepoint_is_rolled_back_after_the_save",
    ),
    mutant(
        "a call with a name writes what was saved over",
        "CoalescingBuffer._hold_once",
        "[self._write_once(part, once) for part in left]",
        "[self._write_once(write, once)]",
        f"{_SAVES}test_of_a_call_that_is_sent_alone",
    ),
    mutant(
        "a call that is decided once more writes what was saved over",
        "CoalescingBuffer._write_if",
        "left[0] if answer(row) == said and write_for(row) is not None else None",
        "write_for(row) if answer(row) == said else None",
        f"{_SAVES}test_of_a_call_that_is_sent_alone",
    ),
    mutant(
        "what is decided once more counts what the transaction itself has saved since",
        "CoalescingBuffer._write_if",
        "self.as_before(row, found, held.replaced)",
        "row",
        f"{_SAVES}test_of_a_call_that_is_sent_alone",
    ),
    mutant(
        "the name of a call that was saved over is forgotten",
        "Held.replace",
        "self.parts or self.names",
        "self.parts",
        f"{_SAVES}test_a_name_is_remembered_if_nothing_is_left_of_its_call",
    ),
    mutant(
        "a call that was saved over is not found by its name while it is held",
        "HeldIndex.of",
        "part == NAME or part in held.parts",
        "part in held.parts",
        f"{_SAVES}test_a_name_is_remembered_if_nothing_is_left_of_its_call",
    ),
    mutant(
        "a discard of another row forgets the name of a call that was saved over",
        "Held.discard",
        "left != self.parts and (self.is_plain or not left)",
        "self.is_plain or not left",
        f"{_SAVES}test_a_name_is_remembered_if_nothing_is_left_of_its_call",
    ),
    mutant(
        "a held delete takes what was saved after it",
        "leave",
        "_write_again(buffer, each.id, names)",
        "pass",
        f"{_SAVES}test_a_row_that_is_held_anew_comes_before_the_save",
        "tests/integration/test_manager.py::TestUpdate::test_a_row_that_is_held_anew",
    ),
    mutant(
        "what was saved after a held delete is sent although the save was rolled back",
        "hold_for_commit",
        "held.wait_for_commit(connections[buffer.using()])",
        "add(held, [])",
        f"{_SAVES}test_it_is_sent_once_more_only_after_a_commit",
    ),
    mutant(
        "a commit goes ahead of what a batch has held for longer",
        "Held.__call__",
        "[*_earlier(calls), *calls]",
        "calls",
        f"{_COMMIT}TestWithABatch::test_a_transaction_inside_one",
    ),
    mutant(
        "held writes go ahead of one that is decided before them",
        "send_calls",
        "groupby(waiting, key=lambda one: one.is_plain)",
        "groupby(sorted(waiting, key=lambda one: not one.is_plain), key=lambda one: one.is_plain)",
        f"{_BATCH}TestWhatIsDecidedByWhatIsThere::test_it_sees_what_is_held_and_goes_after_it",
    ),
    mutant(
        "a held pop deletes another value than the one it gave",
        "CoalescingBuffer._write_if",
        "answer(row) == said and write_for(row) is not None",
        "write_for(row) is not None",
        f"{_BATCH}TestWhatIsDecidedByWhatIsThere::test_somebody_else_comes_first",
    ),
    mutant(
        "an endpoint answers while its write is held",
        "JsonView.dispatch",
        "send()",
        "",
        f"{_COMMIT}TestServices::test_an_endpoint_answers_when_it_is_taken",
    ),
]
