"""A ModelAdmin that shows and edits rows with their pending values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from django.db import models, transaction
from django.http import HttpRequest

from writebehind_app import registry
from writebehind_app.buffers.coalescing import CoalescingBuffer
from writebehind_app.buffers.meta import MetaBuffer
from writebehind_app.buffers.reading import reread
from writebehind_app.buffers.row import RowBuffer
from writebehind_app.fields.writes import Write
from writebehind_app.orm.older import names_of, row_id

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin
    from django.contrib.admin.options import BaseModelAdmin, InlineModelAdmin

    _Base = BaseModelAdmin[Any]
    _Admin = ModelAdmin[Any]
    _Inline = InlineModelAdmin[Any, Any]
else:
    _Base = _Admin = _Inline = object

_SHOWN = "_writebehind_shown"  # an attribute of an instance: the shown values, by attname


class _Forms(_Base):
    """The forms of rows: what `BufferedAdmin` and `BufferedInline` have in common."""

    def _buffer(self) -> RowBuffer | MetaBuffer | None:
        found = registry.buffer_of(self.model)
        return found if isinstance(found, RowBuffer | MetaBuffer) else None

    def formfield_for_dbfield(
        self, db_field: models.Field[Any, Any], request: Any, **kwargs: Any
    ) -> Any:
        """The form field, with the shown value in a hidden field next to it.

        When the form comes back, a field counts as changed if it differs from the value that was
        shown, and not from the value that is there by then.
        """
        found = super().formfield_for_dbfield(db_field, request, **kwargs)
        buffer = self._buffer()
        if found is not None and buffer is not None and _takes(buffer, db_field):
            found.show_hidden_initial = True
        return found

    def _form_class(self, found: Any) -> Any:
        """The form class, which also refuses keys of rows that are pending and not stored."""
        buffer = self._buffer()
        return found if buffer is None else type(found.__name__, (_checking(buffer), found), {})


class BufferedAdmin(_Forms, _Admin):
    """Put it in front of ModelAdmin:

        class TicketAdmin(BufferedAdmin, admin.ModelAdmin): …

    Its pages show rows with all pending values. Changes and deletions go through the buffer. Only
    the fields that somebody changed are written: if two people edit one row, neither overwrites a
    field that only the other one changed. New rows, keys, files, many-to-many relations, and fields
    that are not buffered are written by the ORM, in the same transaction.
    """

    # Showing

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any | None:
        row = super().get_object(request, object_id, from_field)
        if row is None or (buffer := self._buffer()) is None:
            return row
        return next(iter(_shown(buffer, [row])), None)

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        page = super().get_changelist_instance(request)
        if buffer := self._buffer():
            page.result_list = _shown_page(buffer, page.result_list)
        return page

    def get_changelist_formset(self, request: HttpRequest, **kwargs: Any) -> Any:
        formset: Any = super().get_changelist_formset(request, **kwargs)
        buffer = self._buffer()

        class Shown(formset):  # type: ignore[misc]
            def get_queryset(self) -> Any:
                found = super().get_queryset()
                return found if buffer is None else _shown_page(buffer, found)

        return Shown

    def get_form(
        self, request: HttpRequest, obj: Any | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        return self._form_class(super().get_form(request, obj, change=change, **kwargs))

    # Saving

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        buffer = self._buffer()
        if buffer is None or not change or _SHOWN not in obj.__dict__:
            super().save_model(request, obj, form, change)
            return
        _save(buffer, obj, form)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        if buffer := self._buffer():
            _delete(buffer, [obj])
        else:
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        if buffer := self._buffer():
            _delete(buffer, queryset)
        else:
            super().delete_queryset(request, queryset)


class BufferedInline(_Forms, _Inline):
    """Put it in front of an inline of buffered rows:

        class TicketInline(BufferedInline, admin.TabularInline): …

    It shows and saves rows as BufferedAdmin does. The admin around it may be any.
    """

    def get_formset(self, request: HttpRequest, obj: Any | None = None, **kwargs: Any) -> Any:
        formset = super().get_formset(request, obj, **kwargs)
        buffer = self._buffer()
        if buffer is None:
            return formset
        form = self._form_class(formset.form)
        return type(formset.__name__, (_shown_formset(buffer, formset),), {"form": form})


def _shown_formset(buffer: RowBuffer | MetaBuffer, formset: Any) -> Any:
    class Shown(formset):  # type: ignore[misc]
        def get_queryset(self) -> Any:
            found = _shown_page(buffer, super().get_queryset())
            if fk := getattr(self, "fk", None):  # a generic inline has none
                parent = getattr(self.instance, fk.target_field.attname)
                found._result_cache = [r for r in found if getattr(r, fk.attname) == parent]
            return found

        def save_existing(self, form: Any, obj: Any, commit: bool = True) -> Any:
            if not commit or _SHOWN not in obj.__dict__:
                return super().save_existing(form, obj, commit=commit)
            _save(buffer, obj, form)
            form._save_m2m()
            return obj

        def delete_existing(self, obj: Any, commit: bool = True) -> None:
            if commit:
                _delete(buffer, [obj])

    return Shown


def _checking(buffer: RowBuffer | MetaBuffer) -> type[Any]:
    class Checking:
        """A form that refuses the key of a row that is pending, and not stored."""

        instance: Any
        changed_data: Sequence[str]

        def validate_unique(self) -> None:
            super().validate_unique()  # type: ignore[misc]
            layout, row = buffer.layout(), self.instance
            names = [c.name for c in layout.key]
            is_new = row._state.adding or not {*names}.isdisjoint(self.changed_data)
            if not is_new or (id := row_id(layout, row)) is None:
                return
            if id in buffer.rows_in(buffer._rows([buffer.entry_id(id)])):
                error = row.unique_error_message(buffer.model, tuple(names))
                if not self._has(error):
                    self.add_error(None, error)  # type: ignore[attr-defined]

        def _has(self, error: Any) -> bool:
            """Whether the form has an error of the stored row already."""
            every = self.errors.as_data().values()  # type: ignore[attr-defined]
            codes = {each.code for errors in every for each in errors}
            return error.code in codes or "unique" in codes

    return Checking


def _shown(buffer: CoalescingBuffer, rows: Sequence[Any]) -> list[Any]:
    """The rows with all pending values, without those that a pending write deletes."""
    if all(_SHOWN in row.__dict__ for row in rows):
        return [*rows]
    layout = buffer.layout()

    def read(ids: Sequence[str]) -> dict[str, Any]:
        entry_ids = dict.fromkeys(map(buffer.entry_id, ids))
        return buffer.rows_in(buffer._rows([*entry_ids]))

    found = reread(buffer, [*rows], {layout.id_of(row) for row in rows}, read)
    for row in found:
        names = [f.attname for f in row._meta.concrete_fields if f.attname in row.__dict__]
        row.__dict__[_SHOWN] = {name: _kept(row.__dict__[name]) for name in names}
    return found


def _kept(value: Any) -> Any:
    """The value, or a copy of one that code of the project may change in place."""
    return deepcopy(value) if isinstance(value, dict | list) else value


def _shown_page(buffer: CoalescingBuffer, page: Any) -> Any:
    """A page of a list with all pending values. If it is a queryset, it stays one."""
    rows = _shown(buffer, [*page])
    if not isinstance(page, models.QuerySet):
        return rows
    page._result_cache = rows
    return page


def _takes(buffer: CoalescingBuffer, field: models.Field[Any, Any]) -> bool:
    """Whether a field is written through the buffer. A file is not: save() stores it."""
    return field.name in buffer.layout().columns and not isinstance(field, models.FileField)


def _is_expression(row: Any, field: models.Field[Any, Any]) -> bool:
    return hasattr(row.__dict__.get(field.attname), "resolve_expression")


def _save(buffer: RowBuffer | MetaBuffer, row: Any, form: Any) -> None:
    """Save the fields that were changed in a shown row, through the buffer where it takes them."""
    changed = _changed(row, form)
    key = {column.field for column in buffer.layout().key}
    with transaction.atomic(using=buffer.using()):
        # With another primary key, Django makes another row. With another key, save() stores what
        # is pending under the old one first.
        if row._meta.pk in changed or not key.isdisjoint(changed):
            row.save()
            return
        buffered = [f for f in changed if _takes(buffer, f) and not _is_expression(row, f)]
        others = [f for f in changed if f not in buffered]
        if others:
            stamps = [f for f in row._meta.concrete_fields if getattr(f, "auto_now", False)]
            row.save(update_fields={f.name for f in (*others, *stamps)})
        if buffered:
            _write(buffer, row, buffered)


def _changed(row: Any, form: Any) -> list[models.Field[Any, Any]]:
    """The fields that a person changed in the form, or that code of the project changed in the form
    or in the row since they were shown."""
    shown = {**row.__dict__[_SHOWN], **_as_sent(row, form)}
    return [
        f
        for f in row._meta.concrete_fields
        if f.name in form.changed_data
        or (f.attname in shown and row.__dict__.get(f.attname) != shown[f.attname])
    ]


def _as_sent(row: Any, form: Any) -> dict[str, Any]:
    """The values that a form sends for fields that nobody changed, by attname.

    They may be older than the row, or rounded: so they are no sign of a change.
    """
    sent = {}
    for field in row._meta.concrete_fields:
        found = None if field.primary_key else form.fields.get(field.name)
        if found is None or field.name in form.changed_data or field.name not in form.cleaned_data:
            continue
        if found.disabled or isinstance(field, models.FileField):
            value = form.initial.get(field.name)
        else:
            value = found.clean(form[field.name].data)
        scratch = type(row)()
        field.save_form_data(scratch, value)
        sent[field.attname] = scratch.__dict__.get(field.attname)
    return sent


def _write(
    buffer: RowBuffer | MetaBuffer, row: Any, changed: Iterable[models.Field[Any, Any]]
) -> None:
    values = {f.name: getattr(row, f.attname) for f in changed}
    key = {c.name: getattr(row, c.attname) for c in buffer.layout().key}
    if isinstance(buffer, RowBuffer):
        buffer.set(**key, **values)
    else:
        name = key.pop(buffer.name_field)
        buffer.of(**key)[name] = values[buffer.value_field]


def _delete(buffer: CoalescingBuffer, rows: Iterable[Any]) -> None:
    layout = buffer.layout()
    writes = []
    for id in map(layout.id_of, rows):
        if buffer.names().is_entity:
            texts = dict.fromkeys(names_of(buffer, id, layout.columns), "!")
            writes.append(Write(buffer.entry_id(id), texts))
        else:
            writes.append(Write(id, {}, delete=True))
    buffer._write(writes)
