"""Safeguards of what runs by itself: for each, a change that makes it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_FLUSH_WHEN = "tests/integration/test_flush_when.py::"
_SCHEDULES = "tests/integration/test_schedules.py::"
_STATUS = "tests/integration/test_status.py::"
_TASKS = "tests/integration/test_tasks.py::"

MUTANTS = [
    mutant(
        "what is paused is claimed",
        "claim.lua",
        "state[7]",
        "false",
        f"{_STATUS}TestPause",
    ),
    mutant(
        "a flush on demand of what is paused ends as if it were done",
        "flush",
        "raise_errors and is_paused",
        "False",
        f"{_STATUS}TestPause::test_a_flush_on_demand_says_that_it_cannot_be",
    ),
    mutant(
        "two ticks at once",
        "hold.lua",
        "held and held ~= ARGV[1]",
        "false",
        f"{_TASKS}TestTick::test_one_is_at_it_at_a_time",
    ),
    mutant(
        "a task that is timed out keeps its batch",
        "_given_back",
        "(SystemExit, KeyboardInterrupt)",
        "KeyboardInterrupt",
        f"{_TASKS}TestTimeout",
    ),
    mutant(
        "a tick goes on after its schedule was removed",
        "_hand_on",
        "not jobs.conf().SYNC and schedules.is_on()",
        "True",
        f"{_TASKS}TestTick::test_asks_for_the_next_one_while_it_is_scheduled",
    ),
    mutant(
        "a job is asked for within a transaction",
        "enqueue",
        "orm and connections[orm].in_atomic_block",
        "False",
        f"{_TASKS}TestJobs::test_are_asked_for_after_the_commit",
    ),
    mutant(
        "a schedule that was removed is made again",
        "make",
        "_is_new(name) or again",
        "_is_new(name) or True",
        f"{_SCHEDULES}TestRemoved",
    ),
    mutant(
        "a schedule is made twice",
        "_make",
        "_all().filter(name=name).exists()",
        "False",
        f"{_SCHEDULES}TestMade::test_by_migrate_and_by_the_command_once",
    ),
    mutant(
        "what is to be flushed at once is not due",
        "hasten.lua",
        "redis.call('ZADD', due, 'LT',",
        "redis.call('ZADD', due, 'GT',",
        f"{_FLUSH_WHEN}TestTrouble::test_a_broker_that_is_away_costs_nothing_but_time",
    ),
    mutant(
        "each write asks for a job",
        "hasten.lua",
        "'NX', 'PX', ARGV[2]) and 1 or 0",
        "'NX', 'PX', ARGV[2]) and 1 or 1",
        f"{_FLUSH_WHEN}TestOnce",
    ),
]
