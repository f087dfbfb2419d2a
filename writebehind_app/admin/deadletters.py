"""The pages of dead letters: the list, a letter, its correction, and the actions."""

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
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from writebehind_app import registry
from writebehind_app.admin.access import Guarded, hidden_names, log, masked, may
from writebehind_app.admin.correction import correction
from writebehind_app.admin.display import display, moment
from writebehind_app.admin.filters import BufferFilter, DatabaseFilter, using_of
from writebehind_app.admin.masking import (
    EXPORTED,
    cell,
    exported,
    file,
    masked_edits,
    masked_texts,
    parts_of,
)
from writebehind_app.admin.names import named, title
from writebehind_app.database import deadletters
from writebehind_app.database.letters import Encoder, described
from writebehind_app.database.parents import ParentPending
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferUnavailable, EditedSince
from writebehind_app.models import DeadLetter

_PATIENCE = 20.0  # seconds for all retries of one request: somebody waits for the page
_SAMPLE = 20  # letters to show before all of them are discarded


class _BufferFilter(BufferFilter):
    """Choose one of the buffers that have dead letters, also of those that are declared no more."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        letters = DeadLetter.objects.using(using_of(request)).order_by("buffer")
        names = dict(super().lookups(request, model_admin))
        labels = letters.values_list("buffer", flat=True).distinct()
        return [(label, names.get(label, label)) for label in labels]


class DeadLetterAdmin(Guarded):
    list_display = ("id", "rows_of", "short_reason", "refused")
    list_filter = (
        DatabaseFilter,
        _BufferFilter,
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
            return masked_texts(request, letter)["key"]

        row_key.short_description = _("key")  # type: ignore[attr-defined]
        first, second, *others = self.list_display
        return [first, second, row_key, *others]

    @admin.display(description=gettext_lazy("reason"))
    def short_reason(self, letter: DeadLetter) -> str:
        return display(f"{letter.error}: {letter.reason}", 120)

    @admin.display(description=gettext_lazy("buffer"), ordering="buffer")
    def rows_of(self, letter: DeadLetter) -> str:
        return named(letter.buffer)

    @admin.display(description=gettext_lazy("refused"), ordering="last_seen")
    def refused(self, letter: DeadLetter) -> str:
        text = ngettext("once, %(at)s", "%(count)d times, last %(at)s", letter.attempts)
        return text % {"count": letter.attempts, "at": moment(letter.last_seen)}

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return may(request, "retry")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return may(request, "discard")

    # In bulk

    @admin.action(permissions=["retry"], description=gettext_lazy("Retry"))
    def retry(self, request: HttpRequest, queryset: models.QuerySet[DeadLetter]) -> None:
        deadline = time.monotonic() + _PATIENCE
        outcomes: Counter[str] = Counter()
        # Letters that were tried last come last: so the next request goes on where this one stops.
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
            messages.warning(
                request, _("These dead letters are gone: they were stored or discarded.")
            )
            return None
        word = str(len(letters))
        across = request.POST.get("select_across") == "1"  # too many to name each in a form
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
            about = [(str(x.pk), str(x)) for x in letters]  # before they lose their primary keys
            count = deadletters.discard_all(letters)
            log(request, DeadLetter, about, "Discarded.")
            messages.success(
                request,
                ngettext("%d dead letter discarded.", "%d dead letters discarded.", count) % count,
            )
            return None
        sample = [(letter, masked_texts(request, letter)) for letter in letters[:_SAMPLE]]
        context = self.context(
            request,
            _("Discard dead letters"),
            total=len(letters),
            word=word,
            shown_set=this_set,
            lost=[
                (format_html("{}: {}", named(letter.buffer), each["key"]), each["values"], letter)
                for letter, each in sample
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
        response = file("text/csv", "csv")
        response.write("\ufeff")  # tells Excel that the file is UTF-8
        rows = self._rows(request, queryset)
        writer = csv.writer(response)
        writer.writerow(EXPORTED)
        writer.writerows([cell(row[name]) for name in EXPORTED] for row in rows)
        return response

    @admin.action(permissions=["view"], description=gettext_lazy("Export as JSON"))
    def export_json(
        self, request: HttpRequest, queryset: models.QuerySet[DeadLetter]
    ) -> HttpResponse:
        response = file("application/json", "json")
        rows = self._rows(request, queryset)
        response.write(json.dumps(rows, cls=Encoder, ensure_ascii=False))
        return response

    def _rows(
        self, request: HttpRequest, queryset: models.QuerySet[DeadLetter]
    ) -> list[dict[str, Any]]:
        """The rows of an export. The log of the admin notes that they were exported."""
        rows = [exported(request, letter) for letter in queryset.order_by("pk")]
        about = ", ".join(str(row["id"]) for row in rows)
        log(request, DeadLetter, [("", about)], f"Exported: {len(rows)}.")
        return rows

    def _retry(self, request: HttpRequest, letter: DeadLetter, over: str = "") -> str:
        """Retry a letter; return stored, refused, edited, waiting, gone, homeless or failed.

        `over` is the digest of the edits that were shown to the user: these may be overwritten.
        """
        buffer = registry.buffers().get(letter.buffer)
        if buffer is None:
            return "homeless"
        try:
            stored, refused = deadletters.retry(buffer, [letter.pk], over=over)
        except DeadLetter.DoesNotExist:
            return "gone"
        except EditedSince:
            return "edited"
        except (ParentPending, BufferUnavailable):
            return "waiting"
        except Error:
            return "failed"
        outcome = "stored" if stored else "refused" if refused else "gone"
        log(request, DeadLetter, [(str(letter.pk), str(letter))], f"Retried: {outcome}.")
        return outcome

    def _tell(self, request: HttpRequest, outcomes: Mapping[str, int]) -> None:
        """Show the user what became of the retries."""
        found = [_outcome(name, count) for name, count in outcomes.items() if count]
        level = max((level for level, _text in found), default=messages.INFO)
        messages.add_message(request, level, f"{', '.join(text for _level, text in found)}.")

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
            messages.warning(request, _("This dead letter is gone: it was stored or discarded."))
            return HttpResponseRedirect(self._changelist_url(request))
        buffer = registry.buffers().get(letter.buffer)
        form = None
        if buffer and may(request, "retry"):
            key, values = parts_of(letter)
            hidden = hidden_names(request, buffer, key)
            data = request.POST if request.method == "POST" else None
            form = correction(buffer, values, hidden, data)
        if request.method == "POST":
            if form is None or buffer is None:
                raise PermissionDenied
            if form.is_valid() and self._edited(request, buffer, letter, form):
                return self._after_edit(request, letter)
        inlined = masked_texts(request, letter)
        context = self.context(
            request,
            title(buffer, masked(request, buffer, *parts_of(letter))[0]) if buffer else str(letter),
            letter=letter,
            described=inlined,
            values=masked(request, buffer, *parts_of(letter))[1],
            form=form,
            edits=masked_edits(request, buffer, letter) if buffer else None,
            delete=described(letter)["delete"],
            action=self._changelist_url(request),
            # Without the filters: they might hide the letter.
            discarding=f"{request.path.removesuffix(f'{object_id}/change/')}"
            f"?{urlencode({'database': using_of(request)})}",
        )
        return TemplateResponse(request, "writebehind/letter.html", context)

    def _after_edit(self, request: HttpRequest, letter: DeadLetter) -> HttpResponse:
        if "_retry" not in request.POST:
            messages.success(request, _("The values are kept for the next retry."))
            return HttpResponseRedirect(request.get_full_path())
        outcome = self._retry(request, letter, request.POST.get("over", ""))
        self._tell(request, {outcome: 1})
        if outcome in ("stored", "gone"):
            return HttpResponseRedirect(self._changelist_url(request))
        return HttpResponseRedirect(request.get_full_path())

    def _edited(
        self, request: HttpRequest, buffer: Declaration, letter: DeadLetter, form: forms.Form
    ) -> bool:
        """Put the changed values of the form into the letter. False if they are wrong: then the
        form has the errors."""
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


def _outcome(name: str, count: int) -> tuple[int, str]:
    """The level and the text of a message: this became of so many letters."""
    level = messages.WARNING
    match name:
        case "stored":
            level, text = messages.SUCCESS, _("%d stored")
        case "refused":
            text = _("%d refused again: see why below")
        case "waiting":
            text = ngettext(
                "%d waits for a row that is still pending: flush first",
                "%d wait for rows that are still pending: flush first",
                count,
            )
        case "edited":
            text = ngettext(
                "%d not written: its row was edited since; open it to decide",
                "%d not written: their rows were edited since; open them to decide",
                count,
            )
        case "gone":
            text = ngettext("%d was gone already", "%d were gone already", count)
        case "homeless":
            level = messages.ERROR
            text = ngettext(
                "%d is of a model without a buffer: export, then discard it",
                "%d are of a model without a buffer: export, then discard them",
                count,
            )
        case "failed":
            level, text = messages.ERROR, _("%d could not be tried: the database failed")
        case _:
            text = ngettext(
                "%d was not tried yet: retry once more",
                "%d were not tried yet: retry once more",
                count,
            )
    return level, text % count


def _digest_of(letters: Sequence[DeadLetter]) -> str:
    """A digest of a set of letters, to notice if the set changes."""
    return sha1(repr([letter.pk for letter in letters]).encode(), usedforsecurity=False).hexdigest()
