"""`manage.py writebehind_schedule`: make the schedules of Django-Q2, or remove them."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from writebehind_app import jobs, schedules


class Command(BaseCommand):
    help = (
        "Makes the schedules of Django-Q2 that flush and prune, where they are not there, as "
        "migrate does once. Those that are there are left as they are."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--remove", action="store_true", help="remove them, and let migrate not make them again"
        )

    def handle(self, *args: Any, remove: bool, **options: Any) -> None:
        if not jobs.is_installed():
            raise CommandError(
                "django_q is not in INSTALLED_APPS. Add it, or run "
                "manage.py flush_writebehind --loop as a service."
            )
        if not schedules.are_tables_there():
            raise CommandError(
                "The tables of writebehind or of Django-Q2 are not there: run manage.py migrate "
                "first."
            )
        changed = schedules.remove() if remove else schedules.make()
        for name in schedules.SCHEDULES:
            if remove:
                state = "removed" if name in changed else "was not there"
            else:
                state = "made" if name in changed else "is there, and left as it is"
            self.stdout.write(f"{name}: {state}")
