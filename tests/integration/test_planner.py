"""A batch takes few statements whatever its rows change, and changes nothing else."""

from __future__ import annotations

import random
import threading
from decimal import Decimal

import pytest
from django.db import connections

from tests.models import Item, Owner, Pair
from writebehind_app import checkpoints, signals
from writebehind_app.models import AppliedBatch

pytestmark = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

FIELDS = ("a", "b", "c", "d", "e", "f")


def random_row(choose: random.Random) -> dict:
    row = {
        "a": choose.randrange(-1000, 1000),
        "b": choose.choice(["", "x", "ü", "long " * 10]),
        "c": choose.choice([None, "c"]),
        "d": choose.randrange(100) / 4,
        "e": choose.random() < 0.5,
        "f": Decimal(choose.randrange(10**6)) / 100,
    }
    return {name: row[name] for name in choose.sample(FIELDS, choose.randint(1, 6))}


def stored() -> dict[int, tuple]:
    return {number: rest for number, *rest in Item.objects.values_list("number", *FIELDS)}


class Statements:
    """Counts, in its block, what is executed for each batch."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.by_batch: list[int] = []
        self.now = 0

    def __call__(self, execute, *args):
        self.now += 1
        return execute(*args)

    def _flushed(self, **kwargs) -> None:
        self.by_batch.append(self.now)
        self.now = 0

    def __enter__(self) -> Statements:
        self.wrapper = connections[self.alias].execute_wrapper(self)
        self.wrapper.__enter__()
        signals.flushed.connect(self._flushed)
        return self

    def __exit__(self, *exception: object) -> None:
        signals.flushed.disconnect(self._flushed)
        self.wrapper.__exit__(*exception)


def test_6_000_rows_that_each_change_a_random_part(database, redis_server, rng):
    Item.objects.bulk_create(
        (Item(number=n, a=n, b="stored", c="stored") for n in range(3000)), batch_size=1000
    )
    expected = stored()
    new = [getattr(Item(), name) for name in FIELDS]
    changes = {n: random_row(rng) for n in range(6000)}
    for n, change in changes.items():
        row = expected.setdefault(n, list(new))
        for name, value in change.items():
            row[FIELDS.index(name)] = value
    Item.buffered.set_many({"number": n, **change} for n, change in changes.items())

    with Statements(database) as statements:
        result = Item.buffered.flush()

    assert result.rows == 6000
    assert stored() == expected
    ledger = list(AppliedBatch.objects.all())
    assert result.batches == len(ledger) == len(statements.by_batch)
    most = most_statements(database)
    assert max(batch.statements for batch in ledger) <= most
    first, *others = statements.by_batch
    assert first - 3 <= most
    assert max(others) <= most
    assert sum(batch.statements for batch in ledger) == result.statements
    # BEGIN and the like are not statements to Django, COMMIT is none either.
    # Three before the first batch ask for fences, for keys of calls, and for batches that are old.
    # MariaDB is told after each batch what its session was like before.
    after = result.batches if connections[database].vendor == "mysql" else 0
    assert sum(statements.by_batch) == result.statements + 3 + after


def most_statements(database: str) -> int:
    """Of a batch. MariaDB looks for the primary keys first, to lock rows by them."""
    return 12 if connections[database].vendor == "mysql" else 11


def test_rows_with_a_key_of_several_fields(database, redis_server):
    owners = [Owner.objects.create(name=str(n)) for n in range(3)]
    Pair.objects.bulk_create(Pair(owner=o, name=str(n), value=n) for o in owners for n in range(50))
    Pair.buffered.set_many(
        {"owner": o, "name": str(n), **({"value": -n} if n % 2 else {"note": f"{o.pk} {n}"})}
        for o in owners
        for n in range(100)
    )
    most = most_statements(database)
    assert max(Pair.buffered.flush().statements, 1) <= most * Pair.buffered.option("SHARDS")
    assert max(AppliedBatch.objects.values_list("statements", flat=True)) <= most
    assert {(p.owner_id, p.name): (p.value, p.note) for p in Pair.objects.all()} == {
        (o.pk, str(n)): (-n, None) if n % 2 else (n if n < 50 else 0, f"{o.pk} {n}")
        for o in owners
        for n in range(100)
    }


def test_deletes_and_inserts_among_the_changes(database, redis_server, configure):
    configure(SHARDS=1)
    Item.objects.bulk_create(Item(number=n, a=n) for n in range(300))
    for n in range(0, 300, 3):
        Item.buffered.delete(number=n)
    Item.buffered.set_many({"number": n, "b": "again"} for n in range(0, 300, 6))
    Item.buffered.set_many({"number": n, "c": "changed"} for n in range(1, 300, 3))
    Item.buffered.set_many({"number": n} for n in range(300, 350))
    result = Item.buffered.flush()
    # MariaDB is told for how long the session waits for a lock, and then as before.
    assert (result.batches, result.statements <= (13 if database == "mariadb" else 11)) == (1, True)
    expected = {n: (n, "", "changed" if n % 3 == 1 else None) for n in range(300) if n % 3}
    expected |= dict.fromkeys(range(0, 300, 6), (0, "again", None))
    expected |= dict.fromkeys(range(300, 350), (0, "", None))
    assert {i.number: (i.a, i.b, i.c) for i in Item.objects.all()} == expected


def test_what_others_write_to_other_columns_stays(database, redis_server, configure):
    """The batch changes `a` in odd rows and `d` in even ones; they change `d` in the odd ones."""
    configure(BATCH_SIZE=20, SHARDS=1)
    numbers = range(60)
    Item.objects.bulk_create(Item(number=n) for n in numbers)
    done = threading.Event()
    written: dict[int, float] = {}
    failures: list[Exception] = []

    def write_directly() -> None:
        choose = random.Random(1)
        try:
            while not done.is_set():
                number = choose.randrange(1, 60, 2)
                value = choose.randrange(10**6)
                assert Item.objects.filter(number=number).update(d=value) == 1
                written[number] = value
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        finally:
            connections.close_all()

    writer = threading.Thread(target=write_directly)
    writer.start()
    for turn in range(15):
        Item.buffered.set_many(
            {"number": n, ("a" if n % 2 else "d"): turn} for n in numbers if (n + turn) % 3
        )
        Item.buffered.flush()
    done.set()
    writer.join()
    assert not failures
    assert len(written) > 10
    rows = {row.number: row for row in Item.objects.all()}
    assert {n: rows[n].d for n in written} == written
    assert all((row.a if n % 2 else row.d) >= 13 for n, row in rows.items())


# On SQLite, nobody else can write during the flush.
@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_row_that_others_insert_during_the_flush_is_changed(
    database, redis_server, configure, monkeypatch
):
    """Between the look at what is stored and the insert; what they set otherwise stays."""
    configure(SHARDS=1)
    Item.buffered.set(number=1, a=1)
    Item.buffered.set(number=2, a=2)
    inserted = []

    def insert() -> None:
        # Not by save(), which would be later than what is in flight.
        Item.objects.bulk_create([Item(number=1, a=100, b="theirs")])
        inserted.append(Item.objects.get(number=1))
        connections.close_all()

    def hook(step: str) -> None:
        if step == "flush.updated" and not inserted:
            thread = threading.Thread(target=insert)
            thread.start()
            thread.join()

    monkeypatch.setattr(checkpoints, "hook", hook)
    Item.buffered.flush()
    assert {i.number: (i.a, i.b) for i in Item.objects.all()} == {1: (1, "theirs"), 2: (2, "")}
    assert Item.objects.get(number=1).pk == inserted[0].pk
