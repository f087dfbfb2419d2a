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

_IN_FLIGHT = "if id in reading.in_flight and reading.token not in applied:"
_MERELY = "if id in reading.in_flight:"

MUTANTS = [
    # Reads
    mutant(
        "what is in flight is not read",
        "store/scripts/read.lua",
        "state[2] and texts_of(shard .. ':f:' .. id) or {}",
        "{}",
        flush("claimed", "dies", "lone"),
    ),
    mutant(
        "what is in flight counts although it is in the ledger",
        "buffers/reading.py",
        "\n            " + _IN_FLIGHT,
        "\n            " + _MERELY,
        flush("committed", "dies", "lone"),
    ),
    mutant(
        "what is in flight counts for a guard although it is in the ledger",
        "buffers/reading.py",
        "\n        " + _IN_FLIGHT,
        "\n        " + _MERELY,
        f"{SAFEGUARDS}test_what_is_expected_is_there_once",
    ),
    mutant(
        "a refusal by what was there for a moment only is final",
        "buffers/reading.py",
        "return _guard(_read(buffer, [id])[id], id) == guard",
        "return True",
        "tests/integration/test_operations.py::TestSetIf::test_a_refusal_is_of_the_row_as_it_is",
    ),
    mutant(
        "what is pending is read once only",
        "buffers/reading.py",
        "still[id].pending.get(id)",
        "reading.pending[id]",
        f"{BETWEEN}test_the_write_and_a_newer_one_are_stored",
    ),
    mutant(
        "another entry is taken for the one that was read",
        "buffers/reading.py",
        "if entry is None or entry.no != reading.pending[id].no:",
        "if entry is None:",
        f"{BETWEEN}test_the_write_is_stored_and_a_newer_one_is_pending",
    ),
    mutant(
        "the ledger is read once only",
        "buffers/reading.py",
        "if before == after:",
        "if True:",
        f"{BETWEEN}test_a_batch_in_flight_is_stored",
    ),
    mutant(
        "a claim does not count as a move",
        "store/scripts/claim.lua",
        "redis.call('HINCRBY', shard, 'moves', 1)",
        "",
        f"{SCRIPTS}test_moves_tells_of_claims_acknowledgements_and_discards",
    ),
    mutant(
        "an acknowledgement does not count as a move",
        "store/scripts/ack.lua",
        "redis.call('HINCRBY', shard, 'moves', 1)",
        "",
        f"{SCRIPTS}test_moves_tells_of_claims_acknowledgements_and_discards",
    ),
    mutant(
        "an overlay does not look whether a batch moved",
        "buffers/reading.py",
        "or reading.moves != before[buffer.shard_key_of(id)].moves",
        "",
        f"{BETWEEN}test_a_row_of_a_queryset_is_changed_after_it_ran",
    ),
    # Writes
    mutant(
        "a write that expects something is written whatever there is",
        "store/scripts/write.lua",
        "if ARGV[6] ~= '' and",
        "if false and",
        write("sending", "nothing", "sleeper"),
    ),
    mutant(
        "what was written before a delete stays",
        "store/scripts/write.lua",
        "  redis.call('DEL', entry)\n",
        "",
        f"{SCRIPTS}test_a_delete_forgets_the_fields_before_it_and_a_write_after_it_makes_a_new_row",
    ),
    mutant(
        "the mark of a meta key that was deleted is lost with the next write",
        "store/scripts/write.lua",
        "if is_key and string.byte(old) == 33 then",
        "if false then",
        "tests/integration/test_meta_buffer.py",
    ),
    mutant(
        "a meta key that was deleted keeps its row",
        "buffers/entity.py",
        "delete=entry.delete or deleted,",
        "delete=entry.delete,",
        "tests/integration/test_meta_buffer.py",
    ),
    mutant(
        "the client tries a connection several times",
        "store/connection.py",
        "Retry(NoBackoff(), 0)",
        "Retry(NoBackoff(), 3)",
        f"{SAFEGUARDS}test_a_connection_is_tried_once",
    ),
    mutant(
        "a Redis that lost everything numbers as before",
        "store/scripts/write.lua",
        "redis.call('HSET', shard, 'no', now, 'first', now)",
        "redis.call('HSET', shard, 'no', 0, 'first', 0)",
        f"{ROWS}TestReceipt::test_a_redis_that_lost_its_data_has_not_flushed_it",
    ),
    mutant(
        "metadata is popped without a guard",
        "buffers/coalescing.py",
        "self._buffered([write._replace(guard=guard)], once=note)",
        "self._buffered([write], once=note)",
        "tests/integration/test_meta_at_once.py::test_one_of_many_pops_gets_the_value",
    ),
    # Logs
    mutant(
        "a unique id that a pending record has is given again",
        "store/scripts/append.lua",
        "if ARGV[i] ~= '' and redis.call(",
        "if false and redis.call(",
        f"{UNIQUE}TestUnique::test_pending_in_flight_and_stored",
    ),
    mutant(
        "a unique id is not free after its row is gone",
        "store/scripts/ack.lua",
        "      redis.call('HDEL', hash, field)\n",
        "",
        f"{UNIQUE}TestUnique::test_pending_in_flight_and_stored",
    ),
    mutant(
        "a record is appended although others were stored since the look",
        "store/scripts/append.lua",
        "if ARGV[2] ~= '' and ARGV[2] ~= guard then",
        "if false then",
        f"{UNIQUE}TestUnique::test_a_record_that_is_stored_between_the_look_and_the_append",
    ),
    mutant(
        "a window does not ask up to which record all are stored",
        "buffers/window.py",
        "            if entry.no > (applied.get(name) or 0):\n",
        "            if True:\n",
        flush("committed", "dies", "lone"),
    ),
    mutant(
        "a count does not ask up to which record all are stored",
        "buffers/window.py",
        "sum(entry.no > (applied[name] or 0) for",
        "sum(True for",
        f"{WINDOW}test_all_is_flushed",
    ),
    mutant(
        "an acknowledgement drops the records after the batch",
        "store/scripts/ack.lua",
        "redis.call('XTRIM', log, 'MINID', last)",
        "redis.call('XTRIM', log, 'MAXLEN', 0)",
        flush("claimed", "dies", "lone"),
    ),
]
