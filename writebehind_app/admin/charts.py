"""The charts of the dashboard: what was flushed over time, from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django import forms
from django.conf import settings
from django.db import Error, connections
from django.db.models import (
    CharField,
    Count,
    DurationField,
    ExpressionWrapper,
    F,
    FloatField,
    Func,
    Max,
    Sum,
)
from django.db.models.functions import Cast, Substr, TruncHour, TruncMinute
from django.utils import formats, timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from writebehind_app import registry
from writebehind_app.admin.display import duration
from writebehind_app.admin.names import plural
from writebehind_app.models import AppliedBatch

WIDTH, HEIGHT = 320, 130  # of a chart, in units of the SVG
_LEFT, _TOP, _BOTTOM = 46, 8, 18  # the margins for the labels


class _Span(NamedTuple):
    name: Promise
    step: timedelta
    steps: int
    truncated: Any
    digits: int  # the length of a time's text in SQLite, cut after the step


SPANS = {
    "hour": _Span(gettext_lazy("the last hour"), timedelta(minutes=1), 60, TruncMinute, 16),
    "day": _Span(gettext_lazy("the last day"), timedelta(hours=1), 24, TruncHour, 13),
}


class Choice(forms.Form):
    """The form that chooses what the charts show."""

    buffer = forms.ChoiceField(
        label=gettext_lazy("Buffer"),
        required=False,
        choices=lambda: [
            ("", _("All")),
            *((label, plural(buffer)) for label, buffer in registry.buffers().items()),
        ],
    )
    span = forms.ChoiceField(
        label=gettext_lazy("Time"),
        required=False,
        choices=[(key, span.name) for key, span in SPANS.items()],
    )


@dataclass(slots=True)
class _Sums:
    """What was flushed in one step of time."""

    rows: int = 0
    batches: int = 0
    seconds: float = 0.0
    oldest: float = 0.0

    def add(self, found: Mapping[str, Any]) -> None:
        self.rows += found["sum_rows"] or 0
        self.batches += found["batches"]
        self.seconds += _seconds(found["took"])
        age = found["age"]
        self.oldest = max(self.oldest, age if isinstance(age, float) else _seconds(age))


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar. Its numbers are texts, as a template would write numbers with the user's comma."""

    x: str
    y: str
    width: str
    height: str
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    name: str
    summary: str
    bars: list[Bar]
    top: str  # the label of the upper end of the value axis
    first: str  # the label of the beginning of the time axis
    last: str  # and of its end


@dataclass(frozen=True, slots=True)
class Charts:
    """All charts, of one span of time."""

    choice: Choice
    charts: list[Chart]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def drawn(given: Mapping[str, str]) -> Charts:
    """The charts that the query of the request chooses."""
    choice = Choice(given)
    asked = choice.cleaned_data if choice.is_valid() else {}
    span, label = asked.get("span") or "hour", asked.get("buffer", "")
    steps = dict(_steps(SPANS[span], [label] if label else list(registry.buffers())))
    per = _("per minute") if span == "hour" else _("per hour")

    def number(value: float) -> str:
        return formats.number_format(round(value), use_l10n=True, force_grouping=True)

    def mean(sums: _Sums) -> float:
        return sums.seconds / sums.batches if sums.batches else 0.0

    return Charts(
        choice,
        [
            _chart(_("Rows stored, %s") % per, steps, lambda sums: sums.rows, number),
            _chart(_("Batches, %s") % per, steps, lambda sums: sums.batches, number),
            _chart(_("Time for a batch, mean"), steps, mean, duration),
            _chart(_("Oldest write when flushed"), steps, lambda sums: sums.oldest, duration),
        ],
    )


def _steps(span: _Span, labels: Sequence[str]) -> Iterator[tuple[datetime, _Sums]]:
    """What was flushed in each step, oldest first."""
    now = timezone.now()
    last = now.replace(second=0, microsecond=0)
    if span.step >= timedelta(hours=1):
        last = last.replace(minute=0)
    first = last - span.step * (span.steps - 1)
    sums: dict[datetime, _Sums] = {}
    buffers = [registry.buffers()[label] for label in labels]
    for using in {buffer.layout().using for buffer in buffers}:
        batches = AppliedBatch.objects.using(using).filter(
            applied_at__gte=first, duration__isnull=False
        )
        if len(labels) == 1:
            batches = batches.filter(buffer=labels[0])
        step, age = _expressions(span, connections[using].vendor)
        by_step = (
            batches.annotate(step=step)
            .order_by()
            .values("step")
            .annotate(sum_rows=Sum("rows"), batches=Count("pk"), took=Sum("duration"), age=Max(age))
        )
        try:
            for found in by_step:
                sums.setdefault(_moment(found["step"]), _Sums()).add(found)
        except Error:  # the health page says what is wrong with the database
            continue
    for number in range(span.steps):
        at = first + span.step * number
        yield at, sums.get(at, _Sums())


def _expressions(span: _Span, vendor: str) -> tuple[Any, Any]:
    """SQL expressions: the step of a batch, and how long its oldest write had waited.

    With Django's own expressions, SQLite calls Python for each row: a busy day took seconds.
    """
    if vendor == "sqlite":
        days = [
            Func(F(name), function="JULIANDAY", output_field=FloatField())
            for name in ("applied_at", "oldest_at")
        ]
        age = ExpressionWrapper((days[0] - days[1]) * 86400.0, output_field=FloatField())
        return Substr(Cast("applied_at", CharField()), 1, span.digits), age
    age = ExpressionWrapper(F("applied_at") - F("oldest_at"), output_field=DurationField())
    return span.truncated("applied_at", tzinfo=UTC), age


def _moment(step: str | datetime) -> datetime:
    if isinstance(step, datetime):
        return step
    naive = datetime.fromisoformat(step if ":" in step else f"{step}:00")
    return naive.replace(tzinfo=UTC) if settings.USE_TZ else naive


def _chart(
    name: str,
    steps: Mapping[datetime, _Sums],
    value: Callable[[_Sums], float],
    text: Callable[[float], str],
) -> Chart:
    values = {at: value(sums) for at, sums in steps.items()}
    greatest = max(values.values())
    width = (WIDTH - _LEFT) / len(values)
    bars = []
    for number, (at, found) in enumerate(values.items()):
        if found:
            height = max(found / greatest * (HEIGHT - _TOP - _BOTTOM), 1)
            bars.append(
                Bar(
                    x=f"{_LEFT + number * width:.1f}",
                    y=f"{HEIGHT - _BOTTOM - height:.1f}",
                    width=f"{width * 0.8:.1f}",
                    height=f"{height:.1f}",
                    title=f"{_clock(at)}: {text(found)}",
                )
            )
    first, *_others, last = values
    return Chart(
        name=name,
        summary=_("%(name)s; at most %(top)s") % {"name": name, "top": text(greatest)},
        bars=bars,
        top=text(greatest) if greatest else "",
        first=_clock(first),
        last=_clock(last),
    )


def _clock(at: datetime) -> str:
    return formats.time_format(timezone.localtime(at) if timezone.is_aware(at) else at, "H:i")


def _seconds(found: timedelta | None) -> float:
    return max(found.total_seconds(), 0.0) if found else 0.0
