"""G4, next to the ORM: what BufferedManager loads and writes, between writes that wait in Redis or
are in flight. What comes of a story is what its writes come to one by one on a plain row.

    WRITEBEHIND_EXAMPLES=2500 make test ARGS=tests/faults/test_manager_stories.py
"""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.models import F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.test_orm_stories import EXAMPLES, FIELDS, NUMBERS, VALUES, WRITES, Story
from tests.models import Counter
from tests.pending import in_python
from tests.router import current
from writebehind_app import Add, BufferedManager

COUNTERS = BufferedManager()
COUNTERS.model, COUNTERS.name = Counter, "objects"
NEW = dict.fromkeys(FIELDS) | {"small": 0}
STORIES = st.lists(
    st.tuples(st.just("set"), WRITES, st.booleans())
    | st.tuples(st.just("set"), WRITES, st.booleans())
    | st.tuples(st.just("remove"))
    | st.tuples(st.just("update"), VALUES)
    | st.tuples(st.just("sum"), st.sampled_from(["small", "big"]), NUMBERS)
    | st.tuples(st.just("double"))
    | st.tuples(st.just("bulk_update"), VALUES)
    | st.tuples(st.sampled_from(["ignore", "upsert", "get_or_create"]), VALUES)
    | st.tuples(st.just("edit"), VALUES, st.none() | WRITES)
    | st.tuples(st.just("rename"), VALUES)
    | st.tuples(st.just("delete all"))
    | st.tuples(st.sampled_from(["claim", "apply", "flush"])),
    max_size=16,
)


class ManagerStory(Story):
    def mine(self) -> Any:
        return COUNTERS.filter(name=self.name)

    def act(self, verb: str, *details: Any) -> None:
        stored, before = self.stored(), self.expected
        match verb, *details:
            case "update", values:
                if values:
                    self.mine().update(**values)
                if stored and before is not None:
                    self.expected = before | values
            case "sum", name, number:
                self.mine().update(**{name: F(name) + number})
                if stored and before is not None and before[name] is not None:
                    self.expected = before | {
                        name: in_python(before[name], Add(number), json=False)
                    }
            case ("double",):
                self.mine().update(big=F("small") * 2)
                if stored and before is not None:
                    self.expected = before | {"big": before["small"] * 2}
            case "bulk_update", values:
                if (row := self.mine().first()) and values:
                    for name, value in values.items():
                        setattr(row, name, value)
                    COUNTERS.bulk_update([row], [*values])
                    assert before is not None
                    self.expected = before | values
            case "ignore", values:
                COUNTERS.bulk_create([Counter(name=self.name, **values)], ignore_conflicts=True)
                self.expected = NEW | values if before is None else before
            case "upsert", values:
                if values:
                    unique = {} if connections[current()].vendor == "mysql" else {"name"}
                    COUNTERS.bulk_create(
                        [Counter(name=self.name, **values)],
                        update_conflicts=True,
                        update_fields=[*values],
                        unique_fields=unique or None,
                    )
                    self.expected = (NEW if before is None else before) | values
            case "get_or_create", values:
                _, is_new = COUNTERS.get_or_create(name=self.name, defaults=values)
                assert is_new == (before is None or stored is None)
                self.expected = NEW | values if is_new else before
            case "edit", values, write:
                self.edit(values, write)
            case "rename", values:
                if stored and before is not None and not self.is_to_go():
                    row = self.mine().get()
                    for name, value in values.items():
                        setattr(row, name, value)
                    row.name = self.name = f"{self.name[:16]}x{len(self.name) % 3}"
                    row.save()
                    self.expected = before | values
            case ("delete all",):
                self.mine().delete()
                self.expected = None if stored else before
            case _:
                super().act(verb, *details)

    def edit(self, values: dict[str, Any], write: dict[str, Any] | None) -> None:
        """Somebody changes some fields; maybe others are written meanwhile."""
        row = self.mine().first()
        if row is None or self.is_to_go():
            return
        assert self.expected is not None
        loaded = self.expected
        if write:
            super().act("set", write, False)
        for name, value in values.items():
            setattr(row, name, value)
        row.save()
        self.expected = self.expected | {n: v for n, v in values.items() if v != loaded[n]}

    def check(self) -> None:
        super().check()
        row = self.mine().first()
        found = None if row is None else {name: getattr(row, name) for name in FIELDS}
        assert found == (self.expected if self.stored() else None)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(story=STORIES)
def test_rows(story, database, redis_server):
    it = ManagerStory()
    for verb, *details in story:
        it.act(verb, *details)
        it.check()
    it.flush()
    assert it.stored() == it.expected
