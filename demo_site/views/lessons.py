"""The course: a player that saves while one watches, and what the database has of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from demo_site.systems.lessons import LESSONS, Lesson
from demo_site.systems.people import LEARNERS, NAMES
from demo_site.views.common import compared, page
from writebehind_app import Max
from writebehind_app.meta import services
from writebehind_app.meta.models import LessonMeta

_NOTES_LENGTH = 4000


class LessonForm(forms.Form):
    """What is sent without JavaScript, and at the end."""

    position = forms.FloatField(min_value=0)
    notes = forms.CharField(required=False, max_length=_NOTES_LENGTH)


@require_safe
def lessons(request: HttpRequest) -> HttpResponse:
    found: dict[Any, dict[str, Any]] = {}
    if request.user.is_authenticated:
        found = LessonMeta.buffered.get_many([(id, request.user) for id in LESSONS])
    shown = []
    learners = _learners()
    for id, lesson in LESSONS.items():
        progress = found.get((id, request.user), {})
        shown.append(
            {
                "lesson": lesson,
                "minutes": lesson.seconds // 60,
                "percent": round(100 * min(1, progress.get("furthest", 0) / lesson.seconds)),
                "done": progress.get("done"),
                "learners": learners[id],
            }
        )
    return page(request, "lessons", "lessons", lessons=shown)


def _learners() -> dict[int, list[dict[str, Any]]]:
    """Where the people of the simulation are, by lesson."""
    users = get_user_model()._default_manager.filter(username__in=LEARNERS).order_by("pk")
    names = dict(zip(LEARNERS, NAMES, strict=True))
    keys = [(id, user) for id in LESSONS for user in users]
    # Stored first: a flush in between then shows a learner as pending a moment too long.
    stored: dict[Any, dict[str, Any]] = {}
    for row in LessonMeta.objects.filter(lesson_id__in=LESSONS, user__in=users):
        stored.setdefault((row.lesson_id, row.user_id), {})[row.meta_key] = row.meta_value
    found: dict[int, list[dict[str, Any]]] = {id: [] for id in LESSONS}
    for (id, user), progress in LessonMeta.buffered.get_many(keys).items():
        if "position" in progress:
            found[id].append(
                {
                    "name": names[user.username],
                    "clock": _clock(progress["position"]),
                    "pending": progress != stored.get((id, user.pk)),
                }
            )
    return found


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def lesson(request: HttpRequest, lesson_id: int) -> HttpResponse:
    found = _lesson(lesson_id)
    if request.method == "POST":
        _save(request, found)
        return redirect("lesson", lesson_id)
    stored = _stored(request, found)
    progress = services.progress(lesson_id, request.user)
    return page(
        request,
        "lessons",
        "lesson",
        lesson=found,
        chapters=[{"at": at, "clock": _clock(at), "title": title} for at, title in found.chapters],
        progress=progress,
        clock=_clock(progress.get("position", 0)),
        length=_clock(found.seconds),
        notes_length=_NOTES_LENGTH,
        pair={"pending": _is_pending(request, found)},
        is_new=not progress and not stored,
        fields=[
            compared(label, show(progress.get(key)), show(stored.get(key)))
            for key, label, show in _SHOWN
        ],
    )


@require_POST
@login_required
def finish(request: HttpRequest, lesson_id: int) -> HttpResponse:
    """The end of a lesson is what the database has to know at once."""
    found = _lesson(lesson_id)
    _save(request, found, done=True)
    stored = services.finalize_lesson(lesson_id, request.user)
    messages.success(
        request,
        f"“{found.title}” is finished. Stored in the database: {_clock(stored.get('seconds', 0))} "
        f"watched, the furthest at {_clock(stored['furthest'])}.",
    )
    return redirect("lesson", lesson_id)


@require_safe
@login_required
def state(request: HttpRequest, lesson_id: int) -> JsonResponse:
    return JsonResponse({"pending": _is_pending(request, _lesson(lesson_id))})


def _lesson(lesson_id: int) -> Lesson:
    if lesson_id not in LESSONS:
        raise Http404(f"There is no lesson {lesson_id}.")
    return LESSONS[lesson_id]


def _save(request: HttpRequest, lesson: Lesson, **values: Any) -> None:
    form = LessonForm(request.POST)
    if form.is_valid():
        position = min(form.cleaned_data["position"], lesson.seconds)
        values |= {
            "position": position,
            "furthest": Max(position),
            "notes": form.cleaned_data["notes"],
        }
    if values:
        services.record_progress(lesson.id, request.user, **values)


def _stored(request: HttpRequest, lesson: Lesson) -> dict[str, Any]:
    rows = LessonMeta.objects.filter(lesson_id=lesson.id, user=request.user)
    return dict(rows.values_list("meta_key", "meta_value"))


def _is_pending(request: HttpRequest, lesson: Lesson) -> bool:
    return bool(LessonMeta.buffered.of(lesson_id=lesson.id, user=request.user).pending())


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02}"


# A meta key, what it is called, and how its value is shown.
_SHOWN: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("position", "Position", _clock),
    ("furthest", "Furthest", _clock),
    ("seconds", "Watched", _clock),
    ("notes", "Notes", lambda notes: notes),
    ("done", "Finished", lambda done: "yes" if done else ""),
)
