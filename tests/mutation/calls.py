"""Safeguards of reads and writes: for each, a change that makes it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import (
    BETWEEN,
    ROWS,
    SAFEGUARDS,
    SCRIPTS,
    UNIQUE,
    WINDOW,
    flush,
    mutant,
    write,
)

_IN_FLIGHT = "id in reading.in_flight and reading.token not in applied"

MUTANTS = [
    # Reads
    mutant(
        "what is in flight is not read",
        "read.lua",
        "state[2] and texts_of(shard .. ':f:' .. id) or {}",
        "{}",
        flush("claimed", "dies", "lone"),
    ),
    mutant(
        "what is in flight counts although it is in the ledger",
        "rows",
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
        "_guard(_read(buffer, [id])[id], id) == guard",
        "True",
        "tests/integration/test_operations.py::TestSetIf::test_a_refusal_is_of_the_row_as_it_is",
    ),
    mutant(
        "what is pending is read once only",
        "rows",
        "still[id].pending.get(id)",
        "reading.pending[id]",
        f"{BETWEEN}test_the_write_and_a_newer_one_are_stored",
    ),
    mutant(
        "another entry is taken for the one that was read",
        "rows",
        "entry is None or entry.no != reading.pending[id].no",
        "entry is None",
        f"{BETWEEN}test_the_write_is_stored_and_a_newer_one_is_pending",
    ),
    mutant(
        "the ledger is read once only",
        "_stored",
        "before == after",
        "True",
        f"{BETWEEN}test_a_batch_in_flight_is_stored",
    ),
    mutant(
        "a claim does not count as a move",
        "claim.lua",
        "redis.call('HINCRBY', shard, 'moves', 1)",
        "",
        f"{SCRIPTS}test_moves_tells_of_claims_acknowledgements_and_discards",
    ),
    mutant(
        "an acknowledgement does not count as a move",
        "ack.lua",
        "redis.call('HINCRBY', shard, 'moves', 1)",
        "",
        f"{SCRIPTS}test_moves_tells_of_claims_acknowledgements_and_discards",
    ),
    mutant(
        "an overlay does not look whether a batch moved",
        "overlay",
        "id in reading.pending or id in reading.in_flight or reading.moves != "
        "before[buffer.shard_key_of(id)].moves",
        "id in reading.pending or id in reading.in_flight",
        f"{BETWEEN}test_a_row_of_a_queryset_is_changed_after_it_ran",
    ),
    # Writes
    mutant(
        "a write that expects something is written whatever there is",
        "write.lua",
        "if ARGV[6] ~= '' and",
        "if false and",
        write("sending", "nothing", "sleeper"),
    ),
    mutant(
        "what was written before a delete stays",
        "write.lua",
        "redis.call('DEL', entry)",
        "",
        f"{SCRIPTS}test_a_delete_forgets_the_fields_before_it_and_a_write_after_it_makes_a_new_row",
    ),
    mutant(
        "the mark of a meta key that was deleted is lost with the next write",
        "write.lua",
        "is_key and string.byte(old) == 33",
        "false",
        "tests/integration/test_meta_buffer.py",
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
        "a Redis that lost everything numbers as before",
        "write.lua",
        "redis.call('HSET', shard, 'no', now, 'first', now)",
        "redis.call('HSET', shard, 'no', 0, 'first', 0)",
        f"{ROWS}TestReceipt::test_a_redis_that_lost_its_data_has_not_flushed_it",
    ),
    mutant(
        "metadata is popped without a guard",
        "CoalescingBuffer._write_if_now",
        "write._replace(guard=guard)",
        "write",
        "tests/integration/test_meta_at_once.py::test_one_of_many_pops_gets_the_value",
    ),
    # Logs
    mutant(
        "a unique id that a pending record has is given again",
        "append.lua",
        "if ARGV[i] ~= '' and redis.call(",
        "if false and redis.call(",
        f"{UNIQUE}TestUnique::test_pending_in_flight_and_stored",
    ),
    mutant(
        "a unique id is not free after its row is gone",
        "ack.lua",
        "redis.call('HDEL', hash, field)",
        "",
        f"{UNIQUE}TestUnique::test_pending_in_flight_and_stored",
    ),
    mutant(
        "a record is appended although others were stored since the look",
        "append.lua",
        "ARGV[2] ~= '' and ARGV[2] ~= guard",
        "false",
        f"{UNIQUE}TestUnique::test_a_record_that_is_stored_between_the_look_and_the_append",
    ),
    mutant(
        "a window does not ask up to which record all are stored",
        "Window.records",
        "entry.no > (applied.get(name) or 0)",
        "True",
        flush("committed", "dies", "lone"),
    ),
    mutant(
        "a count does not ask up to which record all are stored",
        "Window.count",
        "entry.no > (applied[name] or 0)",
        "True",
        f"{WINDOW}test_all_is_flushed",
    ),
    mutant(
        "an acknowledgement drops the records after the batch",
        "ack.lua",
        "redis.call('XTRIM', log, 'MINID', last)",
        "redis.call('XTRIM', log, 'MAXLEN', 0)",
        flush("claimed", "dies", "lone"),
    ),
]
