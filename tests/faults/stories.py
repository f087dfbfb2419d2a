"""What random stories of writes are told of."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from writebehind_app import Add, Max, Merge, Min

EXAMPLES = int(os.environ.get("WRITEBEHIND_EXAMPLES", "60"))
NUMBERS = st.integers(-50, 50)
DECIMALS = NUMBERS.map(lambda n: Decimal(n).scaleb(-2))
OBJECTS = st.dictionaries(st.sampled_from("abc"), NUMBERS, max_size=2)
# Fields of a Counter. Of operations on one field, those that come to the same in any order.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "small": NUMBERS | NUMBERS.map(Add),
    "big": NUMBERS | st.none() | NUMBERS.map(Max),
    "decimal": DECIMALS | DECIMALS.map(Add),
    "real": NUMBERS.map(float) | NUMBERS.map(float).map(Min),
    "extra": OBJECTS | st.none() | OBJECTS.map(Merge),
}


def writes(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Values and operations of some of the fields."""
    return st.dictionaries(st.sampled_from(sorted(fields)), st.none(), max_size=3).flatmap(
        lambda names: st.fixed_dictionaries({name: fields[name] for name in names})
    )
