"""Scenario 40: what was written under another version of a declaration. The option `version`, and
the hook `upgrade`."""

from __future__ import annotations

import datetime
import itertools
import re
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from django.core.exceptions import FieldError

from tests.admin import LETTERS, client, entries, page
from tests.backdoor.declarations import kind_of, redeclare
from tests.models import Counter, Item, Line, Note, Owner, Pair, Setting, Stamp
from writebehind_app import DELETED, Add, Max, Merge, Min, batch, checkpoints, registry
from writebehind_app.buffers.base import Buffer
from writebehind_app.database import deadletters
from writebehind_app.exceptions import NewerVersion
from writebehind_app.models import AppliedBatch, DeadLetter


class Died(BaseException):
    pass


class Code(NamedTuple):
    """What is deployed."""

    version: int
    fields: tuple[str, ...] | None = None
    upgrade: Callable[[dict[str, Any], int], dict[str, Any]] = lambda values, version: values


@pytest.fixture
def deploy(monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]) -> Any:
    """`deploy(code)`: the declaration of a buffer is another one from here on."""
    configure(SHARDS=1, BACKOFF=0.001)

    def change(code: Code, buffer: Buffer = Item.buffered) -> None:
        kind = kind_of(buffer)

        class Declared(kind):  # type: ignore[misc, valid-type]
            def upgrade(self, values: dict[str, Any], version: int) -> dict[str, Any]:
                assert version < code.version
                return code.upgrade(values, version)

        fields = {} if code.fields is None else {"fields": code.fields}
        redeclare(monkeypatch, buffer, Declared, version=code.version, **fields)

    return change


def rename(values: dict[str, Any], version: int) -> dict[str, Any]:
    return {{"b": "c"}.get(name, name): value for name, value in values.items()}


OLD = Code(0, ("a", "b"))
RENAMED = Code(1, ("a", "c"), rename)


def state(number: int = 1) -> tuple[Any, ...] | None:
    """What a read shows of a row, which is what a flush makes of it."""
    found = Item.buffered.get_many([number]).get(number)
    shown = found and (found.a, found.b, found.c)
    result = Item.buffered.flush()
    assert (result.dead_letters, result.remaining) == (0, 0)
    stored = Item.objects.filter(number=number).values_list("a", "b", "c").first()
    assert shown == stored
    return stored


