"""The pages of one buffer: its pending entries, one entry, and the actions on chosen entries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import Error
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET, require_POST, require_safe

from writebehind_app import registry
from writebehind_app.admin import flushing, names, pending, search
from writebehind_app.admin.access import Guarded, hidden_names, hides, log_buffers, masked
from writebehind_app.admin.display import display, duration, inline
from writebehind_app.admin.search import Search
from writebehind_app.buffers.base import Buffer, PendingEntry
from writebehind_app.buffers.coalescing import CoalescingBuffer
from writebehind_app.database.divided import renew
from writebehind_app.declaration import MASK, Declaration
from writebehind_app.english import counted
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.flush import discards
from writebehind_app.store import state
from writebehind_app.store.connection import client

_MOST = 100  # entries that one request may name by their ids
_SAMPLE = 20  # entries to show before all of them are discarded


class EntryPages(Guarded):
    """The list of the entries of a buffer, the page of one entry, flush and discard."""

    def entry_urls(self) -> list[URLPattern]:
        return [
            self.page("<str:label>/", require_safe(self.entries), "entries"),
            # The log of the admin links to this address.
            self.page("<path:label>/change/", require_GET(self.change), "change"),
            self.page("<str:label>/entry/", require_safe(self.entry), "entry"),
            self.page("<str:label>/flush/", require_POST(self.flush_some), "flush_some", "flush"),
            self.page("<str:label>/discard/", require_POST(self.discard), "discard", "discard"),
        ]

    def page(self, route: str, view: Any, name: str, what: str = "view") -> URLPattern:
        return path(route, self.guarded(view, what), name=f"writebehind_dashboard_{name}")

    # Looking

    def change(self, request: HttpRequest, label: str) -> HttpResponse:
        return redirect(self.url("entries", buffer_of(unquote(label)).label))

    def entries(self, request: HttpRequest, label: str) -> HttpResponse:
        buffer = buffer_of(label)
        filters = pending.Filters(request.GET)
        filters.is_valid()
        given = {name: filters.cleaned_data.get(name, "") for name in filters.fields}
        context = self.context(
            request,
            names.plural(buffer),
            buffer=buffer,
            filters=filters,
            is_list=True,
            is_filtered=any(given.values()) or "after" in request.GET,
            is_keyed=bool(buffer.layout().key),
        )
        try:
            context["keys"], wanted = _searched(request, buffer)
            if wanted.id:
                return redirect(self._entry_url(label, wanted.id))
            shards = state.overview(client(), buffer.shards()).values()
            page = pending.page(buffer, given, request.GET.get("after", ""), wanted.beginning)
        except BufferUnavailable as error:
            context["redis_problem"] = str(error)
        else:
            query = request.GET.copy()
            query.pop("after", None)
            first = query.urlencode()
            query["after"] = page.after
            rows = [self._row(request, buffer, row) for row in page.rows]
            context |= {
                "pending": sum(shard.pending for shard in shards),
                "due": sum(shard.due for shard in shards),
                "in_flight": sum(shard.in_flight for shard in shards),
                "is_paused": any(shard.paused for shard in shards),
                "rows": rows,
                "is_selectable": any(row["is_selectable"] for row in rows),
                "is_cut": page.is_cut,
                "first": f"?{first}" if "after" in request.GET else "",
                "next": f"?{query.urlencode()}" if page.after else "",
                "back": request.GET.urlencode(),
            }
        return TemplateResponse(request, "writebehind/entries.html", context)

    def _row(self, request: HttpRequest, buffer: Buffer, row: pending.Row) -> dict[str, Any]:
        """A line of the list. If the key is hidden, so is the id: the id contains the key."""
        entry = row.entry
        is_hidden = _is_key_hidden(request, buffer)
        deletes = entry.delete and not entry.values
        return {
            "id": row.id,
            "url": "" if is_hidden else self._entry_url(buffer.label, row.id),
            "key": inline(masked(request, buffer, entry.key, {})[0]) or row.id,
            "changes": _("deletes") if deletes else len(entry.values),
            "names": ", ".join(map(str, entry.values)),
            "entry": entry,
            "waiting": duration(row.seconds),
            "state": row.state,
            "state_name": pending.STATES[row.state],
            "error": row.error,
            "is_selectable": row.is_free and not is_hidden,
        }

    def entry(self, request: HttpRequest, label: str) -> HttpResponse:
        buffer = buffer_of(label)
        _refuse_hidden(request, buffer)
        id = request.GET.get("id", "")
        context = self.context(
            request,
            names.title(buffer, masked(request, buffer, _key_of(buffer, id), {})[0]),
            buffer=buffer,
            id=id,
            is_keyed=bool(buffer.layout().key),
        )
        try:
            context["detail"] = detail = pending.detail(buffer, id)
        except BufferUnavailable as error:
            context["redis_problem"] = str(error)
        except (Error, OverflowError) as error:  # a table is missing, or the key is not valid
            context["problem"] = f"{type(error).__name__}: {display(str(error))}"
        else:
            if detail:
                key = masked(request, buffer, detail.key, {})[0]
                context["title"] = names.title(buffer, key)
                hidden = hidden_names(request, buffer, detail.key)
                context["lines"] = [
                    replace(line, stored=MASK, pending=[MASK] * len(line.pending), result=MASK)
                    if hides(buffer, hidden, line.name)
                    else line
                    for line in detail.lines
                ]
        return TemplateResponse(request, "writebehind/entry.html", context)

    # Acting

    def flush_some(self, request: HttpRequest, label: str) -> HttpResponse:
        """Flush the chosen entries."""
        buffer = buffer_of(label)
        ids = request.POST.getlist("id")[:_MOST]
        _refuse_hidden(request, buffer)
        if not buffer.layout().key:
            messages.warning(request, _("Records are flushed in their order: flush the buffer."))
        elif not ids:
            messages.warning(request, _("Choose what to flush."))
        else:
            try:
                outcome = flushing.flush_ids(buffer, ids)
            except BufferUnavailable as error:
                self.tell_away(request, error)
            else:
                chosen = counted(len(ids), "chosen entry", "chosen entries")
                log_buffers(request, [buffer], f"Flushed {chosen}: {outcome}")
                self.tell(request, outcome, [buffer])
        return self.back(request, label)

    def discard(self, request: HttpRequest, label: str) -> HttpResponse:
        """Show what would be lost, and discard it after the user has typed the buffer's name."""
        buffer = buffer_of(label)
        ids = request.POST.getlist("id")[:_MOST]
        everything = "all" in request.POST
        if not (ids or everything):
            messages.warning(request, _("Choose what to discard."))
            return self.back(request, label)
        if ids and not everything:
            _refuse_hidden(request, buffer)
        typed = request.POST.get("confirmation")
        try:
            if typed == label:
                count = _discarded(buffer, () if everything else ids)
                about = counted(count, "entry", "entries")
                log_buffers(request, [buffer], f"Discarded {about}.")
                messages.success(
                    request, ngettext("%d entry discarded.", "%d entries discarded.", count) % count
                )
                return self.back(request, label)
            if everything:
                renew([buffer])
                counts = state.count(client(), buffer.shards()).values()
                total = sum(count.pending for count in counts)
                lost = buffer.pending(_SAMPLE)
            else:
                lost = pending.entries_of(buffer, ids)
                total = sum(entry.state == "pending" for entry in lost)
        except BufferUnavailable as error:
            self.tell_away(request, error)
            return self.back(request, label)
        except Error as error:
            problem = f"{type(error).__name__}: {display(str(error))}"
            messages.error(request, _("The database refused it: %s") % problem)
            return self.back(request, label)
        waiting = [entry for entry in lost if entry.state == "pending"][:_SAMPLE]
        context = self.context(
            request,
            _("Discard %s") % names.plural(buffer),
            buffer=buffer,
            ids=[] if everything else ids,
            everything=everything,
            total=total,
            word=label,
            lost=[_lost(request, buffer, entry) for entry in waiting],
            more=max(total - len(waiting), 0),
            wrong=typed is not None,
            back=request.POST.get("back", ""),
        )
        return TemplateResponse(request, "writebehind/discard.html", context)

    # Telling

    def tell(
        self, request: HttpRequest, outcome: flushing.Outcome, buffers: Sequence[Declaration]
    ) -> None:
        """Show the user the result of a flush of these buffers."""
        letters = self.url_of("deadletter_changelist")
        databases = {buffer.layout().using for buffer in buffers}
        if len(databases) == 1:
            letters += "?" + urlencode({"database": databases.pop()})
        text = ngettext("%d row stored", "%d rows stored", outcome.rows) % outcome.rows
        if outcome.refused:
            refused = ngettext("%d refused", "%d refused", outcome.refused) % outcome.refused
            text = format_html(
                '{}, {}: <a href="{}">{}</a>', text, refused, letters, _("see dead letters")
            )
        if outcome.left:
            left = ngettext("%d entry is left", "%d entries are left", outcome.left) % outcome.left
            text = format_html("{}; {}", text, left)
        if outcome.paused:
            held = [names.plural(each) for each in buffers if each.label in outcome.paused]
            paused = _("paused: %s") % ", ".join(held)
            text = format_html("{}; {}", text, paused)
        if outcome.failed:
            text = format_html(
                "{}. {}", text, _("A batch failed and waits: see Health, and the flusher's log")
            )
        level = messages.SUCCESS if not (outcome.refused or outcome.left) else messages.WARNING
        messages.add_message(request, level, format_html("{}.", text))

    def tell_away(self, request: HttpRequest, error: BufferUnavailable) -> None:
        messages.error(request, _("Redis does not answer: %s") % error)

    # Addresses

    def back(self, request: HttpRequest, label: str) -> HttpResponse:
        """Redirect to the list that the user came from."""
        query = QueryDict(request.POST.get("back", "")).urlencode()
        return redirect(f"{self.url('entries', label)}{'?' if query else ''}{query}")

    def url(self, name: str, *args: str) -> str:
        return self.url_of(f"dashboard_{name}", *args)

    def url_of(self, page: str, *args: str) -> str:
        full = f"admin:writebehind_{page}"
        return reverse(full, args=args, current_app=self.admin_site.name)

    def _entry_url(self, label: str, id: str) -> str:
        return f"{self.url('entry', label)}?{urlencode({'id': id})}"


