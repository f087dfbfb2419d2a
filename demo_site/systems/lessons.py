"""A course with lessons that people watch: their players save every other second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from random import Random
from typing import Any, NamedTuple

from django.db import models, transaction

from demo_site.systems.base import System, Write, free_ids
from demo_site.systems.people import LEARNERS, users
from writebehind_app import Add, Max
from writebehind_app.meta import services
from writebehind_app.meta.models import LessonMeta


class Lesson(NamedTuple):
    id: int
    title: str
    seconds: int
    chapters: tuple[tuple[int, str], ...]  # from which second on


LESSONS = {
    lesson.id: lesson
    for lesson in (
        Lesson(
            1,
            "Why writes wait",
            300,
            (
                (0, "A thousand learners press play"),
                (60, "What a database does for one row"),
                (150, "Taking the write somewhere faster"),
                (240, "Questions"),
            ),
        ),
        Lesson(
            2,
            "Nothing is lost",
            420,
            (
                (0, "Where the only copy is"),
                (90, "A process dies, step by step"),
                (270, "The ledger"),
                (360, "Questions"),
            ),
        ),
        Lesson(
            3,
            "Adding up",
            240,
            ((0, "Two players, one counter"), (80, "Exactly once"), (180, "Questions")),
        ),
    )
}
_NOTES = ("Look this up again.", "Ask about the lease.", "“Pending” is not “lost”.", None)


class Lessons(System):
    title = "Lessons"
    view = "lessons"
    model = LessonMeta
    compared = ("meta_value",)
    rate = 50

    def busy(self) -> Sequence[Any]:
        return list(product(LESSONS, users(LEARNERS)))

    def changes(self, rng: Random, keys: Sequence[Any]) -> Iterator[Write]:
        while True:
            position = rng.randint(0, 2400) / 10
            values: dict[str, Any] = {
                "position": position,
                "furthest": position,
                "seconds": rng.randint(1, 3),
            }
            if not rng.randrange(8):
                values = {"notes": rng.choice(_NOTES)}
            yield rng.choice(keys), values

    def write(self, key: Any, values: dict[str, Any]) -> None:
        lesson_id, user = key
        match values:
            case {"notes": None}:
                LessonMeta.buffered.of(lesson_id=lesson_id, user=user).pop("notes", None)
            case {"notes": notes}:
                services.record_progress(lesson_id, user, notes=notes)
            case {"position": position, "furthest": furthest, "seconds": seconds}:
                services.record_progress(
                    lesson_id,
                    user,
                    position=position,
                    furthest=Max(furthest),
                    seconds=Add(seconds),
                )

    def write_directly(self, key: Any, values: dict[str, Any]) -> None:
        lesson_id, user = key
        rows = LessonMeta.objects.filter(lesson_id=lesson_id, user=user)
        with transaction.atomic():
            for name, value in values.items():
                if value is None:
                    rows.filter(meta_key=name).delete()
                    continue
                row = rows.select_for_update().filter(meta_key=name).first() or LessonMeta(
                    lesson_id=lesson_id, user=user, meta_key=name
                )
                row.meta_value = _after(name, row.meta_value, value)
                row.save()

    def fresh(self, count: int) -> Sequence[Any]:
        people = users(LEARNERS)
        ids = free_ids(LessonMeta, "lesson_id", count)
        return [(id, people[id % len(people)]) for id in ids]

    def expected(self, writes: Iterable[Write]) -> dict[str, dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for (lesson_id, user), values in writes:
            for key, value in values.items():
                name = f"lesson {lesson_id} of user {user.pk}: {key}"
                before = rows.pop(name, {"meta_value": None})["meta_value"]
                if value is not None:
                    rows[name] = {"meta_value": _after(key, before, value)}
        return rows

    def rows(self, keys: Sequence[Any]) -> models.QuerySet[Any]:
        ids, people = zip(*keys, strict=True)
        return LessonMeta.objects.filter(lesson_id__in=ids, user__in=people)

    def name(self, row: LessonMeta) -> str:
        return f"lesson {row.lesson_id} of user {row.user_id}: {row.meta_key}"


def _after(key: str, before: Any, value: Any) -> Any:
    """The value of a meta key after a write, of what it was before."""
    match key:
        case "seconds":
            return (before or 0) + value
        case "furthest":
            return value if before is None else max(before, value)
    return value
