"""The time by Redis' clock is told by the quickest of its answers."""

from __future__ import annotations

import time

import pytest

from writebehind_app.store import clock

SECOND = 1_000_000


@pytest.fixture(autouse=True)
def unknown(monkeypatch):
    monkeypatch.setattr(clock, "ahead", None)


def test_before_the_first_answer_it_is_that_of_the_machine():
    assert abs(clock.now() - time.time() * SECOND) < SECOND
    assert clock.ahead is None


def test_an_answer_that_nobody_was_there_to_read_says_little():
    now = clock.ticks()
    clock.saw(100 * SECOND, now)
    clock.saw(100 * SECOND, now - 5 * SECOND)  # five seconds ago it was about that late
    assert 100 * SECOND <= clock.now() < 101 * SECOND


def test_a_slow_answer_is_mended_by_a_quick_one():
    now = clock.ticks()
    clock.saw(100 * SECOND - 5 * SECOND, now - 5 * SECOND)
    clock.saw(100 * SECOND, now)
    assert 100 * SECOND <= clock.now() < 101 * SECOND


def test_the_clock_of_redis_is_put_back_or_forward():
    clock.saw(100 * SECOND, clock.ticks())
    clock.saw(50 * SECOND, clock.ticks())
    assert 50 * SECOND <= clock.now() < 51 * SECOND
    clock.saw(200 * SECOND, clock.ticks())
    assert 200 * SECOND <= clock.now() < 201 * SECOND
