"""Safeguards of what runs by itself: for each, a change that makes it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_FLUSH_WHEN = "tests/integration/test_flush_when.py::"
_HASTENED = "tests/unit/test_store_batches.py::TestClaim::test_what_was_hastened_goes_alone"
_SCHEDULES = "tests/integration/test_schedules.py::"
_STATUS = "tests/integration/test_status.py::"
_TASKS = "tests/integration/test_tasks.py::"
_OVERDUE = "tests/integration/test_overdue.py::"
_IDLE = "tests/integration/test_idle.py::"

MUTANTS = [
    mutant(
        "each pass of a loop looks for what has expired",
        "is_time",
        "_PAUSE",
        "0",
        f"{_IDLE}test_what_has_expired_goes_once_a_minute",
    ),
    mutant(
        "each pass of a loop goes through all buffers",
        "_visits",
        "b in held or b in to_prune",
        "True",
        f"{_IDLE}test_redis_is_asked_once_in_a_pass",
    ),
    mutant(
        "an error of Redis is taken for a shard that is empty",
        "holding",
        "reply != 0",
        "reply != 0 and not isinstance(reply, Exception)",
        f"{_IDLE}test_what_somebody_else_wrote_is_seen",
    ),
    mutant(
        "what is paused is claimed",
        "flight.lua",
        "state[7]",
        "false",
        f"{_STATUS}TestPause",
    ),
    mutant(
        "a flush on demand of what is paused ends as if it were done",
        "_flush_here",
        "is_paused",
        "False",
        f"{_STATUS}TestPause::test_a_flush_on_demand_says_that_it_cannot_be",
    ),
    mutant(
        "two ticks at once",
        "lock.lua",
        "held and held ~= ARGV[1]",
        "false",
        f"{_TASKS}TestTick::test_one_is_at_it_at_a_time",
    ),
    mutant(
        "a task that is timed out keeps its batch",
        "given_back",
        "is_end(error)",
        "isinstance(error, KeyboardInterrupt)",
        f"{_TASKS}TestTimeout",
    ),
    mutant(
        "a time limit of RQ or Celery is an error of one batch",
        "flush_batch",
        "is_end(error)",
        "False",
        f"{_TASKS}TestTimeout::test_nobody_waits_for_the_lease_of_its_batch",
    ),
    mutant(
        "a time limit of RQ or Celery is an error of one buffer",
        "_flush",
        "is_end(error)",
        "False",
        f"{_TASKS}TestTimeout::test_nobody_waits_for_the_lease_of_its_batch",
    ),
    mutant(
        "a time limit of RQ or Celery makes a dead letter",
        "kind",
        '"end" if is_end(error) else "unknown"',
        '"unknown"',
        f"{_TASKS}TestTimeout::test_refuses_no_entry_however_often_the_batch_failed",
    ),
    mutant(
        "a time limit of RQ or Celery is an error of a hook",
        "_call_hook",
        "is_end(error)",
        "False",
        "tests/integration/test_on_flushed.py::test_a_time_limit_within_it_ends_the_task",
    ),
    mutant(
        "a loop goes on below its limit",
        "_run",
        "limit = max(limit - flushed, 0)",
        "limit -= flushed",
        "tests/integration/test_command.py::TestOptions::"
        "test_loop_until_the_limit_although_a_batch_that_is_taken_over_is_larger",
    ),
    mutant(
        "an error of one buffer ends the last drain of all",
        "_drain",
        'logger.exception("%s: what is pending stays in Redis", buffer)',
        "raise",
        "tests/integration/test_service.py::TestEnd::"
        "test_an_error_that_nobody_foresaw_keeps_no_other_buffer",
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
        "redis.call('ZADD', shard .. ':due', 1, id)",
        "",
        _HASTENED,
        f"{_FLUSH_WHEN}TestTrouble::test_a_broker_that_is_away_costs_nothing_but_time",
    ),
    mutant(
        "each write asks for a job",
        "hasten.lua",
        "is_first and 1 or 0",
        "1",
        _HASTENED,
        f"{_FLUSH_WHEN}TestOnce",
    ),
    mutant(
        "each write looks whether something is overdue",
        "checking",
        "clock.ticks() + _PAUSE",
        "0",
        f"{_OVERDUE}test_a_look_is_a_round_trip_a_minute",
    ),
    mutant(
        "each look says anew what is overdue",
        "_log",
        "_logged.add(shard)",
        "",
        f"{_OVERDUE}test_once_until_it_was_flushed",
    ),
    mutant(
        "what is paused is said to be overdue",
        "_log",
        "is_paused or not is_overdue(age, max_age)",
        "not is_overdue(age, max_age)",
        f"{_OVERDUE}test_nor_what_is_paused",
    ),
    mutant(
        "a cluster that flushes is taken for one that is stuck",
        "_is_left_out",
        "one.paused or one.in_flight or one.attempts",
        "False",
        f"{_STATUS}TestHealth::test_a_cluster_that_flushes_nothing",
    ),
    mutant(
        "a flush deletes fewer rows of the ledger than batches come",
        "expire",
        'dispensable.filter(applied_at__lt=since).values_list("token", flat=True)[:_MOST]',
        'dispensable.filter(applied_at__lt=since).values_list("token", flat=True)[:_CHUNK]',
        "tests/integration/test_ledger.py::test_many_rows_that_are_old_go_with_one_flush",
    ),
]
