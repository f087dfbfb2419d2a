"""Measures what a buffer costs who goes on using the ORM: save(), and querysets, next to those of a
plain model.

python -m pytest tests/performance/orm.py -s      (WRITEBEHIND_TEST_DATABASES names the databases)
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator

import pytest
from django.apps import apps
from django.db import connections, models

from tests.models import Item
from writebehind_app import BufferedManager

ROWS = int(os.environ.get("WRITEBEHIND_ROWS", 1000))
ROUNDS = int(os.environ.get("WRITEBEHIND_ROUNDS", 41))
SAVES = 50  # in a round


@pytest.fixture
def plain(database) -> Iterator[type[models.Model]]:
    """A model with the fields of Item, and without its buffer."""
    fields = {f.name: f.clone() for f in Item._meta.concrete_fields if not f.primary_key}
    meta = type("Meta", (), {"app_label": "tests"})
    model = type("PlainItem", (models.Model,), {"__module__": __name__, "Meta": meta, **fields})
    with connections[database].schema_editor() as editor:
        editor.create_model(model)
    yield model
    with connections[database].schema_editor() as editor:
        editor.delete_model(model)
    del apps.all_models["tests"]["plainitem"]
    apps.clear_cache()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
def test_orm(database, redis_server, plain):
    manager = BufferedManager()
    manager.model, manager.name = Item, "objects"
    for model in (plain, Item):
        model.objects.bulk_create(model(number=n, b="open") for n in range(ROWS))
    one, other = (model.objects.get(number=1) for model in (plain, Item))

    def saves(row: models.Model) -> Callable[[], None]:
        def act() -> None:
            for _ in range(SAVES):
                row.a += 1
                row.save()

        return act

    print(f"\n{database}, {ROWS} rows, {ROUNDS} rounds")
    compare("save()", saves(one), saves(other))
    compare("a queryset", lambda: list(plain.objects.all()), lambda: list(manager.all()))
    compare("get()", lambda: plain.objects.get(number=1), lambda: manager.get(number=1))
    compare(
        "update() of a row",
        lambda: plain.objects.filter(number=1).update(a=1),
        lambda: manager.filter(number=1).update(a=1),
    )
    Item.buffered.set_many([{"number": n, "a": 1} for n in range(ROWS, ROWS + 500)])
    compare(
        "500 others pending: queryset",
        lambda: list(plain.objects.all()),
        lambda: list(manager.all()),
    )
    compare("500 others pending: save()", saves(one), saves(other))
    Item.buffered.set_many([{"number": n, "a": 1} for n in range(100, 110)])
    compare(
        "10 of them pending: queryset",
        lambda: list(plain.objects.all()),
        lambda: list(manager.all()),
    )


def compare(name: str, plain: Callable[[], object], buffered: Callable[[], object]) -> None:
    """Prints what the second takes for each of the first: medians of rounds that take turns."""
    took: list[list[tuple[float, float]]] = [[], []]
    for act in (plain, buffered, plain, buffered):
        act()
    for number in range(ROUNDS):
        for which in ((0, 1), (1, 0))[number % 2]:
            started, cpu = time.perf_counter(), time.thread_time()
            (plain, buffered)[which]()
            took[which].append((time.perf_counter() - started, time.thread_time() - cpu))
    wall, cpu = (statistics.median(b[i] / a[i] for a, b in zip(*took, strict=True)) for i in (0, 1))
    least = statistics.median(a[0] for a in took[0]) * 1000
    print(f"  {name:30} wall {wall:5.2f}   CPU {cpu:5.2f}   ({least:.2f} ms plain)")
