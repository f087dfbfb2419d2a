"""Jobs for the workers of Django-Q2, where a project has it."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import redis
from django.apps import apps
from django.conf import settings
from django.db import connections, transaction

from writebehind_app import conf as own
from writebehind_app.store.pools import another

logger = logging.getLogger("writebehind")

_LOCAL = ("locmem.LocMemCache", "dummy.DummyCache")  # caches that other processes do not see


def is_installed() -> bool:
    return apps.is_installed("django_q")


def conf() -> Any:
    """The settings of Django-Q2, which it reads when it is imported."""
    from django_q.conf import Conf

    return Conf


def clusters() -> list[Any] | None:
    """What clusters say of themselves, each as they were in the last seconds; None where they tell
    a cache that this process does not see. Raises what their broker or cache does."""
    found = conf()
    backend = str(settings.CACHES.get(found.CACHE, {}).get("BACKEND", ""))
    is_shared = bool(backend) and not backend.endswith(_LOCAL)
    if not (found.REDIS or found.DJANGO_REDIS or is_shared):
        return None
    from django_q.status import Stat

    return list(Stat.get_all())


def enqueue(task: str, *args: Any, **kwargs: Any) -> bool:
    """Ask a worker to call a function of `tasks`; False where nobody was asked.

    A broker that is in the database would take the job with the transaction that is under way, or
    end that by its error: it is asked after the commit.
    """
    if not is_installed():
        return False
    ask = partial(_enqueue, task, *args, **kwargs)
    orm = conf().ORM
    if orm and connections[orm].in_atomic_block:
        transaction.on_commit(ask, using=orm)
        return True
    return ask()


def _enqueue(task: str, *args: Any, **kwargs: Any) -> bool:
    from django_q.tasks import async_task

    # Those of the project are not to be pushed out of the history by ours, which come all the time.
    options: dict[str, Any] = {"save": False, "group": "writebehind"}
    try:
        options["broker"] = _broker()
        async_task(f"writebehind_app.tasks.{task}", *args, q_options=options, **kwargs)
    except Exception as error:  # noqa: BLE001 - each broker has errors of its own
        logger.warning("Django-Q2 took no job: the entries wait for the next tick: %s", error)
        return False
    return True


def _broker() -> Any:
    """The broker of Django-Q2. A Redis is given no more time than our own: who writes waits for it,
    and it may be another one, that is away."""
    from django_q.brokers import get_broker

    broker = get_broker()
    if isinstance(broker.connection, redis.Redis):
        pool, settings = broker.connection.connection_pool, own.settings()
        known = another(
            pool,
            socket_connect_timeout=settings.CONNECT_TIMEOUT,
            socket_timeout=settings.SOCKET_TIMEOUT,
            decode_responses=pool.connection_kwargs.get("decode_responses", False),
        )
        broker.connection = redis.Redis(connection_pool=known)
    return broker
