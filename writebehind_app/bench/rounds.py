"""Rounds of a measurement: their early end, and the spread of a figure over them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


class Stopped(Exception):
    """The measurement is to end early."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of a figure over the rounds, its least and its greatest value."""

    median: float
    least: float
    greatest: float


def spread(figures: Sequence[float]) -> Spread:
    return Spread(statistics.median(figures), min(figures), max(figures))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the sorted figures does not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]
