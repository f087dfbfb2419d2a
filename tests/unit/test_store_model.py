"""A model of how a call gets to Redis: all orders in which things can happen, in a small scope.

One sender, whose earlier call was answered, has a call unanswered. Its connection may break at any
time. What was sent may arrive later. Its reply may be lost. The rules of docs/protocol.md hold in
each order. Next to them are versions that look as good, and what goes wrong with those.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

EARLIER, NUMBER = 1, 2  # of the call that was answered, and of the one that was not


@dataclass(frozen=True)
class Rules:
    """How it is done, and what one might leave out."""

    compares_since: bool = True  # the note must be of a later number than the last answered one
    disowns: bool = True  # who asks in vain has the original refused
    has_deadline: bool = True
    asks_in_time: bool = True  # who asks has a deadline, too
    remembers: bool = True  # notes outlive the deadlines
    is_alone: bool = True  # no other call of the sender to this shard is unanswered
    new_name: bool = True  # the call is sent again by another sender
    is_whole: bool = True  # a call that is refused keeps nothing


@dataclass(frozen=True)
class State:
    """What Redis holds, what is on its way, and what the caller knows."""

    time: int = 0  # 1: the original is late; 2: so is the second
    taken: int = 0  # how often the call is in Redis
    note: int = EARLIER  # the last number that was noted of the sender; 0: it was forgotten
    disowned: bool = False
    full: bool = True  # whether Redis may refuse once more
    original: str = "on its way"
    other: str = "on its way"  # a second call of the sender, behind the original
    connected: bool = True
    asked: str = ""  # whether the call was taken
    second: str = ""
    outcome: str = ""


def steps(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """What may happen next."""
    if state.time < 3:
        yield "time goes on", replace(state, time=state.time + 1)
    if state.time >= (2 if rules.remembers else 0):
        yield "notes are forgotten", replace(state, note=0, disowned=False)
    if state.original == "on its way":
        late = rules.has_deadline and state.time >= 1
        if late or state.disowned:
            yield "the original is late", replace(state, original="refused")
        else:
            yield "the original is taken", _take(state, original="taken", note=NUMBER)
            if state.full:
                kept = state.taken + (not rules.is_whole)
                yield (
                    "the original is refused",
                    replace(state, original="refused", full=False, taken=kept),
                )
    elif not rules.is_alone and state.other == "on its way" and not state.disowned:
        yield "the other call is taken", replace(state, other="taken", note=NUMBER + 1)
    if state.connected and not state.outcome:
        if state.original != "on its way":
            yield "its reply comes", replace(state, outcome=state.original)
        yield "the connection breaks", replace(state, connected=False)
    if not state.connected and not state.outcome:
        if not state.asked:
            yield "one asks again", replace(state, asked="on its way")
        yield from _repeat(state, rules)
    elif state.asked == "on its way" and not state.outcome:
        yield from _repeat(state, rules)
    if state.second == "on its way":  # also after the caller has given up
        yield from _second(state, rules)


def _take(state: State, **more: object) -> State:
    return replace(state, taken=state.taken + 1, **more)  # type: ignore[arg-type]


def _repeat(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    if state.asked == "on its way":
        since = EARLIER if rules.compares_since else 0
        if state.time >= 2 and rules.asks_in_time:
            yield "one asks too late", replace(state, asked="late", outcome="uncertain")
        elif state.note > since:
            yield "it was taken", replace(state, asked="taken")
        else:
            yield "it was not", replace(state, asked="no", disowned=rules.disowns)
    elif state.asked == "taken":
        yield "one hears so", replace(state, outcome="taken")
    elif state.asked == "no" and not state.second:
        yield "it is sent again", replace(state, second="on its way")
    elif state.second not in ("", "on its way"):
        yield "its second reply comes", replace(state, outcome=state.second)
    if state.asked:
        yield "no answer comes", replace(state, outcome="uncertain")


def _second(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    if state.time >= 2 or (state.disowned and not rules.new_name):
        yield "the second is late", replace(state, second="refused")
    else:
        yield "the second is taken", _take(state, second="taken")
        if state.full:
            yield "the second is refused", replace(state, second="refused", full=False)


def wrong(state: State) -> str:
    """Which guarantee is broken."""
    if state.taken > 1:
        return "taken twice"
    if state.outcome == "taken" and not state.taken:
        return "acknowledged and not taken"
    if state.outcome == "refused" and state.taken:
        return "refused and taken"
    return ""


def search(
    first: State, rules: Rules, check: Callable[[State], str] = wrong
) -> tuple[str, list[str], set[State]]:
    """What goes wrong, the shortest way there, and all states."""
    ways: dict[State, list[str]] = {first: []}
    left = deque([first])
    while left:
        state = left.popleft()
        for name, after in steps(state, rules):
            if after in ways:
                continue
            ways[after] = [*ways[state], name]
            if why := check(after):
                return why, ways[after], {*ways}
            left.append(after)
    return "", [], {*ways}


def test_the_rules_hold_in_each_order():
    why, way, states = search(State(), Rules())
    assert not why, way
    outcomes = {(state.outcome, state.taken) for state in states if state.outcome}
    assert outcomes == {("taken", 1), ("refused", 0), ("uncertain", 0), ("uncertain", 1)}
    assert len(states) > 300


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (Rules(compares_since=False), "acknowledged and not taken"),
        (Rules(disowns=False), "taken twice"),
        (Rules(has_deadline=False), "taken twice"),
        (Rules(asks_in_time=False), "refused and taken"),
        (Rules(remembers=False), "taken twice"),
        (Rules(is_alone=False), "acknowledged and not taken"),
        (Rules(is_whole=False), "refused and taken"),
    ],
    ids=lambda value: str(value).removeprefix("Rules") if isinstance(value, Rules) else "",
)
def test_each_rule_is_needed(rules, expected):
    why, way, _ = search(State(), rules)
    assert why == expected, way


def test_under_its_old_name_a_call_would_never_be_taken():
    _, _, states = search(State(), Rules(new_name=False))
    assert not [state for state in states if state.disowned and state.second == "taken"]
