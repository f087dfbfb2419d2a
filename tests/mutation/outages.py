"""Safeguards of calls while Redis is away, slow or full: for each, a change that makes it void, and
who must notice."""

from __future__ import annotations

from tests.mutation.mutant import SCRIPTS, mutant

_BREAKER = "tests/faults/test_breaker.py::"
_OPENS = "tests/unit/test_breaker.py::"
_DELIVERY = "tests/faults/test_delivery.py::"
_CEILING = "tests/integration/test_ceiling.py::"
_DURABILITY = "tests/integration/test_durability.py::"

MUTANTS = [
    # The breaker
    mutant(
        "a call without an answer is no worse than any that fails",
        "store/breaker.py",
        "if in_a_row < _TOLERATED and not isinstance(error, redis.TimeoutError):",
        "if in_a_row < _TOLERATED:",
        f"{_OPENS}TestOpening::test_one_call_without_an_answer_in_time",
    ),
    mutant(
        "a read whose connection broke is not sent again",
        "store/lua.py",
        "if again and isinstance(error, redis.ConnectionError):",
        "if False:",
        f"{_DELIVERY}test_a_connection_breaks_that_reads",
    ),
    mutant(
        "flush() is as patient as a flusher",
        "buffers/base.py",
        "            store.count(client(), self.shard_keys()[:1])\n",
        "",
        f"{_BREAKER}TestServers::test_a_flusher_is_not_held_back",
    ),
    mutant(
        "a call with a key is refused though one of that key may be pending",
        "once.py",
        "            if may_be_in_redis:\n",
        "            if False:\n",
        "tests/faults/test_once.py::test_a_call_is_refused_while_redis_is_away",
    ),
    mutant(
        "Redis is asked although it is away",
        "store/lua.py",
        "    client.breaker.check(write=write)\n",
        "",
        f"{_BREAKER}TestServers::test_a_redis_that_is_frozen_costs_one_timeout",
    ),
    mutant(
        "a forked process waits for the thread of its parent",
        "store/breaker.py",
        "if self._thread is None or not self._thread.is_alive():",
        "if self._thread is None:",
        f"{_BREAKER}TestServers::test_a_forked_process_waits_for_itself",
    ),
    mutant(
        "a forked process has the lock of its parent",
        "store/breaker.py",
        "os.register_at_fork(after_in_child=_forked)\n",
        "",
        f"{_BREAKER}TestServers::test_a_forked_process_waits_for_itself",
    ),
    mutant(
        "Redis is probed as often as ever",
        "store/breaker.py",
        "min(self._pause * 2, _LONGEST)",
        "self._pause",
        f"{_OPENS}TestClosing::test_probes_come_less_and_less_often",
    ),
    mutant(
        "a Redis that comes and goes is asked as if it never went before",
        "store/breaker.py",
        "if self._since - self._back_at > _CALM:",
        "if True:",
        f"{_OPENS}TestClosing::test_one_that_comes_and_goes_is_asked_less_and_less_often",
    ),
    mutant(
        "a full Redis is not read",
        "store/breaker.py",
        'self._held = "writes" if refused else "all"',
        'self._held = "all"',
        f"{_BREAKER}TestServers::test_reads_of_a_redis_that_is_full",
    ),
    mutant(
        "a read that works is taken for a write",
        "store/breaker.py",
        "elif self._silent or (write and self._refused):",
        "elif self._silent or self._refused:",
        f"{_OPENS}TestOpening::test_answers_of_a_redis_that_takes_no_writes",
        also=(("store/breaker.py", "0 if write else self._refused", "0"),),
    ),
    mutant(
        "Redis is away because a call is wrong",
        "store/breaker.py",
        "isinstance(reply, Exception) and is_away(reply)",
        "isinstance(reply, Exception)",
        f"{_OPENS}TestOpening::test_what_a_call_is_to_blame_for",
    ),
    mutant(
        "each call says that Redis is away",
        "store/breaker.py",
        "is_new = not self.is_open",
        "is_new = True",
        f"{_OPENS}TestTelling::test_once_not_with_each_call",
    ),
    mutant(
        "a flusher is held back",
        "store/connection.py",
        "    if patient:\n        return plain\n",
        "",
        f"{_BREAKER}TestServers::test_a_flusher_is_not_held_back",
    ),
    mutant(
        "who listens to the signal may keep a call from being made",
        "store/breaker.py",
        "signals.fallback_started.send_robust(",
        "signals.fallback_started.send(",
        f"{_OPENS}TestTelling::test_a_receiver_that_fails_harms_nobody",
    ),
    mutant(
        "probes go on when nobody asks any more",
        "store/connection.py",
        "                client.breaker.end()\n",
        "                pass\n",
        f"{_OPENS}TestClosing::test_the_thread_ends_with_its_settings",
    ),
    # Which call it is
    mutant(
        "a call is carried out as often as it comes",
        "store/scripts/delivery.lua",
        "if known and (seq <= string.sub(known, 1, 16) or",
        "if known and (false or",
        f"{_DELIVERY}test_a_connection_breaks",
    ),
    mutant(
        "a call is carried out when its caller has given up",
        "store/scripts/delivery.lua",
        "if now > string.sub(ARGV[1], 1, 16) then",
        "if false then",
        f"{_DELIVERY}test_no_answer_in_time",
    ),
    mutant(
        "a call that was refused is carried out when it comes late",
        "store/scripts/delivery.lua",
        "if again == '1' then",
        "if false then",
        f"{SCRIPTS}TestDelivery",
    ),
    mutant(
        "a forked process calls in the name of its parent",
        "store/delivery.py",
        "os.register_at_fork(after_in_child=_idle.clear)\n",
        "",
        f"{_DELIVERY}test_a_forked_process_has_sessions_of_its_own",
    ),
    mutant(
        "writes to a row are sent after one that was not taken",
        "store/delivery.py",
        "failed.setdefault(about, outcome)",
        "pass",
        f"{_DELIVERY}test_after_a_write_that_was_not_taken_none_to_its_row_is_sent",
    ),
    mutant(
        "what Redis may have taken goes around it",
        "buffers/coalescing.py",
        "self, outcome, again=write.is_idempotent",
        "self, outcome, again=True",
        "tests/faults/test_outages.py::TestFallback",
    ),
    # How many entries there may be
    mutant(
        "nothing is ever full",
        "store/scripts/delivery.lua",
        "return room ~= '-' and held + more > tonumber(room)",
        "return false",
        f"{_CEILING}TestRaise::test_what_is_too_much",
    ),
    mutant(
        "what is in flight leaves room",
        "store/scripts/write.lua",
        "redis.call('ZCARD', due) + redis.call('LLEN', shard .. ':flight')",
        "redis.call('ZCARD', due)",
        f"{_CEILING}TestDirect::test_what_is_in_flight_counts",
    ),
    mutant(
        "a shard has a ceiling of its own",
        "store/delivery.py",
        "        again(indexes[:free], roomy=True)\n",
        "        pass\n",
        f"{_CEILING}TestDirect::test_all_in_one_shard",
    ),
    mutant(
        "many records take the room of one",
        "store/scripts/append.lua",
        "is_full(redis.call('XLEN', log), #records)",
        "is_full(redis.call('XLEN', log), 1)",
        f"{_CEILING}TestDirect::test_records_that_come_together_stay_together",
    ),
    mutant(
        "a full buffer is not drained for rows that have expired",
        "flush/engine.py",
        "        except WritebehindError as error:  # a full",
        "        except ZeroDivisionError as error:  # a full",
        f"{_CEILING}test_rows_that_expire_do_not_keep_a_full_buffer_full",
    ),
    # What they wait for
    mutant(
        "a call that is repeated waits for nothing",
        "store/scripts/delivery.lua",
        "  redis.call('EXPIRE', memory, seconds)\n  return",
        "  return",
        f"{_DURABILITY}test_a_call_that_is_repeated_waits_too",
    ),
    mutant(
        "a write is sent although there is no fsync to wait for",
        "store/delivery.py",
        "        _look_for_waitaof(client)\n",
        "        pass\n",
        f"{_DURABILITY}TestWithoutWaitaof::test_nothing_is_written",
    ),
    mutant(
        "nobody reads what became of the fsync",
        "store/delivery.py",
        "            if missing := durability.missing(waited):\n",
        "            if False:\n",
        f"{_DURABILITY}TestFsync::test_not_on_disk_in_time",
    ),
]
