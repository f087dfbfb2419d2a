"""The schedules of Django-Q2. They are made once; people may change or remove them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from django.db import IntegrityError, OperationalError, connections, models, router, transaction
from django.utils import timezone

from writebehind_app import jobs
from writebehind_app.models import MadeSchedule

logger = logging.getLogger("writebehind")

# The clock of Django-Q2 starts a tick every minute or two. The worker that has it asks for the next
# tick after this many seconds. A worker cannot do other jobs for so long, and a cluster cannot end.
TICK: dict[str, Any] = {"seconds": 10, "fan_out": True}
FLUSH_DUE = "writebehind_app.tasks.flush_due"
_TRIES = 5


class _Schedule(NamedTuple):
    func: str
    minutes: int
    kwargs: Mapping[str, Any]


SCHEDULES = {
    "writebehind: flush": _Schedule(FLUSH_DUE, 1, {**TICK, "q_options": {"save": False}}),
    "writebehind: prune": _Schedule("writebehind_app.tasks.prune", 5, {}),
}


def make(*, again: bool = True) -> list[str]:
    """Make the schedules that are missing, and return their names. Without `again`, leave out those
    that were made before: somebody has removed them."""

    def act(name: str) -> bool:
        if _is_new(name) or again:
            return _make(name)
        return False

    return [name for name in SCHEDULES if _exclusively(name, act)]


def remove() -> list[str]:
    """Remove the schedules, and return their names. Only `make()` brings them back."""

    def act(name: str) -> bool:
        _is_new(name)
        return bool(_all().filter(name=name).delete()[0])

    return [name for name in SCHEDULES if _exclusively(name, act)]


def is_on() -> bool:
    """Whether there is a schedule of ticks that this cluster carries out."""
    if not jobs.is_installed():
        return False
    conf = jobs.conf()
    own = models.Q(cluster=conf.CLUSTER_NAME)
    if conf.CLUSTER_NAME == conf.PREFIX:  # the one for schedules that name none
        own |= models.Q(cluster=None)
    ticks = _all().filter(own, func=FLUSH_DUE, kwargs__contains="fan_out")
    return ticks.exclude(repeats=0).exists()


STUCK = "A cluster of Django-Q2 runs, and has flushed nothing for longer than two ticks."


def is_overdue(age: float, max_age: float) -> bool:
    """Whether an entry that has waited so many seconds was left out by two ticks."""
    seconds: int = TICK["seconds"]
    return age > max_age + 2 * seconds


def is_stuck() -> bool:
    """Asked where something is overdue: whether that is so although a cluster runs."""
    try:
        return is_on() and bool(jobs.clusters())
    except Exception as error:  # noqa: BLE001 - each broker and cache has errors of its own
        logger.warning("Whether a cluster of Django-Q2 runs cannot be seen: %s", error)
        return False


def are_tables_there() -> bool:
    """Ours and that of Django-Q2, in whichever databases they are."""
    return all(map(_is_there, _models()))


def flushes(schedule: Any) -> bool:
    """Whether that is what a schedule of Django-Q2 does."""
    called = f"{schedule.func} {schedule.args}"
    return FLUSH_DUE in called or "flush_writebehind" in called


def make_after_migrate(*, using: str, **kwargs: Any) -> None:
    """Once the tables are there, in whichever databases they are."""
    if jobs.is_installed() and using in _databases() and are_tables_there():
        make(again=False)


def _make(name: str) -> bool:
    if _all().filter(name=name).exists():
        return False
    func, minutes, kwargs = SCHEDULES[name]
    _all().create(
        name=name,
        func=func,
        kwargs=repr(dict(kwargs)) if kwargs else None,
        schedule_type="I",  # every so many minutes
        minutes=minutes,
        next_run=timezone.now(),
    )
    return True


def _is_new(name: str) -> bool:
    """Whether it was never made before, which is noted. Others who ask wait for the end of the
    transaction."""
    using = router.db_for_write(MadeSchedule)
    # First a write: who has read before he writes is refused by SQLite, where another one wrote.
    if MadeSchedule.objects.using(using).filter(name=name).update(at=timezone.now()):
        return False
    MadeSchedule.objects.using(using).create(name=name, at=timezone.now())
    return True


def _exclusively(name: str, act: Callable[[str], bool]) -> bool:
    """Act in one transaction in each database, as the only one for that schedule."""
    for attempt in range(_TRIES):
        try:
            with (
                transaction.atomic(using=router.db_for_write(MadeSchedule)),
                transaction.atomic(using=router.db_for_write(_schedule())),
            ):
                return act(name)
        except (IntegrityError, OperationalError):  # another one was in the way
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _all() -> models.QuerySet[Any]:
    schedules: models.QuerySet[Any] = _schedule().objects.using(router.db_for_write(_schedule()))
    return schedules


def _models() -> tuple[Any, Any]:
    return MadeSchedule, _schedule()


def _databases() -> set[str]:
    return {router.db_for_write(model) for model in _models()}


def _is_there(model: Any) -> bool:
    connection = connections[router.db_for_write(model)]
    return model._meta.db_table in connection.introspection.table_names()


def _schedule() -> Any:
    from django_q.models import Schedule

    return Schedule
