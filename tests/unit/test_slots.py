"""The map of the slots of a cluster, as its nodes tell it."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from writebehind_app.store.slots import COUNT, Slots

A, B, C = ("a", 1), ("b", 2), ("c", 3)
ALL = COUNT - 1


class Told(Slots):
    """Of nodes whose answers to CLUSTER SLOTS are given here."""

    def __init__(self, answers: dict[tuple[str, int], Any]) -> None:
        super().__init__(redis.ConnectionPool(), [*answers])
        self.answers = answers
        self.asked: list[tuple[str, int]] = []

    def _ask(self, address: tuple[str, int]) -> list[Any]:
        self.asked.append(address)
        answer = self.answers.get(address, redis.ConnectionError("away"))
        if isinstance(answer, Exception):
            raise answer
        found: list[Any] = answer
        return found


def test_masters_and_replicas():
    slots = Told({A: [[0, 99, ["", 1, "id"], ["c", 3, "id"]], [100, ALL, ["b", 2, "id"]]]})
    slots.refresh(0)
    assert slots.owners[99:101] == [A, B]
    assert slots.masters() == [A, B]
    assert slots.replicas == {A: [C], B: []}
    slots.check_covered()


def test_a_node_that_is_away():
    slots = Told({A: redis.ConnectionError("away"), B: [[0, ALL, ["b", 2]]]})
    slots.refresh(0)
    assert slots.masters() == [B]


def test_a_node_that_does_not_belong_to_the_cluster():
    slots = Told({A: [], B: [[0, ALL - 1, ["b", 2]]], C: []})
    slots.refresh(0)
    assert slots.masters() == [B]
    with pytest.raises(redis.exceptions.ClusterDownError, match="1 of the 16384 hash slots are"):
        slots.check_covered()


def test_a_node_that_is_cut_off_is_not_asked_for_ever():
    """It goes on naming the master that has died."""
    slots = Told({A: [[0, ALL, ["a", 1]]], B: [[0, ALL, ["b", 2]]]})
    for n in range(3):
        slots.refresh(n)
    assert {*slots.asked} == {A, B}


def test_one_thread_of_several_asks():
    slots = Told({A: [[0, ALL, ["a", 1]]]})
    slots.refresh(0)
    slots.refresh(0)
    assert slots.asked == [A]


def test_what_was_known_is_kept():
    slots = Told({A: [[0, ALL, ["a", 1]]]})
    slots.refresh(0)
    slots.answers.clear()
    slots.refresh(1)
    assert slots.masters() == [A]


def test_nothing_is_known():
    slots = Told({A: redis.ConnectionError("away")})
    with pytest.raises(redis.ConnectionError, match="away"):
        slots.refresh(0)
    assert slots.is_stale
