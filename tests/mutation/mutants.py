"""The safeguards: for each, a change of the package that makes it void, and who must notice."""

from __future__ import annotations

from dataclasses import dataclass

Change = tuple[str, str, str]  # a file of the package, a text in it, and what takes its place


@dataclass(frozen=True)
class Mutant:
    name: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]
    databases: tuple[str, ...] = ("sqlite",)


EXHAUSTIVE = "tests/faults/test_exhaustive.py::"
SAFEGUARDS = "tests/faults/test_safeguards.py::"
POISON = "tests/faults/test_poison.py::"
SCRIPTS = "tests/unit/test_scripts.py::"
ROWS = "tests/integration/test_row_buffer.py::"
META = "tests/integration/test_meta_buffer.py::TestMapping::"
LOG = "tests/integration/test_log_buffer.py::"
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

MUTANTS = [
    # The ledger
    Mutant(
        "the ledger has another token than the batch",
        (
            (
                "flush/writer.py",
                "token=batch.token,\n        b",
                "token=str(time.monotonic_ns()),\n        b",
            ),
        ),
        (flush("committed", "dies", "lone"),),
    ),
    Mutant(
        "a token that is in the ledger is overwritten",
        (("flush/writer.py", _ENTER, "record.save(using=layout.using)"),),
        (flush("committed", "dies", "lone"),),
    ),
    Mutant(
        "the token is committed before the rows",
        (("flush/writer.py", _ATOMIC, "__import__('contextlib').nullcontext(),"),),
        (flush("token", "dies", "lone"),),
    ),
    Mutant(
        "every batch has the same token",
        (("flush/engine.py", "secrets.token_hex(16)", "'t' * 32"),),
        (flush("claiming", "dies", "lone"),),
    ),
    Mutant(
        "whatever the ledger refuses is taken for applied",
        (("flush/engine.py", "if not is_applied(buffer.layout(), batch):", "if False:"),),
        ("tests/faults/test_hard_times.py::TestLedger",),
    ),
    Mutant(
        "acknowledged before the commit",
        (("flush/engine.py", _APPLY, "            shard.ack(batch.token)\n" + _APPLY),),
        (flush("token", "dies", "lone"),),
    ),
    # Claims and leases
    Mutant(
        "an acknowledgement drops whatever batch is in flight",
        (("store/scripts/ack.lua", "if state[1] ~= ARGV[1] then", "if not state[1] then"),),
        (f"{SCRIPTS}test_only_the_batch_of_that_token_is_acknowledged",),
    ),
    Mutant(
        "whatever batch is in flight is given back",
        (("store/scripts/release.lua", _OF_THIS_TOKEN, "if false then"),),
        (f"{SCRIPTS}test_a_batch_given_back_waits_unless_the_wait_is_ignored",),
    ),
    Mutant(
        "the lease of whatever batch is in flight is renewed",
        (("store/scripts/renew.lua", _OF_THIS_TOKEN, "if false then"),),
        (f"{SAFEGUARDS}test_a_lease_is_renewed_by_its_holder_alone",),
    ),
    Mutant(
        "a claim leaves what it takes to further writes",
        (("store/scripts/claim.lua", "redis.pcall('RENAME',", "redis.pcall('COPY',"),),
        (f"{SCRIPTS}test_a_claim_freezes_what_it_takes",),
    ),
    Mutant(
        "a lease never ends",
        (("store/scripts/claim.lua", "if left > 0 then", "if true then"),),
        (f"{SCRIPTS}test_a_batch_in_flight_is_busy_until_its_lease_ends",),
    ),
    Mutant(
        "a lease keeps nobody off",
        (("store/scripts/claim.lua", "if left > 0 then", "if false then"),),
        (f"{SCRIPTS}test_a_batch_in_flight_is_busy_until_its_lease_ends",),
    ),
    Mutant(
        "a batch that is taken over gets no new lease",
        (("store/scripts/claim.lua", "  redis.call('HSET', shard, 'lease', now + lease)\n", ""),),
        (f"{SCRIPTS}test_a_batch_in_flight_is_busy_until_its_lease_ends",),
    ),
    Mutant(
        "a lease is not renewed",
        (("flush/lease.py", "shard.renew(token, lease=lease)", "pass"),),
        ("tests/faults/test_concurrency.py::test_a_lease_is_kept_while_a_long_transaction_runs",),
    ),
    Mutant(
        "a batch that failed is tried again at once",
        (("store/scripts/claim.lua", "if wait > 0 and ARGV[5] ~= '1' then", "if false then"),),
        (f"{SCRIPTS}test_a_batch_given_back_waits_unless_the_wait_is_ignored",),
    ),
    Mutant(
        "the pause does not grow",
        (("flush/engine.py", "2 ** min(batch.attempts, 30)", "1"),),
        (f"{ROWS}TestFailure::test_the_batch_stays_and_waits_longer_each_time",),
    ),
    Mutant(
        "the entries that are due first go in the order of their ids",
        (
            (
                "store/scripts/write.lua",
                "redis.call('ZADD', due, tonumber(now) + max_age, id)",
                "redis.call('ZADD', due, 0, id)",
            ),
        ),
        (f"{SCRIPTS}test_a_claim_takes_the_earliest_and_no_more_than_asked_for",),
    ),
    Mutant(
        "a pending entry has a time to live",
        (
            (
                "store/scripts/write.lua",
                "redis.call('HSET', entry, '@', head, unpack(fields))",
                "redis.call('HSET', entry, '@', head, unpack(fields))\n"
                "redis.call('EXPIRE', entry, 3600)",
            ),
        ),
        (f"{SAFEGUARDS}test_nothing_in_redis_has_a_time_to_live",),
    ),
    # Reads
    Mutant(
        "what is in flight is not read",
        (
            (
                "store/scripts/read.lua",
                "state[2] and redis.call('HGETALL', shard .. ':f:' .. id) or {}",
                "{}",
            ),
        ),
        (flush("claimed", "dies", "lone"),),
    ),
    Mutant(
        "what is in flight counts although it is in the ledger",
        (("buffers/reading.py", " and reading.token not in applied:", ":"),),
        (flush("committed", "dies", "lone"),),
    ),
    Mutant(
        "what is pending is read once only",
        (("buffers/reading.py", "still[id].pending.get(id)", "reading.pending[id]"),),
        (f"{BETWEEN}test_the_write_and_a_newer_one_are_stored",),
    ),
    Mutant(
        "another entry is taken for the one that was read",
        (
            (
                "buffers/reading.py",
                "if entry is None or entry.no != reading.pending[id].no:",
                "if entry is None:",
            ),
        ),
        (f"{BETWEEN}test_the_write_is_stored_and_a_newer_one_is_pending",),
    ),
    Mutant(
        "the ledger is read once only",
        (("buffers/reading.py", "if before == after:", "if True:"),),
        (f"{BETWEEN}test_a_batch_in_flight_is_stored",),
    ),
    Mutant(
        "a claim does not count as a move",
        (("store/scripts/claim.lua", "redis.call('HINCRBY', shard, 'moves', 1)", ""),),
        (f"{SCRIPTS}test_moves_tells_of_claims_acknowledgements_and_discards",),
    ),
    Mutant(
        "an acknowledgement does not count as a move",
        (("store/scripts/ack.lua", "redis.call('HINCRBY', shard, 'moves', 1)", ""),),
        (f"{SCRIPTS}test_moves_tells_of_claims_acknowledgements_and_discards",),
    ),
    Mutant(
        "an overlay does not look whether a batch moved",
        (("buffers/reading.py", "or reading.moves != before[buffer.shard_key_of(id)].moves", ""),),
        (f"{BETWEEN}test_a_row_of_a_queryset_is_changed_after_it_ran",),
    ),
    # Writes
    Mutant(
        "a write that expects something is written whatever there is",
        (("store/scripts/write.lua", "if ARGV[5] ~= '' and", "if false and"),),
        (write("sending", "nothing", "sleeper"),),
    ),
    Mutant(
        "what was written before a delete stays",
        (("store/scripts/write.lua", "  redis.call('DEL', entry)\n", ""),),
        (
            f"{SCRIPTS}test_a_delete_forgets_the_fields_before_it_and_a_write_after_it_makes_a_new_row",
        ),
    ),
    Mutant(
        "the mark of a meta key that was deleted is lost with the next write",
        (
            (
                "store/scripts/write.lua",
                "if old and is_key and string.byte(old) == 33 then",
                "if false then",
            ),
        ),
        ("tests/integration/test_meta_buffer.py",),
    ),
    Mutant(
        "a meta key that was deleted keeps its row",
        (("buffers/entity.py", "delete=entry.delete or deleted,", "delete=entry.delete,"),),
        ("tests/integration/test_meta_buffer.py",),
    ),
    Mutant(
        "a lost reply makes the client send again",
        (("store/connection.py", "Retry(NoBackoff(), 0)", "Retry(NoBackoff(), 3)"),),
        (f"{SAFEGUARDS}test_what_got_no_answer_is_not_sent_again",),
    ),
    Mutant(
        "a Redis that lost everything numbers as before",
        (
            (
                "store/scripts/write.lua",
                "redis.call('HSETNX', shard, 'no', now)",
                "redis.call('HSETNX', shard, 'no', 0)",
            ),
            (
                "store/scripts/write.lua",
                "redis.call('HSET', shard, 'first', now)",
                "redis.call('HSET', shard, 'first', 0)",
            ),
        ),
        (f"{ROWS}TestReceipt::test_a_redis_that_lost_its_data_has_not_flushed_it",),
    ),
    # Rows
    Mutant(
        "rows are written in any order",
        (
            (
                "flush/writer.py",
                "sorted(buffer.row_entries(batch.entries), key=lambda entry: entry.id)",
                "buffer.row_entries(batch.entries)",
            ),
        ),
        (f"{SAFEGUARDS}test_rows_are_written_in_the_order_of_their_keys",),
    ),
    Mutant(
        "rows are locked in any order",
        (
            (
                "buffers/keyed.py",
                'query.select_for_update().order_by("pk")',
                "query.select_for_update()",
            ),
        ),
        (f"{SAFEGUARDS}test_rows_are_locked_in_one_order",),
        ("postgresql",),
    ),
    Mutant(
        "rows are not locked",
        (("flush/rows.py", "for entry in partial], lock=True)", "for entry in partial])"),),
        (f"{SAFEGUARDS}test_rows_are_locked_in_one_order",),
        ("postgresql",),
    ),
    Mutant(
        "rows get the time of their flush",
        (
            (
                "buffers/layout.py",
                "_stamp(row, self.stamped, entry.at)",
                "_stamp(row, self.stamped, micros_of(timezone.now()))",
            ),
        ),
        (f"{ROWS}TestTimes",),
    ),
    Mutant(
        "a row that came again is as old as the one that was deleted",
        (
            (
                "buffers/layout.py",
                "if f.name not in entry.texts], entry.born)",
                "if f.name not in entry.texts], entry.since)",
            ),
        ),
        (f"{ROWS}TestDelete::test_the_new_row_is_as_old_as_the_write_that_made_it",),
    ),
    # Logs
    Mutant(
        "a unique id that a pending record has is given again",
        (
            (
                "store/scripts/append.lua",
                "if ARGV[i] ~= '' and redis.call(",
                "if false and redis.call(",
            ),
        ),
        (f"{LOG}TestUnique::test_pending_in_flight_and_stored",),
    ),
    Mutant(
        "a unique id is not free after its row is gone",
        (("store/scripts/ack.lua", "      redis.call('HDEL', hash, field)\n", ""),),
        (f"{LOG}TestUnique::test_pending_in_flight_and_stored",),
    ),
    Mutant(
        "a record is appended although others were stored since the look",
        (
            (
                "store/scripts/append.lua",
                "if ARGV[1] ~= '' and ARGV[1] ~= guard then",
                "if false then",
            ),
        ),
        (f"{LOG}TestUnique::test_a_record_that_is_stored_between_the_look_and_the_append",),
    ),
    Mutant(
        "a window does not ask up to which record all are stored",
        (
            (
                "buffers/window.py",
                "            if entry.no > (applied.get(name) or 0):\n",
                "            if True:\n",
            ),
        ),
        (flush("committed", "dies", "lone"),),
    ),
    Mutant(
        "a count does not ask up to which record all are stored",
        (("buffers/window.py", "sum(entry.no > (applied[name] or 0) for", "sum(True for"),),
        (f"{WINDOW}test_all_is_flushed",),
    ),
    Mutant(
        "an acknowledgement drops the records after the batch",
        (
            (
                "store/scripts/ack.lua",
                "redis.call('XTRIM', log, 'MINID', state[2] .. '-1')",
                "redis.call('XTRIM', log, 'MAXLEN', 0)",
            ),
        ),
        (flush("claimed", "dies", "lone"),),
    ),
    # Refusals
    Mutant(
        "dead letters are put away after the commit",
        (
            ("flush/writer.py", _BURY, "        letters = refused\n"),
            ("flush/writer.py", _RETURN, _BURY.removeprefix("    ") + _RETURN),
        ),
        (f"{SAFEGUARDS}test_what_is_refused_is_not_dropped_where_it_cannot_be_put_away",),
    ),
    Mutant(
        "a newer value is not struck out of the dead letters",
        (("flush/writer.py", "            deadletters.supersede(buffer, entries)\n", ""),),
        (f"{POISON}TestDeadLetters::test_is_not_written_over_a_newer_value",),
    ),
    Mutant(
        "a part that was refused is not rolled back",
        (
            (
                "flush/isolation.py",
                "            connection.savepoint_rollback(savepoint)\n            return error\n",
                "            return error\n",
            ),
        ),
        (f"{SAFEGUARDS}test_of_a_part_that_is_refused_nothing_stays",),
    ),
    Mutant(
        "what is missing is the fault of the rows",
        (
            (
                "flush/failures.py",
                'isinstance(error, _OF_VALUES) else "schema"',
                'isinstance(error, _OF_VALUES) else "row"',
            ),
        ),
        ("tests/faults/test_failures.py::TestSchema",),
    ),
    Mutant(
        "any number of entries dies at once",
        (("flush/writer.py", "if not written and len(refused)", "if False and len(refused)"),),
        (f"{POISON}TestIsolation::test_all_of_many_wait",),
    ),
    Mutant(
        "a child dies while its parent is pending",
        (("flush/parents.py", "        _check_pending(layout, field, missing)\n", ""),),
        (f"{POISON}TestParents::test_a_child_waits_for_its_pending_parent",),
    ),
    Mutant(
        "what is refused together is tried again in the order of the keys",
        (("flush/isolation.py", "sorted(entries, key=lambda entry: entry.at)", "sorted(entries)"),),
        (f"{ROWS}TestFailure::test_a_unique_value_moves_from_one_row_to_another",),
    ),
    Mutant(
        "what a flusher works on is discarded",
        (
            (
                "store/scripts/discard.lua",
                "local idle = lease and lease <=",
                "local idle = lease and 0 <=",
            ),
        ),
        ("tests/faults/test_hard_times.py::TestRefusedBatch",),
    ),
    Mutant(
        "a flush runs within a transaction of the caller",
        (
            ("flush/engine.py", "    check_outside_transaction(buffer.layout().using)\n", ""),
            ("flush/writer.py", ", durable=True)", ")"),
        ),
        (f"{ROWS}TestFlush::test_inside_a_transaction_is_refused",),
    ),
]