class TestOldPayload:
    def test_of_a_field_that_was_renamed(self, database, redis_server, deploy):
        deploy(OLD)
        Item.buffered.set(number=1, a=1, b="x")
        deploy(RENAMED)
        (entry,) = Item.buffered.pending()
        assert entry.values == {"a": 1, "c": "x"}
        assert state() == (1, "", "x")

    def test_of_a_field_that_was_removed(self, plain, deploy):
        deploy(OLD)
        Item.buffered.set(number=1, a=1, b="x")
        deploy(Code(1, ("a",), lambda values, version: {"a": values["a"]}))
        assert state() == (1, "", None)

    def test_of_a_field_that_was_removed_without_a_word_dies_visibly(self, plain, deploy):
        deploy(OLD)
        receipt = Item.buffered.set(number=1, a=1, b="x")
        deploy(Code(1, ("a",)))
        assert Item.buffered.get_many([1]) == {}
        assert Item.buffered.flush().dead_letters == 1
        assert "no buffered field 'b'" in receipt.dead

    def test_of_a_field_that_was_added(self, plain, deploy):
        deploy(OLD)
        Item.buffered.set(number=1, a=1)
        deploy(Code(1, ("a", "c"), lambda values, version: {**values, "c": "none yet"}))
        assert state() == (1, "", "none yet")

    def test_of_a_field_of_another_type(self, plain, deploy):
        deploy(Code(0, ("b",)))
        Item.buffered.set(number=1, b="17")
        deploy(Code(1, ("a",), lambda values, version: {"a": int(values["b"])}))
        assert state() == (17, "", None)

    def test_each_version_is_told(self, plain, deploy):
        told = []

        def upgrade(values: dict[str, Any], version: int) -> dict[str, Any]:
            told.append(version)
            return {**values, "c": f"from {version}"}

        for version in (0, 1, 2):
            deploy(Code(version, ("a", "c"), upgrade))
            Item.buffered.set(number=version, a=version)
        Item.buffered.flush()
        assert sorted(told) == [0, 1]
        found = Item.objects.order_by("number").values_list("c", flat=True)
        assert [*found] == ["from 0", "from 1", None]

    def test_what_upgrade_cannot_take_dies_and_is_retried(self, database, redis_server, deploy):
        deploy(OLD)
        receipt = Item.buffered.set(number=1, a=1, b="x")
        Item.buffered.set(number=2, a=2)
        deploy(Code(1, ("a", "c"), lambda values, version: {"c": values["b"]}))
        assert Item.buffered.flush().dead_letters == 1  # a KeyError
        assert receipt.persisted
        deploy(RENAMED)
        letter = DeadLetter.objects.get()
        with pytest.raises(FieldError, match="under version 0"):
            deadletters.edit(Item.buffered, letter.pk, {"a": 3})
        assert deadletters.retry(Item.buffered, [letter.pk]) == (1, 0)
        assert Item.objects.get(number=2).a == 2

    def test_a_letter_of_it_is_not_written_over_a_newer_value(self, plain, deploy):
        deploy(OLD)
        Item.buffered.set(number=1, a=1, b="old")
        deploy(Code(1, ("a", "c"), lambda values, version: {"no": 1}))
        assert Item.buffered.flush().dead_letters == 1
        deploy(RENAMED)
        Item.buffered.set(number=1, c="new")
        assert state() == (0, "", "new")
        letter = DeadLetter.objects.get()
        assert letter.superseded == ["c"]
        assert deadletters.retry(Item.buffered, [letter.pk]) == (1, 0)
        assert state() == (1, "", "new")

    def test_of_a_row_that_goes(self, plain, deploy):
        Item.objects.create(number=1)
        deploy(OLD)
        Item.buffered.delete(number=1)
        deploy(RENAMED)
        assert state() is None

    def test_without_versions_nothing_is_asked(self, plain, deploy):
        deploy(Code(0, None, lambda values, version: pytest.fail("asked")))
        Item.buffered.set(number=1, a=Add(1), b="x")
        assert state() == (1, "x", None)


