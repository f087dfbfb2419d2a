"""How values of fields become text, and values again, without Redis or a database."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import models
from hypothesis import given
from hypothesis import strategies as st

from tests.models import Everything, Item, Owner
from writebehind_app.fields.columns import Column, Unsupported, column


def of(field: models.Field[Any, Any], using: str = "default", name: str = "field") -> Column:
    field.set_attributes_from_name(name)
    return column(field, using)


def everything(name: str) -> Column:
    return column(Everything._meta.get_field(name), "default")


class TestText:
    @given(st.text())
    def test_is_json_or_refused(self, value):
        text = everything("text")
        try:
            encoded = text.encode(value)
        except ValidationError:
            assert any(0xD800 <= ord(character) <= 0xDFFF for character in value)
        else:
            assert json.loads(encoded) == text.decode(encoded) == value

    def test_of_an_object_is_what_the_orm_makes_of_it(self):
        assert everything("char").encode(5) == '"5"'

    def test_the_length_of_a_text_field_is_for_forms(self):
        assert of(models.TextField(max_length=1)).encode("long") == '"long"'

    def test_an_empty_ip_address_is_null(self):
        assert everything("ip").encode("") == "null"
        with pytest.raises(ValidationError, match="cannot be null"):
            of(models.GenericIPAddressField()).encode("")

    def test_validators_of_the_project_are_for_forms(self):
        def never(value: Any) -> None:
            raise ValidationError("never")

        assert of(models.GenericIPAddressField(validators=[never])).encode("::1") == '"::1"'

    @pytest.mark.parametrize("database", ["postgresql"], indirect=True)
    def test_no_nul_for_postgresql(self, database):
        for field, value in (
            (models.TextField(), "a\0"),
            (models.JSONField(), {"a": ["\0"]}),
            (models.JSONField(), {"\\\\\0": 1}),
        ):
            with pytest.raises(ValidationError, match="PostgreSQL keeps no NUL characters"):
                of(field, database).encode(value)
        written = of(models.JSONField(), database).encode("\\u0000")  # a backslash and text
        assert json.loads(written) == ["\\u0000"]


class TestDecimals:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("1", '"1.00"'),
            (decimal.Decimal("1E+2"), '"100.00"'),
            ("-0.00", '"0.00"'),
            (0.1, '"0.10"'),
            (0.125, '"0.12"'),
            (decimal.Decimal("99999.99"), '"99999.99"'),
        ],
    )
    def test_have_the_digits_of_the_field(self, value, text):
        assert of(models.DecimalField(max_digits=7, decimal_places=2)).encode(value) == text

    @pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
    def test_floats_are_rounded_as_the_database_does(self, database):
        field = models.DecimalField(max_digits=7, decimal_places=2)
        assert of(field, database).encode(0.125) == '"0.13"'
        assert of(field, database).encode(1.005) == '"1.01"'

    def test_a_float_that_gets_too_long_by_rounding(self):
        with pytest.raises(ValidationError, match="no more than 2 digits before"):
            of(models.DecimalField(max_digits=4, decimal_places=2)).encode(99.999)

    def test_a_calculation_with_few_digits_elsewhere_changes_nothing(self):
        with decimal.localcontext(prec=3):
            assert everything("decimal").encode("12345.678901") == '"12345.678901"'


class TestFiles:
    def test_none_is_an_empty_name_as_in_the_orm(self):
        assert everything("file").encode(None) == '""'
        with pytest.raises(ValidationError, match="cannot be null"):
            of(models.FileField()).encode(None)


class TestJson:
    def test_encoder_and_decoder_see_the_value_itself(self):
        class Encoder(json.JSONEncoder):
            def encode(self, o: Any) -> str:
                return super().encode({"wrapped": o})

        class Decoder(json.JSONDecoder):
            def decode(self, s: str, *args: Any) -> Any:
                return super().decode(s)["wrapped"]

        data = of(models.JSONField(encoder=Encoder, decoder=Decoder))
        assert data.decode(data.encode([1])) == [1]

    def test_null_is_handed_on_as_a_value(self):
        data = everything("json")
        text = data.encode(models.Value(None, models.JSONField()))
        assert data.decode(text) is None
        assert isinstance(data.prepare(text), models.Value)
        assert data.prepare(data.encode(None)) is None
        assert data.prepare(data.encode([None])) == [None]


class TestForeignKeys:
    def test_to_a_field_that_is_not_the_primary_key(self):
        field = models.ForeignKey(Item, models.CASCADE, to_field="number", related_name="+")
        field.set_attributes_from_name("item")
        field.model = Everything
        to_item = column(field, "default")
        assert to_item.encode(Item(pk=1, number=7)) == to_item.encode(7) == "7"

    def test_of_a_proxy(self):
        class Proxy(Owner):
            class Meta:
                proxy = True
                app_label = "tests"

        del Proxy._meta.apps.all_models["tests"]["proxy"]
        assert everything("owner").encode(Proxy(pk=3)) == "3"


class Lower(models.CharField):
    """Says what None becomes."""

    def get_prep_value(self, value: Any) -> Any:
        return value.lower() if value else None

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> str:
        return value or ""


class Reversed(models.CharField):
    """Converts where it knows the connection."""

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return value[::-1]

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> str:
        return value[::-1]


class Settings(models.JSONField):
    """Wraps what Django's field loads from text."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return frozenset(super().from_db_value(value, expression, connection))

    def get_prep_value(self, value: Any) -> Any:
        return sorted(value)


