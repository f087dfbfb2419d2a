"""The operations of a workload: through the ORM, as a good Django developer writes them, and
through the buffer."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from django.core.management.base import CommandError
from django.db import models, transaction
from django.db.models import F, Sum
from django.utils import timezone

from writebehind_app.bench.tables import (
    BRANCHES,
    TELLERS,
    Account,
    Branch,
    History,
    OwnLogBuffer,
    OwnRowBuffer,
    Teller,
    User,
    buffer_of,
    row_keys,
)
from writebehind_app.buffers.blocks import batch
from writebehind_app.fields.operations import Add

ZIPF = 0.99
_FIELDS = 10
_CHOICES = 50_000  # how many keys are drawn before they repeat


@dataclass(frozen=True, slots=True)
class Order:
    """The task of a client in a trial."""

    workload: str
    cache_seconds: float | None  # of the buffer; None for the ORM
    trial: int  # its number: no two trials write the same texts
    client: int  # the number of the client
    using: str
    records: int
    seconds: float
    is_counted: bool

    @property
    def is_buffered(self) -> bool:
        return self.cache_seconds is not None


@dataclass(frozen=True, slots=True)
class Acts:
    """The next operation of a client, each time: a read or a write."""

    read: Callable[[], object]
    write: Callable[[], object]
    is_write: Iterator[bool]
    done: dict[Any, Any]  # the acknowledged writes, for the check


class Workload(ABC):
    title: str
    models: tuple[type[models.Model], ...]  # the models whose buffers it uses

    def buffers(self) -> list[OwnRowBuffer | OwnLogBuffer]:
        return [buffer_of(model) for model in self.models]

    @abstractmethod
    def prepare(self, using: str) -> Any:
        """Prepare a trial. Return what `check()` needs."""

    @abstractmethod
    def acts(self, order: Order) -> Acts:
        """The operations of one client."""

    @abstractmethod
    def check(self, using: str, before: Any, done: Collection[Mapping[Any, Any]]) -> None:
        """Check that everything is stored: a write that was lost must not count."""


@dataclass(frozen=True)
class Ycsb(Workload):
    """Reads and writes of single records. Some records are used much more often than others."""

    title: str
    writes: float  # the share of writes
    modifies: bool = False  # whether a write reads first, and writes what it has read

    models = (User,)

    def prepare(self, using: str) -> int:
        return _sum(User, "counter", using)

    def acts(self, order: Order) -> Acts:
        choice = random.Random(f"{order.client} {order.trial}")
        weights = [1 / (rank + 1) ** ZIPF for rank in range(order.records)]
        ranks = choice.choices(range(order.records), weights, k=_CHOICES)
        keys = cycle([f"user{rank}" for rank in ranks])
        fields = cycle([f"field{choice.randrange(_FIELDS)}" for _ in range(_CHOICES)])
        is_write = cycle([choice.random() < self.writes for _ in range(_CHOICES)])
        users = User._default_manager.using(order.using)
        buffer = User.buffered
        mark = f"{order.trial}-{order.client}-"
        done: dict[Any, Any] = {}

        def read() -> None:
            users.get(ycsb_key=next(keys))

        def update() -> None:
            key, name, text = next(keys), next(fields), f"{mark}{len(done)}".ljust(100, "x")
            users.filter(ycsb_key=key).update(**{name: text})
            done[key, name] = text

        def modify() -> None:
            user = users.get(ycsb_key=next(keys))
            users.filter(pk=user.pk).update(counter=F("counter") + 1)
            done["counter"] = done.get("counter", 0) + 1

        def buffered_read() -> None:
            buffer.get(ycsb_key=next(keys))

        def buffered_update() -> None:
            key, name, text = next(keys), next(fields), f"{mark}{len(done)}".ljust(100, "x")
            buffer.set(ycsb_key=key, **{name: text})
            done[key, name] = text

        def buffered_modify() -> None:
            user = buffer.get(ycsb_key=next(keys))
            buffer.set(ycsb_key=user.ycsb_key, counter=Add(1))
            done["counter"] = done.get("counter", 0) + 1

        if order.is_buffered:
            write = buffered_modify if self.modifies else buffered_update
            return Acts(buffered_read, write, is_write, done)
        return Acts(read, modify if self.modifies else update, is_write, done)

    def check(self, using: str, before: int, done: Collection[Mapping[Any, Any]]) -> None:
        if _sum(User, "counter", using) - before != sum(d.get("counter", 0) for d in done):
            raise differs()
        last: dict[Any, set[Any]] = {}  # the last text of each client: one of them is stored
        for each in done:
            for place, text in each.items():
                last.setdefault(place, set()).add(text)
        last.pop("counter", None)
        stored = {user.ycsb_key: user for user in User._default_manager.using(using)}
        if any(getattr(stored[key], name) not in texts for (key, name), texts in last.items()):
            raise differs()


class Tpcb(Workload):
    """A bank: each transfer changes an account, a teller and a branch, and adds a record."""

    title = "TPC-B, as pgbench has it"
    models = (Account, Teller, Branch, History)

    def prepare(self, using: str) -> Sequence[int]:
        History._default_manager.using(using).all().delete()
        return self._sums(using)

    def acts(self, order: Order) -> Acts:
        choice = random.Random(f"{order.client} {order.trial}")
        accounts = order.records * BRANCHES

        def places() -> tuple[int, int, int, int]:
            return (
                choice.randrange(accounts),
                choice.randrange(TELLERS * BRANCHES),
                choice.randrange(BRANCHES),
                choice.randint(-5000, 5000),
            )

        def objects(model: type[models.Model]) -> Any:
            return model._default_manager.using(order.using)

        done = {"sum": 0, "count": 0}

        def transact() -> None:
            account, teller, branch, delta = places()
            more = F("balance") + delta
            with transaction.atomic(using=order.using):
                objects(Account).filter(number=account).update(balance=more)
                objects(Account).values_list("balance", flat=True).get(number=account)
                objects(Teller).filter(number=teller).update(balance=more)
                objects(Branch).filter(number=branch).update(balance=more)
                objects(History).create(
                    account=account, teller=teller, branch=branch, delta=delta, at=timezone.now()
                )
            done["sum"] += delta
            done["count"] += 1

        def buffered_transact() -> None:
            account, teller, branch, delta = places()
            with batch():
                Account.buffered.set(number=account, balance=Add(delta))
                Teller.buffered.set(number=teller, balance=Add(delta))
                Branch.buffered.set(number=branch, balance=Add(delta))
                History.buffered.append(account=account, teller=teller, branch=branch, delta=delta)
            done["sum"] += delta
            done["count"] += 1
            Account.buffered.get(number=account)

        def nothing() -> None:
            raise AssertionError("every transaction writes")

        write = buffered_transact if order.is_buffered else transact
        return Acts(nothing, write, cycle([True]), done)

    def check(self, using: str, before: Any, done: Collection[Mapping[Any, Any]]) -> None:
        total, count = (sum(each[name] for each in done) for name in ("sum", "count"))
        expected = [*(one + total for one in before[:3]), total, count]
        if [*self._sums(using)] != expected:
            raise differs()

    def _sums(self, using: str) -> Sequence[int]:
        return (
            *(_sum(model, "balance", using) for model in (Account, Teller, Branch)),
            _sum(History, "delta", using),
            History._default_manager.using(using).count(),
        )


WORKLOADS: dict[str, Workload] = {
    "A": Ycsb("YCSB A: half reads, half updates", 0.5),
    "B": Ycsb("YCSB B: 95% reads, 5% updates", 0.05),
    "C": Ycsb("YCSB C: reads alone", 0.0),
    "F": Ycsb("YCSB F: half reads, half read-modify-writes", 0.5, modifies=True),
    "tpcb": Tpcb(),
}


def fill(using: str, records: int) -> None:
    """Make all rows that the workloads change."""
    texts = {f"field{n}": "y" * 100 for n in range(_FIELDS)}
    keys = row_keys(0, records)
    rows: dict[type[models.Model], list[Any]] = {
        User: [User(ycsb_key=key, **texts) for key in keys[User]],
        **{m: [m(number=key) for key in keys[m]] for m in (Account, Teller, Branch)},
    }
    for model, its in rows.items():
        model._default_manager.using(using).bulk_create(its, batch_size=1000)


def differs() -> CommandError:
    return CommandError("What is stored differs from what was written: report this mistake.")


def _sum(model: type[models.Model], field: str, using: str) -> int:
    found = model._default_manager.using(using).aggregate(total=Sum(field))
    return int(found["total"] or 0)