class TestValues:
    """What upgrade() is given, and may return."""

    @pytest.fixture
    def upgraded(self, deploy: Any) -> Callable[..., dict[str, Any]]:
        """What is given of a write, all of which comes back under the names of fields."""

        def write(back: Callable[[dict], dict] = dict, **values: Any) -> dict[str, Any]:
            given: list[dict] = []
            deploy(Code(0), Counter.buffered)
            Counter.buffered.set(name="n", **values)
            deploy(
                Code(1, None, lambda values, version: given.append(values) or back(values)),
                Counter.buffered,
            )
            Counter.buffered.get_many(["n"])
            assert Counter.buffered.flush().dead_letters == 0
            return given[0]

        return write

    def test_values_are_those_of_json(self, plain, upgraded):
        at = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
        values = {
            "small": 1,
            "decimal": Decimal("1.50"),
            "real": 0.5,
            "at": at,
            "span": datetime.timedelta(seconds=2),
            "extra": [{"x": None}],
        }
        assert upgraded(**values) == {
            "small": 1,
            "decimal": "1.50",
            "real": 0.5,
            "at": "2026-01-02T03:04:05.000000+00:00",
            "span": 2_000_000,
            "extra": [{"x": None}],
        }
        counter = Counter.objects.get()
        assert {name: getattr(counter, name) for name in values} == values

    def test_operations_are_operations(self, database, redis_server, upgraded):
        big = 2**60
        Counter.objects.create(name="n", big=1, decimal=Decimal("0.10"), extra={"a": 1}, real=2)
        given = upgraded(
            big=Add(big), decimal=Add(Decimal("0.25")), extra=Merge({"b": [2]}), real=Max(3.5)
        )
        assert given == {
            "big": Add(big),
            "decimal": Add(Decimal("0.25")),
            "extra": Merge({"b": [2]}),
            "real": Max(3.5),
        }
        counter = Counter.objects.get()
        assert (counter.big, counter.decimal) == (big + 1, Decimal("0.35"))
        assert (counter.extra, counter.real) == ({"a": 1, "b": [2]}, 3.5)

    def test_several_operations_are_passed_on_exactly(self, plain, deploy, upgraded):
        deploy(Code(0), Counter.buffered)
        Counter.buffered.set(name="n", big=Min(4))
        given = upgraded(lambda values: {"small": values["big"]}, big=Add(1))
        assert given == {"big": (Min(4), Add(1))}
        Counter.buffered.set(name="m", small=Min(4))
        Counter.buffered.set(name="m", small=Add(1))
        Counter.buffered.flush()
        found = dict(Counter.objects.values_list("name", "small"))
        assert found["n"] == found["m"] == 1

    def test_an_operation_may_be_another_one(self, plain, deploy, upgraded):
        Counter.objects.create(name="n", span=datetime.timedelta(0), decimal=1)
        upgraded(lambda values: {"decimal": Add(values["big"].amount * 2)}, big=Add(3))
        assert Counter.objects.get().decimal == 7

    def test_a_value_that_was_changed_in_place(self, plain, upgraded):
        def change(values: dict[str, Any]) -> dict[str, Any]:
            values["extra"]["b"] = 2
            return values

        upgraded(change, extra={"a": 1})
        assert Counter.objects.get().extra == {"a": 1, "b": 2}

    @pytest.mark.parametrize(
        ("returned", "said"),
        [
            (None, "must return a dict"),
            ({"nope": 1}, "no buffered field 'nope'"),
            ({"name": "m"}, "stays what it is"),
            ({"small": "x"}, "must be an integer"),
            ({"small": (Add(1), Max(2))}, "passed on as they are"),
            ({"at": Add(1)}, "Add needs a field"),
            ({"small": DELETED}, "for meta keys"),
        ],
    )
    def test_what_it_may_not_return_is_refused(self, plain, deploy, returned, said):
        deploy(Code(0), Counter.buffered)
        receipt = Counter.buffered.set(name="n", small=1)
        deploy(Code(1, None, lambda values, version: returned), Counter.buffered)
        assert Counter.buffered.get_many(["n"]) == {}
        Counter.buffered.flush()
        assert said in receipt.dead


class TestNewerPayload:
    def test_waits_for_newer_code(self, database, redis_server, deploy):
        deploy(RENAMED)
        Item.buffered.set(number=1, a=1, c="x")
        deploy(OLD)  # a deploy that is rolled back
        for _ in range(2):
            with pytest.raises(NewerVersion, match=r"version 0.*version 1"):
                Item.buffered.flush()
        assert not DeadLetter.objects.exists()
        assert not AppliedBatch.objects.exists()
        assert Item.buffered.get(number=1).a == 1  # as far as the code knows the fields
        (entry,) = Item.buffered.pending()
        assert (entry.values, entry.state, entry.attempts) == ({"a": 1}, "in_flight", 2)
        deploy(RENAMED)
        assert state() == (1, "", "x")

    def test_is_taken_by_a_version_that_is_newer_still(self, plain, deploy):
        deploy(RENAMED)
        Item.buffered.set(number=1, a=1, c="x")
        deploy(Code(2, ("a", "b"), lambda values, version: {"b": values["c"]}))
        assert state() == (0, "x", None)

    def test_that_deletes_is_no_matter_of_versions(self, plain, deploy):
        Item.objects.create(number=1)
        deploy(RENAMED)
        Item.buffered.delete(number=1)
        deploy(OLD)
        assert state() is None


