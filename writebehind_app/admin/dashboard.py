"""The dashboard: the state of all buffers, their health, and actions on whole buffers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from writebehind_app import jobs, registry, schedules
from writebehind_app.admin import cards, charts, flushing, names
from writebehind_app.admin.access import log_buffers
from writebehind_app.admin.entries import EntryPages, buffer_of
from writebehind_app.admin.findings import shown
from writebehind_app.buffers.base import Buffer
from writebehind_app.database.divided import on_all_shards
from writebehind_app.doctor import examine
from writebehind_app.english import counted
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.store import state

_PATIENCE = 1.0  # seconds to wait if another tab of the session is doing a step


class DashboardAdmin(EntryPages):
    """The dashboard, and all pages about what Redis holds."""

    def get_urls(self) -> list[URLPattern]:
        return [
            self.page("", require_safe(self.dashboard), "changelist"),
            self.page("status/", require_safe(self.status), "status"),
            self.page("health/", require_safe(self.health), "health"),
            self.page("flush/", self.flush, "flush", "flush"),
            self.page("pause/", require_POST(self.pause), "pause", "pause"),
            *self.entry_urls(),
        ]

    # Looking

    def dashboard(self, request: HttpRequest) -> HttpResponse:
        context = self.context(
            request,
            _("Dashboard"),
            **self._status(),
            charts=charts.drawn(request.GET),
            schedule=schedules.is_on() if jobs.is_installed() else None,
        )
        return TemplateResponse(request, "writebehind/dashboard.html", context)

    def status(self, request: HttpRequest) -> HttpResponse:
        """The part of the dashboard that the browser reloads."""
        context = self.context(request, _("Dashboard"), **self._status())
        return TemplateResponse(request, "writebehind/_status.html", context)

    def _status(self) -> dict[str, Any]:
        found, away = cards.read()
        if all(card.status is None for card in found):
            return {"cards": found, "redis_problem": " ".join(str(each.problem) for each in away)}
        of_several = [(each, ", ".join(map(names.plural, each.buffers))) for each in away]
        return {"cards": found, "away": of_several}

    def health(self, request: HttpRequest) -> HttpResponse:
        findings = examine()
        context = self.context(
            request,
            _("Health"),
            findings=[shown(f, self.url_of) for f in findings if f.level != "ok"],
            sound=[f.what for f in findings if f.level == "ok"],
        )
        template = "_findings.html" if "part" in request.GET else "health.html"
        return TemplateResponse(request, f"writebehind/{template}", context)

    # Acting

    def flush(self, request: HttpRequest) -> HttpResponse:
        """Flush whole buffers. Each POST does one step and says how far the flush is.

        The progress is in the session, so that a reload of the page shows it.
        """
        if request.method != "POST":
            job = flushing.of_session(request.session)
            titles = {each.label: names.plural(each) for each in job.buffers()} if job else {}
            context = self.context(
                request,
                _("Flush"),
                job=job,
                titles=titles.values(),
                paused=[titles[label] for label in job.paused if label in titles] if job else [],
            )
            return TemplateResponse(request, "writebehind/flush.html", context)
        is_script = request.headers.get("Accept") == "application/json"
        try:
            if "begin" in request.POST:
                self._begin(request)
            else:
                self._step(request)
        except BufferUnavailable as error:
            if is_script:
                problem = _("Redis does not answer: %s") % error
                return JsonResponse({"problem": problem}, status=503)
            self.tell_away(request, error)
            return redirect(self.url("flush"))
        job = flushing.of_session(request.session)
        if is_script and job:
            report = {"done": job.progress, "total": job.total, "over": job.over}
            return JsonResponse(report)
        return redirect(self.url("flush"))

    def _begin(self, request: HttpRequest) -> None:
        chosen = request.POST.getlist("buffer") or list(registry.buffers())
        buffers = [buffer_of(label) for label in chosen]
        job = flushing.begin(self._reached(request, buffers, Buffer.count_pending))
        about = counted(job.total, "entry", "entries")
        log_buffers(request, job.buffers(), f"Flush of {about} begun.")
        self._tell_end(request, job)

    def _step(self, request: HttpRequest) -> None:
        with flushing.alone(request.session) as is_alone:
            job = flushing.latest(request.session)
            if is_alone and job and not job.over:
                job.step()
                self._tell_end(request, job)
        if not is_alone:
            time.sleep(_PATIENCE)

    def _tell_end(self, request: HttpRequest, job: flushing.Job) -> None:
        if job.over:
            self.tell(request, job.outcome(), job.buffers())
            log_buffers(request, job.buffers(), f"Flush has ended: {job.outcome()}")
        job.keep(request.session)

    def pause(self, request: HttpRequest) -> HttpResponse:
        """Pause or resume the flushes of some buffers, or of all."""
        chosen = request.POST.getlist("buffer") or list(registry.buffers())
        buffers = [buffer_of(label) for label in chosen]
        resumed = "resume" in request.POST
        act = state.resume if resumed else state.pause
        try:
            done = self._reached(request, buffers, lambda buffer: on_all_shards(buffer, act))
        except BufferUnavailable as error:
            self.tell_away(request, error)
        else:
            log_buffers(request, done, "Resumed." if resumed else "Paused.")
            text = _("Flushed again: %s.") if resumed else _("Paused, and writes go on: %s.")
            messages.success(request, text % ", ".join(map(names.plural, done)))
        return redirect(self.url("changelist"))

    def _reached(
        self, request: HttpRequest, buffers: Sequence[Buffer], act: Callable[[Buffer], object]
    ) -> list[Buffer]:
        """Do something to each buffer. Return those whose Redis answers, and tell of the others.
        Raises `BufferUnavailable` if no Redis answers."""
        reached: list[Buffer] = []
        errors: list[BufferUnavailable] = []
        for group in registry.by_server(buffers):
            try:
                for buffer in group:
                    act(buffer)
                    reached.append(buffer)
            except BufferUnavailable as error:
                errors.append(error)
        if errors and not reached:
            raise errors[0]
        for each in errors:
            self.tell_away(request, each)
        return reached