class Boxed(models.Field):
    """Prepares whatever it holds."""

    def get_prep_value(self, value: Any) -> Any:
        return value[0]

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return [value]


class TestFieldsOfTheProject:
    def test_say_what_none_becomes(self):
        lower = of(Lower(max_length=5, null=True))
        assert [lower.decode(lower.encode(value)) for value in ("ABC", "", None)] == ["abc", "", ""]
        with pytest.raises(ValidationError, match="cannot be null"):
            of(Lower(max_length=5)).encode("")

    def test_convert_in_get_db_prep_value(self):
        reversed_ = of(Reversed(max_length=5))
        assert reversed_.encode("abc") == '"cba"'
        assert reversed_.decode('"cba"') == reversed_.prepare('"cba"') == "abc"

    def test_are_not_longer_than_their_column(self):
        with pytest.raises(ValidationError, match="at most 5 characters"):
            of(Lower(max_length=5)).encode("too long")
        with pytest.raises(ValidationError, match=r"at most 1 character \(it has 2\)"):
            of(Lower(max_length=1)).encode("no")

    def test_of_json_get_text_from_the_database(self):
        settings = of(Settings())
        assert settings.decode(settings.encode({3, 1})) == frozenset({1, 3})

    @pytest.mark.parametrize(
        "value",
        [
            decimal.Decimal("1.50"),
            datetime.datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=datetime.UTC),
            datetime.date(2026, 1, 1),
            datetime.time(1, 2, 3, 4),
            datetime.timedelta(days=-1, microseconds=1),
            uuid.UUID(int=5),
            b"\0\xff",
            {"bytes": "text"},
            ["json"],
            "text",
            1,
            1.5,
            True,
        ],
    )
    def test_may_prepare_values_of_these_types(self, value):
        boxed = of(Boxed())
        found = boxed.decode(boxed.encode([value]))
        assert found == [value]
        assert type(found[0]) is type(value)

    def test_may_prepare_no_others(self):
        with pytest.raises(ValidationError, match=r"Boxed prepares .* cannot be carried as JSON"):
            of(Boxed()).encode([object()])


def test_what_cannot_be_buffered_says_why():
    field = models.GeneratedField(
        expression=models.F("a"), output_field=models.IntegerField(), db_persist=True
    )
    with pytest.raises(Unsupported, match="the database computes it"):
        of(field)
