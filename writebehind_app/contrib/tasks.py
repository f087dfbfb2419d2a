"""The jobs of `writebehind_app.tasks` as tasks of `django.tasks`, which Django has from 6.0 on.

    from writebehind_app.contrib.tasks import flush_due

    flush_due.enqueue(seconds=55)

A backend that runs a task at once, as the default one does, does so in the call, which must be
outside of `atomic()` then.
"""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured

from writebehind_app import tasks

try:
    from django.tasks import task
except ModuleNotFoundError:
    raise ImproperlyConfigured(
        "writebehind_app.contrib.tasks needs Django 6.0 or later, which has django.tasks. "
        "The functions in writebehind_app.tasks are for every other scheduler."
    ) from None


@task
def flush_due(*labels: str, seconds: float = 0.0) -> dict[str, int]:
    """Flush what is due of these buffers, or of all; again and again for so many `seconds`."""
    return tasks.flush_due(*labels, seconds=seconds)


@task
def flush_entry(label: str, id: str, using: str | None = None) -> int:
    """Flush one entry, by the `id` of its receipt."""
    return tasks.flush_entry(label, id, using)


@task
def prune() -> int:
    """Remove what has expired."""
    return tasks.prune()