class TestBoth:
    """Old and new processes write to one row while it is pending."""

    def test_in_every_order(self, plain, deploy):
        """G2: it comes to what the writes come to one by one, each by the code that it is from."""
        writes = {
            "old value": (OLD, {"a": 5, "b": "old"}),
            "new value": (RENAMED, {"a": 70, "c": "new"}),
            "old sum": (OLD, {"a": Add(1)}),
            "new sum": (RENAMED, {"a": Add(20)}),
            "old delete": (OLD, None),
            "new delete": (RENAMED, None),
        }
        orders = [*itertools.product(writes, repeat=3)]
        expected = {}
        for number, order in enumerate(orders):
            row: dict[str, Any] | None = {"a": 1000, "c": None}
            for name in order:
                _, values = writes[name]
                if values is None:
                    row = None
                    continue
                row = row or {"a": 0, "c": None}
                for field, value in values.items():
                    to = "c" if field == "b" else field
                    row[to] = row[to] + value.amount if isinstance(value, Add) else value
            expected[number] = row and (row["a"], row["c"])
        Item.objects.bulk_create(Item(number=n, a=1000) for n in expected)
        for turn in range(3):
            for code in (OLD, RENAMED):
                deploy(code)
                for number, order in enumerate(orders):
                    by, values = writes[order[turn]]
                    if by is code and values is None:
                        Item.buffered.delete(number=number)
                    elif by is code:
                        Item.buffered.set(number=number, **values)
        deploy(RENAMED)
        shown = {n: (row.a, row.c) for n, row in Item.buffered.get_many(expected).items()}
        assert shown == {n: row for n, row in expected.items() if row}
        assert Item.buffered.flush().dead_letters == 0
        stored = {row.number: (row.a, row.c) for row in Item.objects.all()}
        assert stored == shown

    def test_is_one_entry_on_each_database(self, database, redis_server, deploy):
        Item.objects.create(number=1, a=1)
        for code, values in (
            (OLD, {"a": Add(1), "b": "x"}),
            (RENAMED, {"a": Add(10)}),
            (OLD, {"b": "y"}),
            (RENAMED, {"a": Max(100)}),
        ):
            deploy(code)
            Item.buffered.set(number=1, **values)
            Item.buffered.set(number=2, **values)
        (first, second) = Item.buffered.pending()
        assert first.values == second.values == {"a": (Add(1), Add(10), Max(100)), "c": "y"}
        result = Item.buffered.get_many([1, 2])
        assert {n: (row.a, row.c) for n, row in result.items()} == {1: (100, "y"), 2: (100, "y")}
        assert state() == (100, "", "y")

    def test_waits_whole_for_newer_code(self, plain, deploy):
        for code, values in ((OLD, {"b": "x"}), (RENAMED, {"c": "y"}), (OLD, {"a": 1})):
            deploy(code)
            Item.buffered.set(number=1, **values)
        with pytest.raises(NewerVersion):
            Item.buffered.flush()
        deploy(RENAMED)
        assert state() == (1, "", "y")

    def test_of_which_one_is_refused(self, database, redis_server, deploy):
        """An entry is refused as a whole, whatever versions wrote to it."""
        Counter.objects.create(name="other", big=1)
        deploy(Code(0), Counter.buffered)
        Counter.objects.create(name="n", big=2**63 - 1)
        Counter.buffered.set(name="n", big=Add(1), small=1)  # the sum leaves the range
        deploy(Code(1), Counter.buffered)
        Counter.buffered.set(name="n", small=2)
        assert Counter.buffered.flush().dead_letters == 1
        letter = DeadLetter.objects.get()
        Counter.objects.filter(name="n").update(big=5)
        assert deadletters.retry(Counter.buffered, [letter.pk]) == (1, 0)
        counter = Counter.objects.get(name="n")
        assert (counter.big, counter.small) == (6, 2)

    def test_next_to_one_that_is_refused(self, database, redis_server, deploy):
        """By halves."""
        for name in ("first", "last"):
            Counter.objects.create(name=name, big=2**63 - 1)
        Counter.objects.bulk_create(Counter(name=str(n), big=100) for n in range(3))
        Counter.buffered.set(name="first", big=Add(1))
        for code, amount in ((Code(0), 1), (Code(1), 10)):
            deploy(code, Counter.buffered)
            for n in range(3):
                Counter.buffered.set(name=str(n), big=Add(amount))
        Counter.buffered.set(name="last", big=Add(1))
        assert Counter.buffered.flush().dead_letters == 2
        found = Counter.objects.filter(name__in="012").values_list("big", flat=True)
        assert [*found] == [111] * 3

    @pytest.mark.parametrize("step", ["flush.token", "flush.updated", "flush.committed"])
    def test_is_applied_once_however_the_flusher_ends(
        self, step, database, redis_server, deploy, configure, monkeypatch
    ):
        configure(LEASE=0.05)
        Item.objects.create(number=1, a=100)
        for code, amount in ((OLD, 1), (RENAMED, 10), (OLD, 2)):
            deploy(code)
            Item.buffered.set(number=1, a=Add(amount))
        deploy(RENAMED)
        reached = []

        def die(at: str) -> None:
            reached.append(at)
            if at == step:
                raise Died

        monkeypatch.setattr(checkpoints, "hook", die)
        with pytest.raises(Died):
            Item.buffered.flush()
        monkeypatch.setattr(checkpoints, "hook", None)
        assert Item.buffered.get(number=1).a == 113
        time.sleep(0.06)
        assert state() == (113, "", None)

    def test_a_call_with_a_name_is_carried_out_once(self, plain, deploy):
        deploy(OLD)
        Item.buffered.set(number=1, a=Add(1), once="x")
        deploy(RENAMED)
        Item.buffered.set(number=1, a=Add(10))
        Item.buffered.set(number=1, a=Add(1), once="x")
        Item.buffered.flush()
        Item.buffered.set(number=1, a=Add(1), once="x")
        assert state() == (11, "", None)


