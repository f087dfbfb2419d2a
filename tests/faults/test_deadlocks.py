"""Two writes of the same rows wait for each other one way round only: there is no deadlock.

Each test stops a write in the middle, and has another one begin. On SQLite there is one writer at a
time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction
from django.db.models import F

from tests.demo import wait_until
from tests.elsewhere import elsewhere
from tests.models import Item
from tests.router import current
from writebehind_app import Add, BufferedQuerySet

pytestmark = pytest.mark.usefixtures("redis_server")

WAITING = {
    "mysql": "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
    "postgresql": "SELECT COUNT(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'",
}


class Scene:
    """Threads that write, and what the database refused them."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self.refused: list[OperationalError] = []

    def start(
        self, act: Callable[[], Any], *, before: str = "", wait: Callable[[], Any] | None = None
    ) -> Future[None]:
        """Act in a thread. Once, before a statement that has this text, it waits."""
        left = [wait] if wait else []

        def notice(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if left and before in sql:
                left.pop()()
            try:
                return execute(sql, params, many, context)
            except OperationalError as error:
                self.refused.append(error)
                raise

        def run() -> None:
            try:
                with connections[current()].execute_wrapper(notice):
                    act()
            finally:
                connections.close_all()

        return self._pool.submit(run)


@pytest.fixture
def scene(database: str) -> Iterator[Scene]:
    if database == "default":
        pytest.skip("one writer at a time")
    with ThreadPoolExecutor() as pool:
        yield Scene(pool)


def until_waiting(count: int = 1) -> None:
    """Until so many transactions wait for a lock."""
    wait_until(lambda: elsewhere(how_many_wait) >= count)
    assert elsewhere(how_many_wait) >= count


def how_many_wait() -> int:
    time.sleep(0.15)  # InnoDB renews this table if nobody has read it for a tenth of a second
    connection = connections[current()]
    with connection.cursor() as cursor:
        cursor.execute(WAITING[connection.vendor])
        (found,) = cursor.fetchone()
    return int(found)


def rows() -> Any:
    return BufferedQuerySet(Item, using=current())


def lock(*pks: int) -> None:
    for pk in pks:
        Item.objects.select_for_update().filter(pk=pk).first()


def items(*numbers: int) -> list[Item]:
    for number in numbers:
        Item.objects.create(number=number)
    return list(Item.objects.order_by("pk"))


def update(first: Item, second: Item) -> None:
    rows().filter(pk__in=[first.pk, second.pk]).update(a=F("a") + 1)


def bulk_update(first: Item, second: Item) -> None:
    first.a = second.a = 5
    rows().bulk_update([second, first], ["a"])


def delete(first: Item, second: Item) -> None:
    rows().filter(pk__in=[first.pk, second.pk]).delete()


@pytest.mark.parametrize("act", [update, bulk_update, delete])
def test_all_rows_of_a_statement_are_locked_together(scene, act):
    """Something is pending of the second one alone."""
    first, second = items(1, 2)
    Item.buffered.set(number=2, a=Add(1))
    met = threading.Event()

    def other() -> None:
        with transaction.atomic(using=current()):
            lock(first.pk)
            lock(second.pk)

    def wait() -> None:
        others.append(scene.start(other))
        until_waiting()  # for the first row, or for the second
        met.set()

    others: list[Future[None]] = []
    verb = "DELETE FROM" if act is delete else "UPDATE"
    table = connections[current()].ops.quote_name(Item._meta.db_table)
    scene.start(lambda: act(first, second), before=f"{verb} {table}", wait=wait).result()
    others[0].result()
    assert met.is_set()
    assert scene.refused == []


@pytest.mark.parametrize("how", ["save", "update"])
def test_a_locked_row_is_found_by_its_primary_key(scene, how):
    """The other one finds it by the key: MariaDB locks the index, and then waits for the row."""
    (item,) = items(1)
    Item.buffered.set(number=1, a=Add(1))
    others: list[Future[None]] = []

    def act() -> None:
        if how == "save":
            item.b = "saved"
            item.save(update_fields=["b"])
        else:
            rows().filter(number=1).update(b="updated")

    def wait() -> None:
        others.append(scene.start(lambda: Item.objects.filter(number=1).update(c="plain")))
        until_waiting()

    table = connections[current()].ops.quote_name(Item._meta.db_table)
    scene.start(act, before=f"UPDATE {table}", wait=wait).result()
    others[0].result()
    assert scene.refused == []
    stored = Item.objects.get()
    assert (stored.b, stored.c) == (f"{how}d", "plain")


def test_a_flush_locks_rows_in_the_order_of_the_primary_key(scene):
    """Not in that of the key, which is the other one here."""
    first, second, *_ = items(2, 1, *range(3, 100))
    Item.buffered.set_many([{"number": 1, "a": Add(1)}, {"number": 2, "a": Add(1)}])

    def other() -> None:
        with transaction.atomic(using=current()):
            lock(first.pk, second.pk)

    with transaction.atomic(using=current()):
        lock(second.pk)
        flusher = scene.start(Item.buffered.flush)
        until_waiting(1)
        second_one = scene.start(other)
        until_waiting(2)
    flusher.result()
    second_one.result()
    assert scene.refused == []


def test_a_write_around_redis_locks_the_row_before_its_fence(scene, configure):
    """As a save does, which cannot ask Redis and leaves a fence."""
    configure(MODE="direct")
    (item,) = items(1)
    others: list[Future[None]] = []

    def save() -> None:
        item.b = "saved"
        item.save(update_fields=["b"])

    def wait() -> None:
        others.append(scene.start(lambda: Item.buffered.set(number=1, a=Add(1))))
        until_waiting()

    scene.start(save, before="writebehind_fence", wait=wait).result()
    others[0].result()
    assert scene.refused == []
    stored = Item.objects.get()
    assert (stored.a, stored.b) == (1, "saved")
