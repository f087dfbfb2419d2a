"""The processes of a measurement: clients, and a flusher beside them."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from django.db import OperationalError, connections

from writebehind_app.bench import tables
from writebehind_app.bench.counting import Counts, counted
from writebehind_app.bench.process import Place
from writebehind_app.bench.workloads import WORKLOADS, Order
from writebehind_app.flush import engine

READY, DONE, GO, DRAIN = "ready", "done", "go", "drain"
_PAUSE = 0.2  # seconds between two flushes of what is due
_DRAIN = 120.0  # seconds to flush the rest at the end


@dataclass(frozen=True, slots=True)
class Report:
    """What a process did in a trial."""

    cpu: float  # seconds
    counts: Counts
    reads: array[float]  # seconds of each
    writes: array[float]
    failed: int  # operations that failed by a deadlock or a lock timeout
    done: dict[Any, Any]


def be_client(pipe: Connection, place: Place) -> None:
    _work(_call, pipe, place)


def be_flusher(pipe: Connection, place: Place) -> None:
    _work(_flush, pipe, place)


def _work(act: Callable[[Connection, Order], Report], pipe: Connection, place: Place) -> None:
    """Carry out orders until the pipe is closed."""
    tables.use(place.using, place.prefix)
    while True:
        order: Order = pipe.recv()
        for buffer in WORKLOADS[order.workload].buffers():
            buffer.cache(order.cache_seconds or 0)
        pipe.send(act(pipe, order))


def _counting(order: Order) -> Any:
    return counted(order.using) if order.is_counted else nullcontext(Counts())


def _call(pipe: Connection, order: Order) -> Report:
    acts = WORKLOADS[order.workload].acts(order)
    read, write, is_write, clock = acts.read, acts.write, acts.is_write, time.perf_counter
    reads, writes, failed = array("d"), array("d"), 0
    connections[order.using].ensure_connection()  # its first statements are no part of the workload
    pipe.send(READY)
    _hear(pipe, GO)
    with _counting(order) as counts:
        cpu, now = time.process_time(), clock()
        end = now + order.seconds
        while now < end:
            times, act = (writes, write) if next(is_write) else (reads, read)
            started = now
            try:
                act()
            except OperationalError:  # a deadlock or a lock timeout: go on with the next one
                failed += 1
                now = clock()
            else:
                now = clock()
                times.append(now - started)
        cpu = time.process_time() - cpu
    pipe.send(DONE)
    return Report(cpu, counts, reads, writes, failed, acts.done)


def _flush(pipe: Connection, order: Order) -> Report:
    """Flush as `flush_writebehind --loop` does, and flush the rest at the end."""
    buffers = WORKLOADS[order.workload].buffers()
    connections[order.using].ensure_connection()
    pipe.send(READY)
    _hear(pipe, GO)
    with _counting(order) as counts:
        cpu = time.process_time()
        while not pipe.poll(_PAUSE):
            for buffer in engine.holding(buffers):
                engine.flush(buffer, due_only=True, pruning=False)
        _hear(pipe, DRAIN)
        deadline = time.monotonic() + _DRAIN
        while left := engine.holding(buffers):
            for buffer in left:
                engine.flush(buffer, ignore_backoff=True, pruning=False)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{left} could not be drained in {_DRAIN:.0f} s.")
        cpu = time.process_time() - cpu
    pipe.send(DONE)
    return Report(cpu, counts, array("d"), array("d"), 0, {})


def _hear(pipe: Connection, word: str) -> None:
    heard = pipe.recv()
    assert heard == word, heard
