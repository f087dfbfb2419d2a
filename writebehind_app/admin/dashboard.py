"""The buffers in the admin: how they are doing, what is pending in each, and what acts on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET, require_POST, require_safe

from writebehind_app import jobs, schedules
from writebehind_app.admin import cards, charts, flushing, pending
from writebehind_app.admin.access import Guarded, hidden_names, log_buffers, masked
from writebehind_app.admin.shown import duration, inline
from writebehind_app.buffers import registry
from writebehind_app.buffers.base import MASK, Buffer
from writebehind_app.doctor import examine
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.flush import giving_up
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client

_View = Callable[..., HttpResponse]

_MOST = 100  # entries that one request acts on by their ids
_SAMPLE = 20  # entries that are shown before they are discarded


class DashboardAdmin(Guarded):
    """All pages that are about what Redis holds."""

    def get_urls(self) -> list[URLPattern]:
        def page(
            route: str, view: Callable[..., HttpResponse], name: str, what: str = "view"
        ) -> Any:
            full = f"writebehind_dashboard_{name}"
            return path(route, self.guarded(view, what), name=full)

        return [
            page("", require_safe(self.dashboard), "changelist"),
            page("status/", require_safe(self.status), "status"),
            page("health/", require_safe(self.health), "health"),
            page("flush/", self.flush, "flush", "flush"),
            page("pause/", require_POST(self.pause), "pause", "pause"),
            page("<str:label>/", require_safe(self.entries), "entries"),
            # Where the log of the admin links to.
            page("<path:label>/change/", require_GET(self.change), "change"),
            page("<str:label>/entry/", require_safe(self.entry), "entry"),
            page("<str:label>/flush/", require_POST(self.flush_some), "flush_some", "flush"),
            page("<str:label>/discard/", require_POST(self.discard), "discard", "discard"),
        ]

    # Looking

    def dashboard(self, request: HttpRequest) -> HttpResponse:
        context = self.context(
            request,
            _("Dashboard"),
            charts=charts.drawn(request.GET.get("span", "")),
            schedule=schedules.is_on() if jobs.is_installed() else None,
            **self._status(),
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

    def change(self, request: HttpRequest, label: str) -> HttpResponse:
        return redirect(self._url("entries", label))

    def entries(self, request: HttpRequest, label: str) -> HttpResponse:
        buffer = _buffer(label)
        filters = pending.Filters(request.GET)
        given = filters.cleaned_data if filters.is_valid() else dict.fromkeys(filters.fields, "")
        columns = pending.key_columns(buffer)
        keys = pending.key_form(buffer)(
            request.GET if "search" in request.GET else None, prefix="key"
        )
        if keys.is_bound and keys.is_valid():
            try:
                id = pending.id_of(buffer, keys.cleaned_data)
            except ValidationError as error:
                for name, found in error.message_dict.items():
                    keys.add_error(name if name in keys.fields else None, found)
            else:
                return redirect(self._entry_url(label, id))
        context = self.context(
            request,
            label,
            buffer=buffer,
            filters=filters,
            keys=keys if columns else None,
            states=pending.STATES,
        )
        try:
            counts = store.count(client(), buffer.shard_keys()).values()
            page = pending.page(buffer, given, request.GET.get("after", ""))
        except BufferUnavailable as error:
            context["redis_problem"] = str(error)
        else:
            query = request.GET.copy()
            query["after"] = page.after
            context |= {
                "pending": sum(count.pending for count in counts),
                "due": sum(count.due for count in counts),
                "in_flight": sum(count.in_flight for count in counts),
                "rows": [
                    {
                        "id": row.id,
                        "url": self._entry_url(label, row.id),
                        "key": inline(masked(request, buffer, row.entry.key, {})[0]) or row.id,
                        "changes": _("deletes") if _only_deletes(row) else len(row.entry.values),
                        "names": ", ".join(map(str, row.entry.values)),
                        "entry": row.entry,
                        "waiting": duration(row.seconds),
                        "state": row.state,
                        "state_name": pending.STATES[row.state],
                        "error": row.error,
                        "selectable": row.selectable,
                    }
                    for row in page.rows
                ],
                "selectable": any(row.selectable for row in page.rows),
                "is_later": "after" in request.GET,
                "next": f"?{query.urlencode()}" if page.after else "",
            }
        return TemplateResponse(request, "writebehind/entries.html", context)

    def entry(self, request: HttpRequest, label: str) -> HttpResponse:
        buffer = _buffer(label)
        id = request.GET.get("id", "")
        context = self.context(request, id, buffer=buffer, id=id)
        try:
            context["detail"] = detail = pending.detail(buffer, id)
            context["selectable"] = bool(buffer.layout().key)
        except BufferUnavailable as error:
            context["redis_problem"] = str(error)
        else:
            if detail:
                context["title"] = inline(masked(request, buffer, detail.key, {})[0]) or id
                hidden = hidden_names(request, buffer, detail.key)
                context["lines"] = [
                    replace(line, stored=MASK, pending=[MASK] * len(line.pending), result=MASK)
                    if line.name in hidden
                    else line
                    for line in detail.lines
                ]
        return TemplateResponse(request, "writebehind/entry.html", context)

    # Acting

    def flush_some(self, request: HttpRequest, label: str) -> HttpResponse:
        """Flush the entries that were chosen."""
        buffer = _buffer(label)
        ids = request.POST.getlist("id")[:_MOST]
        if not ids:
            messages.warning(request, _("Choose what to flush."))
        else:
            try:
                outcome = flushing.flush_ids(buffer, ids)
            except BufferUnavailable as error:
                messages.error(request, _("Redis does not answer: %s") % error)
            else:
                log_buffers(request, [buffer], f"Flushed {len(ids)} chosen entries: {outcome}")
                self.tell(request, outcome)
        return redirect(self._url("entries", label))

    def flush(self, request: HttpRequest) -> HttpResponse:
        """Flush whole buffers: a step with each POST, and how far it is. What has begun is kept in
        the session, so that a reload shows it."""
        job = flushing.of_session(request.session)
        if request.method == "POST":
            try:
                if "begin" in request.POST:
                    chosen = request.POST.getlist("buffer") or list(registry.buffers())
                    job = flushing.begin([_buffer(label) for label in chosen])
                    log_buffers(request, job.buffers(), f"Flush of {job.total} entries begun.")
                elif job and not job.over:
                    job.step()
            except BufferUnavailable as error:
                messages.error(request, _("Redis does not answer: %s") % error)
                return redirect(self._url("changelist"))
            if job:
                job.keep(request.session)
            if job and job.over and not job.told:
                self.tell(request, job.outcome())
                log_buffers(request, job.buffers(), f"Flush has ended: {job.outcome()}")
                job.told = True
                job.keep(request.session)
            if request.headers.get("Accept") == "application/json":
                report = {"done": job.done, "total": job.total, "over": job.over} if job else {}
                return JsonResponse(report)
            return redirect(self._url("flush"))
        context = self.context(request, _("Flush"), job=job)
        return TemplateResponse(request, "writebehind/flush.html", context)

    def tell(self, request: HttpRequest, outcome: flushing.Outcome) -> None:
        """Say what a flush came to."""
        letters = reverse(
            "admin:writebehind_deadletter_changelist", current_app=self.admin_site.name
        )
        text = ngettext("%d row stored", "%d rows stored", outcome.rows) % outcome.rows
        if outcome.refused:
            refused = ngettext("%d refused", "%d refused", outcome.refused) % outcome.refused
            text = format_html(
                '{}, {}: <a href="{}">{}</a>', text, refused, letters, _("see dead letters")
            )
        if outcome.left:
            left = ngettext("%d entry is left", "%d entries are left", outcome.left) % outcome.left
            text = format_html("{}; {}", text, left)
        if outcome.failed:
            text = format_html(
                "{}. {}", text, _("A batch failed and waits: see Health, and the flusher's log")
            )
        level = messages.SUCCESS if not (outcome.refused or outcome.left) else messages.WARNING
        messages.add_message(request, level, format_html("{}.", text))

    def discard(self, request: HttpRequest, label: str) -> HttpResponse:
        """Show what would be lost; discard it once the name of the buffer was typed."""
        buffer = _buffer(label)
        ids = request.POST.getlist("id")[:_MOST]
        everything = "all" in request.POST
        if not (ids or everything):
            messages.warning(request, _("Choose what to discard."))
            return redirect(self._url("entries", label))
        typed = request.POST.get("confirmation")
        try:
            if typed == label:
                count = giving_up.discard(buffer, () if everything else ids)
                log_buffers(request, [buffer], f"Discarded {count} entries.")
                messages.success(
                    request, ngettext("%d entry discarded.", "%d entries discarded.", count) % count
                )
                return redirect(self._url("entries", label))
            if everything:
                total = buffer.count_pending()
                lost = buffer.pending(_SAMPLE)
            else:
                found = [pending.detail(buffer, id) for id in ids[:_SAMPLE]]
                lost = [entry for each in found if each for entry in each.entries]
                total = len(ids)
        except BufferUnavailable as error:
            messages.error(request, _("Redis does not answer: %s") % error)
            return redirect(self._url("entries", label))
        context = self.context(
            request,
            _("Discard"),
            buffer=buffer,
            ids=[] if everything else ids,
            everything=everything,
            total=total,
            word=label,
            lost=[
                (*map(inline, masked(request, buffer, entry.key, entry.values)), entry)
                for entry in lost
            ],
            more=max(total - len(lost), 0),
            wrong=typed is not None,
        )
        return TemplateResponse(request, "writebehind/discard.html", context)

    def pause(self, request: HttpRequest) -> HttpResponse:
        """Pause the flushes of a buffer, or of all; or let them go on."""
        chosen = request.POST.getlist("buffer") or list(registry.buffers())
        buffers = [_buffer(label) for label in chosen]
        resumed = "resume" in request.POST
        act = store.resume if resumed else store.pause
        try:
            for buffer in buffers:
                act(client(), buffer.shard_keys())
        except BufferUnavailable as error:
            messages.error(request, _("Redis does not answer: %s") % error)
        else:
            log_buffers(request, buffers, "Resumed." if resumed else "Paused.")
            text = _("%s is flushed again.") if resumed else _("%s is paused; writes go on.")
            messages.success(request, text % ", ".join(chosen))
        return redirect(self._url("changelist"))

    # Addresses

    def _url(self, name: str, *args: str) -> str:
        full = f"admin:writebehind_dashboard_{name}"
        return reverse(full, args=args, current_app=self.admin_site.name)

    def _entry_url(self, label: str, id: str) -> str:
        return f"{self._url('entry', label)}?{urlencode({'id': id})}"


def _buffer(label: str) -> Buffer:
    buffer = registry.buffers().get(label)
    if buffer is None:
        raise Http404(f"There is no buffer {label}.")
    return buffer


def _only_deletes(row: pending.Row) -> bool:
    return row.entry.delete and not row.entry.values
