"""A wrong call is one clear error, and nothing of it reaches Redis."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import FieldError, ValidationError
from django.core.files.base import ContentFile
from django.db import models
from django.db.models import F, Value
from django.db.models.fields.files import FieldFile
from django.test.utils import isolate_apps

from tests.backdoor.keyspace import entries
from tests.models import Color, Everything, Item, Owner, Pair, Stamp
from tests.servers import RedisServer
from writebehind_app import RowBuffer, register, registry

KEY = uuid.uuid4()
WEST = datetime.timezone(datetime.timedelta(hours=-1))
LAST_MOMENT = datetime.datetime.max.replace(tzinfo=WEST)  # in UTC it is in the year 10000
AWARE = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


@pytest.fixture(autouse=True)
def nothing_is_sent(request: pytest.FixtureRequest, plain: RedisServer) -> Iterator[None]:
    yield
    if "something_is_sent" not in request.fixturenames:
        with plain.client() as client:
            assert not entries(client)


@pytest.fixture
def something_is_sent() -> None:
    """For tests of calls that are right after all."""


class TestNames:
    def test_an_unknown_field(self):
        with pytest.raises(FieldError) as caught:
            Item.buffered.set(number=1, a=1, colour="red")
        assert str(caught.value) == (
            "tests.Item has no buffered field 'colour'; the key is number, "
            "the fields are a, b, c, d, e, f."
        )

    @pytest.mark.parametrize("name", ["id", "pk", "created_at", "updated_at"])
    def test_a_field_that_is_not_to_be_written(self, name):
        with pytest.raises(FieldError, match=f"no buffered field '{name}'"):
            Item.buffered.set(number=1, **{name: 1})

    def test_a_field_outside_of_those_declared(self):
        with pytest.raises(FieldError, match="the key is id, the fields are seen, count"):
            Stamp.buffered.set(pk=1, other=1)

    def test_a_field_by_two_names(self):
        with pytest.raises(FieldError) as caught:
            Everything.buffered.set(key=KEY, owner=1, owner_id=2)
        assert str(caught.value) == (
            "tests.Everything: owner and owner_id are the same field; give one."
        )
        with pytest.raises(FieldError, match="id and pk are the same field"):
            Stamp.buffered.set(pk=1, id=2, count=3)

    def test_a_key_field_is_missing(self):
        with pytest.raises(FieldError) as caught:
            Pair.buffered.set(owner=1, value=5)
        assert str(caught.value) == (
            "tests.Pair: the key field 'name' is missing; a row is named by owner, name "
            "(given: owner, value)."
        )
        for verb in (Pair.buffered.set, Pair.buffered.get, Pair.buffered.delete):
            with pytest.raises(FieldError, match=r"'owner' is missing; .* \(given: nothing\)"):
                verb()

    @pytest.mark.parametrize("verb", ["get", "delete", "flush", "discard"])
    def test_a_row_is_named_by_its_key_alone(self, verb):
        with pytest.raises(FieldError) as caught:
            getattr(Item.buffered, verb)(number=1, a=2)
        assert str(caught.value) == (
            "'a' is not in the key of tests.Item; a row is named by number."
        )

    def test_a_key_of_the_wrong_length(self):
        with pytest.raises(TypeError, match=r"A key of tests.Pair is \(owner, name\), not 1\."):
            Pair.buffered.get_many([1])

    @pytest.mark.parametrize("verb", ["set", "get", "delete"])
    def test_none_in_the_key(self, verb):
        with pytest.raises(ValidationError) as caught:
            getattr(Item.buffered, verb)(number=None)
        assert caught.value.message_dict == {"number": ["This field cannot be null."]}

    def test_a_key_is_never_rounded(self):
        with pytest.raises(ValidationError, match=r"1\.9 is not a whole number"):
            Item.buffered.set(number=1.9, a=1)
        with pytest.raises(ValidationError, match=r"1\.9 is not a whole number"):
            Stamp.buffered.set(pk=1.9, count=1)

    def test_a_key_of_a_wrong_type(self):
        with pytest.raises(ValidationError) as caught:
            Item.buffered.get(number="five")
        assert caught.value.message_dict == {"number": ["“five” value must be an integer."]}


class TestValues:
    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("integer", "many", "value must be an integer"),
            ("integer", [1], "value must be an integer"),
            ("integer", 1.9, "1.9 is not a whole number"),
            ("integer", Decimal("0.1"), "0.1 is not a whole number"),
            ("integer", math.inf, "inf is not a value of a IntegerField"),
            ("boolean", "perhaps", "value must be either True, False, or None"),
            ("date", "yesterday", "has an invalid date format"),
            ("date", 5, "5 is not a value of a DateField"),
            ("datetime", "2026-02-30 10:00", "it is an invalid date/time"),
            (
                "datetime",
                LAST_MOMENT,
                "is not a value of a DateTimeField",
            ),
            ("time", "25:00", "it is an invalid time"),
            ("time", datetime.time(1, tzinfo=datetime.UTC), "has a time zone; the field has none"),
            ("duration", "long", "has an invalid format"),
            ("duration", 5, "5 is not a value of a DurationField"),
            ("duration", datetime.timedelta.max, "is longer than a database keeps"),
            ("decimal", "1,5", "value must be a decimal number"),
            ("float", "much", "value must be a float"),
            ("float", 10**400, "is not a value of a FloatField"),
            ("uuid", "abc", "is not a valid UUID"),
            ("uuid", [], "is not a valid UUID"),
            ("binary", "text", "'text' is not bytes"),
            ("ip", "10.0.0.300", "Enter a valid IPv4 or IPv6 address"),
            ("ip", "::g", "valid IPv6 address"),
            ("file", 5, "5 is not the name of a file in the storage"),
            ("point", 5, "5 is not a value of a PointField"),
            ("tier", "gold", "'gold' is not a valid Tier"),
            ("owner", "somebody", "must be an integer"),
        ],
    )
    def test_of_a_wrong_type(self, name, value, message):
        assert message in refused(**{name: value})

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("char", "x" * 41, "at most 40 characters (it has 41)"),
            ("url", "x" * 201, "at most 200 characters (it has 201)"),
            ("file", "x" * 201, "at most 200 characters (it has 201)"),
            ("path", "x" * 201, "at most 200 characters (it has 201)"),
            ("char", "\ud800", "not valid Unicode"),
            ("text", "\ud800", "not valid Unicode"),
            ("big", 2**63, "between -9223372036854775808 and 9223372036854775807 (it is 9223"),
            ("positive", -1, "between 0 and"),
            ("owner", 2**63, "between"),
            ("decimal", Decimal(10**14), "no more than 14 digits before the decimal point"),
            ("decimal", "1e1000000", "no more than 14 digits before the decimal point"),
            ("decimal", Decimal("99999999999999.9999999"), "no more than 14 digits"),
            ("decimal", Decimal("0.1234567"), "no more than 6 decimal places (it is 0.1234567)"),
            ("decimal", Decimal("Infinity"), "must be a decimal number"),
            ("decimal", Decimal("NaN"), "must be a decimal number"),
            ("decimal", math.nan, "must be a decimal number"),
            ("float", math.nan, "nan is not a number a database keeps"),
            ("float", -math.inf, "-inf is not a number a database keeps"),
            ("json", {"a": math.nan}, "This is not JSON: Out of range float values"),
            ("json", {1, 2}, "This is not JSON: Object of type set"),
            ("json", AWARE, "This is not JSON: Object of type datetime"),
            ("json", {(1, 2): 3}, "This is not JSON: keys must be"),
            ("json", ["\ud800"], "This is not JSON"),
        ],
    )
    def test_that_no_database_would_take(self, name, value, message):
        """Scenario 30."""
        assert message in refused(**{name: value})

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("color", "green", "Value 'green' is not a valid choice."),
            ("level", 3, "Value 3 is not a valid choice."),
            ("email", "nobody", "Enter a valid email address."),
            ("slug", "two words", "Enter a valid “slug”"),
            ("url", "nowhere", "Enter a valid URL."),
        ],
    )
    def test_that_is_no_choice_or_that_a_validator_refuses(self, name, value, message):
        for write in (Everything.buffered.set, Everything.buffered.create):
            with pytest.raises(ValidationError) as caught:
                write(key=KEY, **{name: value})
            assert caught.value.message_dict[name][0].startswith(message)
        with pytest.raises(ValidationError, match=name):
            Everything.buffered.set_if({}, key=KEY, **{name: value})

    @pytest.mark.parametrize(
        ("name", "value"),
        [("color", Color.RED), ("color", ""), ("color", None), ("level", 2.0), ("email", "")],
    )
    def test_that_is_one_or_empty(self, something_is_sent, name, value):
        Everything.buffered.set(key=KEY, **{name: value})

    def test_nested_deeper_than_can_be_written(self):
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]
        assert "This is not JSON" in refused(json=value)

    @pytest.mark.parametrize("model", [Item, Pair])
    def test_null_where_there_is_none(self, model):
        values = {Item: {"number": 1, "a": None}, Pair: {"owner": 1, "name": "", "value": None}}
        with pytest.raises(ValidationError) as caught:
            model.buffered.set(**values[model])
        ((messages),) = caught.value.message_dict.values()
        assert messages == ["This field cannot be null."]

    @pytest.mark.parametrize("name", ["integer", "text", "boolean", "json", "owner", "point"])
    def test_an_expression(self, name):
        assert refused(**{name: F("small") + 1}) == (
            "<CombinedExpression: F(small) + Value(1)> is an expression for the database; "
            "a buffered write takes values, or an operation such as Add(1)."
        )

    def test_a_value_expression_is_for_json_alone(self):
        assert "is an expression" in refused(text=Value("x"))

    def test_a_file_that_is_not_stored_yet(self):
        file = Everything(file=ContentFile(b"x", name="new.txt")).file
        assert refused(file=file) == (
            "The file 'new.txt' is not in the storage yet: save it there first, "
            "then write its name."
        )
        assert isinstance(file, FieldFile)

    def test_a_related_object_that_is_not_saved(self):
        assert refused(owner=Owner(name="new")) == "The related object is not saved."

    def test_a_related_object_of_another_model(self):
        assert refused(owner=Item(pk=1)) == (
            "<Item: Item object (1)> must be an instance of tests.Owner."
        )


class TestTimeZones:
    def test_an_aware_time_without_use_tz(self, settings):
        settings.USE_TZ = False
        assert refused(datetime=AWARE) == (
            "2026-01-01 12:00:00+00:00 has a time zone, but USE_TZ is False."
        )

    @pytest.mark.usefixtures("something_is_sent")
    def test_a_naive_time_warns_as_in_the_orm(self, settings):
        settings.TIME_ZONE = "Europe/Lisbon"
        naive = datetime.datetime(2026, 7, 1, 12)  # noqa: DTZ001
        message = "DateTimeField Everything.datetime received a naive datetime"
        with pytest.warns(RuntimeWarning, match=message):
            Everything.buffered.set(key=KEY, datetime=naive)
        found = Everything.buffered.get(key=KEY).datetime
        assert found == datetime.datetime(2026, 7, 1, 11, tzinfo=datetime.UTC)

    @pytest.mark.usefixtures("something_is_sent")
    def test_naive_times_without_use_tz(self, settings):
        settings.USE_TZ = False
        naive = datetime.datetime(2026, 7, 1, 12, 0, 0, 7)  # noqa: DTZ001
        Everything.buffered.set(key=KEY, datetime=naive)
        assert Everything.buffered.get(key=KEY).datetime == naive
        Everything.buffered.flush()
        assert Everything.objects.get(key=KEY).datetime == naive


class TestSetMany:
    def test_one_bad_row_of_many(self):
        rows = [{"number": n, "a": n} for n in range(50)]
        with pytest.raises(ValidationError) as caught:
            Item.buffered.set_many([*rows, {"number": 50, "a": "bad"}])
        assert caught.value.message_dict == {"a": ["“bad” value must be an integer."]}

    def test_no_rows(self):
        assert Item.buffered.set_many([]) == []

    def test_an_instance_of_another_model(self):
        with pytest.raises(TypeError, match=r"<Owner: Owner object \(1\)> is not a tests.Item\."):
            Item.buffered.set_many([Owner(pk=1)])

    def test_an_instance_with_an_unsaved_related_object(self):
        with pytest.raises(ValidationError) as caught:
            Pair.buffered.set_many([Pair(owner=Owner(name="new"), name="x")])
        assert caught.value.message_dict == {"owner": ["The related object is not saved."]}

    def test_an_instance_with_an_expression(self):
        row = Item(number=1)
        row.a = F("a") + 1
        with pytest.raises(ValidationError, match="is an expression for the database"):
            Item.buffered.set_many([row])

    def test_an_instance_without_a_key(self):
        with pytest.raises(ValidationError) as caught:
            Stamp.buffered.set_many([Stamp(count=1)])
        assert caught.value.message_dict == {"id": ["This field cannot be null."]}
        Item.objects.create(number=1)
        with pytest.raises(FieldError, match="the key field 'number' is missing"):
            Item.buffered.set_many(Item.objects.defer("number"))


class TestClean:
    @pytest.fixture
    def buffer(self) -> Iterator[RowBuffer]:
        class Cleaned(RowBuffer):
            def clean(self, values: dict[str, Any]) -> dict[str, Any]:
                if values.get("a", 0) < 0:
                    raise ValidationError({"a": "No debts."})
                return {**values, "b": values.get("b", "").strip()}

        original = Item.buffered
        registry.remove(original)
        Cleaned(key="number").contribute_to_class(Item, "buffered")
        yield Item.buffered
        registry.remove(Item.buffered)
        original.contribute_to_class(Item, "buffered")

    def test_refuses(self, buffer):
        with pytest.raises(ValidationError, match="No debts"):
            buffer.set(number=1, a=-1)
        with pytest.raises(ValidationError, match="No debts"):
            buffer.set_many([{"number": 1, "a": 1}, Item(number=2, a=-1)])

    @pytest.mark.usefixtures("something_is_sent")
    def test_changes(self, buffer):
        given = {"number": 1, "b": "  x "}
        buffer.set_many([given])
        assert buffer.get(number=1).b == "x"
        assert given["b"] == "  x "  # the caller's own dict is left alone


class TestDeclaring:
    @pytest.fixture(autouse=True)
    def models_of_the_test(self) -> Iterator[None]:
        before = registry.declared()
        with isolate_apps("tests"):
            yield
        for buffer in registry.declared():
            if buffer not in before:
                registry.remove(buffer)

    def test_access_through_an_instance(self):
        with pytest.raises(AttributeError) as caught:
            Item(number=1).buffered  # noqa: B018
        assert str(caught.value) == "A buffer is used through the class: Item.buffered."

    def test_a_name_that_is_taken(self):
        for name in ("buffered", "objects", "name"):
            with pytest.raises(ValueError, match=f"has an attribute '{name}' already"):
                register(Item if name == "buffered" else Owner, RowBuffer(key="pk"), name=name)

    def test_a_model_of_someone_else(self):
        class Foreign(models.Model):
            number = models.IntegerField(unique=True)

        register(Foreign, RowBuffer(key="number"), name="behind")
        assert Foreign.behind.label == "tests.Foreign"
        assert Foreign.behind in registry.declared()

    def test_each_child_of_an_abstract_model_has_its_own(self):
        class Base(models.Model):
            number = models.IntegerField(unique=True)

            buffered = RowBuffer(key="number")

            class Meta:
                abstract = True

        class One(Base):
            a = models.IntegerField()

        class Two(Base):
            b = models.IntegerField()

        labels = [buffer.label for buffer in registry.declared()]
        assert {"tests.One", "tests.Two"} <= set(labels)
        assert "tests.Base" not in labels
        assert One.buffered is not Two.buffered
        assert (One.buffered.model, Two.buffered.model) == (One, Two)
        assert list(One.buffered.layout().columns) == ["a"]
        assert list(Two.buffered.layout().columns) == ["b"]


def refused(**values: Any) -> str:
    """What is said about the only field."""
    with pytest.raises(ValidationError) as caught:
        Everything.buffered.set(key=KEY, **values)
    ((name, (message,)),) = caught.value.message_dict.items()
    assert [name] == list(values)
    return message
