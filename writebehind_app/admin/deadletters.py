"""Dead letters in the admin: what was refused and why, and how it is mended."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha1
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import FieldError, PermissionDenied, ValidationError
from django.db import Error, models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from writebehind_app import registry
from writebehind_app.admin.access import Guarded, hidden_names, log, masked, may
from writebehind_app.admin.correction import correction
from writebehind_app.admin.filters import DatabaseFilter, using_of
from writebehind_app.admin.shown import inline, moment, shown
from writebehind_app.buffers.base import Raw
from writebehind_app.database import deadletters
from writebehind_app.database.parents import ParentPending
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.models import DeadLetter

_PATIENCE = 20.0  # seconds that retries may take, as somebody waits for the page
_SAMPLE = 20  # letters that are shown before they are discarded


class DeadLetterAdmin(Guarded):
    list_display = ("id", "buffer", "short_reason", "attempts", "last_refused")
    list_filter = (
        DatabaseFilter,
        ("buffer", admin.AllValuesFieldListFilter),
        ("error", admin.AllValuesFieldListFilter),
        "last_seen",
    )
    lookups = ("database", "buffer", "error", "last_seen")
    search_fields = ("reason",)
    actions = ("retry", "discard", "export_csv", "export_json")
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[DeadLetter]:
        return DeadLetter.objects.using(using_of(request)).order_by("pk")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().changelist_view(
            request, {"title": _("Dead letters"), **(extra_context or {})}
        )

    def get_list_display(self, request: HttpRequest) -> Any:
        def row_key(letter: DeadLetter) -> str:
            return _described(request, letter)["key"]

        row_key.short_description = _("key")  # type: ignore[attr-defined]
        first, second, *others = self.list_display
        return [first, second, row_key, *others]

    @admin.display(description=gettext_lazy("reason"))
    def short_reason(self, letter: DeadLetter) -> str:
        return shown(f"{letter.error}: {letter.reason}", 120)

    @admin.display(description=gettext_lazy("last seen"), ordering="last_seen")
    def last_refused(self, letter: DeadLetter) -> str:
        return moment(letter.last_seen)

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return may(request, "retry")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return may(request, "discard")

    # In bulk

    @admin.action(permissions=["retry"], description=gettext_lazy("Retry"))
    def retry(self, request: HttpRequest, queryset: models.QuerySet[DeadLetter]) -> None:
        deadline = time.monotonic() + _PATIENCE
        outcomes: Counter[str] = Counter()
        # Those of the last try come last: with the next one, it goes on where this one stops.
        for letter in list(queryset.order_by("last_seen", "pk")):
            if time.monotonic() > deadline:
                outcomes["left"] += 1
                continue
            outcomes[self._retry(request, letter)] += 1
        self._tell(request, outcomes)

    @admin.action(permissions=["discard"], description=gettext_lazy("Discard…"))
    def discard(
        self, request: HttpRequest, queryset: models.QuerySet[DeadLetter]
    ) -> HttpResponse | None:
        letters = list(queryset.order_by("pk"))
        if not letters:
            messages.warning(request, _("These dead letters have gone: stored, or discarded."))
            return None
        word = str(len(letters))
        across = request.POST.get("select_across") == "1"  # more than a form can name
        typed = request.POST.get("confirmation")
        shown_set = request.POST.get("shown_set")
        this_set = _digest_of(letters)
        if typed is not None and shown_set != this_set:
            messages.warning(
                request,
                _("These are not the letters that were shown before. Nothing was discarded."),
            )
            typed = None
        if typed == word:
            about = [(str(x.pk), str(x)) for x in letters]  # which have no key any more, once gone
            count = deadletters.discard_all(letters)
            log(request, DeadLetter, about, "Discarded.")
            messages.success(
                request,
                ngettext("%d dead letter discarded.", "%d dead letters discarded.", count) % count,
            )
            return None
        described = [(letter, _described(request, letter)) for letter in letters[:_SAMPLE]]
        context = self.context(
            request,
            _("Discard"),
            total=len(letters),
            word=word,
            shown_set=this_set,
            lost=[
                (f"{letter.buffer} {each['key']}", each["values"], letter)
                for letter, each in described
            ],
            more=max(len(letters) - _SAMPLE, 0),
            wrong=typed is not None,
            letters=[letter.pk for letter in letters][: 1 if across else None],
            across=across,
            back=self._changelist_url(request),
        )
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "writebehind/discard.html", context)

    @admin.action(permissions=["view"], description=gettext_lazy("Export as CSV"))
    def export_csv(
        self, request: HttpRequest, queryset: models.QuerySet[DeadLetter]
    ) -> HttpResponse:
        response = _file("text/csv", "csv")
        response.write("\ufeff")  # by which Excel knows that it is UTF-8
        rows = self._rows(request, queryset)
        writer = csv.writer(response)
        writer.writerow(_EXPORTED)
        writer.writerows([_cell(row[name]) for name in _EXPORTED] for row in rows)
        return response

    @admin.action(permissions=["view"], description=gettext_lazy("Export as JSON"))
    def export_json(
        self, request: HttpRequest, queryset: models.QuerySet[DeadLetter]
    ) -> HttpResponse:
        response = _file("application/json", "json")
        rows = self._rows(request, queryset)
        response.write(json.dumps(rows, cls=deadletters.Encoder, ensure_ascii=False))
        return response

    def _rows(
        self, request: HttpRequest, queryset: models.QuerySet[DeadLetter]
    ) -> list[dict[str, Any]]:
        """What an export says, which is in the log of the admin then."""
        rows = [_exported(request, letter) for letter in queryset.order_by("pk")]
        about = ", ".join(str(row["id"]) for row in rows)
        log(request, DeadLetter, [("", about)], f"Exported: {len(rows)}.")
        return rows

    def _retry(self, request: HttpRequest, letter: DeadLetter) -> str:
        """What became of it: stored, refused, waiting, gone, homeless or failed."""
        buffer = registry.buffers().get(letter.buffer)
        if buffer is None:
            return "homeless"
        try:
            stored, refused = deadletters.retry(buffer, [letter.pk])
        except DeadLetter.DoesNotExist:
            return "gone"
        except (ParentPending, BufferUnavailable):
            return "waiting"
        except Error:
            return "failed"
        outcome = "stored" if stored else "refused" if refused else "gone"
        log(request, DeadLetter, [(str(letter.pk), str(letter))], f"Retried: {outcome}.")
        return outcome

    def _tell(self, request: HttpRequest, outcomes: Mapping[str, int]) -> None:
        """Say what retries came to."""
        texts = {
            "stored": (_("%d stored"), messages.SUCCESS),
            "refused": (_("%d refused again: see why below"), messages.WARNING),
            "waiting": (
                _("%d wait for a row that is still pending: flush first"),
                messages.WARNING,
            ),
            "gone": (_("%d had gone already"), messages.WARNING),
            "homeless": (
                _("%d are of a model without a buffer: export, then discard them"),
                messages.ERROR,
            ),
            "failed": (_("%d could not be tried: the database did not take them"), messages.ERROR),
            "left": (_("%d were not tried yet: retry once more"), messages.WARNING),
        }
        found = {name: count for name, count in outcomes.items() if count}
        text = ", ".join(texts[name][0] % count for name, count in found.items())
        level = max((texts[name][1] for name in found), default=messages.INFO)
        messages.add_message(request, level, f"{text}.")

    # One letter

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        return self.guarded(self.letter)(request, object_id)

    def letter(self, request: HttpRequest, object_id: str) -> HttpResponse:
        pk = unquote(object_id)
        letter = self.get_queryset(request).filter(pk=pk).first() if pk.isdecimal() else None
        if letter is None:
            messages.warning(request, _("This dead letter has gone: stored, or discarded."))
            return HttpResponseRedirect(self._changelist_url(request))
        buffer = registry.buffers().get(letter.buffer)
        form = None
        if buffer and may(request, "retry"):
            key, values = _parts(letter)
            hidden = hidden_names(request, buffer, key)
            data = request.POST if request.method == "POST" else None
            form = correction(buffer, values, hidden, data)
        if request.method == "POST":
            if form is None or buffer is None:
                raise PermissionDenied
            if form.is_valid() and self._edited(request, buffer, letter, form):
                return self._after_edit(request, letter)
        described = _described(request, letter)
        context = self.context(
            request,
            f"{letter.buffer} {described['key']}",
            letter=letter,
            described=described,
            values=masked(request, buffer, *_parts(letter))[1],
            form=form,
            delete=deadletters.described(letter)["delete"],
            action=self._changelist_url(request),
            # Without the filters, which may hide the letter by now.
            discarding=f"{request.path.removesuffix(f'{object_id}/change/')}"
            f"?{urlencode({'database': using_of(request)})}",
        )
        return TemplateResponse(request, "writebehind/letter.html", context)

    def _after_edit(self, request: HttpRequest, letter: DeadLetter) -> HttpResponse:
        if "_retry" not in request.POST:
            messages.success(request, _("The values are kept for the next retry."))
            return HttpResponseRedirect(request.get_full_path())
        outcome = self._retry(request, letter)
        self._tell(request, {outcome: 1})
        if outcome in ("stored", "gone"):
            return HttpResponseRedirect(self._changelist_url(request))
        return HttpResponseRedirect(request.get_full_path())

    def _edited(
        self, request: HttpRequest, buffer: Declaration, letter: DeadLetter, form: forms.Form
    ) -> bool:
        """Whether what was changed in the form is in the letter now; else the form says why not."""
        values = {name: form.cleaned_data[name] for name in form.changed_data}
        if not values:
            return True
        try:
            deadletters.edit(buffer, letter.pk, values)
        except ValidationError as error:
            if not hasattr(error, "error_dict"):
                form.add_error(None, error)
            else:
                for name, found in error.message_dict.items():
                    form.add_error(name if name in form.fields else None, found)
            return False
        except (FieldError, TypeError) as error:
            form.add_error(None, str(error))
            return False
        except DeadLetter.DoesNotExist:
            return True  # the retry says so
        names = ", ".join(values)
        log(request, DeadLetter, [(str(letter.pk), str(letter))], f"Corrected: {names}.")
        return True

    def _changelist_url(self, request: HttpRequest) -> str:
        response = self.response_post_save_change(request, DeadLetter())
        url = str(response["Location"])
        if "?" in url or "database" not in request.GET:
            return url
        return f"{url}?{urlencode({'database': using_of(request)})}"


def _digest_of(letters: Sequence[DeadLetter]) -> str:
    """Tells a set of letters from others."""
    return sha1(repr([letter.pk for letter in letters]).encode(), usedforsecurity=False).hexdigest()


_EXPORTED = (
    "id",
    "buffer",
    "key",
    "values",
    "delete",
    "superseded",
    "error",
    "reason",
    "attempts",
    "first_seen",
    "last_seen",
)


def _parts(letter: DeadLetter) -> tuple[dict[str, Any], dict[str, Any]]:
    """The key and the values of a letter."""
    found = deadletters.described(letter)
    key = found["key"]
    return key if isinstance(key, dict) else Raw(id=key), dict(found["values"])


def _described(request: HttpRequest, letter: DeadLetter) -> dict[str, str]:
    """The key and the values of a letter on a line each, as the user may see them."""
    buffer = registry.buffers().get(letter.buffer)
    key, values = masked(request, buffer, *_parts(letter))
    return {"key": inline(key), "values": inline(values)}


def _exported(request: HttpRequest, letter: DeadLetter) -> dict[str, Any]:
    buffer = registry.buffers().get(letter.buffer)
    key, values = masked(request, buffer, *_parts(letter))
    return {**deadletters.described(letter), "key": key, "values": values}


_FORMULA = tuple("=+-@")


def _cell(value: Any) -> str:
    """A value in a file for a spreadsheet, which takes some texts for formulas."""
    if not isinstance(value, str):
        value = json.dumps(value, cls=deadletters.Encoder, ensure_ascii=False).strip('"')
    return f"'{value}" if value.lstrip()[:1] in _FORMULA else value


def _file(kind: str, ending: str) -> HttpResponse:
    response = HttpResponse(content_type=f"{kind}; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="dead_letters.{ending}"'
    return response
