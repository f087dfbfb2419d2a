"""Compares what the writers know with what is in the database."""

from __future__ import annotations

from collections import Counter as Tally
from pathlib import Path

from tests.faults.soak.facts import Facts, calls_in, problems_in
from tests.faults.soak.workers import LABELS
from tests.models import Counter, Line, Member, Note, Team
from writebehind_app import conf, registry
from writebehind_app.models import AppliedBatch, DeadLetter


def judge(directory: Path) -> tuple[list[str], dict[str, int]]:
    """What is wrong, and how much there was to compare."""
    facts = Facts()
    problems: list[str] = []
    calls: Tally[str] = Tally()
    for journal in [*directory.glob("writer-*"), *directory.glob("reader-*")]:
        problems += problems_in(journal)
        for effects, outcome in calls_in(journal):
            facts.take(effects, outcome)
            calls[outcome] += 1

    stored = _stored()
    for where in facts.places():
        if problem := facts.problem(where, stored.get(where)):
            problems.append(problem)
    problems += _lines(facts)
    if dead := DeadLetter.objects.count():
        problems.append(f"lost: {dead} dead letters, the first: {DeadLetter.objects.first()}")
    for label in LABELS:
        if left := registry.buffers()[label].count_pending():
            problems.append(f"lost: {left} entries of {label} were not drained")
    return problems, {
        **calls,
        "places": len(facts.places()),
        "lines": len(facts.appended),
        "batches": AppliedBatch.objects.count(),
    }


def _stored() -> dict[str, int]:
    found = {}
    for row in Counter.objects.all():
        found[f"Counter {row.name} small"] = row.small
        found[f"Counter {row.name} big"] = row.big
    for model in (Team, Member):
        for row in model.objects.all():
            found[f"{model.__name__} {row.slug} points"] = row.points
    for note in Note.objects.all():
        found[f"Note {note.page} {note.key}"] = note.value
    return found


def _lines(facts: Facts) -> list[str]:
    """Each line once, and those of a writer in the order in which it wrote them: by their times, as
    what goes around Redis gets its primary key at once."""
    order = "at" if conf.settings().WHEN_DOWN == "direct" else "pk"
    texts = list(Line.objects.order_by(order).values_list("text", flat=True))
    times = Tally(texts)
    problems = [f"doubled: line {text} is there {n} times" for text, n in times.items() if n > 1]
    for text, outcome in facts.appended.items():
        if outcome == "acknowledged" and text not in times:
            problems.append(f"lost: line {text}")
    problems += [f"line {text} was never written" for text in times if text not in facts.appended]
    last: dict[str, int] = {}
    for text in texts:
        writer, _, n = text.rpartition(".")
        if int(n) < last.get(writer, 0):
            problems.append(f"backwards: line {text} is after line {writer}.{last[writer]}")
        last[writer] = int(n)
    return problems