class TestMetadata:
    @pytest.fixture
    def meta(self, plain: Any) -> Any:
        return Note.buffered.of(page="p", owner=Owner.objects.create(name="anna"))

    def test_a_meta_key_is_renamed(self, meta, deploy):
        names = {"section": "part", "draft": "sketch"}

        def upgrade(values: dict[str, Any], version: int) -> dict[str, Any]:
            given.append(values)
            return {names.get(key, key): value for key, value in values.items()}

        given: list[dict] = []
        meta.update(sketch=1, part=0, seen=1)
        meta.flush()
        deploy(Code(0), Note.buffered)
        meta.update(section=3, done=True, seen=Add(2), draft=1)
        del meta["draft"]
        deploy(Code(1, None, upgrade), Note.buffered)
        meta["done"] = False
        expected = {"part": 3, "seen": 3, "done": False}
        assert dict(meta) == expected
        assert given[0] == {"section": 3, "done": True, "seen": Add(2), "draft": DELETED}
        assert meta.flush().dead_letters == 0
        assert dict(Note.objects.values_list("key", "value")) == expected == dict(meta)

    def test_an_old_value_over_a_new_one(self, meta, deploy):
        def upgrade(values: dict[str, Any], version: int) -> dict[str, Any]:
            return {"part" if key == "section" else key: v for key, v in values.items()}

        for code, key in ((Code(1, None, upgrade), "part"), (Code(0), "section")):
            deploy(code, Note.buffered)
            meta[key] = code.version
        deploy(Code(1, None, upgrade), Note.buffered)
        assert dict(meta) == {"part": 0}
        meta.flush()
        assert dict(Note.objects.values_list("key", "value")) == {"part": 0}

    def test_a_dead_letter_of_it_is_upgraded(self, plain, deploy):
        deploy(Code(0), Setting.buffered)
        Setting.objects.create(site=1, key="n", value=2**63 - 1)
        Setting.buffered.of(site=1).update(n=Add(1))
        assert Setting.buffered.flush().dead_letters == 1

        def upgrade(values: dict[str, Any], version: int) -> dict[str, Any]:
            return {f"{key}2": value for key, value in values.items()}

        deploy(Code(1, None, upgrade), Setting.buffered)
        assert deadletters.retry(Setting.buffered, [DeadLetter.objects.get().pk]) == (1, 0)
        assert dict(Setting.objects.values_list("key", "value"))["n2"] == 6  # of a default of 5


