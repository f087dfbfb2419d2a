"""What waited over time, and what was flushed, as bars: drawn from the samples, and the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
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

from writebehind_app import registry, sampling
from writebehind_app.admin.shown import duration
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.models import AppliedBatch
from writebehind_app.store import samples
from writebehind_app.store.connection import client
from writebehind_app.store.samples import Sample, Step

WIDTH, HEIGHT = 320, 130  # of the whole, in units of the SVG
_LEFT, _TOP, _BOTTOM = 46, 8, 18  # what the labels take of it


class _Span(NamedTuple):
    name: Promise
    unit: Step
    step: timedelta
    steps: int
    truncated: Any
    digits: int  # of a time as SQLite keeps it, down to the step


SPANS = {
    "hour": _Span(
        gettext_lazy("the last hour"), "minute", timedelta(minutes=1), 60, TruncMinute, 16
    ),
    "day": _Span(gettext_lazy("the last day"), "hour", timedelta(hours=1), 24, TruncHour, 13),
}


class Choice(forms.Form):
    """What is drawn."""

    buffer = forms.ChoiceField(
        label=gettext_lazy("Buffer"),
        required=False,
        choices=lambda: [("", _("All")), *((label, label) for label in registry.buffers())],
    )
    span = forms.ChoiceField(
        label=gettext_lazy("Time"),
        required=False,
        choices=[(key, span.name) for key, span in SPANS.items()],
    )


@dataclass(slots=True)
class _Sums:
    """What was flushed in a step of time, and what waited."""

    sample: Sample | None = None  # None where nobody looked
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
    """Texts, as a number would be written as the language does it."""

    x: str
    y: str
    width: str
    height: str
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    name: str
    summary: str
    gaps: list[Bar]  # where nothing is known
    bars: list[Bar]
    top: str  # what the upper end of the axis is
    first: str  # when the time axis begins
    last: str


@dataclass(frozen=True, slots=True)
class Charts:
    """Some charts of one span of time."""

    choice: Choice
    charts: list[Chart]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def drawn(given: Mapping[str, str]) -> Charts:
    """The charts that are asked for."""
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
            _chart(_("Entries that wait, at most"), steps, _waiting, number),
            _chart(_("Age of the oldest, at most"), steps, _oldest, duration),
            _chart(_("Rows stored, %s") % per, steps, lambda sums: sums.rows, number),
            _chart(_("Batches, %s") % per, steps, lambda sums: sums.batches, number),
            _chart(_("Time for a batch, mean"), steps, mean, duration),
            _chart(_("Oldest write when flushed"), steps, lambda sums: sums.oldest, duration),
        ],
    )


def _waiting(sums: _Sums) -> float | None:
    return sums.sample and sums.sample.entries


def _oldest(sums: _Sums) -> float | None:
    return sums.sample and sums.sample.oldest


def _steps(span: _Span, labels: Sequence[str]) -> Iterator[tuple[datetime, _Sums]]:
    """What was flushed and what waited in each step, oldest first."""
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
        except Error:  # the health says what is wrong with the database
            continue
    waited = _waited(span.unit, labels)
    for number in range(span.steps):
        at = first + span.step * number
        own = sums.get(at, _Sums())
        own.sample = waited.get(int(at.timestamp() // span.step.total_seconds()))
        yield at, own


def _waited(unit: Step, labels: Sequence[str]) -> dict[int, Sample]:
    """What waited in these buffers, by the number of the step."""
    try:
        found = samples.read(client(), sampling.key(), unit)
    except BufferUnavailable:
        return {}
    waited = {}
    for at, seen in found.items():
        own = [seen[label] for label in labels if label in seen]
        if own:
            oldest = max(sample.oldest for sample in own)
            waited[at] = Sample(sum(sample.entries for sample in own), oldest)
    return waited


def _expressions(span: _Span, vendor: str) -> tuple[Any, Any]:
    """The step that a batch is in, and how long its oldest write had waited.

    SQLite would call Python for both, row by row: a busy day took seconds.
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
    value: Callable[[_Sums], float | None],
    text: Callable[[float], str],
) -> Chart:
    values = {at: value(sums) for at, sums in steps.items()}
    greatest = max((found for found in values.values() if found), default=0)
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
        gaps=list(_gaps(values, width)),
        bars=bars,
        top=text(greatest) if greatest else "",
        first=_clock(first),
        last=_clock(last),
    )


def _gaps(values: Mapping[datetime, float | None], width: float) -> Iterator[Bar]:
    """Steps in a row of which nothing is known."""
    number = 0
    for is_known, group in groupby(values.items(), lambda item: item[1] is not None):
        steps = list(group)
        if not is_known:
            yield Bar(
                x=f"{_LEFT + number * width:.1f}",
                y=str(_TOP),
                width=f"{width * len(steps):.1f}",
                height=str(HEIGHT - _TOP - _BOTTOM),
                title=_("%(first)s to %(last)s: nobody looked")
                % {"first": _clock(steps[0][0]), "last": _clock(steps[-1][0])},
            )
        number += len(steps)


def _clock(at: datetime) -> str:
    return formats.time_format(timezone.localtime(at) if timezone.is_aware(at) else at, "H:i")


def _seconds(found: timedelta | None) -> float:
    return max(found.total_seconds(), 0.0) if found else 0.0
