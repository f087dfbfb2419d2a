from __future__ import annotations

import gc
import os
import signal
import threading
import time

import pytest

from tests.backdoor.flushes import collector_lock
from writebehind_app.flush.garbage import paused


def test_collection_goes_on_when_the_last_one_ends():
    with paused():
        with paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_collection_goes_on_after_an_error():
    with pytest.raises(KeyError), paused():
        raise KeyError
    assert gc.isenabled()


def test_what_was_off_before_stays_off():
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_process_that_is_forked_meanwhile_collects_and_pauses():
    """Another thread of its parent is at a batch, or begins one."""
    begun, end = threading.Event(), threading.Event()

    def flush() -> None:
        with paused():
            begun.set()
            end.wait()

    thread = threading.Thread(target=flush)
    thread.start()
    begun.wait()
    with collector_lock():
        child = os.fork()
        if not child:
            was_on = gc.isenabled()
            with paused():
                was_off = not gc.isenabled()
            os._exit(0 if was_on and was_off and gc.isenabled() else 1)
    end.set()
    thread.join()
    assert os.waitstatus_to_exitcode(ended(child)) == 0
    assert gc.isenabled()


def ended(child: int) -> int:
    """The status of a process, which does not wait for a lock for ever."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]
