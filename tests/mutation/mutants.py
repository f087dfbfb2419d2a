"""The safeguards: for each, a change of the package that makes it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

EXHAUSTIVE = "tests/faults/test_exhaustive.py::"
SAFEGUARDS = "tests/faults/test_safeguards.py::"
POISON = "tests/faults/test_poison.py::"
SCRIPTS = "tests/unit/test_scripts.py::"
ROWS = "tests/integration/test_row_buffer.py::"
UNIQUE = "tests/integration/test_log_unique.py::"
BETWEEN = "tests/integration/test_reading.py::TestBetweenTheTwoReads::"
WINDOW = "tests/integration/test_log_window.py::TestWhileAFlusherRuns::"


def flush(step: str, how: str, around: str, database: str = "sqlite") -> str:
    return f"{EXHAUSTIVE}test_a_flush[{database}-flush.{step}-{how}-{around}-valkey]"


def write(step: str, how: str, around: str) -> str:
    return f"{EXHAUSTIVE}test_a_write[sqlite-write.{step}-{how}-{around}-valkey]"


_ENTER = "record.save(using=layout.using, force_insert=True)"
_BURY = "        letters = deadletters.bury(buffer, shard, refused)\n"
_RETURN = "    return Applied(rows, statements, seconds, letters)\n"
_OF_THIS_TOKEN = "if redis.call('HGET', shard, 'token') ~= ARGV[1] then"
_APPLY = "            applied = _apply(buffer, number, batch)\n"
_ATOMIC = "transaction.atomic(using=layout.using, durable=True),"
_IN_FLIGHT = "if id in reading.in_flight and reading.token not in applied:"
_MERELY = "if id in reading.in_flight:"

MUTANTS = [
    # The ledger
    mutant(
        "the ledger has another token than the batch",
        "flush/writer.py",
        "token=batch.token,\n        b",
        "token=str(time.monotonic_ns()),\n        b",
        flush("committed", "dies", "lone"),
    ),
    mutant(
        "a token that is in the ledger is overwritten",
        "flush/writer.py",
        _ENTER,
        "record.save(using=layout.using)",
        flush("committed", "dies", "lone"),
    ),
    mutant(
        "the token is committed before the rows",
        "flush/writer.py",
        _ATOMIC,
        "__import__('contextlib').nullcontext(),",
        flush("token", "dies", "lone"),
    ),
    mutant(
        "every batch has the same token",
        "flush/engine.py",
        "secrets.token_hex(16)",
        "'t' * 32",
        flush("claiming", "dies", "lone"),
    ),
    mutant(
        "whatever the ledger refuses is taken for applied",
        "flush/engine.py",
        "if not is_applied(buffer.layout(), batch):",
        "if False:",
        "tests/faults/test_hard_times.py::TestLedger",
    ),
    mutant(
        "a batch that was applied is never acknowledged",
        "flush/engine.py",
        "if not is_applied(buffer.layout(), batch):",
        "if True:",
        flush("committed", "dies", "lone"),
    ),
    mutant(
        "acknowledged before the commit",
        "flush/engine.py",
        _APPLY,
        "            shard.ack(batch.token)\n" + _APPLY,
        flush("token", "dies", "lone"),
    ),
    # Claims and leases
    mutant(
        "an acknowledgement drops whatever batch is in flight",
        "store/scripts/ack.lua",
        "if state[1] ~= ARGV[1] then",
        "if not state[1] then",
        f"{SCRIPTS}test_only_the_batch_of_that_token_is_acknowledged",
    ),
    mutant(
        "whatever batch is in flight is given back",
        "store/scripts/release.lua",
        _OF_THIS_TOKEN,
        "if false then",
        f"{SCRIPTS}test_a_batch_given_back_waits_unless_the_wait_is_ignored",
    ),
    mutant(
        "the lease of whatever batch is in flight is renewed",
        "store/scripts/renew.lua",
        _OF_THIS_TOKEN,
        "if false then",
        f"{SAFEGUARDS}test_a_lease_is_renewed_by_its_holder_alone",
    ),
    mutant(
        "a claim leaves what it takes to further writes",
        "store/scripts/claim.lua",
        "redis.pcall('RENAME',",
        "redis.pcall('COPY',",
        f"{SCRIPTS}test_a_claim_freezes_what_it_takes",
    ),
    mutant(
        "a lease never ends",
        "store/scripts/claim.lua",
        "if left > 0 then",
        "if true then",
        f"{SCRIPTS}test_a_batch_in_flight_is_busy_until_its_lease_ends",
    ),
    mutant(
        "a lease keeps nobody off",
        "store/scripts/claim.lua",
        "if left > 0 then",
        "if false then",
        f"{SCRIPTS}test_a_batch_in_flight_is_busy_until_its_lease_ends",
    ),
    mutant(
        "a batch that is taken over gets no new lease",
        "store/scripts/claim.lua",
        "  redis.call('HSET', shard, 'lease', now + lease)\n",
        "",
        f"{SCRIPTS}test_a_batch_in_flight_is_busy_until_its_lease_ends",
    ),
    mutant(
        "records that came since are taken over with a batch",
        "store/scripts/claim.lua",
        "redis.call('XRANGE', log, '-', state[5])",
        "redis.call('XRANGE', log, '-', '+')",
        flush("claimed", "dies", "lone"),
    ),
    mutant(
        "a lease is not renewed",
        "flush/lease.py",
        "shard.renew(token, lease=lease)",
        "pass",
        "tests/faults/test_concurrency.py::test_a_lease_is_kept_while_a_long_transaction_runs",
    ),
    mutant(
        "a batch that failed is tried again at once",
        "store/scripts/claim.lua",
        "if wait > 0 and ARGV[5] ~= '1' then",
        "if false then",
        f"{SCRIPTS}test_a_batch_given_back_waits_unless_the_wait_is_ignored",
    ),
    mutant(
        "the pause does not grow",
        "flush/engine.py",
        "2 ** min(batch.attempts, 30)",
        "1",
        f"{ROWS}TestFailure::test_the_batch_stays_and_waits_longer_each_time",
    ),
    mutant(
        "the entries that are due first go in the order of their ids",
        "store/scripts/write.lua",
        "redis.call('ZADD', due, tonumber(now) + max_age, id)",
        "redis.call('ZADD', due, 0, id)",
        f"{SCRIPTS}test_a_claim_takes_the_earliest_and_no_more_than_asked_for",
    ),
    mutant(
        "a pending entry has a time to live",
        "store/scripts/write.lua",
        "redis.call('HINCRBY', shard, 'accepted', 1)",
        "redis.call('EXPIRE', entry, 3600)",
        f"{SAFEGUARDS}test_nothing_in_redis_has_a_time_to_live",
    ),
    # Reads
    mutant(
        "what is in flight is not read",
        "store/scripts/read.lua",
        "state[2] and redis.call('HGETALL', shard .. ':f:' .. id) or {}",
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
        "if ARGV[5] ~= '' and",
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
        "if old and is_key and string.byte(old) == 33 then",
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
        "a lost reply makes the client send again",
        "store/connection.py",
        "Retry(NoBackoff(), 0)",
        "Retry(NoBackoff(), 3)",
        f"{SAFEGUARDS}test_what_got_no_answer_is_not_sent_again",
    ),
    mutant(
        "a Redis that lost everything numbers as before",
        "store/scripts/write.lua",
        "redis.call('HSETNX', shard, 'no', now)",
        "redis.call('HSETNX', shard, 'no', 0)",
        f"{ROWS}TestReceipt::test_a_redis_that_lost_its_data_has_not_flushed_it",
        also=(
            (
                "store/scripts/write.lua",
                "redis.call('HSET', shard, 'first', now)",
                "redis.call('HSET', shard, 'first', 0)",
            ),
        ),
    ),
    # Rows
    mutant(
        "rows are written in any order",
        "flush/writer.py",
        "sorted(buffer.row_entries(batch.entries), key=lambda entry: entry.id)",
        "buffer.row_entries(batch.entries)",
        f"{SAFEGUARDS}test_rows_are_written_in_the_order_of_their_keys",
    ),
    mutant(
        "rows are locked in any order",
        "buffers/keyed.py",
        'query.select_for_update().order_by("pk")',
        "query.select_for_update()",
        f"{SAFEGUARDS}test_rows_are_locked_in_one_order",
        databases=("postgresql",),
    ),
    mutant(
        "rows are not locked",
        "flush/rows.py",
        "for entry in partial], lock=True)",
        "for entry in partial])",
        f"{SAFEGUARDS}test_rows_are_locked_in_one_order",
        databases=("postgresql",),
    ),
    mutant(
        "a row goes by its time although a later one was written",
        "buffers/row.py",
        'delete="1", guard=guard)',
        'delete="1")',
        "tests/integration/test_expires.py::test_a_write_that_comes_after_the_look_wins",
    ),
    mutant(
        "rows get the time of their flush",
        "buffers/layout.py",
        "_stamp(row, self.stamped, entry.at)",
        "_stamp(row, self.stamped, micros_of(timezone.now()))",
        f"{ROWS}TestTimes",
    ),
    mutant(
        "a row that came again is as old as the one that was deleted",
        "buffers/layout.py",
        "if f.name not in entry.texts], entry.born)",
        "if f.name not in entry.texts], entry.since)",
        f"{ROWS}TestDelete::test_the_new_row_is_as_old_as_the_write_that_made_it",
    ),
    mutant(
        "metadata is popped without a guard",
        "buffers/coalescing.py",
        "self._write([write._replace(guard=guard)])",
        "self._write([write])",
        "tests/integration/test_meta_at_once.py::test_one_of_many_pops_gets_the_value",
    ),
    mutant(
        "the token of a batch in flight is deleted by its age",
        "flush/ledger.py",
        "stay = {reading.token for reading in readings.values()}",
        "stay = {''}",
        "tests/integration/test_ledger.py::test_a_batch_in_flight_keeps_its_token",
    ),
    mutant(
        "the number up to which all records are stored is deleted by its age",
        "flush/ledger.py",
        "        stay |= {*by_upto",
        "        stay & {*by_upto",
        "tests/integration/test_ledger.py::test_up_to_which_record_all_are_stored_is_known_still",
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
        "if ARGV[1] ~= '' and ARGV[1] ~= guard then",
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
        "redis.call('XTRIM', log, 'MINID', state[2] .. '-1')",
        "redis.call('XTRIM', log, 'MAXLEN', 0)",
        flush("claimed", "dies", "lone"),
    ),
    # Refusals
    mutant(
        "dead letters are put away after the commit",
        "flush/writer.py",
        _BURY,
        "        letters = refused\n",
        f"{SAFEGUARDS}test_what_is_refused_is_not_dropped_where_it_cannot_be_put_away",
        also=(("flush/writer.py", _RETURN, _BURY.removeprefix("    ") + _RETURN),),
    ),
    mutant(
        "a newer value is not struck out of the dead letters",
        "flush/writer.py",
        "            deadletters.supersede(buffer, entries, batch.entries)\n",
        "",
        f"{POISON}TestDeadLetters::test_is_not_written_over_a_newer_value",
    ),
    mutant(
        "a newer value in a batch with refused ones is not struck out of the dead letters",
        "flush/writer.py",
        "            deadletters.supersede(buffer, written, batch.entries, refused)\n",
        "",
        f"{POISON}TestDeadLetters",
    ),
    mutant(
        "the letters of an entity that is cleared are not struck out",
        "flush/deadletters.py",
        " or deletions.get(buffer.entry_id(older.id))",
        "",
        f"{POISON}TestDeadLetters::test_an_entity_that_was_cleared_since_stays_clear",
    ),
    mutant(
        "operations of a part that was refused are carried out again",
        "flush/rows.py",
        "copy(stored[entry.id])",
        "stored[entry.id]",
        f"{EXHAUSTIVE}test_a_flush_of_what_the_database_refuses[sqlite-flush.acked-dies-valkey]",
    ),
    mutant(
        "a part that was refused is not rolled back",
        "flush/isolation.py",
        "            connection.savepoint_rollback(savepoint)\n            return error\n",
        "            return error\n",
        f"{SAFEGUARDS}test_of_a_part_that_is_refused_nothing_stays",
    ),
    mutant(
        "what is missing is the fault of the rows",
        "flush/failures.py",
        'isinstance(error, _OF_VALUES) else "schema"',
        'isinstance(error, _OF_VALUES) else "row"',
        "tests/faults/test_failures.py::TestSchema",
    ),
    mutant(
        "any number of entries dies at once",
        "flush/writer.py",
        "if not written and len(refused)",
        "if False and len(refused)",
        f"{POISON}TestIsolation::test_all_of_many_wait",
    ),
    mutant(
        "a child dies while its parent is pending",
        "flush/parents.py",
        "        _check_pending(layout, field, missing)\n",
        "",
        f"{POISON}TestParents::test_a_child_waits_for_its_pending_parent",
    ),
    mutant(
        "what is refused together is tried again in the order of the keys",
        "flush/isolation.py",
        "sorted(entries, key=lambda entry: entry.at)",
        "sorted(entries)",
        f"{ROWS}TestFailure::test_a_unique_value_moves_from_one_row_to_another",
    ),
    mutant(
        "what a flusher works on is discarded",
        "store/scripts/discard.lua",
        "local idle = lease and lease <=",
        "local idle = lease and 0 <=",
        "tests/faults/test_hard_times.py::TestRefusedBatch",
    ),
    mutant(
        "a flush runs within a transaction of the caller",
        "flush/engine.py",
        "    check_outside_transaction(buffer.layout().using)\n",
        "",
        f"{ROWS}TestFlush::test_inside_a_transaction_is_refused",
        also=(("flush/writer.py", ", durable=True)", ")"),),
    ),
]
