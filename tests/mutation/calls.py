"""Safeguards of reads and writes: for each, a change that makes it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import (
    BETWEEN,
    SAFEGUARDS,
    STORE,
    UNIQUE,
    WINDOW,
    flush,
    mutant,
)

_IN_FLIGHT = "id in reading.in_flight and not seen.is_applied"

_AFTER_THE_KEYS = (
    "tests/integration/test_meta_buffer.py::TestCost::test_a_function_that_calls_others"
)

MUTANTS = [
    # Reads
    mutant(
        "what was read with the keys is handed out twice",
        "Metadata.__getitem__",
        "values.pop(key)",
        "values[key]",
        _AFTER_THE_KEYS,
    ),
    mutant(
        "what was read with the keys is kept for code that only lists them",
        "_Keys.__iter__",
        "self._caller == _caller()",
        "True",
        _AFTER_THE_KEYS,
    ),
    mutant(
        "what is in flight is not read",
        "read.lua",
        "state[2] and texts_of(shard .. ':f:' .. id) or {}",
        "{}",
        f"{STORE}batches.py::TestClaim::test_it_freezes_what_it_takes",
    ),
    mutant(
        "what is in flight counts although it is in the ledger",
        "_value",
        _IN_FLIGHT,
        "id in reading.in_flight",
        flush("committed", "dies", "lone"),
    ),
    mutant(
        "what is in flight counts for a guard although it is in the ledger",
        "guarded",
        _IN_FLIGHT,
        "id in reading.in_flight",
        f"{SAFEGUARDS}test_what_is_expected_is_there_once",
    ),
    mutant(
        "a refusal by what was there for a moment only is final",
        "is_unchanged",
        "_read(buffer, [id], guarded=True)[id].guards[id] == guard",
        "True",
        "tests/integration/test_operations.py::TestSetIf::test_a_refusal_is_of_the_row_as_it_is",
    ),
    mutant(
        "nobody looks for a later batch",
        "_execute",
        "each.shard >= 0",
        "False",
        f"{BETWEEN}test_the_write_and_a_newer_one_are_stored",
    ),
    mutant(
        "after a later batch, Redis is not asked again",
        "_moved",
        "seen[id].is_overtaken",
        "False",
        f"{BETWEEN}test_the_write_and_a_newer_one_are_stored",
    ),
    mutant(
        "another entry is taken for the one that was read",
        "_state_of",
        "entry.since if entry else 0",
        "1 if entry else 0",
        f"{BETWEEN}test_an_entry_is_stored_and_another_one_is_pending",
    ),
    mutant(
        "a batch has no number in the ledger",
        "enter",
        "batch.number",
        "None",
        f"{BETWEEN}test_the_write_and_a_newer_one_are_stored",
    ),
    mutant(
        "the number of a batch goes back with the clock",
        "flight.lua",
        "math.max(now, earlier + 1)",
        "now",
        f"{STORE}batches.py::TestClaim::test_later_batches_have_greater_numbers",
    ),
    mutant(
        "a batch that is extended keeps its number",
        "extend.lua",
        "math.max(now, (tonumber(call('HGET', shard, 'batch')) or 0) + 1)",
        "tonumber(call('HGET', shard, 'batch')) or 0",
        f"{STORE}extension.py::TestExtension::test_it_has_a_greater_number",
    ),
    mutant(
        "a batch that is revoked keeps its number",
        "revoke.lua",
        "math.max(now, (tonumber(call('HGET', shard, 'batch')) or 0) + 1)",
        "tonumber(call('HGET', shard, 'batch')) or 0",
        f"{STORE}batches.py::TestLease::test_a_token_that_nothing_may_be_applied_under_is_changed",
    ),
    mutant(
        "an overlay does not look whether a batch moved",
        "overlay",
        "id in reading.pending or id in reading.in_flight or reading.acked != "
        "known.get(reading.shard)",
        "id in reading.pending or id in reading.in_flight",
        f"{BETWEEN}test_a_row_of_a_queryset_is_changed_after_it_ran",
    ),
    # Writes
    mutant(
        "a guarded write is written whatever there is",
        "looks.lua",
        "guard ~= ARGV[i + 1] and {now, 'stale'}",
        "nil",
        f"{STORE}calls.py::TestGuards",
    ),
    mutant(
        "what was written before a delete stays",
        "rarely.lua",
        "call('HDEL', entry, other)",
        "",
        f"{STORE}calls.py::TestEntries::"
        "test_a_delete_forgets_what_was_before_it_and_a_write_makes_a_new_row",
    ),
    mutant(
        "what was before the deletion of a meta key counts",
        "_with_items",
        "tombstones[name] = void[name] = number",
        "tombstones[name] = number",
        f"{STORE}calls.py::TestOperations::test_meta_keys_and_when_they_came_to_be",
    ),
    mutant(
        "the row of a meta key is as old as its last write",
        "rarely.lua",
        "is_first and number or found[1]",
        "number",
        f"{STORE}calls.py::TestOperations::test_meta_keys_and_when_they_came_to_be",
    ),
    mutant(
        "a meta key that was deleted keeps its row",
        "EntityLayout.row_entries",
        "max(entry.deleted, tombstone)",
        "entry.deleted",
        "tests/integration/test_meta_buffer.py",
    ),
    mutant(
        "the client tries a connection several times",
        "options_of",
        "Retry(NoBackoff(), 0)",
        "Retry(NoBackoff(), 3)",
        f"{SAFEGUARDS}test_a_connection_is_tried_once",
    ),
    mutant(
        "what an earlier Redis lost is said to be stored",
        "take.lua",
        "call('HSET', shard, 'first', first - 1)",
        "call('HSET', shard, 'first', 0)",
        f"{STORE}batches.py::TestLocate::test_what_redis_lost",
    ),
    mutant(
        "what was discarded long ago is said to be stored",
        "discards_end.lua",
        "call('HSET', shard, 'forgot', forgotten[2])",
        "",
        f"{STORE}batches.py::TestDiscard::test_the_last_thousand_are_known",
    ),
    mutant(
        "metadata is popped without a guard",
        "CoalescingBuffer._write_if_now",
        "write._replace(guard=guard)",
        "write",
        "tests/integration/test_meta_at_once.py::test_one_of_many_pops_gets_the_value",
    ),
    mutant(
        "a guarded write does not wait for a flusher that has its row",
        "CoalescingBuffer._write_if_now",
        "is_moving",
        "False",
        "tests/integration/test_operations.py::TestInFlight::test_it_waits_until_the_row_is_refused",
    ),
    mutant(
        "a guarded write waits for ever",
        "CoalescingBuffer._wait_for_others",
        "time.monotonic() > until",
        "False",
        "tests/integration/test_operations.py::TestInFlight::test_it_waits_for_a_lease_at_most",
    ),
    # Logs
    mutant(
        "a unique id that a pending record has is given again",
        "append.lua",
        "call('HEXISTS', place(ARGV[at])) == 1",
        "false",
        f"{STORE}logs.py::TestAppend::test_a_unique_id_is_taken_until_it_is_a_row",
        f"{UNIQUE}TestUnique::test_pending_in_flight_and_stored",
    ),
    mutant(
        "a unique id is not free after its row is gone",
        "free.lua",
        "call('HDEL', hash, field)",
        "",
        f"{STORE}logs.py::TestAppend::test_a_unique_id_is_taken_until_it_is_a_row",
        f"{UNIQUE}TestUnique::test_pending_in_flight_and_stored",
    ),
    mutant(
        "a record is appended although others were stored since the look",
        "append.lua",
        "ARGV[7] ~= '' and ARGV[7] ~= guard",
        "false",
        f"{STORE}logs.py::TestAppend::test_a_guard_changes_with_what_leaves",
        f"{UNIQUE}TestUnique::test_a_record_that_is_stored_between_the_look_and_the_append",
    ),
    mutant(
        "a window does not ask up to which record all are stored",
        "Window.records",
        "entry.since > (applied.get(name) or 0)",
        "True",
        flush("committed", "dies", "lone"),
    ),
    mutant(
        "a count does not ask up to which record all are stored",
        "Window.count",
        "entry.since > (applied[name] or 0)",
        "True",
        f"{WINDOW}test_all_is_flushed",
    ),
    mutant(
        "an acknowledgement drops the records after the batch",
        "ack_records.lua",
        "call('XTRIM', log, 'MINID', to .. '-18446744073709551615')",
        "call('XTRIM', log, 'MAXLEN', 0)",
        f"{STORE}logs.py::TestBatches::test_what_comes_after_the_claim_is_not_of_the_batch",
    ),
]
