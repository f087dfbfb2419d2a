"""`manage.py writebehind_doctor`: find what is wrong, and say how to mend it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from writebehind_app.doctor import Finding, examine


class Command(BaseCommand):
    help = (
        "Examines Redis, the databases and who flushes, and says what is wrong, why that matters "
        "and what to do. Changes nothing. Exits with 1 when there is an error."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="report as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        found = examine()
        errors, warnings = ([f for f in found if f.level == x] for x in ("error", "warning"))
        if options["json"]:
            self._json(errors, warnings)
        else:
            for finding in (*errors, *warnings):
                self._write(finding)
            self._sum_up(found, len(errors), len(warnings))
        if errors:
            sys.exit(1)

    def _json(self, errors: Sequence[Finding], warnings: Sequence[Finding]) -> None:
        findings = [
            {"id": f.id, "level": f.level, "what": f.what, "why": f.why, "do": f.do}
            for f in (*errors, *warnings)
        ]
        self.stdout.write(
            json.dumps({"findings": findings, "errors": len(errors), "warnings": len(warnings)})
        )

    def _write(self, finding: Finding) -> None:
        style = self.style.ERROR if finding.level == "error" else self.style.WARNING
        self.stdout.write(style(f"{finding.level.upper():<8} {finding.what}") + f"  ({finding.id})")
        self.stdout.write(f"   why:  {finding.why}")
        self.stdout.write(f"   do:   {finding.do}\n")

    def _sum_up(self, found: Sequence[Finding], errors: int, warnings: int) -> None:
        sound: dict[str, list[str]] = {}
        for finding in found:
            if finding.level == "ok":
                subject, _, name = finding.what.partition(": ")
                sound.setdefault(subject, []).append(name)
        for subject, names in sound.items():
            self.stdout.write(self.style.SUCCESS("sound") + f"    {subject}: {', '.join(names)}")
        style = self.style.ERROR if errors else self.style.WARNING if warnings else str
        self.stdout.write(style(f"errors: {errors}, warnings: {warnings}"))
