"""Declarations and settings that cannot work are said before anything is written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django import forms
from django.contrib import admin
from django.contrib.admin.sites import all_sites
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections, models
from django.db.models.functions import Lower
from django.test.utils import isolate_apps

from tests.demo import ROOT, environment
from tests.models import Item, Note, Owner, Pair, Stamp, Visit
from writebehind_app import (
    BufferedAdmin,
    BufferedInline,
    LogBuffer,
    MetaBuffer,
    RowBuffer,
    register,
    registry,
)
from writebehind_app.checks import check_admins, check_buffers, check_settings
from writebehind_app.store import connection


@pytest.fixture(autouse=True)
def models_of_the_test() -> Iterator[None]:
    """Models that a test declares, and their buffers, are gone after it."""
    before = registry.declared()
    with isolate_apps("tests"):
        yield
    for buffer in registry.declared():
        if buffer not in before:
            registry.remove(buffer)


def test_the_project_passes(plain):
    call_command("check")


def test_a_database_in_which_nothing_commits_by_itself(plain, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(connections["default"].settings_dict, "AUTOCOMMIT", False)
        (error,) = check_buffers()
        with pytest.raises(SystemCheckError, match="AUTOCOMMIT=False"):
            call_command("flush_writebehind", skip_checks=False)
    connections["default"].close()  # other checks may have opened one that does not commit
    assert error.id == "writebehind.E024"
    assert error.msg.startswith("The database 'default' has AUTOCOMMIT=False")
    assert "tests.Item" in error.msg
    assert error.msg.endswith("cannot be flushed, nor written inside atomic().")
    assert "Leave AUTOCOMMIT out of DATABASES['default']" in error.hint


class TestDeclaration:
    def test_a_good_one(self):
        class Good(models.Model):
            owner = models.ForeignKey(Owner, models.CASCADE, related_name="+")
            name = models.CharField(max_length=10)
            score = models.FloatField()
            data = models.JSONField()
            created_at = models.DateTimeField(auto_now_add=True)
            upper = models.GeneratedField(
                expression=Lower("name"),
                output_field=models.CharField(max_length=10),
                db_persist=True,
            )

            buffered = RowBuffer(key=("name", "owner"), batch_size=10, max_age=0)

            class Meta:
                constraints = [models.UniqueConstraint(fields=["owner", "name"], name="key")]

        assert problems(Good) == []

    @pytest.mark.parametrize("key", ["pk", "id", "number", "slug", ("a", "b")])
    def test_keys_that_name_a_row(self, key):
        class Keyed(models.Model):
            number = models.IntegerField(unique=True)
            slug = models.OneToOneField(Owner, models.CASCADE, related_name="+")
            a = models.IntegerField()
            b = models.IntegerField()

            buffered = RowBuffer(key=key)

            class Meta:
                unique_together = [("b", "a")]

        assert problems(Keyed) == []

    def test_a_field_that_is_left_out_and_needed(self):
        class Left(models.Model):
            number = models.IntegerField(unique=True)
            value = models.IntegerField()
            needed = models.IntegerField()
            filled = models.IntegerField(default=1)
            empty = models.CharField(max_length=10)
            made_at = models.DateTimeField(auto_now_add=True)

            buffered = RowBuffer(key="number", fields=["value"])

        error = problem(Left, "E021")
        assert error.msg == "The field 'needed' has no value in a row that the buffer makes."
        assert "on_missing='discard'" in error.hint
        Left.buffered.on_missing = "discard"
        assert problems(Left) == []

    def test_two_buffers(self):
        class Twice(models.Model):
            number = models.IntegerField(unique=True)

            buffered = RowBuffer(key="number")
            other = RowBuffer(key="number")

        (error,) = (m for m in check_buffers() if m.obj in (Twice.buffered, Twice.other))
        assert error.id == "writebehind.E010"
        assert error.msg == "tests.Twice has more than one buffer."
        assert "Declare one" in error.hint

    @pytest.mark.parametrize(
        ("option", "value", "must"),
        [
            ("batch_size", 0, "must be a whole number, at least 1"),
            ("batch_size", 2.5, "must be a whole number, at least 1"),
            ("shards", True, "must be a whole number, at least 1"),
            ("max_age", -1, "must be a number, at least 0"),
            ("quiet", "1", "must be a number, at least 0"),
            ("durability", "disk", "must be 'memory', 'fsync' or a number of replicas"),
            ("durability", 0, "must be 'memory', 'fsync' or a number of replicas"),
            ("durability", True, "must be 'memory', 'fsync' or a number of replicas"),
            ("max_pending", 0, "must be a whole number, at least 1"),
            ("when_full", "drop", "must be 'direct' or 'raise'"),
            ("when_down", True, "must be 'direct' or 'raise'"),
        ],
    )
    def test_the_value_of_an_option(self, option, value, must):
        class Optional(models.Model):
            number = models.IntegerField(unique=True)

            buffered = RowBuffer(key="number", **{option: value})

        error = problem(Optional, "E011")
        assert error.msg == f"{option} {must}, not {value!r}."
        assert f"Set {option}" in error.hint

    @pytest.mark.parametrize("version", [-1, True, "1", 1.0])
    def test_what_is_no_version(self, version):
        class Versioned(models.Model):
            number = models.IntegerField(unique=True)

            buffered = RowBuffer(key="number", version=version)

        error = problem(Versioned, "E011")
        assert error.msg == f"version is {version!r}."
        assert "a whole number" in error.hint

    def test_an_upgrade_that_is_never_called(self):
        class Upgrading(RowBuffer):
            def upgrade(self, values, version):
                return values

        class Versioned(models.Model):
            number = models.IntegerField(unique=True)

            buffered = Upgrading(key="number", version=1)

        assert problems(Versioned) == []

        class Unversioned(models.Model):
            number = models.IntegerField(unique=True)

            buffered = Upgrading(key="number")

        (warning,) = problems(Unversioned)
        assert warning.id == "writebehind.W010"
        assert "version=1" in warning.hint

    def test_a_model_in_two_tables(self):
        class Parent(models.Model):
            number = models.IntegerField(unique=True)

        class Child(Parent):
            name = models.CharField(max_length=10)

            buffered = RowBuffer(key="number")

        error = problem(Child, "E012")
        assert error.msg == "tests.Child keeps its rows in the table of another model too."
        assert "declare the buffer on a model with one table of its own" in error.hint

    def test_a_proxy(self):
        class Real(models.Model):
            number = models.IntegerField(unique=True)

        class Proxy(Real):
            buffered = RowBuffer(key="number")

            class Meta:
                proxy = True

        assert "Multi-table inheritance and proxies" in problem(Proxy, "E012").hint

    def test_a_composite_primary_key(self):
        class Composite(models.Model):
            pk = models.CompositePrimaryKey("a", "b")
            a = models.IntegerField()
            b = models.IntegerField()

            buffered = RowBuffer(key=("a", "b"))

        error = problem(Composite, "E012")
        assert error.msg == "tests.Composite has a composite primary key."
        assert "a unique constraint over those fields" in error.hint

    def test_an_unknown_on_missing(self):
        class Missing(models.Model):
            number = models.IntegerField(unique=True)

            buffered = RowBuffer(key="number", on_missing="ignore")

        error = problem(Missing, "E013")
        assert error.msg == "on_missing is 'ignore'."
        assert error.hint == "Set it to 'insert' or 'discard'."

    @pytest.mark.parametrize("option", ["key", "fields", "sensitive"])
    @pytest.mark.parametrize("name", ["nunber", "tags", "child"])
    def test_a_name_without_a_column(self, option, name):
        class Named(models.Model):
            number = models.IntegerField(unique=True)
            value = models.IntegerField()
            tags = models.ManyToManyField(Owner, related_name="+")

            buffered = RowBuffer(**{"key": "number", option: [name]})

        error = problem(Named, "E014")
        assert error.msg == f"`{option}` names {name!r}, which is not a field with a column."
        assert "There are: id, number, value." in error.hint
        assert ("Did you mean 'number'?" in error.hint) == (name == "nunber")

    def test_an_empty_key(self):
        class Empty(models.Model):
            buffered = RowBuffer(key=())

        error = problem(Empty, "E015")
        assert error.msg == "The key is empty."
        assert error.hint == "Name the fields that name a row."

    @pytest.mark.parametrize(
        ("field", "why"),
        [
            (models.IntegerField(unique=True, null=True), "can be NULL"),
            (models.FloatField(unique=True), "is a FloatField"),
            (models.JSONField(unique=True), "is a JSONField"),
            (models.BinaryField(unique=True), "is a BinaryField"),
        ],
    )
    def test_a_field_that_cannot_name_a_row(self, field, why):
        class Unnamed(models.Model):
            number = field

            buffered = RowBuffer(key="number")

        error = problem(Unnamed, "E015")
        assert error.msg == f"The key field 'number' {why}: it cannot name a row."
        assert "never NULL" in error.hint

    @pytest.mark.parametrize(
        "constraint",
        [
            models.UniqueConstraint(fields=["a"], name="half"),
            models.UniqueConstraint(fields=["a", "b"], condition=models.Q(a=1), name="if"),
            models.UniqueConstraint(Lower("a"), "b", name="expression"),
            models.UniqueConstraint(
                fields=["a", "b"], deferrable=models.Deferrable.DEFERRED, name="later"
            ),
            models.CheckConstraint(condition=models.Q(a=1), name="no_key"),
        ],
        ids=lambda constraint: constraint.name,
    )
    def test_a_key_that_is_not_plainly_unique(self, constraint):
        class NotUnique(models.Model):
            a = models.CharField(max_length=10)
            b = models.CharField(max_length=10)

            buffered = RowBuffer(key=("a", "b"))

            class Meta:
                constraints = [constraint]

        error = problem(NotUnique, "E015")
        assert error.msg == "The key (a, b) has no plain unique constraint."
        assert "models.UniqueConstraint(fields=['a', 'b'], name=…)" in error.hint

    @pytest.mark.parametrize("name", ["number", "id", "pk"])
    def test_a_field_that_names_the_row_is_written(self, name):
        class Written(models.Model):
            number = models.IntegerField(unique=True)

            buffered = RowBuffer(key="number", fields=[name])

        error = problem(Written, "E016")
        assert "names the row and is among the written ones" in error.msg
        assert "Leave" in error.hint

    def test_a_field_that_a_call_cannot_be_given(self):
        class Once(models.Model):
            number = models.IntegerField(unique=True)
            once = models.BooleanField(default=False)

            buffered = RowBuffer(key="number")

        error = problem(Once, "E022")
        assert (
            error.msg == "The field 'once' cannot be given in a call: there, `once` names the call."
        )
        assert error.hint == "Name the fields to be written in `fields`, without this one."

    def test_a_flush_when_that_is_no_function(self):
        class Urgent(models.Model):
            number = models.IntegerField(unique=True)
            value = models.IntegerField(default=0)

            buffered = RowBuffer(key="number", flush_when="resolved")

        assert "flush_when" in problem(Urgent, "E022").msg

    @pytest.mark.parametrize("option", ["auto_now", "auto_now_add"])
    def test_a_field_that_sets_itself_is_written(self, option):
        class Stamped(models.Model):
            number = models.IntegerField(unique=True)
            at = models.DateTimeField(**{option: True})

            buffered = RowBuffer(key="number", fields=["at"])

        error = problem(Stamped, "E017")
        assert error.msg == "The field 'at' sets itself and is among the written ones."
        assert "it gets the time of the write" in error.hint


class TestUnsupportedFields:
    def test_a_generated_one(self):
        class Generated(models.Model):
            name = models.CharField(max_length=10, unique=True)
            lower = models.GeneratedField(
                expression=Lower("name"),
                output_field=models.CharField(max_length=10),
                db_persist=True,
                unique=True,
            )

            buffered = RowBuffer(key="name", fields=["lower"])

        error = problem(Generated, "E018")
        assert error.msg == "The field 'lower' cannot be buffered: the database computes it."
        assert "Name the fields to be written in `fields`, without this one." in error.hint

        class ByGenerated(models.Model):
            name = models.CharField(max_length=10)
            lower = models.GeneratedField(
                expression=Lower("name"),
                output_field=models.CharField(max_length=10),
                db_persist=True,
                unique=True,
            )

            buffered = RowBuffer(key="lower")

        assert problem(ByGenerated, "E018").hint == "Choose another key."

    def test_of_postgresql_alone(self):
        fields = pytest.importorskip("django.contrib.postgres.fields")

        class Tags(fields.ArrayField):
            """A subclass is refused as well."""

        class Arrays(models.Model):
            number = models.IntegerField(unique=True)
            tags = Tags(models.CharField(max_length=10))

            buffered = RowBuffer(key="number")

        error = problem(Arrays, "E018")
        assert error.msg == (
            "The field 'tags' cannot be buffered: values of Tags cannot be carried as JSON."
        )

        class Without(models.Model):
            number = models.IntegerField(unique=True)
            tags = Tags(models.CharField(max_length=10), default=list)
            value = models.IntegerField()

            buffered = RowBuffer(key="number", fields=["value"])

        assert problems(Without) == []

    def test_an_image_that_is_measured(self):
        class Measured(models.Model):
            number = models.IntegerField(unique=True)
            width = models.IntegerField()
            image = models.ImageField(width_field="width")

            buffered = RowBuffer(key="number")

        assert "to set it is to open the file" in problem(Measured, "E018").msg

    def test_a_foreign_key_to_nowhere(self):
        class Lost(models.Model):
            number = models.IntegerField(unique=True)
            other = models.ForeignKey("absent.Model", models.CASCADE, related_name="+")

            buffered = RowBuffer(key="number")

        assert "the model 'absent.Model' that it points to" in problem(Lost, "E018").msg

    def test_a_time_that_rows_end_by(self):
        class Ending(models.Model):
            number = models.IntegerField(unique=True)
            ends = models.DateTimeField(null=True)

            buffered = RowBuffer(key="number", expires="ends")

        assert problems(Ending) == []

    @pytest.mark.parametrize(
        ("field", "why"),
        [
            (models.DateField(), "is a DateField"),
            (models.DateTimeField(auto_now=True), "is the time of a write"),
            (models.DateTimeField(auto_now_add=True), "is the time of a write"),
        ],
    )
    def test_a_time_that_no_row_can_end_by(self, field, why):
        class Endless(models.Model):
            number = models.IntegerField(unique=True)
            ends = field

            buffered = RowBuffer(key="number", expires="ends")

        error = problem(Endless, "E020")
        assert (
            error.msg == f"`expires` names the field 'ends', which {why}: no row can expire by it."
        )
        assert "DateTimeField" in error.hint

    def test_an_end_that_is_no_field(self):
        class Endless(models.Model):
            number = models.IntegerField(unique=True)

            buffered = RowBuffer(key="number", expires="end")

        assert "`expires` names 'end'" in problem(Endless, "E014").msg


class TestOptions:
    @pytest.mark.parametrize(
        ("declare", "message"),
        [
            (
                lambda: RowBuffer(key="x", max_agee=3),
                r"RowBuffer has no option 'max_agee'\. Did you mean 'max_age'\? "
                r"There are: key, fields, on_missing, expires, flush_when, cache_seconds, "
                r"max_age, .*",
            ),
            (
                lambda: MetaBuffer(entity="x", name="n", value="v", entiti="x"),
                r"MetaBuffer has no option 'entiti'\. Did you mean 'entity'\? .*",
            ),
            (
                lambda: LogBuffer(time="x", expires=3),
                r"LogBuffer has no option 'expires'\. There are: time, unique, fields, .*",
            ),
        ],
    )
    def test_an_unknown_one(self, declare, message):
        with pytest.raises(TypeError, match=f"^{message}$"):
            declare()

    def test_an_unknown_one_of_a_kind_of_the_project(self):
        class Mine(RowBuffer):
            def __init__(self, *, colour: str, **options: Any) -> None:
                super().__init__(**options)

        with pytest.raises(TypeError, match=r"^Mine has .* 'colours'\. Did you mean 'colour'\?"):
            Mine(key="x", colour="red", colours="blue")

    def test_a_buffer_that_is_not_called(self):
        with pytest.raises(TypeError, match=r"not the class RowBuffer: call RowBuffer\(…\)\.$"):
            register(Owner, RowBuffer)


class TestMetaDeclaration:
    def declare(self, *, entity="page", name="key", value="value", **fields: Any) -> Any:
        fields = {
            "page": models.IntegerField(),
            "key": models.CharField(max_length=10),
            "value": models.JSONField(null=True),
            "extra": models.CharField(max_length=10),
            "number": models.IntegerField(default=1),
            **fields,
        }
        unique = models.UniqueConstraint(fields=["page", "key"], name="key")
        meta = type("Meta", (), {"app_label": "tests", "constraints": [unique]})
        buffer = MetaBuffer(entity=entity, name=name, value=value)
        return type(
            "Notes",
            (models.Model,),
            {**fields, "buffered": buffer, "Meta": meta, "__module__": __name__},
        )

    def test_a_good_one(self):
        assert problems(self.declare()) == []

    @pytest.mark.parametrize("option", ["entity", "name", "value"])
    def test_a_field_that_is_not_there(self, option):
        error = problem(self.declare(**{option: "pag"}), "E014")
        assert error.msg == f"`{option}` names 'pag', which is not a field with a column."
        assert "Did you mean 'page'?" in error.hint

    def test_no_entity(self):
        assert problem(self.declare(entity=()), "E015").msg == "The entity is empty."

    def test_no_unique_constraint(self):
        error = problem(self.declare(entity="number", page=models.IntegerField(null=True)), "E015")
        assert error.msg == "The entity and name (number, key) has no plain unique constraint."
        assert "fields=['number', 'key']" in error.hint

    def test_an_entity_that_can_be_null(self):
        error = problem(self.declare(page=models.IntegerField(null=True)), "E015")
        assert "'page' can be NULL" in error.msg

    def test_a_meta_key_that_is_no_text(self):
        error = problem(self.declare(key=models.IntegerField()), "E019")
        assert error.msg == "The field 'key' of the meta key is a IntegerField."
        assert "make it a CharField" in error.hint

    @pytest.mark.parametrize("value", ["key", "id"])
    def test_a_value_that_names_the_row(self, value):
        error = problem(self.declare(value=value), "E016")
        assert error.msg == f"The field {value!r} cannot take the value of a meta key."

    def test_a_value_that_cannot_travel(self):
        lost = models.ForeignKey("absent.Model", models.CASCADE, null=True, related_name="+")
        error = problem(self.declare(value="number", number=lost), "E018")
        assert "the model 'absent.Model' that it points to is not installed" in error.msg

    def test_another_field_without_a_value(self):
        error = problem(self.declare(number=models.IntegerField()), "E021")
        assert error.msg == "The field 'number' has no value in a row that the buffer makes."


class TestLogDeclaration:
    def declare(
        self,
        *,
        time="at",
        unique=("page", "mail"),
        given=None,
        sensitive=(),
        **fields: models.Field,
    ) -> Any:
        fields = {
            "page": models.IntegerField(),
            "mail": models.CharField(max_length=10),
            "at": models.DateTimeField(),
            "day": models.DateField(null=True),
            "number": models.IntegerField(null=True),
            "made_at": models.DateTimeField(auto_now_add=True),
            **fields,
        }
        constraint = models.UniqueConstraint(fields=["page", "mail"], name="key")
        meta = type("Meta", (), {"app_label": "tests", "constraints": [constraint]})
        buffer = LogBuffer(time=time, unique=unique, fields=given, sensitive=sensitive)
        return type(
            "Records",
            (models.Model,),
            {**fields, "buffered": buffer, "Meta": meta, "__module__": __name__},
        )

    @pytest.mark.parametrize("time", ["at", "made_at"])
    def test_a_good_one(self, time):
        assert problems(self.declare(time=time)) == []

    def test_a_good_one_that_is_unique_by_its_primary_key(self):
        pk = models.UUIDField(primary_key=True)
        assert problems(self.declare(unique="pk", code=pk)) == []

    @pytest.mark.parametrize("option", ["time", "unique", "fields", "sensitive"])
    def test_a_field_that_is_not_there(self, option):
        given = {"given" if option == "fields" else option: "pag"}
        error = problem(self.declare(**given), "E014")
        assert error.msg == f"`{option}` names 'pag', which is not a field with a column."
        assert "Did you mean 'page'?" in error.hint

    def test_a_time_that_is_no_moment(self):
        error = problem(self.declare(time="day"), "E020")
        assert error.msg == "The field 'day' of the time is a DateField."
        assert "make it a DateTimeField" in error.hint

    def test_no_unique_constraint(self):
        error = problem(self.declare(unique="page"), "E015")
        assert error.msg == "The unique (page) has no plain unique constraint."
        assert "fields=['page']" in error.hint

    def test_unique_fields_that_can_be_null(self):
        error = problem(self.declare(mail=models.CharField(max_length=10, null=True)), "E015")
        assert "The unique field 'mail' can be NULL" in error.msg

    @pytest.mark.parametrize("name", ["id", "made_at"])
    def test_a_field_that_sets_itself_is_written(self, name):
        error = problem(self.declare(given=[name]), "E017")
        assert error.msg == f"The field {name!r} sets itself and is among the written ones."
        assert f"Leave {name!r} out" in error.hint

    def test_a_field_that_is_left_out_and_needed(self):
        error = problem(self.declare(given=["day"], seat=models.IntegerField()), "E021")
        assert error.msg == "The field 'seat' has no value in a row that the buffer makes."

    def test_a_field_that_cannot_travel(self):
        other = models.ForeignKey("absent.Model", models.CASCADE, related_name="+")
        assert "'other' cannot be buffered" in problem(self.declare(other=other), "E018").msg


class TestAdmins:
    """An admin that shows stored rows, and saves what it shows."""

    @pytest.fixture
    def site(self):
        site = admin.AdminSite(name="of the test")
        yield site
        all_sites.discard(site)

    def test_a_plain_one(self, site):
        site.register(Item)
        (warning,) = warnings()
        assert warning.id == "writebehind.W020"
        assert warning.obj is admin.ModelAdmin
        assert warning.msg.startswith("tests.Item is buffered, and this admin shows stored rows")
        assert "class ModelAdmin(BufferedAdmin, ModelAdmin)" in warning.hint
        assert "Or put a, b, c, d, e, f, number into readonly_fields, and" in warning.hint
        assert "has_delete_permission" in warning.hint

    def test_one_that_knows_of_the_buffer(self, site):
        site.register(Item, type("ItemAdmin", (BufferedAdmin, admin.ModelAdmin), {}))
        assert warnings() == []

    def test_where_a_pending_write_makes_no_row_deletions_do_not_count(self, site):
        site.register(Stamp)
        (warning,) = warnings()
        assert warning.hint.endswith("put count, seen into readonly_fields.")
        site.unregister(Stamp)
        site.register(Stamp, readonly_fields=["count", "seen"])
        assert warnings() == []

    def test_one_that_changes_nothing(self, site):
        class Viewed(admin.ModelAdmin):
            def has_change_permission(self, request, obj=None):
                return False

            def has_delete_permission(self, request, obj=None):
                return False

        site.register([Item, Note], Viewed)
        assert warnings() == []

    def test_one_that_deletes(self, site):
        site.register(Item, readonly_fields=["number", *"abcdef"])
        assert len(warnings()) == 1

    def test_one_whose_list_changes(self, site):
        options = {"list_display": ["pk", "count"], "list_editable": ["count"]}
        site.register(Stamp, readonly_fields=["count", "seen"], **options)
        assert len(warnings()) == 1

    def test_one_that_changes_new_rows_only(self, site):
        class Own(admin.ModelAdmin):
            def get_readonly_fields(self, request, obj=None):
                is_stored = obj and obj.pk and not obj._state.adding
                return ["count", "seen"] if is_stored else []

        site.register(Stamp, Own)
        assert warnings() == []

    def test_one_whose_form_has_disabled_fields(self, site):
        class Form(forms.ModelForm):
            count = forms.IntegerField(disabled=True)

        site.register(Stamp, form=Form, readonly_fields=["seen"])
        assert warnings() == []
        site.unregister(Stamp)
        site.register(Stamp, form=Form)
        assert len(warnings()) == 1

    def test_one_with_other_fields(self, site):
        site.register(Stamp, fields=["seen"], readonly_fields=["seen"])
        assert warnings() == []

    def test_one_that_wants_a_real_request(self, site):
        class Own(admin.ModelAdmin):
            def has_change_permission(self, request, obj=None):
                return request.session["may"]

        site.register(Stamp, Own, readonly_fields=["count", "seen"])
        assert len(warnings()) == 1

    def test_an_inline(self, site):
        class Pairs(admin.TabularInline):
            model = Pair

        site.register(Owner, inlines=[Pairs])
        (warning,) = warnings()
        assert warning.obj is Pairs
        assert "tests.Pair" in warning.msg
        assert "class Pairs(BufferedInline, TabularInline)" in warning.hint
        assert "Or put name, note, owner, value into readonly_fields, and" in warning.hint
        site.unregister(Owner)
        site.register(Owner, inlines=[type("Buffered", (BufferedInline, Pairs), {})])
        assert warnings() == []

    @pytest.mark.parametrize("can_delete", [True, False])
    def test_an_inline_that_changes_nothing_stored(self, site, can_delete):
        class Pairs(admin.TabularInline):
            model = Pair

            def get_readonly_fields(self, request, obj=None):
                return [field.name for field in Pair._meta.fields] if obj and obj.pk else []

        Pairs.can_delete = can_delete
        site.register(Owner, inlines=[Pairs])
        assert len(warnings()) == can_delete

    @pytest.mark.parametrize("hook", ["get_inlines", "get_inline_instances"])
    def test_an_inline_of_a_hook(self, site, hook):
        class Pairs(admin.TabularInline):
            model = Pair

        def inlines(self, request, obj=None):
            found = [Pairs] if obj and obj.pk else []
            return found if hook == "get_inlines" else [i(Owner, site) for i in found]

        site.register(Owner, type("Own", (admin.ModelAdmin,), {hook: inlines}))
        (warning,) = warnings()
        assert warning.obj is Pairs

    def test_an_inline_of_a_hook_that_wants_a_real_request(self, site):
        class Pairs(admin.TabularInline):
            model = Pair

        class Own(admin.ModelAdmin):
            inlines = [Pairs]

            def get_inlines(self, request, obj):
                return request.session["inlines"]

        site.register(Owner, Own)
        assert [warning.obj for warning in warnings()] == [Pairs]

    def test_a_proxy(self, site):
        class ItemProxy(Item):
            class Meta:
                proxy = True

        site.register(ItemProxy)
        assert len(warnings()) == 1

    def test_a_log(self, site):
        """What is pending of it changes no stored row."""
        site.register(Visit)
        assert warnings() == []

    def test_the_ready_made_ones(self):
        assert check_admins() == []

    def test_the_demo_has_nothing_to_say(self, tmp_path):
        command = [sys.executable, "manage.py", "check", "--fail-level", "WARNING"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


class TestSettings:
    def test_good_ones(self, settings):
        settings.WRITEBEHIND = {"REDIS": "redis://localhost:1/0", "MAX_AGE": 0.5, "SHARDS": 8}
        assert check_settings() == []
        settings.WRITEBEHIND = {"REDIS": "writebehind"}  # django-redis, in CACHES
        assert check_settings() == []

    def test_not_a_dict(self, settings):
        settings.WRITEBEHIND = "redis://localhost"
        (error,) = check_settings()
        assert (error.id, error.msg) == (
            "writebehind.E001",
            "WRITEBEHIND is 'redis://localhost'.",
        )
        assert error.hint == "It must be a dict of settings."

    @pytest.mark.parametrize(
        ("name", "near"), [("BATCHSIZE", "BATCH_SIZE"), ("max_age", "MAX_AGE"), ("ZZZZZ", None)]
    )
    def test_an_unknown_one(self, settings, name, near):
        settings.WRITEBEHIND = {**settings.WRITEBEHIND, name: 1}
        (warning,) = check_settings()
        assert (warning.id, warning.msg) == (
            "writebehind.W001",
            f"WRITEBEHIND has no setting {name!r}.",
        )
        assert (f"Did you mean {near!r}?" in warning.hint) == (near is not None)
        assert "There are: REDIS, PREFIX," in warning.hint

    @pytest.mark.parametrize(("name", "value"), [("MAX_AGE", "5"), ("SHARDS", 0), ("REDIS", None)])
    def test_a_wrong_value(self, settings, name, value):
        settings.WRITEBEHIND = {**settings.WRITEBEHIND, name: value}
        (error,) = check_settings()
        assert error.id == "writebehind.E002"
        assert error.msg.startswith(f"WRITEBEHIND: {name} must be ")
        assert repr(value) in error.msg
        assert f"Set {name}" in error.hint

    @pytest.mark.parametrize(
        ("redis", "why"),
        [
            ({"REDIS": "default"}, "'django.core.cache.backends.locmem.LocMemCache'"),
            ({}, "'django.core.cache.backends.locmem.LocMemCache'"),  # REDIS is 'default' then
            ({"REDIS": "absent"}, "nor one of the caches in CACHES (default, writebehind)"),
            ({"REDIS": "http://localhost"}, "neither a URL (redis, rediss, unix)"),
            ({"REDIS": "redis://localhost:port/0"}, "'redis://localhost:port/0'"),
            ({"REDIS": "redis://localhost:port/0"}, "its port is no number up to 65535"),
            ({"REDIS": "redis://localhost:99999/0"}, "its port is no number up to 65535"),
            ({"REDIS": "redis://[::1]:99999/0"}, "its port is no number up to 65535"),
            ({"REDIS": "redis://a:b@localhost:99999/0"}, "its port is no number up to 65535"),
            ({"REDIS": "redis://a:b@localhost:1x/0"}, "its port is no number up to 65535"),
            ({"REDIS": "redis://a:b#c@localhost:1/0"}, "a password in it are percent-encoded"),
            ({"REDIS": "redis://localhost:1/0?socket_timeout=x"}, "socket_timeout"),
        ],
    )
    def test_a_redis_that_is_none(self, settings, redis, why):
        settings.WRITEBEHIND = redis
        (error,) = check_settings()
        assert error.id == "writebehind.E003"
        assert error.msg.startswith("WRITEBEHIND['REDIS'] is ")
        assert why in error.msg
        assert "redis://host:port/number" in error.hint
        assert "django_redis.cache.RedisCache" in error.hint

    @pytest.mark.parametrize(
        ("location", "why"),
        [
            ("redis://:sec#ret@localhost:1/0", "a password in it are percent-encoded"),
            ("redis://:secret@localhost:port/0", "its port is no number up to 65535"),
            ("redis://:secret@localhost:65536/0", "its port is no number up to 65535"),
            (["redis://:secret@localhost:port/0"], "its port is no number up to 65535"),
        ],
    )
    def test_a_cache_that_is_nowhere(self, settings, location, why):
        backend = "django_redis.cache.RedisCache"
        settings.CACHES = {
            **settings.CACHES,
            "nowhere": {"BACKEND": backend, "LOCATION": location},
        }
        settings.WRITEBEHIND = {"REDIS": "nowhere"}
        (error,) = check_settings()
        assert error.id == "writebehind.E003"
        assert error.msg.startswith("WRITEBEHIND['REDIS'] is 'nowhere', a cache whose LOCATION is ")
        assert why in error.msg
        with pytest.raises(ImproperlyConfigured) as caught:
            connection.client()
        for text in (error.msg, str(caught.value)):
            assert "***@localhost" in text
            assert "sec" not in text
        assert caught.value.__cause__ is caught.value.__context__ is None

    @pytest.mark.parametrize(
        "redis",
        [
            "redis://:sec#ret@localhost:1/0",
            "redis://:sec\u2100ret@localhost:1/0",
            "redis://:sec[ret@localhost:1/0",
            "redis://user:secret@localhost:port/0",
            "rediss://user:secret@localhost:1/0?socket_timeout=x",
            "redis://localhost:1/0?db=x&password=secret@localhost",
            "redis//user:secret@localhost:1/0",
            "user:secret@localhost",
        ],
    )
    def test_no_password_is_shown(self, settings, redis):
        settings.WRITEBEHIND = {"REDIS": redis}
        (error,) = check_settings()
        assert error.id == "writebehind.E003"
        assert "localhost" in error.msg
        assert "***" in error.msg
        assert "sec" not in error.msg
        for wrong in ({"REDIS": [redis]}, redis):
            settings.WRITEBEHIND = wrong
            (error,) = check_settings()
            assert "***" in error.msg
            assert "sec" not in error.msg


def problems(model: Any) -> list[checks.CheckMessage]:
    return [message for message in check_buffers() if message.obj is model.buffered]


def warnings() -> list[Any]:
    """What is said of the admins that a test registers."""
    ready_made = "writebehind_app.meta.admin"
    return [message for message in check_admins() if message.obj.__module__ != ready_made]


def problem(model: Any, number: str) -> Any:
    """The only thing that is wrong with the declaration."""
    (message,) = problems(model)
    assert message.id == f"writebehind.{number}"
    return message