def buffer_of(label: str) -> Buffer:
    buffer = registry.buffers().get(label)
    if not isinstance(buffer, Buffer):
        raise Http404(f"There is no buffer {label}.")
    return buffer


def _key_of(buffer: Buffer, id: str) -> dict[str, Any]:
    """The key in an id; nothing if this is the id of a record, or not the id of any entry."""
    if isinstance(buffer, CoalescingBuffer):
        with suppress(*REFUSALS):
            return buffer.key_layout().key_of(id)
    return {}


def _is_key_hidden(request: HttpRequest, buffer: Buffer) -> bool:
    """Whether the user may not see a part of the key. A record of a log has no key."""
    columns = buffer.key_layout().key if isinstance(buffer, CoalescingBuffer) else ()
    names = {name for column in columns for name in (column.name, column.attname)}
    return bool(hidden_names(request, buffer, {}) & names)


def _refuse_hidden(request: HttpRequest, buffer: Buffer) -> None:
    """Refuse the request if the key is hidden: otherwise the user could guess keys."""
    if _is_key_hidden(request, buffer):
        raise PermissionDenied


def _searched(request: HttpRequest, buffer: Buffer) -> tuple[forms.Form | None, Search]:
    """The form that searches by the fields of the key, or None, and the search in the request."""
    columns = search.columns(buffer, hidden_names(request, buffer, {}))
    if not columns:
        return None, Search()
    form = search.form(columns)(request.GET, prefix="key")
    form.is_valid()
    texts = {column.name: form.cleaned_data.get(column.name, "") for column in columns}
    try:
        return form, search.search(buffer, columns, texts)
    except ValidationError as error:
        for name, found in error.message_dict.items():
            form.add_error(name if name in form.fields else None, found)
        return form, Search()


def _discarded(buffer: Buffer, ids: Sequence[str]) -> int:
    """Discard entries by their ids, or all without ids; return how many."""
    if not ids or buffer.layout().key:
        return discards.discard(buffer, ids)
    places = [place for id in ids if (place := pending.place_of_record(buffer, id))]
    return discards.discard_records(buffer, places)


def _lost(request: HttpRequest, buffer: Buffer, entry: PendingEntry) -> tuple[str, str, Any]:
    key, values = masked(request, buffer, entry.key, entry.values)
    return inline(key), inline(values), entry
