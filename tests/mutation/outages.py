"""Safeguards of calls while Redis is away, slow or full: for each, a change that makes it void, and
who must notice."""

from __future__ import annotations

from tests.mutation.mutant import SCRIPTS, mutant

_BREAKER = "tests/faults/test_breaker.py::"
_OPENS = "tests/unit/test_breaker.py::"
_DELIVERY = "tests/faults/test_delivery.py::"
_LINKS = "tests/faults/test_transport.py::"
_TWINS = "tests/integration/test_async.py::"
_CEILING = "tests/integration/test_ceiling.py::"
_DURABILITY = "tests/integration/test_durability.py::"

MUTANTS = [
    # The breaker
    mutant(
        "a call without an answer is no worse than any that fails",
        "Breaker._failed",
        "in_a_row < _TOLERATED and not isinstance(error, redis.TimeoutError)",
        "in_a_row < _TOLERATED",
        f"{_OPENS}TestOpening::test_one_call_without_an_answer_in_time",
    ),
    mutant(
        "a read whose connection broke is not sent again",
        "Client.exchange",
        "again and isinstance(error, redis.ConnectionError)",
        "False",
        f"{_DELIVERY}test_a_connection_breaks_that_reads",
    ),
    mutant(
        "flush() is as patient as a flusher",
        "Buffer._flush",
        "store.count(client(), self.shard_keys()[:1])",
        "",
        f"{_BREAKER}TestServers::test_a_flusher_is_not_held_back",
    ),
    mutant(
        "a call with a key is refused though one of that key may be pending",
        "Once.was_taken",
        "may_be_in_redis",
        "False",
        "tests/faults/test_once.py::test_a_call_is_refused_while_redis_is_away",
    ),
    mutant(
        "Redis is asked although it is away",
        "Client.exchange",
        "breaker.check(write=write)",
        "pass",
        f"{_BREAKER}TestServers::test_a_redis_that_is_frozen_costs_one_timeout",
    ),
    mutant(
        "a forked process waits for the thread of its parent",
        "Breaker._watch",
        "self._thread is None or not self._thread.is_alive()",
        "self._thread is None",
        f"{_BREAKER}TestServers::test_a_forked_process_waits_for_itself",
    ),
    mutant(
        "a forked process has the lock of its parent",
        "_forked",
        "_lock = threading.Lock()  # another thread of the parent may have held it",
        "pass",
        f"{_BREAKER}TestServers::test_a_forked_process_waits_for_itself",
    ),
    mutant(
        "Redis is probed as often as ever",
        "Breaker._wait",
        "min(self._pause * 2, _LONGEST)",
        "self._pause",
        f"{_OPENS}TestClosing::test_probes_come_less_and_less_often",
    ),
    mutant(
        "a Redis that comes and goes is asked as if it never went before",
        "Breaker._opened",
        "self._since - self._back_at > _CALM",
        "True",
        f"{_OPENS}TestClosing::test_one_that_comes_and_goes_is_asked_less_and_less_often",
    ),
    mutant(
        "a full Redis is not read",
        "Breaker._failed",
        '"writes" if refused else "all"',
        '"all"',
        f"{_BREAKER}TestServers::test_reads_of_a_redis_that_is_full",
    ),
    mutant(
        "a read that works is taken for a write",
        "Breaker.note",
        "write and self._refused",
        "self._refused",
        f"{_OPENS}TestOpening::test_answers_of_a_redis_that_takes_no_writes",
        also=(("Breaker.note", "0 if write else self._refused", "0"),),
    ),
    mutant(
        "Redis is away because a call is wrong",
        "Breaker.note",
        "isinstance(reply, Exception) and is_away(reply)",
        "isinstance(reply, Exception)",
        f"{_OPENS}TestOpening::test_what_a_call_is_to_blame_for",
    ),
    mutant(
        "each call says that Redis is away",
        "Breaker._failed",
        "not self.is_open",
        "True",
        f"{_OPENS}TestTelling::test_once_not_with_each_call",
    ),
    mutant(
        "a flusher is held back",
        "Client.exchange",
        "self.is_held_back",
        "True",
        f"{_BREAKER}TestServers::test_a_flusher_is_not_held_back",
    ),
    mutant(
        "who listens to the signal may keep a call from being made",
        "Breaker._failed",
        "signals.fallback_started.send_robust",
        "signals.fallback_started.send",
        f"{_OPENS}TestTelling::test_a_receiver_that_fails_harms_nobody",
    ),
    mutant(
        "probes go on when nobody asks any more",
        "Client.end",
        "self.breaker.end()",
        "pass",
        f"{_OPENS}TestClosing::test_the_thread_ends_with_its_settings",
    ),
    mutant(
        "Redis is probed less and less often for ever",
        "<module>",
        "_FIRST, _LONGEST = 0.5, 1.0",
        "_FIRST, _LONGEST = 0.5, 30.0",
        f"{_OPENS}TestClosing::test_it_is_asked_within_two_seconds_however_often_it_goes",
    ),
    # Connections
    mutant(
        "a connection is used that has ended meanwhile",
        "Links.take",
        "link.poll(0) and link.is_dead()",
        "False",
        f"{_LINKS}TestThreads::test_a_server_that_was_restarted_makes_no_call_uncertain",
    ),
    mutant(
        "an event loop uses a connection that has ended meanwhile",
        "LoopLinks.take",
        "not link.is_dead()",
        "True",
        f"{_LINKS}TestLoops::test_a_server_that_was_restarted_makes_no_call_uncertain",
    ),
    mutant(
        "a connection goes on being used after an exception amid a call",
        "Client.exchange",
        "self.links.end(link)\nraise",
        "link.home.append(link)\nraise",
        f"{_LINKS}TestThreads::test_an_exception_amid_a_call_leaves_no_answer_behind",
    ),
    mutant(
        "a connection is used by the next task while an answer is on its way",
        "LoopLinks.give",
        "link.is_busy",
        "False",
        f"{_LINKS}TestLoops::test_a_task_gets_no_answer_of_a_cancelled_one",
    ),
    mutant(
        "a cancelled task and the answer that it does not wait for both give a connection back",
        "LoopLinks.give",
        "not link.is_lent",
        "False",
        f"{_LINKS}TestLoops::test_a_task_that_is_cancelled_as_its_answer_comes",
    ),
    mutant(
        "a forked process goes on with the connections of its parent",
        "_forked",
        "links.forget()",
        "pass",
        f"{_LINKS}TestThreads::test_of_those_before_a_fork_none_is_used_after_it",
    ),
    mutant(
        "there are as many connections as there are threads",
        "Links._may_open",
        "len(self._open) + self._opening >= self._most",
        "False",
        f"{_LINKS}TestThreads::test_one_that_is_needed_is_waited_for",
    ),
    # Event loops
    mutant(
        "a task writes amid the transaction of the thread that waits for it",
        "may_hold_tasks",
        'getattr(AsyncToSync.executors, "current", None) is not None',
        "False",
        f"{_TWINS}test_the_transaction_of_who_waits_for_the_loop_holds_its_writes",
        also=(
            (
                "may_hold_tasks",
                "get_running_loop() in AsyncToSync.loop_thread_executors",
                "False",
            ),
        ),
    ),
    mutant(
        "a task writes past its batch",
        "may_hold_tasks",
        "_current() is not None",
        "False",
        f"{_TWINS}test_a_batch_holds_what_a_loop_writes",
    ),
    mutant(
        "what the project checks is checked on the loop",
        "Buffer.asks_redis_alone",
        "not self._has_clean()",
        "True",
        f"{_TWINS}test_code_of_the_project_runs_in_a_thread",
    ),
    # Which call it is
    mutant(
        "a call is carried out as often as it comes",
        "delivery.lua",
        "if known and (seq <= string.sub(known, 1, 16) or",
        "if known and (false or",
        f"{_DELIVERY}test_a_connection_breaks",
    ),
    mutant(
        "a call is carried out when its caller has given up",
        "delivery.lua",
        "now > string.sub(ARGV[1], 1, 16)",
        "false",
        f"{_DELIVERY}test_no_answer_in_time",
    ),
    mutant(
        "a call that was refused is carried out when it comes late",
        "delivery.lua",
        "again == '1'",
        "false",
        f"{SCRIPTS}TestDelivery",
    ),
    mutant(
        "a forked process calls in the name of its parent",
        "<module>",
        "os.register_at_fork(after_in_child=_idle.clear)",
        "",
        f"{_DELIVERY}test_a_forked_process_has_sessions_of_its_own",
    ),
    mutant(
        "writes to a row are sent after one that was not taken",
        "_in_order",
        "failed.setdefault(about, outcome)",
        "",
        f"{_DELIVERY}test_after_a_write_that_was_not_taken_none_to_its_row_is_sent",
    ),
    mutant(
        "what Redis may have taken goes around it",
        "CoalescingBuffer._settled",
        "write.is_idempotent",
        "True",
        "tests/faults/test_outages.py::TestFallback",
    ),
    # How many entries there may be
    mutant(
        "nothing is ever full",
        "delivery.lua:is_full",
        "room ~= '-' and held + more > tonumber(room)",
        "false",
        f"{_CEILING}TestRaise::test_what_is_too_much",
    ),
    mutant(
        "what is in flight leaves room",
        "write.lua",
        "redis.call('ZCARD', due) + redis.call('LLEN', shard .. ':flight')",
        "redis.call('ZCARD', due)",
        f"{_CEILING}TestDirect::test_what_is_in_flight_counts",
    ),
    mutant(
        "a shard has a ceiling of its own",
        "_delivered",
        "yield from again(indexes[:free], roomy=True)",
        "",
        f"{_CEILING}TestDirect::test_all_in_one_shard",
    ),
    mutant(
        "many records take the room of one",
        "append.lua",
        "is_full(redis.call('XLEN', log), #records)",
        "is_full(redis.call('XLEN', log), 1)",
        f"{_CEILING}TestDirect::test_records_that_come_together_stay_together",
    ),
    mutant(
        "a full buffer is not drained for rows that have expired",
        "flush",
        'logger.warning("%s: what has expired stays until the next flush: %s", buffer, error)',
        "raise",
        f"{_CEILING}test_rows_that_expire_do_not_keep_a_full_buffer_full",
    ),
    # What they wait for
    mutant(
        "a call that is repeated waits for nothing",
        "delivery.lua",
        "redis.call('EXPIRE', memory, seconds)\n  return",
        "return",
        f"{_DURABILITY}test_a_call_that_is_repeated_waits_too",
    ),
    mutant(
        "a write is sent although there is no fsync to wait for",
        "delivering",
        "yield from _look_for_waitaof(client)",
        "",
        f"{_DURABILITY}TestWithoutWaitaof::test_nothing_is_written",
    ),
    mutant(
        "nobody reads what became of the fsync",
        "_exchange",
        "missing := durability.missing(waited)",
        "False",
        f"{_DURABILITY}TestFsync::test_not_on_disk_in_time",
    ),
]
