"""Safeguards of calls around Redis: for each, a change that makes it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_ONCE = "tests/faults/test_once.py::"
_NAMED = "tests/integration/test_named_calls.py::"
_CALLS = "tests/unit/test_store_calls.py::"
_GONE = "tests/faults/test_made_and_gone.py::"
_IN_TIME = "tests/faults/test_fences_in_time.py::"
_WINDOWS = "tests/faults/test_windows.py::"
_FENCES = "tests/integration/test_fallback.py::TestFences"
_ZONES = "tests/integration/test_fields.py::TestTimeZoneOfADatabase::"


def once(test: str, what: str) -> str:
    return f"{_ONCE}{test}[{what}]"


MUTANTS = [
    # Calls with a key
    mutant(
        "a flush does not note the calls that it stores",
        "apply",
        "once.settle(of, its.entries)",
        "",
        once("test_a_call_comes_again", "sqlite-emptied-set-valkey"),
    ),
    mutant(
        "a delete forgets the calls before it",
        "rarely.lua",
        "string.byte(other) ~= 42",
        "true",
        f"{_CALLS}TestOnce::test_after_a_flush_and_a_delete",
    ),
    mutant(
        "a call with a name goes around Redis, which may hold an earlier one",
        "Once.carry_out",
        'if self._buffer.option("WHEN_DOWN") == "raise":\n    raise',
        "return directly()",
        f"{_NAMED}test_a_redis_that_is_away_may_hold_an_earlier_call",
    ),
    mutant(
        "a call that went straight to the database is not noted",
        "Once.settled",
        "if found is None:\n    self._stored.delete()",
        "self._stored.delete()",
        f"{_NAMED}test_a_call_that_is_repeated_in_direct_mode",
    ),
    mutant(
        "a call that finds nothing to do does not ask whether it did it",
        "Once.carry_out",
        "done if found is None and self._is_in_redis() else found",
        "found",
        f"{_NAMED}test_the_same_call_is_taken_while_this_one_looks",
    ),
    # Fences
    mutant(
        "a direct write leaves no fence",
        "_write",
        "fences.leave(buffer, [*rows, *deleted], whole=whole)",
        "",
        _FENCES,
    ),
    mutant(
        "a direct write goes by the clock alone",
        "number",
        "max(now(), numbers.get(shard, 0) + 1)",
        "now()",
        "tests/faults/test_fences.py::test_what_waits_is_older_though_its_number_is_ahead",
    ),
    mutant(
        "a flush does not look for fences",
        "what_counts",
        "fences.of_rows(buffer, [entry.id for entry in entries])",
        "{}",
        _FENCES,
    ),
    mutant(
        "a new row is not looked at for fences",
        "write_counting",
        "stored is not None",
        "False",
        f"{_GONE}test_a_row",
        databases=("postgresql", "mariadb"),
    ),
    mutant(
        "a call around Redis waits for a row while others wait for its fence",
        "_locked",
        "may_be_repeated(buffer.layout().using)",
        "False",
        "tests/integration/test_fallback.py::test_many_at_once",
        databases=("postgresql",),
    ),
    mutant(
        "a call in a transaction of the caller waits for nobody",
        "_locked",
        "may_be_repeated(buffer.layout().using)",
        "True",
        "tests/faults/test_windows.py::"
        "test_a_call_in_a_transaction_waits_for_a_row_that_was_made_meanwhile",
        databases=("postgresql", "mariadb"),
    ),
    mutant(
        "a meta key that was made meanwhile is made once more",
        "_locked",
        "ids if buffer.names().is_entity else [id for id in ids if id not in stored]",
        "[id for id in ids if id not in stored]",
        "tests/faults/test_windows.py::test_a_meta_key_is_made_while_a_call_waits_for_another",
        databases=("postgresql", "mariadb"),
    ),
    mutant(
        "an error of a receiver is taken for one of the values",
        "_write",
        "not connections[buffer.layout().using].needs_rollback",
        "True",
        "tests/integration/test_fallback.py::test_an_error_of_a_receiver_is_told",
    ),
    mutant(
        "a call around Redis gives up soon",
        "committed",
        "not (transient and time.monotonic() < until)",
        "True",
        "tests/integration/test_fallback.py::test_others_are_in_the_way_again_and_again",
    ),
    mutant(
        "a new row of those that wait for each other is not looked at for fences",
        "write_detached",
        "Written(own.buffer, new=own.new)",
        "Written(own.buffer)",
        f"{_GONE}test_one_of_two_that_wait_for_each_other",
        databases=("postgresql", "mariadb"),
    ),
    mutant(
        "a new row that has a fence is always tried again",
        "check_new",
        "now.get(id) != fence",
        "now.get(id)",
        f"{_GONE}test_a_fence_that_was_there_before",
        databases=("postgresql",),
    ),
    mutant(
        "a new row that somebody else made and deleted is an error",
        "kind",
        '"transient" if isinstance(error, InTheWay) else "schema"',
        '"schema"',
        f"{_GONE}test_a_row",
        databases=("postgresql",),
    ),
    mutant(
        "a row that was made since the fences were read counts as one without a fence",
        "what_counts",
        "stored.keys() <= known",
        "True",
        f"{_WINDOWS}test_a_row_is_made_after_the_fences_were_read",
        databases=("postgresql", "mariadb"),
    ),
    mutant(
        "a row whose parent has just gone becomes a dead letter",
        "_Writer.write_last_time",
        "e.parent or is_reference(e.error)",
        "e.parent",
        f"{_WINDOWS}test_a_parent_goes_after_it_was_looked_for",
        databases=("postgresql", "mariadb"),
    ),
    mutant(
        "a child that somebody moves away goes with its parent",
        "_Locking.related_objects",
        "found.select_for_update()",
        "found",
        f"{_WINDOWS}test_a_child_is_moved_while_its_parent_is_deleted",
        databases=("postgresql", "mariadb"),
    ),
    mutant(
        "fences are read before the rows are locked",
        "what_counts",
        "stored = locked(layout, entries)",
        "early = fences.of_rows(buffer, [e.id for e in entries])\nstored = locked(layout, entries)",
        f"{_IN_TIME}test_one_that_has_the_row_is_waited_for",
        databases=("mariadb",),
        also=(
            (
                "what_counts",
                "fences.of_rows(buffer, [entry.id for entry in entries])",
                "early",
            ),
        ),
    ),
    mutant(
        "a row that was made meanwhile is taken for absent",
        "EntryWriter.write",
        "every is not None and len(part) > 1",
        "every is not None",
        "tests/faults/test_related.py::TestKeysThatTheDatabaseTakesForEqual::test_of_one_row",
        databases=("mariadb",),
    ),
    mutant(
        "what fences leave is written to rows that were read for more",
        "what_counts",
        "locked(layout, left)",
        "stored",
        f"{_IN_TIME}test_rows_that_change_in_other_columns_since",
        databases=("mariadb",),
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
        "fences go although older values are pending",
        "expire",
        "old = old.filter(at__lt=micros_of(first))",
        "",
        f"{_FENCES}::test_they_go_when_nothing_older_can_be_there",
    ),
    mutant(
        "what is pending of a row makes decimals of its unsigned numbers",
        "_null",
        '"unsigned" in (kind or "").lower()',
        "False",
        "tests/integration/test_fields.py::TestStoredFieldsOfAPendingRow",
        databases=("mariadb",),
    ),
    mutant(
        "a pending time is shown in UTC, and not in the time zone of the database",
        "Layout.read",
        "self._zoned.show(found)",
        "pass",
        f"{_ZONES}test_values",
        f"{_ZONES}test_records",
    ),
    mutant(
        "a time of a base is shown in UTC, and not in the time zone of the database",
        "BaseFormat.rows",
        "self._zoned.show(row)",
        "pass",
        f"{_ZONES}test_values",
    ),
    mutant(
        "a time that no other time zone has cannot be read",
        "Zoned.show",
        "suppress(OverflowError)",
        "suppress()",
        f"{_ZONES}test_at_the_end_of_time",
    ),
]
