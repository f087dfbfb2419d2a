"""Rules of a change of the number of shards: for each, a change that makes it void, and who must
notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_BEFORE = "tests/integration/test_before_migrate.py::"
_SCRIPTS = "tests/unit/test_store_divisions.py::"
_FAULTS = "tests/faults/test_divisions.py::"
_OLD = f"{_FAULTS}TestAProcessThatKnowsTheOldShards::"
_WAY = f"{_FAULTS}TestWhatIsInTheWay::"


def _at(step: str, act: str) -> str:
    return f"{_FAULTS}test_a_call_at_each_step[sqlite-change.{step}-{act}-valkey]"


MUTANTS = [
    # Scripts
    mutant(
        "a look notes how many shards a buffer has",
        "division.lua",
        "ARGV[3] == ''",
        "false",
        f"{_SCRIPTS}TestDivision::test_a_look_notes_nothing",
    ),
    mutant(
        "a closed shard takes writes",
        "call.lua",
        "state[6] ~= '1'",
        "false",
        f"{_SCRIPTS}TestShard",
    ),
    mutant(
        "a shard that was never opened takes writes",
        "call.lua",
        "state[6] ~= '1'",
        "state[6] and state[6] ~= '1'",
        f"{_SCRIPTS}TestShard::test_it_takes_nothing_before_it_was_opened",
    ),
    mutant(
        "a change closes what another one has closed",
        "close.lua",
        "found == '1'",
        "true",
        f"{_SCRIPTS}TestShard::test_a_change_does_not_close_what_another_one_has_closed",
    ),
    mutant(
        "a shard is opened whoever closed it",
        "open.lua",
        "found == ARGV[1]",
        "true",
        f"{_SCRIPTS}TestShard::test_it_is_opened_by_those_who_know_why_it_is_closed",
    ),
    mutant(
        "a division comes into force although its change is over",
        "end_change.lua",
        "redis.call('HGET', buffer, 'change') ~= ARGV[1]",
        "false",
        f"{_SCRIPTS}TestDivision::test_a_change_that_takes_too_long_is_over",
    ),
    mutant(
        "a change has no end",
        "division.lua",
        "math.abs(now - (tonumber(state[4]) or 0)) > tonumber(ARGV[2])",
        "false",
        f"{_SCRIPTS}TestDivision::test_a_change_that_takes_too_long_is_over",
    ),
    mutant(
        "two changes are under way",
        "begin_change.lua",
        "state[2] and math.abs(now - (tonumber(state[3]) or 0)) <= tonumber(ARGV[3])",
        "false",
        f"{_SCRIPTS}TestChange::test_one_at_a_time",
    ),
    mutant(
        "a change of an older division begins",
        "begin_change.lua",
        "state[1] ~= ARGV[2]",
        "false",
        f"{_SCRIPTS}TestChange::test_of_a_division_that_is_not_in_force_any_more",
    ),
    mutant(
        "two divisions have shards in common",
        "shard_key",
        'f".{division.number}" if division.number else ""',
        '""',
        f"{_SCRIPTS}test_keys_say_which_division_they_are_of",
    ),
    # The change
    mutant(
        "nobody counts what is pending after the shards were closed",
        "_carry_out",
        "_count(held := _held(shards))",
        "_count(held := _held(shards)) < 0",
        _at("begun", "set"),
    ),
    mutant(
        "whoever gives up does not ask whether the division is in force all the same",
        "_undo",
        "buffer.shard_keys()[0] != shards[0].key",
        "False",
        f"{_FAULTS}test_a_change_that_goes_wrong[shards0-change.made-reply lost-sqlite-valkey]",
        f"{_FAULTS}test_a_change_that_goes_wrong",
    ),
    mutant(
        "shards stay closed after a change that failed",
        "_undo",
        "divisions.reopen(redis, {shard.key: token for shard in shards})",
        "",
        f"{_FAULTS}test_a_change_that_takes_too_long",
    ),
    mutant(
        "a writer does not open what a dead change has closed",
        "settling",
        'to_open.append(("open", key, token))',
        "pass",
        f"{_SCRIPTS}TestWhatBecameOfAClosedShard::test_its_change_is_over",
    ),
    mutant(
        "a writer opens what a change that is under way has closed",
        "settling",
        "token == change",
        "False",
        f"{_SCRIPTS}TestWhatBecameOfAClosedShard::test_its_change_is_under_way",
    ),
    mutant(
        "numbers begin anew in new shards",
        "_make",
        "max(last)",
        "0",
        f"{_FAULTS}test_numbers_go_on",
    ),
    mutant(
        "numbers of batches begin anew in new shards",
        "_make",
        "max(batch)",
        "0",
        f"{_FAULTS}test_numbers_of_batches_go_on",
    ),
    mutant(
        "new shards say nothing of what a snapshot must have",
        "_make",
        "void(buffer, 0, stored)",
        "",
        f"{_FAULTS}test_a_snapshot_without_the_last_batches_is_too_old",
    ),
    mutant(
        "a paused buffer is divided anew",
        "_carry_out",
        "any(each.paused for each in state.overview(redis, shards).values())",
        "False",
        f"{_WAY}test_a_pause",
    ),
    mutant(
        "writes wait although flushers do not keep up",
        "_carry_out",
        "not _is_little(buffer, shards)",
        "False",
        f"{_WAY}test_flushers_that_do_not_keep_up",
    ),
    mutant(
        "an idle flusher does not hear of a change",
        "holding",
        'f"{shard.key}:gone"',
        'f"{shard.key}:due"',
        f"{_OLD}test_has_something_to_flush",
    ),
    mutant(
        "a flusher that was just started believes its settings",
        "holding",
        "learn(buffers, patient=True)",
        "",
        f"{_FAULTS}test_a_flusher_that_was_just_started",
    ),
    # A process that knows the old shards
    mutant(
        "a read is answered by a shard that is not in force",
        "row",
        "closed and divisions.are_moved(client(), {shard: closed})",
        "False",
        f"{_OLD}test_reads_what_is_pending",
    ),
    mutant(
        "shards that are not in force answer",
        "asked",
        "not are_moved(client, closed)",
        "True",
        f"{_OLD}test_reads_many",
        f"{_OLD}test_sees_records",
        f"{_OLD}test_counts",
    ),
    mutant(
        "a save looks at shards that are not in force",
        "find_older",
        "looks and _are_moved(looks)",
        "looks and False",
        f"{_OLD}test_saves",
    ),
    mutant(
        "a write of many rows looks at shards that are not in force",
        "ids_in_redis",
        "divisions.asked(client(), ask)",
        "ask()",
        f"{_OLD}test_updates",
    ),
    mutant(
        "a repeated call does not look for its name once more",
        "CoalescingBuffer._send_one",
        "once and once.is_stored()",
        "False",
        _at("in_force", "once"),
        f"{_FAULTS}test_a_repeated_call_is_stored_meanwhile",
    ),
    mutant(
        "a flush by key does not ask which shards are in force",
        "works_of",
        "renew([buffer], patient=True)",
        "",
        f"{_OLD}test_flushes_rows_for_others",
    ),
    mutant(
        "a discard does not ask which shards are in force",
        "discard",
        "renew([buffer])\nkeys = buffer.shard_keys()",
        "keys = buffer.shard_keys()",
        f"{_OLD}test_discards",
    ),
    mutant(
        "related rows are looked for in shards that are not in force",
        "Related._check_divided",
        "divisions.are_moved(client(patient=True), {k: why for k, why in closed.items() if why})",
        "False",
        f"{_FAULTS}test_rows_that_need_others",
    ),
    mutant(
        "a pause is set in shards that are not in force",
        "on_all_shards",
        "_state_of(buffer) == before",
        "True",
        f"{_FAULTS}test_a_pause_during_a_change",
    ),
    mutant(
        "each snapshot after a change of the shards is too old",
        "_text",
        'f"FROM {_LEDGER} WHERE token IN ({placeholders(acked)})"',
        'f"FROM {_LEDGER} WHERE duration IS NOT NULL AND token IN ({placeholders(acked)})"',
        f"{_FAULTS}test_a_read_after_a_change_asks_once[sqlite-valkey]",
    ),
    mutant(
        "a change before migrate is tried for a minute",
        "_divide",
        "wished != before and (said := migrate_first(alias))",
        "False",
        f"{_BEFORE}test_a_change_of_the_number_of_shards[sqlite-valkey-1]",
    ),
]
