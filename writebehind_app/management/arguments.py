"""Types of arguments that commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def positive(kind: type) -> Callable[[str], Any]:
    """The type of an argument that has to be more than nothing."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"  # argparse says "invalid positive int value"
    return parse
