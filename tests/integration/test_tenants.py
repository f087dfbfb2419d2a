"""A router that chooses the database by the tenant: what is pending for one is no other's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction
from django.db.models.signals import pre_delete

from tests import router
from tests.backdoor.shards import status_of
from tests.models import Branch, Item, Line, Locker
from writebehind_app import Add, BufferedManager, batch, tasks
from writebehind_app.exceptions import BufferPaused
from writebehind_app.signals import flushed

pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
TENANTS = ("default", "postgresql")
ONE_REDIS = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


@pytest.fixture(autouse=True)
def tidy(database) -> Iterator[None]:
    yield
    router.own_database.clear()
    router.replica.clear()
    router.may_migrate.clear()
    router.use(database)
    for alias in TENANTS:
        for model in (Item, Line, Locker, Branch):
            model.objects.using(alias).all().delete()


@contextmanager
def tenant(alias: str) -> Iterator[None]:
    before = router.current()
    router.use(alias)
    try:
        yield
    finally:
        router.use(before)


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


@ONE_REDIS
class TestCodeOfTheProject:
    """What runs within a flush may write to other buffers."""

    @pytest.fixture(params=["hook", "signal", "signal of a delete"])
    def during_a_flush(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Callable[..., None]]:
        """`during_a_flush(act)`: each flush of an item calls it, with the tenant of the item."""
        acts: list[Callable[[str], Any]] = []

        def call(alias: str) -> None:
            for act in acts:
                act(alias)

        class Listening(type(Item.buffered)):  # type: ignore[misc]
            def on_flushed(self, rows: Any) -> None:
                call(rows[0].values["b"])

        def on_signal(sender: Any, applied: Any, **kwargs: Any) -> None:
            call(applied.written[0].values["b"].rpartition('"')[0].rpartition('"')[2])

        def on_delete(sender: Any, using: str, **kwargs: Any) -> None:
            call(using)

        match request.param:
            case "hook":
                monkeypatch.setattr(Item.buffered, "__class__", Listening)
            case "signal":
                flushed.connect(on_signal, sender=Item)
            case "signal of a delete":
                pre_delete.connect(on_delete, sender=Item)

        def arrange(act: Callable[[str], Any]) -> None:
            for alias in TENANTS:
                with tenant(alias):
                    if request.param == "signal of a delete":
                        Item.objects.create(number=1)
                        Item.buffered.delete(number=1)
                    else:
                        Item.buffered.set(number=1, b=alias)
            acts.append(act)

        yield arrange
        flushed.disconnect(on_signal, sender=Item)
        pre_delete.disconnect(on_delete, sender=Item)

    @staticmethod
    def lines() -> dict[str, list[str]]:
        """The lines of each tenant, flushed from where the router names that database."""
        for alias in TENANTS:
            with tenant(alias):
                Line.buffered.flush()
        return {alias: found[1] for alias, found in stored().items()}

    @pytest.mark.parametrize("from_where", TENANTS)
    def test_it_writes_next_to_what_is_flushed(
        self, database, redis_server, during_a_flush, from_where
    ):
        during_a_flush(lambda alias: Line.buffered.append(text=alias))
        with tenant(from_where):
            Item.buffered.flush()
        assert self.lines() == {alias: [alias] for alias in TENANTS}

    @pytest.mark.parametrize(
        ("from_where", "home", "is_nowhere_else"),
        [
            ("default", "default", True),
            ("default", "postgresql", True),
            ("default", "postgresql", False),
        ],
    )
    def test_other_rows_have_a_database_of_their_own(
        self, database, redis_server, during_a_flush, from_where, home, is_nowhere_else
    ):
        router.own_database[Line._meta.label] = home
        for alias in TENANTS:
            router.may_migrate[Line._meta.label, alias] = alias == home or not is_nowhere_else
        receipts = []
        during_a_flush(lambda alias: receipts.append(Line.buffered.append(text=alias)))
        with tenant(from_where):
            Item.buffered.flush()
        assert [receipt.where for receipt in receipts] == ["pending", "pending"]
        assert Line.buffered.count_pending() == 2
        Line.buffered.flush()
        assert all(receipt.persisted for receipt in receipts)
        written = {alias: found for alias, found in self.lines().items() if found}
        assert {alias: sorted(found) for alias, found in written.items()} == {home: [*TENANTS]}

    def test_it_reads_what_the_router_names(self, database, redis_server, during_a_flush):
        seen = []

        def read(alias: str) -> None:
            Item.buffered.set(number=2, a=TENANTS.index(alias) + 1)  # in what is flushed
            (row,) = Item.buffered.overlay(Item.objects.filter(number=2))
            seen.append(row.a)

        for alias in TENANTS:
            Item.objects.using(alias).create(number=2)
        during_a_flush(read)
        with tenant("default"):
            Item.buffered.flush()
        assert seen == [1, 1]

    def test_it_chooses_a_tenant_itself(self, database, redis_server, during_a_flush):
        def write(alias: str) -> None:
            with tenant("postgresql"):
                Line.buffered.append(text=alias)

        during_a_flush(write)
        with tenant("default"):
            Item.buffered.flush()
        assert self.lines() == {"default": [], "postgresql": [*TENANTS]}


@ONE_REDIS
def test_rows_in_another_database_are_in_no_transaction_of_a_flush(database, redis_server):
    """Lockers refer to branches. A flush of lockers stores earlier deletes of branches first, and
    branches that they refer to."""
    router.own_database[Branch._meta.label] = "postgresql"
    Branch.objects.create(slug="b")
    Branch.buffered.delete(slug="b")
    Branch.buffered.set(slug="c")
    with tenant("default"):
        Locker.buffered.set(slug="l", number=1)
        assert Locker.buffered.flush().rows == 1
        receipt = Locker.buffered.set(slug="m", number=2, branch="c")
        Locker.buffered.flush()
        assert receipt.where == "dead"  # the database of the lockers has no branches
    assert Branch.buffered.count_pending() == 2
    Branch.buffered.flush()
    assert [branch.slug for branch in Branch.objects.all()] == ["c"]


@ONE_REDIS
class TestHeld:
    """What is held back goes to the database that the router named when it was written."""

    @pytest.fixture(params=["batch", "transactions"])
    def holding(self, request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[Any]]:
        @contextmanager
        def both() -> Iterator[None]:
            with transaction.atomic(using="default"), transaction.atomic(using="postgresql"):
                yield

        return batch if request.param == "batch" else both

    @pytest.mark.parametrize("from_where", TENANTS)
    def test_each_is_sent_to_its_own(self, database, redis_server, holding, from_where):
        router.use(from_where)
        with holding():
            for n, alias in enumerate(TENANTS):
                with tenant(alias):
                    Item.buffered.set(number=1, a=n)
                    Line.buffered.append(text=alias)
        Item.buffered.flush()
        Line.buffered.flush()
        assert stored() == EACH

    def test_each_is_decided_by_its_own(self, database, redis_server, holding):
        with tenant("postgresql"):
            Item.objects.create(number=1, b="open")
        with holding():
            for n, alias in enumerate(TENANTS):
                with tenant(alias):
                    if alias == "default":
                        Item.buffered.create(number=1, a=n)
                    else:
                        assert Item.buffered.set_if({"b": "open"}, number=1, a=n)
        Item.buffered.flush()
        assert {alias: found[0] for alias, found in stored().items()} == {
            "default": [0],
            "postgresql": [1],
        }

    def test_each_reads_its_own(self, database, redis_server, holding):
        with holding():
            write()
            for n, alias in enumerate(TENANTS):
                router.use(alias)
                assert Item.buffered.get(number=1).a == n
                assert [line.text for line in Line.buffered.window()] == [alias]
                assert [entry.values["a"] for entry in Item.buffered.pending()] == [n]
                assert Item.buffered.count_pending() == 1
            router.use("default")
            assert Item.buffered.discard() == 1
        Item.buffered.flush()
        assert [found[0] for found in stored().values()] == [[], [1]]

    def test_a_name_of_another_tenant_is_free(self, database, redis_server, holding, request):
        with holding():
            for alias in TENANTS:
                with tenant(alias):
                    Item.buffered.set(number=1, a=Add(1), once=request.node.name)
        Item.buffered.flush()
        assert [found[0] for found in stored().values()] == [[1], [1]]

    def test_a_transaction_sends_nothing_of_another_tenant(self, database, redis_server):
        with batch():
            with tenant("default"):
                held = Item.buffered.set(number=1, a=0)
            with tenant("postgresql"), transaction.atomic(using="postgresql"):
                sent = Item.buffered.set(number=1, a=1)
            assert (held.where, sent.where) == ("held", "pending")

    def test_redis_is_away(self, database, redis_server, configure, holding):
        configure(WHEN_DOWN="direct")
        with holding():
            for n, alias in enumerate(TENANTS):
                with tenant(alias):
                    Item.buffered.set(number=1, a=n)
            redis_server.stop()
        redis_server.start()
        assert [found[0] for found in stored().values()] == [[0], [1]]


@ONE_REDIS
@pytest.mark.parametrize("state", ["pending", "held"])
@pytest.mark.parametrize("from_where", TENANTS)
def test_rows_of_any_database_have_their_own_values_over_them(
    database, redis_server, from_where, state
):
    items = BufferedManager()
    items.model, items.name = Item, "objects"
    for alias in TENANTS:
        Item.objects.using(alias).create(number=1)
    with batch() if state == "held" else nullcontext():
        for n, alias in enumerate(TENANTS):
            with tenant(alias):
                Item.buffered.set(number=1, a=n + 1)
        router.use(from_where)
        for n, alias in enumerate(TENANTS):
            rows = Item.objects.using(alias)
            assert [row.a for row in Item.buffered.overlay(rows)] == [n + 1]
            assert [row.a for row in items.using(alias)] == [n + 1]
        of_router = TENANTS.index(from_where) + 1
        assert [row.a for row in Item.buffered.overlay(Item.objects.all())] == [of_router]


@ONE_REDIS
def test_rows_of_a_replica_have_the_values_of_their_database_over_them(database, redis_server):
    items = BufferedManager()
    items.model, items.name = Item, "objects"
    router.replica[Item._meta.label] = "default"
    for alias in TENANTS:
        Item.objects.using(alias).create(number=1)
    Item.buffered.set(number=1, a=1)
    assert [row.a for row in Item.buffered.overlay(Item.objects.all())] == [1]
    assert [row.a for row in items.all()] == [1]


@ONE_REDIS
def test_a_receipt_is_asked_from_anywhere(database, redis_server):
    with tenant("postgresql"):
        Item.objects.create(number=1, a=1)
        receipt = Item.buffered.set(number=1, a=Add(2**31 - 1))
        assert Item.buffered.flush().dead_letters == 1
    for alias in TENANTS:
        router.use(alias)
        assert receipt.where == "dead"
        assert "2147483648" in (receipt.dead or "")
