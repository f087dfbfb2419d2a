"""A router that chooses the database by the tenant: what is pending for one is no other's."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from io import StringIO

import pytest
from django.core.management import call_command

from tests import router
from tests.backdoor.shards import status_of
from tests.models import Item, Line
from writebehind_app import Add, BufferedManager, tasks
from writebehind_app.exceptions import BufferPaused

pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
TENANTS = ("default", "postgresql")


@pytest.fixture(autouse=True)
def tidy(database) -> Iterator[None]:
    yield
    router.use("default")
    for model in (Item, Line):
        model.objects.all().delete()
    router.use(database)


def write() -> None:
    for n, alias in enumerate(TENANTS):
        router.use(alias)
        Item.buffered.set(number=1, a=n)
        Line.buffered.append(text=alias)


def stored() -> dict[str, tuple[list[int], list[str]]]:
    return {
        alias: (
            list(Item.objects.using(alias).values_list("a", flat=True)),
            list(Line.objects.using(alias).values_list("text", flat=True)),
        )
        for alias in TENANTS
    }


EACH = {"default": ([0], ["default"]), "postgresql": ([1], ["postgresql"])}


def test_each_reads_its_own(database, redis_server):
    write()
    for n, alias in enumerate(TENANTS):
        router.use(alias)
        assert Item.buffered.get(number=1).a == n
        assert [line.text for line in Line.buffered.window()] == [alias]
        assert Item.buffered.count_pending() == 1


@pytest.mark.parametrize("how", ["command", "task", "flush"])
@pytest.mark.parametrize("from_where", TENANTS)
def test_a_flusher_visits_all(database, redis_server, configure, how, from_where):
    configure(MAX_AGE=0)
    write()
    router.use(from_where)
    match how:
        case "command":
            call_command("flush_writebehind", stdout=StringIO())
        case "task":
            tasks.flush_due()
        case "flush":
            for buffer in (Item.buffered, Line.buffered):
                assert buffer.flush().rows == 2
    assert stored() == EACH


def test_a_router_that_asks_the_context(database, redis_server, configure, monkeypatch):
    tenant: ContextVar[str] = ContextVar("tenant")  # without a default
    for name in ("db_for_read", "db_for_write"):
        monkeypatch.setattr(router.CurrentDatabase, name, lambda *args, **hints: tenant.get())
    configure(SHARDS=4)
    token = tenant.set("postgresql")
    Item.buffered.set_many({"number": n} for n in range(40))
    assert Item.buffered.flush().rows == 40
    monkeypatch.undo()
    tenant.reset(token)
    assert Item.objects.using("postgresql").count() == 40


def test_an_entry_is_flushed_in_its_own(database, redis_server):
    write()
    router.use("default")
    assert tasks.flush_entry(Item._meta.label, "1", "postgresql") == 1
    assert {alias: found[0] for alias, found in stored().items()} == {
        "default": [],
        "postgresql": [1],
    }


def test_the_status_counts_all(database, redis_server):
    write()
    found = status_of(Item.buffered)
    assert found.pending == 2
    out = StringIO()
    call_command("writebehind_pause", Item._meta.label, stdout=out)
    assert "2 entries are pending" in out.getvalue()
    with pytest.raises(BufferPaused):
        Item.buffered.flush()
    assert [found[0] for found in stored().values()] == [[], []]


@pytest.mark.parametrize("from_where", TENANTS)
@pytest.mark.parametrize("verb", ["save", "update", "bulk_create", "delete"])
def test_the_orm_may_write_to_any(database, redis_server, from_where, verb):
    """What is pending there is older; what is pending in the others is none of its."""
    items = BufferedManager()
    items.model, items.name = Item, "objects"
    for alias in TENANTS:
        router.use(alias)
        if verb != "bulk_create":
            Item.objects.create(number=1, b="open")
        Item.buffered.set(number=1, a=Add(5), b="waiting")
    router.use(from_where)
    rows = items.using("postgresql")
    match verb:
        case "save":
            row = rows.get()
            assert (row.a, row.b) == (5, "waiting")
            row.b = "closed"
            row.save(using="postgresql")
        case "update":
            rows.update(b="closed")
        case "bulk_create":
            rows.bulk_create([Item(number=1, b="closed")])
        case "delete":
            rows.all().delete()
    for alias in TENANTS:
        router.use(alias)
        Item.buffered.flush()
    found = {a: [*Item.objects.using(a).values_list("a", "b")] for a in TENANTS}
    assert found == {
        "default": [(5, "waiting")],
        "postgresql": {"bulk_create": [(0, "closed")], "delete": []}.get(verb, [(5, "closed")]),
    }
