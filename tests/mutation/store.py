"""Rules of docs/protocol.md: for each, a change that makes it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

CALLS = "tests/unit/test_next_calls.py::"
LOST = f"{CALLS}TestLostReplies::"
REFUSED = f"{CALLS}TestRefusals::"
GUARDS = f"{CALLS}TestGuards::"
BATCHES = "tests/unit/test_next_batches.py::"

MUTANTS = [
    # Numbers
    mutant(
        "numbers go back with the clock",
        "call.lua",
        "math.max(now, before + 1)",
        "now",
        f"{CALLS}TestNumbers::test_they_grow_when_the_clock_stands_still_or_goes_back",
    ),
    # Calls
    mutant(
        "a call has no deadline",
        "call.lua",
        "now > tonumber(ARGV[2])",
        "false",
        f"{REFUSED}test_what_comes_after_its_deadline_changes_nothing",
    ),
    mutant(
        "who asks after a lost reply has no deadline",
        "again.lua",
        "now > tonumber(ARGV[3])",
        "false",
        f"{LOST}test_after_the_deadline_nobody_knows",
    ),
    mutant(
        "a note of an earlier call is taken for this one",
        "again.lua",
        "number > tonumber(ARGV[2]) and number < 2^52",
        "number > 0 and number < 2^52",
        f"{LOST}test_an_earlier_note_of_the_sender_is_not_taken_for_the_call",
    ),
    mutant(
        "nobody remembers the number that was answered last",
        "Sender.send",
        "self.answered[call.shard] = outcome.first + call.size - 1",
        "pass",
        f"{LOST}test_an_earlier_note_of_the_sender_is_not_taken_for_the_call",
    ),
    mutant(
        "a late original is not refused",
        "again.lua",
        "redis.call('ZADD', senders, 2^52 + now, ARGV[1])",
        "",
        f"{LOST}test_a_call_that_did_not_arrive_is_taken_and_its_original_refused",
    ),
    mutant(
        "a note does not spare who was disowned",
        "take.lua",
        "call('ZADD', shard .. ':senders', 'GT', 'CH', last, ARGV[1]) == 0",
        "call('ZADD', shard .. ':senders', last, ARGV[1]) == 2",
        f"{LOST}test_a_call_that_did_not_arrive_is_taken_and_its_original_refused",
    ),
    mutant(
        "who was disowned is forgotten early",
        "claimed.lua",
        "2^52 + until_then",
        "2^52 + now",
        f"{LOST}test_who_was_disowned_just_now_is_not_forgotten",
    ),
    mutant(
        "a refused call leaves its ids behind",
        "take.lua",
        "call('ZREM', due, id)",
        "",
        f"{REFUSED}test_a_full_shard_takes_no_new_entry_and_keeps_nothing_of_the_call",
    ),
    mutant(
        "an idempotency key lets any number of writes in",
        "looks.lua",
        "known and {now, 'known', tonumber(known)}",
        "nil",
        f"{CALLS}TestOnce::test_the_second_call_is_told_the_number_of_the_first",
    ),
    mutant(
        "an entry has any number of names",
        "looks.lua",
        "> most_names",
        "> 10 * most_names",
        f"{REFUSED}test_names_of_an_entry_that_are_too_many",
    ),
    mutant(
        "a field has any number of operations",
        "looks.lua",
        "> most_bytes",
        "> 100 * most_bytes",
        f"{REFUSED}test_operations_on_a_field_that_are_too_many",
    ),
    # Entries
    mutant(
        "a sum goes on over a value",
        "segments.lua",
        "began and tonumber(newest) > void and found[1] or ''",
        "found[1] or ''",
        f"{CALLS}TestOperations::test_operations_before_a_value_go_and_later_ones_stay",
    ),
    mutant(
        "a sum goes on over a save",
        "segments.lua",
        "tonumber(newest) > (tonumber(found[4] or 0) or 0)",
        "true",
        f"{CALLS}TestOperations::test_a_save_closes_sums",
    ),
    mutant(
        "a sum goes on over a write of another version",
        "segments.lua",
        "tonumber(newest) > closed",
        "true",
        f"{CALLS}TestVersions::test_no_sum_goes_on_over_a_write_of_another_version",
    ),
    mutant(
        "a sum has more digits than Lua can add",
        "segments.lua",
        "math.abs(a + b) < 2^53 and",
        "",
        f"{CALLS}TestOperations::test_what_is_of_two_kinds_or_no_number_of_53_bits_stays_apart",
    ),
    mutant(
        "after a delete the row is as old as the entry",
        "keep.lua",
        "call('HSET', entry, '^', number)",
        "",
        f"{CALLS}TestEntries::test_a_delete_forgets_what_was_before_it_and_a_write_makes_a_new_row",
    ),
    # Guards
    mutant(
        "a guard is of the shard alone",
        "looks.lua",
        "(found[1] or found[2] or '')",
        "''",
        f"{CALLS}TestGuards::test_a_write_is_taken_while_nothing_has_changed",
    ),
    mutant(
        "a claim leaves the guard as it was",
        "claimed.lua",
        "'token', fresh, 'guard', fresh,",
        "'token', fresh,",
        f"{GUARDS}test_after_what_moves_entries",
    ),
    mutant(
        "an ack leaves the guard as it was",
        "acked.lua",
        "'guard', ARGV[1] .. '-',",
        "",
        f"{GUARDS}test_after_what_moves_entries",
    ),
    mutant(
        "a discard leaves the guard as it was",
        "discards_end.lua",
        "call('HSET', shard, 'guard', ARGV[3])",
        "",
        f"{GUARDS}test_after_what_moves_entries",
    ),
    mutant(
        "the guard of an empty shard repeats",
        "read.lua",
        "redis.call('HSETNX', shard, 'guard', ARGV[1])",
        "",
        f"{GUARDS}test_of_an_empty_shard_repeats_after_no_loss",
    ),
    # Batches
    mutant(
        "any token acknowledges",
        "mine.lua",
        "call('HGET', shard, 'token') ~= ARGV[1]",
        "false",
        f"{BATCHES}TestAck::test_with_another_token_it_changes_nothing",
    ),
    mutant(
        "who takes a batch over gives it a new token",
        "flight.lua",
        "{'batch', token or fresh,",
        "{'batch', fresh,",
        f"{BATCHES}TestLease::test_after_it_the_same_batch_goes_under_the_same_token",
    ),
    mutant(
        "a due shard gives only what is due",
        "claim.lua",
        "whole and string.format('%.0f', now + max_age) or now",
        "now",
        f"{BATCHES}TestClaim::test_a_shard_is_due_when_its_oldest_entry_is",
    ),
    mutant(
        "what was written with the clock ahead waits until then",
        "claim.lua",
        "string.format('(%.0f', now + max_age), '+inf',",
        "'(+inf', '+inf',",
        f"{BATCHES}TestClaim::test_what_was_written_with_the_clock_a_day_ahead_does_not_wait_a_day",
    ),
    mutant(
        "with the clock put back everything is due",
        "rows.lua",
        "(first - now < 1000000 and first or now)",
        "first",
        f"{BATCHES}TestClaim::test_after_the_clock_was_put_back_entries_are_not_due_at_once",
    ),
]
