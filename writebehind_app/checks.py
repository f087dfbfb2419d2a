"""System checks: of the settings, and of every declaration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from django.apps import apps
from django.core import checks
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import connections, models, router
from django.http import HttpRequest

from writebehind_app import conf, registry
from writebehind_app.declaration import Declaration, KeyedDeclaration
from writebehind_app.declaration_checks import error, nearest
from writebehind_app.fields.columns import Unsupported
from writebehind_app.orm.admin import BufferedAdmin, BufferedInline
from writebehind_app.store import connection


def check_settings(**kwargs: Any) -> list[checks.CheckMessage]:
    given = conf.raw()
    if not isinstance(given, dict):
        return [
            error(1, f"{conf.NAME} is {conf.redacted(given)}.", "It must be a dict of settings.")
        ]
    messages: list[checks.CheckMessage] = []
    for name, value in given.items():
        if name not in conf.NAMES:
            messages.append(
                checks.Warning(
                    f"{conf.NAME} has no setting {name!r}.",
                    hint=nearest(str(name).upper(), conf.NAMES),
                    id="writebehind.W001",
                )
            )
        elif problem := conf.problem(name, value):
            messages.append(error(2, f"{conf.NAME}: {problem}", f"Set {name} to such a value."))
    if not any(isinstance(message, checks.Error) for message in messages):
        messages += _redis(conf.settings().REDIS)
    return messages


def _redis(where: conf.Address) -> Iterator[checks.CheckMessage]:
    if problem := connection.problem(where):
        yield error(
            3,
            problem,
            f"Set {connection.SETTING} to {connection.EXPECTED}.",
        )


def check_buffers(**kwargs: Any) -> list[checks.CheckMessage]:
    messages: list[checks.CheckMessage] = []
    seen = set()
    for buffer in registry.declared():
        if buffer.label in seen:
            messages.append(
                error(
                    10,
                    f"{buffer.label} has more than one buffer.",
                    "Declare one; it can take all fields of the model.",
                    buffer,
                )
            )
            continue
        seen.add(buffer.label)
        messages += buffer.check()
    messages += _not_called()
    messages += _autocommit()
    messages += _schemas()
    return messages


def _not_called() -> Iterator[checks.CheckMessage]:
    """An error for each model with the class of a buffer in place of a buffer."""
    for model in apps.get_models():
        for name, value in vars(model).items():
            if isinstance(value, type) and issubclass(value, Declaration):
                yield error(
                    26,
                    f"{model._meta.label}.{name} is the class {value.__name__}, not a buffer.",
                    f"Call it: {name} = {value.__name__}(…).",
                    model,
                )


def _schemas() -> Iterator[checks.CheckMessage]:
    """An error for each database of buffered rows that has a schema for each tenant."""
    for using, of_models in _labels_by_database().items():
        engine = connections[using].settings_dict["ENGINE"]
        if engine in _WITH_SCHEMAS:
            yield error(
                25,
                f"The database {using!r} has the engine {engine!r}: its alias stands for many "
                f"schemas. What is buffered ({', '.join(of_models)}) belongs to an alias, and "
                "would be flushed into whatever schema the flusher is in.",
                "Give each tenant an alias of its own and choose it in a router, or leave these "
                "models without buffers.",
            )


_WITH_SCHEMAS = ("django_tenants.postgresql_backend", "tenant_schemas.postgresql_backend")


def _labels_by_database() -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for buffer in registry.buffers().values():
        labels.setdefault(router.db_for_write(buffer.model), []).append(buffer.label)
    return labels


def _autocommit() -> Iterator[checks.CheckMessage]:
    """An error for each database of buffered rows in which nothing commits by itself."""
    for using, of_models in _labels_by_database().items():
        if not connections[using].settings_dict["AUTOCOMMIT"]:
            yield error(
                24,
                f"The database {using!r} has AUTOCOMMIT=False: what is buffered for it "
                f"({', '.join(of_models)}) cannot be flushed, nor written inside atomic().",
                f"Leave AUTOCOMMIT out of DATABASES[{using!r}]: a flush commits by itself, so that "
                "Redis can forget what the database has, and a write inside atomic() is sent when "
                "Django says that the transaction is committed.",
            )


def check_admins(**kwargs: Any) -> list[checks.CheckMessage]:
    """Warn of each ModelAdmin, or inline, that shows stored rows only, and saves what it shows."""
    if not apps.is_installed("django.contrib.admin"):
        return []
    messages: list[checks.CheckMessage] = []
    buffers = registry.buffers()
    for options, page in _admins():
        buffer = buffers.get(options.model._meta.concrete_model._meta.label)
        if not isinstance(buffer, KeyedDeclaration) or isinstance(
            options, BufferedAdmin | BufferedInline
        ):
            continue  # what is pending of a log makes new rows only
        try:
            layout = buffer.layout()
        except (FieldDoesNotExist, Unsupported):
            continue  # another check reports it
        key = {part.name for part in layout.key if not part.field.primary_key}
        names = sorted(key.union(layout.columns))
        if _may_edit(options, page, names, deletes=layout.insert):
            no_deletions = ", and return False in has_delete_permission()" if layout.insert else ""
            kind, mixin = "ModelAdmin", BufferedAdmin.__name__
            if hasattr(options, "get_formset"):
                kind, mixin = "TabularInline", BufferedInline.__name__
            name = type(options).__name__
            messages.append(
                checks.Warning(
                    f"{buffer.label} is buffered, and this admin shows stored rows: who edits one "
                    "does not see what is pending, and may save an older value over it.",
                    hint=f"Put the mixin first: class {name}({mixin}, {kind}), with {mixin} from "
                    f"writebehind_app. Or put {', '.join(names)} into readonly_fields"
                    f"{no_deletions}.",
                    obj=type(options),
                    id="writebehind.W020",
                )
            )
    return messages


def _admins() -> Iterator[tuple[Any, type[models.Model]]]:
    """Each ModelAdmin of each site, and its inlines; with the model whose page it is on."""
    from django.contrib.admin.sites import all_sites  # its models have to be installed

    for site in sorted(all_sites, key=lambda site: site.name):
        for options in site._registry.values():
            yield options, options.model
            try:
                inlines = options.get_inline_instances(_request(), _stored(options.model))
            except Exception:  # noqa: BLE001 - it is the project's, and may want a real request
                inlines = [inline(options.model, site) for inline in options.inlines]
            for inline in inlines:
                yield inline, options.model


def _may_edit(
    options: Any, page: type[models.Model], names: Iterable[str], *, deletes: bool
) -> bool:
    """Whether somebody with all permissions can change these fields; or delete a row, which counts
    where a pending write makes it anew."""
    request = _request()
    deletes = deletes and getattr(options, "can_delete", True)  # only inlines have it
    try:
        if deletes and options.has_delete_permission(request):
            return True
        if not options.has_change_permission(request):
            return False
        row = _stored(page)
        if hasattr(options, "get_formset"):
            form = options.get_formset(request, row).form
        else:
            form = options.get_form(request, row, change=True)
    except Exception:  # noqa: BLE001 - it is the project's, and may want a real request
        return True
    edited = {name for name, field in form.base_fields.items() if not field.disabled}
    return not edited.union(getattr(options, "list_editable", ())).isdisjoint(names)


def _stored(model: type[models.Model]) -> models.Model:
    """A row that looks stored: an admin may answer differently for a new one."""
    row = model()
    if not row.pk:
        with suppress(ValidationError):
            row.pk = model._meta.pk.to_python("1")
    row._state.adding = False
    return row


def _request() -> Any:
    request: Any = HttpRequest()
    request.user = _Superuser()
    return request


class _Superuser:
    """Somebody with all permissions, without an account."""

    is_active = is_staff = is_superuser = is_authenticated = True
    is_anonymous = False

    def has_perm(self, perm: str, obj: Any = None) -> bool:
        return True