def test_records_of_a_log(database, redis_server, deploy):
    def upgrade(values: dict[str, Any], version: int) -> dict[str, Any]:
        return {"text": values["text"].upper()}

    new = Code(1, None, upgrade)
    for code, text in ((Code(0), "a"), (new, "b"), (Code(0), "c")):
        deploy(code, Line.buffered)
        Line.buffered.append(text=text)
    with pytest.raises(NewerVersion):
        Line.buffered.flush()
    deploy(new, Line.buffered)
    assert [line.text for line in Line.buffered.window()] == ["A", "b", "C"]
    assert (Line.buffered.count(), len(Line.buffered.window(text="A"))) == (3, 1)
    assert Line.buffered.flush().dead_letters == 0
    assert [line.text for line in Line.objects.order_by("pk")] == ["A", "b", "C"]
    assert [line.text for line in Line.buffered.window()] == ["A", "b", "C"]


def test_what_a_model_left_that_is_not_declared_any_more_waits_for_it(plain, monkeypatch):
    stamp = Stamp.objects.create()
    Stamp.buffered.set(pk=stamp.pk, count=Add(1))
    registry.remove(Stamp.buffered)
    try:
        from writebehind_app.tasks import flush_due

        flush_due()
    finally:
        registry.add(Stamp.buffered)
    assert Stamp.buffered.count_pending() == 1
    Stamp.buffered.flush()
    assert Stamp.objects.get().count == 1


def test_what_a_field_held_that_a_deploy_took_away_is_masked(plain, monkeypatch):
    """Whether it was sensitive nobody can say any more."""

    class Refusing(type(Pair.buffered)):
        def upgrade(self, values, version):
            raise ValueError(f"nothing to be done with {values}")

    Pair.buffered.set(owner=7, name="x", note="top secret", value=1)
    redeclare(
        monkeypatch, Pair.buffered, Refusing, version=1, fields=["value"], sensitive=("value",)
    )
    viewer = client("view", "discard", "retry")
    listed = page(viewer, entries("tests.Pair"))
    paths = re.findall(r'href="([^"]*/entry/[^"]*)"', listed)
    assert "secret" not in listed + "".join(page(viewer, path) for path in paths)
    Pair.buffered.flush()
    letter = f"{LETTERS}{DeadLetter.objects.get().pk}/change/"
    assert "secret" not in page(viewer, LETTERS) + page(viewer, letter)
    assert "upgrade() refused it" in page(viewer, letter)
    assert "secret" in page(client("view", "reveal"), letter)


class TestHeld:
    """What a batch() holds is written under the version that is deployed."""

    def test_rows(self, plain, deploy):
        Item.buffered.set(number=1, a=1, b="old")
        deploy(RENAMED)
        with batch():
            Item.buffered.set(number=1, c="new", a=Add(1))
            (pending,) = (e for e in Item.buffered.pending() if e.state == "held")
            assert pending.values["c"] == "new"
            found = Item.buffered.get(number=1)
            assert (found.a, found.c) == (2, "new")
        assert state() == (2, "", "new")

    def test_records(self, plain, deploy):
        deploy(Code(1), Line.buffered)
        with batch():
            Line.buffered.append(text="new")
            assert [line.text for line in Line.buffered.window(None, None)] == ["new"]
        assert [line.text for line in Line.buffered.window(None, None)] == ["new"]
        Line.buffered.flush()
        assert Line.objects.get().text == "new"
