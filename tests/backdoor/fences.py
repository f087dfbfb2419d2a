"""Fences in the database."""

from __future__ import annotations

from writebehind_app.models import Fence


def fences_left() -> int:
    """How many rows have a fence."""
    return Fence.objects.filter(at__gt=0).count()
