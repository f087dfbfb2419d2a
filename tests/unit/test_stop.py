"""The end of a command by a signal."""

from __future__ import annotations

import os
import signal
import threading
import time

from writebehind_app.management.arguments import Stop, stop_on_signal


def test_a_second_signal_is_urgent():
    with stop_on_signal() as stop:
        assert (stop.is_set(), stop.is_urgent) == (False, False)
        signal.raise_signal(signal.SIGTERM)
        assert (stop.is_set(), stop.is_urgent) == (True, False)
        signal.raise_signal(signal.SIGINT)
        assert (stop.is_set(), stop.is_urgent) == (True, True)


def test_a_signal_ends_a_wait():
    with stop_on_signal() as stop:
        assert stop.wait(0.01) is False
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        started = time.monotonic()
        assert stop.wait(30) is True
        assert time.monotonic() - started < 10


def test_what_was_there_before_is_there_again():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signal():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_gets_no_signals():
    found = []

    def work() -> None:
        with stop_on_signal() as stop:
            found.append(stop.wait(0.01))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_signal_within_a_wait_does_not_hang():
    """Signals come at every moment of many waits: a lock would be held at one of them."""
    before = signal.getsignal(signal.SIGVTALRM)
    try:
        for _ in range(150):
            stop = Stop()
            signal.signal(signal.SIGVTALRM, stop.on_signal)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.00001)
            while not stop.wait(0):
                pass
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
