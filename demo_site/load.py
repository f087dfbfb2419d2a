"""A help desk's day: writes to tickets, as many agents and autosaves would send them."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from django.db import connections

from writebehind_app.exceptions import WritebehindError
from writebehind_app.meta.models import TicketMeta

logger = logging.getLogger("demo_site")

STATUSES = ("open", "waiting", "on hold", "solved", "closed")
AGENTS = ("", "alma", "bruno", "chidi", "dora", "emil", "farah")
_CATEGORIES = ("account", "billing", "course", "certificate", "video")
_SUBJECTS = (
    "Cannot log in after a password reset",
    "Invoice shows the wrong address",
    "Video stops after ten seconds",
    "Certificate has my old name on it",
    "Progress of lesson 4 is gone",
    "How do I change the language?",
    "Refund for a course booked twice",
    "Quiz says 0 of 10, all were right",
    "The app is slow on my phone",
    "Übung 3: Datei lässt sich nicht öffnen",
)

QUIET = range(1, 9)  # tickets left to whoever looks at the demo
BUSY = range(9, 301)  # tickets that the load writes to

Write = tuple[int, dict[str, Any]]  # a ticket id and the fields written


def opening(ticket_id: int) -> dict[str, Any]:
    """The first write of a ticket, the same every time."""
    rng = random.Random(ticket_id)
    return {
        "customer_id": rng.randint(1000, 1999),
        "status": "open",
        "subject": rng.choice(_SUBJECTS),
        "category": rng.choice(_CATEGORIES),
    }


def changes(rng: random.Random, ticket_ids: list[int]) -> Iterator[Write]:
    """Endless later writes, each of which changes a few fields of one of the tickets."""
    while True:
        values: dict[str, Any]
        match rng.randrange(4):
            case 0:
                values = {"status": rng.choice(STATUSES)}
            case 1:
                values = {"assigned_to": rng.choice(AGENTS), "status": "waiting"}
            case 2:
                values = {"extra": {"draft": "…" * rng.randint(1, 9), "seen": rng.randint(1, 99)}}
            case _:
                values = {"subject": rng.choice(_SUBJECTS), "category": rng.choice(_CATEGORIES)}
        yield rng.choice(ticket_ids), values


def open_tickets() -> None:
    """Make the tickets of the demo that are not there yet."""
    ids = (*QUIET, *BUSY)
    there = TicketMeta.buffered.get_many(ids)
    missing = [{"ticket_id": id, **opening(id)} for id in ids if id not in there]
    if missing:
        TicketMeta.buffered.set_many(missing)
        TicketMeta.buffered.flush()


def set_buffered(writes: Iterable[Write]) -> None:
    for ticket_id, values in writes:
        TicketMeta.buffered.set(ticket_id=ticket_id, **values)


class Load:
    """Threads that write at a steady rate until `end()`. No two write to the same ticket."""

    def __init__(self, *, threads: int = 4, rate: float = 200) -> None:
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(list(BUSY[number::threads]), rate / threads),
                name=f"load-{number}",
                daemon=True,
            )
            for number in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self, ticket_ids: list[int], rate: float) -> None:
        due = time.monotonic()
        try:
            for write in changes(random.Random(), ticket_ids):
                due = max(due + 1 / rate, time.monotonic() - 1)  # no burst after a hold-up
                if self._ending.wait(max(0.0, due - time.monotonic())):
                    return
                try:
                    set_buffered([write])
                except WritebehindError as error:
                    logger.error("A write was not accepted: %s", error)
                    self._ending.wait(1)
        finally:
            connections.close_all()


def in_threads(work: Callable[[Iterable[Write]], None], parts: list[list[Write]]) -> None:
    """Do each part of the writes in a thread of its own. An error, or a Ctrl-C, ends them all."""
    ending = threading.Event()

    def run(part: list[Write]) -> None:
        try:
            work(itertools.takewhile(lambda _: not ending.is_set(), part))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(parts)) as pool:
        try:
            for done in as_completed([pool.submit(run, part) for part in parts]):
                done.result()
        finally:
            ending.set()
