"""Safeguards of calls around Redis: for each, a change that makes it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_ONCE = "tests/faults/test_once.py::"
_FENCES = "tests/integration/test_fallback.py::TestFences"


def once(test: str, what: str) -> str:
    return f"{_ONCE}{test}[{what}]"


MUTANTS = [
    # Calls with a key
    mutant(
        "a flush does not note the calls that it stores",
        "flush/writer.py",
        "        once.settle(buffer, batch.entries)\n",
        "",
        once("test_a_call_comes_again", "sqlite-emptied-set-valkey"),
    ),
    mutant(
        "a delete forgets the calls before it",
        "store/scripts/write.lua",
        "if string.byte(name) == 42 then -- *",
        "if false then",
        f"{_ONCE}test_a_delete_does_not_forget_it",
    ),
    mutant(
        "Redis knows a key for one round only",
        "store/scripts/delivery.lua",
        "(once ~= '-' and outcome_before ~= '0')",
        "false",
        once("test_a_call_comes_again", "sqlite-nothing-set-valkey"),
    ),
    mutant(
        "a call goes around Redis although another may be in there",
        "once.py",
        "            if calls > 1:\n",
        "            if calls > 99:\n",
        once("test_redis_may_have_taken_it_and_is_gone", "sqlite-set-valkey"),
    ),
    mutant(
        "a call that may be in Redis is no more counted",
        "once.py",
        "            if not may_be_in_redis:\n",
        "            if True:\n",
        once("test_redis_may_have_taken_it_and_is_gone", "sqlite-set-valkey"),
    ),
    mutant(
        "a call that went around Redis is not noted",
        "once.py",
        "            self._note.update(done=True)\n",
        "            pass\n",
        once("test_a_call_went_around_redis", "later-set-valkey-sqlite"),
    ),
    mutant(
        "a call that finds nothing to do does not ask whether it did it",
        "once.py",
        "return done if found is None and self.was_taken() else found",
        "return found",
        once("test_a_call_comes_again", "sqlite-nothing-set_if-valkey"),
    ),
    # Fences
    mutant(
        "a direct write leaves no fence",
        "direct.py",
        "    fences.leave(buffer, [*rows, *deleted], now, whole=whole)\n",
        "",
        _FENCES,
    ),
    mutant(
        "a flush does not look for fences",
        "flush/writer.py",
        "            if found := of_rows(buffer, ids):\n",
        "            if False:\n",
        _FENCES,
    ),
    mutant(
        "a read does not look for fences",
        "buffers/row.py",
        "left = fences.left_of(layout.known(entry), row)",
        "left = layout.known(entry)",
        _FENCES,
    ),
    mutant(
        "an earlier delete takes a row that was made directly",
        "fences.py",
        "entry.delete and self.row < entry.gone",
        "entry.delete",
        f"{_FENCES}::test_a_row_that_is_new_since_a_delete",
    ),
    mutant(
        "operations on a pending value are void with it",
        "fences.py",
        "                texts[name], relative = entry.apart[name], True\n",
        "                pass\n",
        "tests/faults/test_fences.py::test_a_process_that_knows_of_no_outage",
    ),
    mutant(
        "fences go although older values are pending",
        "fences.py",
        "        old = old.filter(at__lt=micros_of(first))\n",
        "        pass\n",
        f"{_FENCES}::test_they_go_when_nothing_older_can_be_there",
    ),
]
