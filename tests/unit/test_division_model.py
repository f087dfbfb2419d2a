"""A model of a change of the shards of a buffer: all orders in which things can happen, in a small
scope.

One shard is to be replaced. Two processes try to, one after the other or at the same time; each may
die, or stand still, between any two steps, and a command that it sent may arrive later. Another
process writes to the shard as long as it is open, and opens it where it finds it closed by a change
that is over. The rules of docs/protocol.md hold in each order. Next to them are versions that look
as good, and what goes wrong with those.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

OPEN = ""


@dataclass(frozen=True)
class Rules:
    """How it is done, and what one might leave out."""

    one_at_a_time: bool = True  # no change begins while another one is under way
    own_token: bool = True  # each change has a token that no earlier one had
    leaves_closed: bool = True  # a shard that another change has closed is not closed anew
    counts_closed: bool = True  # what is pending is counted after the shard was closed
    checks_change: bool = True  # a division comes into force only while its change is under way
    asks_first: bool = True  # whoever finds a closed shard asks which change is under way
    opens_what_it_found: bool = True  # by the token that it found, and no other one
    undo_asks: bool = True  # whoever gives up asks whether its division is in force all the same


@dataclass(frozen=True)
class Changer:
    """A process that changes the number of shards."""

    at: str = "idle"
    to_close: bool = False  # its command to close the shard is on its way
    to_open: bool = False  # its command to open the shard again is on its way


@dataclass(frozen=True)
class State:
    """What Redis holds, and where the processes are."""

    in_force: str = ""  # the token of the change that put the new shard in force
    change: str = ""  # the token of the change that is under way
    closed: str = OPEN  # the token of the change that closed the old shard
    pending: bool = False  # something is pending in the old shard
    begun: int = 0
    changers: tuple[Changer, Changer] = (Changer(), Changer())
    found: str = ""  # the token that a writer found: it asks about it next
    to_open: str = ""  # its command to open the shard is on its way, with this token
    wrong: str = ""


def token(rules: Rules, n: int) -> str:
    return "AB"[n] if rules.own_token else "A"


def steps(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """What may happen next."""
    if state.closed == OPEN:
        wrong = "a write that nobody will see" if state.in_force else state.wrong
        yield "somebody writes", replace(state, pending=True, wrong=wrong)
    elif not state.found:
        yield "a writer finds it closed", replace(state, found=state.closed)
    if state.found:
        is_over = not state.in_force and state.change != state.found
        opened = state.found if rules.opens_what_it_found else "*"
        if is_over or not rules.asks_first:
            yield "a writer opens it", replace(state, found="", to_open=opened)
        else:
            yield "a writer waits, or learns", replace(state, found="")
    if state.to_open:
        is_so = state.to_open in ("*", state.closed)
        yield "it is opened", replace(state, to_open="", closed=OPEN if is_so else state.closed)
    if state.pending:
        yield "a flush", replace(state, pending=False)
    if state.change:
        yield "the change took too long", replace(state, change="")
    for n, changer in enumerate(state.changers):
        for name, after in _changes(state, rules, token(rules, n), changer):
            new, after = after
            changers = (new, state.changers[1]) if n == 0 else (state.changers[0], new)
            yield f"{'AB'[n]} {name}", replace(after, changers=changers)


def _changes(
    state: State, rules: Rules, own: str, changer: Changer
) -> Iterator[tuple[str, tuple[Changer, State]]]:
    def at(where: str, **more: bool) -> Changer:
        return replace(changer, at=where, **more)

    # What was sent before the process died or gave up arrives, too.
    if changer.to_close:
        free = state.closed == OPEN or not rules.leaves_closed
        closed = own if free else state.closed
        yield "closes the shard", (replace(changer, to_close=False), replace(state, closed=closed))
    if changer.to_open:
        closed = OPEN if state.closed == own else state.closed
        yield "opens the shard", (replace(changer, to_open=False), replace(state, closed=closed))
    match changer.at:
        case "idle" if not state.in_force and not (state.change and rules.one_at_a_time):
            yield "begins", (at("begun"), replace(state, change=own))
        case "begun" if not rules.counts_closed:
            if not state.pending:
                yield "counts", (at("counted", to_close=True), state)
        case "begun":
            yield "sends the close", (at("closing", to_close=True), state)
        case "counted" if state.closed == own:
            yield "goes on", (at("drained"), state)
        case "closing" if state.closed == own and not state.pending and not changer.to_close:
            yield "counts", (at("drained"), state)
        case "drained":
            if state.change == own or not rules.checks_change:
                wrong = "something pending is left behind" if state.pending else state.wrong
                if state.in_force:
                    wrong = "two divisions are in force"
                done = replace(state, in_force=own, change="", wrong=wrong)
                yield "puts it in force", (at("done"), done)
                yield "puts it in force, and hears nothing", (at("undo"), done)
    if changer.at in ("begun", "closing", "counted", "drained"):
        yield "gives up", (at("undo"), state)
    if changer.at == "undo":
        change = "" if state.change == own else state.change
        yield "ends the change", (at("undone"), replace(state, change=change))
    if changer.at == "undone" and not (state.in_force and rules.undo_asks):
        yield "sends the open", (at("over", to_open=True), state)


def search(rules: Rules) -> tuple[str, list[str], set[State]]:
    """What goes wrong, the shortest way there, and all states."""
    first = State()
    ways: dict[State, list[str]] = {first: []}
    left = deque([first])
    while left:
        state = left.popleft()
        for name, after in steps(state, rules):
            if after not in ways:
                ways[after] = [*ways[state], name]
                if after.wrong:
                    return after.wrong, ways[after], {*ways}
                left.append(after)
    return "", [], {*ways}


def test_the_rules_hold_in_each_order():
    why, way, states = search(Rules())
    assert not why, way
    assert {state.in_force for state in states} == {"", "A", "B"}
    assert len(states) > 1000


def test_nobody_is_left_with_a_shard_that_stays_closed():
    """From each state without a new division, the shard can be opened by those who write."""
    _, _, states = search(Rules())
    writing = ("the change took too long", "a writer", "it is opened")
    for state in states:
        left = deque([state])
        seen = {state}
        while left and not any(each.closed == OPEN or each.in_force for each in seen):
            for name, after in steps(left.popleft(), Rules()):
                if name.startswith(writing) and after not in seen:
                    seen.add(after)
                    left.append(after)
        assert any(each.closed == OPEN or each.in_force for each in seen), state


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (Rules(one_at_a_time=False), ""),  # the token alone is enough
        (Rules(own_token=False), "something pending is left behind"),
        (Rules(leaves_closed=False), "something pending is left behind"),
        (Rules(counts_closed=False), "something pending is left behind"),
        (Rules(checks_change=False), "something pending is left behind"),
        (Rules(asks_first=False), "something pending is left behind"),
        (Rules(opens_what_it_found=False), "something pending is left behind"),
        (Rules(undo_asks=False), "a write that nobody will see"),
    ],
    ids=lambda value: str(value).removeprefix("Rules") if isinstance(value, Rules) else "",
)
def test_each_rule_is_needed(rules, expected):
    why, way, _ = search(rules)
    assert why == expected, way
