"""Rules of bases: for each, a change that makes it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_BASES = "tests/integration/test_bases.py::"
_FILL = f"{_BASES}TestFills::"
_ACK = f"{_BASES}TestAck::"
_PAST = f"{_BASES}TestPastRedis::"
_MEMORY = f"{_BASES}TestMemory::"
_GUARDED = f"{_BASES}TestGuardedWrites::"
_FORMAT = f"{_BASES}TestFormat::"

MUTANTS = [
    # Fills
    mutant(
        "a base is filled by whoever comes, with or without the lease",
        "fill.lua",
        "redis.pcall('GET', base) == ARGV[1] and",
        "",
        f"{_FILL}test_a_batch_was_stored_meanwhile",
        f"{_FILL}test_two_readers",
    ),
    mutant(
        "a base is filled while a batch is in flight",
        "fill.lua",
        "redis.call('EXISTS', shard .. ':f:' .. id) == 0",
        "true",
        f"{_FILL}test_a_batch_is_in_flight_by_then",
    ),
    mutant(
        "a lease is given while a batch is in flight",
        "based.lua",
        "is_in_flight or",
        "",
        f"{_FILL}test_while_a_batch_is_in_flight_nobody_begins",
    ),
    mutant(
        "a base is filled from the snapshot of a transaction",
        "rows",
        "shows_what_is_committed(using)",
        "True",
        f"{_FILL}test_not_in_a_transaction",
    ),
    mutant(
        "a fill is kept for longer than its lease",
        "fill.lua",
        "1000 * redis.call('PTTL', base)",
        "tonumber(ARGV[2])",
        f"{_FILL}test_it_ends_with_its_lease",
    ),
    mutant(
        "a base has the number of no fence",
        "text_of",
        "fence.last",
        "0",
        f"{_FILL}test_what_is_older_than_a_fence_is_not_read_over_it",
        f"{_FILL}test_so_for_metadata",
    ),
    mutant(
        "one reads over a base what is older than a fence",
        "row",
        "entry.since > number",
        "True",
        f"{_FILL}test_what_is_older_than_a_fence_is_not_read_over_it",
    ),
    mutant(
        "many read over a base what is older than a fence",
        "rows",
        "_began(id, reading) <= known[0]",
        "False",
        f"{_FILL}test_what_is_older_than_a_fence_is_not_read_over_it",
    ),
    # Acks
    mutant(
        "an ack leaves leases and bases as they are",
        "ack.lua",
        "call('UNLINK', shard .. ':f:' .. id, base)",
        "call('UNLINK', shard .. ':f:' .. id)",
        f"{_FILL}test_a_batch_was_stored_meanwhile",
        f"{_ACK}test_one_that_comes_again_drops_it",
    ),
    mutant(
        "an ack makes bases",
        "ack.lua",
        "string.find(head, '[^?]')",
        "true",
        f"{_ACK}test_nor_of_a_lease",
        f"{_ACK}test_and_makes_none",
    ),
    mutant(
        "a base that is renewed counts from the ack",
        "ack.lua",
        "whole + (tonumber(call('HGET', shard, 'batch')) or 0) - now",
        "whole",
        f"{_ACK}test_a_base_ends_so_long_after_the_claim",
    ),
    mutant(
        "an ack renews no base",
        "_bases",
        "new_bases(buffer, entries)",
        "{}",
        f"{_ACK}test_it_overwrites_a_base",
    ),
    # Writes past Redis
    mutant(
        "a look leaves the base",
        "marking.lua",
        "redis.call('UNLINK', shard .. ':b:' .. id)",
        "",
        f"{_PAST}test_somebody_dies_before_the_end",
    ),
    mutant(
        "a look leaves no mark",
        "marking.lua",
        "redis.call('ZADD', marks, now + 1000 * ms, token)",
        "",
        f"{_PAST}test_somebody_reads_before_the_commit_and_the_writer_dies",
    ),
    mutant(
        "the base does not go after the commit",
        "unmark.lua",
        "redis.call('UNLINK', shard .. ':b:' .. ARGV[i])",
        "",
        f"{_PAST}test_a_transaction_that_outlives_its_mark",
    ),
    mutant(
        "a mark stays after the commit",
        "unmark.lua",
        "redis.pcall('ZREM', shard .. ':m:' .. ARGV[i], ARGV[1])",
        "",
        f"{_PAST}test_save",
    ),
    mutant(
        "a transaction reads bases of what it wrote itself",
        "may_be_read",
        "not ends",
        "True",
        f"{_PAST}test_a_transaction_that_outlives_its_mark",
    ),
    mutant(
        "a transaction reads no bases after a savepoint was rolled back",
        "may_be_read",
        "not ends[-1].is_waiting()",
        "False",
        f"{_PAST}test_it_reads_bases_again_after_a_rollback",
    ),
    mutant(
        "an update() leaves bases",
        "update",
        "write.mark((buffer.entry_id(buffer.layout().id_of(row)) for row in rows_now))",
        "pass",
        f"{_PAST}test_querysets_of_the_manager",
    ),
    mutant(
        "a bulk_create() leaves what is known of rows that were not there",
        "create",
        "write.add(map(buffer.entry_id, row_ids_of(buffer.layout(), rows)))",
        "pass",
        f"{_PAST}test_querysets_of_the_manager",
    ),
    mutant(
        "a row whose key the database chose has its base still",
        "watch_saves",
        "write.add([buffer.entry_id(id)])",
        "pass",
        f"{_PAST}test_a_row_that_is_made",
    ),
    mutant(
        "a direct write leaves bases",
        "write",
        "passing(buffer, {write.id for write in writes})",
        "passing(buffer)",
        f"{_PAST}test_directly",
    ),
    mutant(
        "rows that go with a row of a batch have bases still",
        "_before_delete",
        "buffer.model is not own.model or row.pk not in own.pks",
        "False",
        f"{_ACK}test_rows_that_go_with_their_parent",
    ),
    mutant(
        "a guarded write does not wait for a save",
        "guarded",
        "is_own(using, token)",
        "True",
        f"{_GUARDED}test_they_wait_for_a_save",
    ),
    mutant(
        "a guarded write waits for the save of its own transaction",
        "guarded",
        "is_own(using, token)",
        "False",
        f"{_GUARDED}test_and_not_for_their_own",
    ),
    # Format, and memory
    mutant(
        "a base of other columns is read",
        "based.lua",
        "string.sub(found, 1, #prefix) == prefix",
        "found ~= '' and string.sub(found, 1, 1) ~= '?'",
        f"{_FORMAT}test_code_with_other_columns_does_not_read_it",
    ),
    mutant(
        "an instance is made past what the project says of it",
        "maker",
        "not _is_plain(model)",
        "False",
        f"{_FORMAT}test_the_project_has_a_hand_in_its_instances",
    ),
    mutant(
        "nobody hears of an instance",
        "maker",
        "pre_init.receivers or post_init.receivers",
        "False",
        f"{_FORMAT}test_somebody_wants_to_know_of_each_instance",
    ),
    mutant(
        "bases take as much memory as they like",
        "keeping.lua",
        "while bytes > most and forget(redis.call('ZRANGE', index, 0, 0), true) do end",
        "",
        f"{_MEMORY}test_all_take_no_more_than_they_may",
        f"{_MEMORY}test_leases_count",
    ),
    mutant(
        "what is known of bases is kept for ever",
        "keeping.lua",
        "redis.call('PEXPIRE', index, math.ceil(whole / 1000))",
        "",
        f"{_MEMORY}test_nothing_is_left_of_them",
    ),
]
