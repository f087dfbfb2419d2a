"""The buffers in the admin: how they are doing, and what acts on whole ones."""

from __future__ import annotations

import time
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from writebehind_app import jobs, registry, schedules
from writebehind_app.admin import cards, charts, flushing
from writebehind_app.admin.access import log_buffers
from writebehind_app.admin.entries import EntryPages, buffer_of
from writebehind_app.doctor import examine
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client

_PATIENCE = 1.0  # seconds until one asks again whose other tab is at a step


class DashboardAdmin(EntryPages):
    """All pages that are about what Redis holds."""

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
        """The part of the dashboard that is live."""
        context = self.context(request, _("Dashboard"), **self._status())
        return TemplateResponse(request, "writebehind/_status.html", context)

    def _status(self) -> dict[str, Any]:
        found, problem = cards.read()
        return {"cards": found, "redis_problem": problem}

    def health(self, request: HttpRequest) -> HttpResponse:
        findings = examine()
        context = self.context(
            request,
            _("Health"),
            findings=[f for f in findings if f.level != "ok"],
            sound=[f.what for f in findings if f.level == "ok"],
        )
        template = "_findings.html" if "part" in request.GET else "health.html"
        return TemplateResponse(request, f"writebehind/{template}", context)

    # Acting

    def flush(self, request: HttpRequest) -> HttpResponse:
        """Flush whole buffers: a step with each POST, and how far it is. What has begun is kept in
        the session, so that a reload shows it."""
        if request.method != "POST":
            job = flushing.of_session(request.session)
            context = self.context(request, _("Flush"), job=job)
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
        job = flushing.begin([buffer_of(label) for label in chosen])
        log_buffers(request, job.buffers(), f"Flush of {job.total} entries begun.")
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
        """Pause the flushes of a buffer, or of all; or let them go on."""
        chosen = request.POST.getlist("buffer") or list(registry.buffers())
        buffers = [buffer_of(label) for label in chosen]
        resumed = "resume" in request.POST
        act = store.resume if resumed else store.pause
        try:
            for buffer in buffers:
                act(client(), buffer.shard_keys())
        except BufferUnavailable as error:
            self.tell_away(request, error)
        else:
            log_buffers(request, buffers, "Resumed." if resumed else "Paused.")
            text = _("%s is flushed again.") if resumed else _("%s is paused; writes go on.")
            messages.success(request, text % ", ".join(chosen))
        return redirect(self.url("changelist"))
