"""System checks: of the settings, and of every declaration."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from django.apps import apps
from django.core import checks
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import connections, models, router
from django.http import HttpRequest

from writebehind_app import conf, registry
from writebehind_app.buffers.log import LogBuffer
from writebehind_app.buffers.meta import MetaBuffer
from writebehind_app.buffers.row import RowBuffer
from writebehind_app.declaration import Declaration, KeyedDeclaration, nearest
from writebehind_app.fields.columns import NOT_FOR_KEYS, Unsupported, column
from writebehind_app.fields.custom import own_methods
from writebehind_app.fields.layout import may_be_written
from writebehind_app.store import connection


def check_settings(**kwargs: Any) -> list[checks.CheckMessage]:
    given = conf.raw()
    if not isinstance(given, dict):
        return [_error(1, f"{conf.NAME} is {conf.shown(given)}.", "It must be a dict of settings.")]
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
            messages.append(_error(2, f"{conf.NAME}: {problem}", f"Set {name} to such a value."))
    if not any(isinstance(message, checks.Error) for message in messages):
        messages += _redis(conf.settings().REDIS)
    return messages


def _redis(where: str) -> Iterator[checks.CheckMessage]:
    if problem := connection.problem(where):
        yield _error(
            3,
            problem,
            "Set WRITEBEHIND['REDIS'] to 'redis://host:port/number', with a port from 1 to 65535 "
            "and, before the host, user and password percent-encoded, if any; or to the alias of a "
            "cache at such a URL whose backend is 'django_redis.cache.RedisCache'.",
        )


def check_buffers(**kwargs: Any) -> list[checks.CheckMessage]:
    messages: list[checks.CheckMessage] = []
    seen = set()
    for buffer in registry.declared():
        if buffer.label in seen:
            messages.append(
                _error(
                    10,
                    f"{buffer.label} has more than one buffer.",
                    "Declare one; it can take all fields of the model.",
                    buffer,
                )
            )
            continue
        seen.add(buffer.label)
        messages += _options(buffer)
        table = list(_table(buffer))
        messages += table
        if not table:
            kind = next(kind for kind in _KINDS if isinstance(buffer, kind))
            messages += _KINDS[kind](buffer)
            if isinstance(buffer, KeyedDeclaration):
                messages += _retain(buffer)
    messages += _autocommit()
    return messages


def _autocommit() -> Iterator[checks.CheckMessage]:
    """An error for each database of buffered rows in which nothing commits by itself."""
    labels: dict[str, list[str]] = {}
    for buffer in registry.buffers().values():
        labels.setdefault(router.db_for_write(buffer.model), []).append(buffer.label)
    for using, of_models in labels.items():
        if not connections[using].settings_dict["AUTOCOMMIT"]:
            yield _error(
                24,
                f"The database {using!r} has AUTOCOMMIT=False: what is buffered for it "
                f"({', '.join(of_models)}) cannot be flushed, nor written inside atomic().",
                f"Leave AUTOCOMMIT out of DATABASES[{using!r}]: a flush commits by itself, so that "
                "Redis can forget what the database has, and a write inside atomic() is sent when "
                "Django says that the transaction is committed.",
            )


def check_admins(**kwargs: Any) -> list[checks.CheckMessage]:
    """Warn of each ModelAdmin, or inline, whose edits a flush undoes: it knows stored rows only."""
    if not apps.is_installed("django.contrib.admin"):
        return []
    messages: list[checks.CheckMessage] = []
    buffers = registry.buffers()
    for options, page in _admins():
        buffer = buffers.get(options.model._meta.concrete_model._meta.label)
        if not isinstance(buffer, KeyedDeclaration):
            continue  # what is pending of a log makes new rows only
        try:
            layout = buffer.layout()
        except (FieldDoesNotExist, Unsupported):
            continue  # another check reports it
        key = {part.name for part in layout.key if not part.field.primary_key}
        names = sorted(key.union(layout.columns))
        if _may_edit(options, page, names, deletes=layout.insert):
            no_deletions = ", and return False in has_delete_permission()" if layout.insert else ""
            messages.append(
                checks.Warning(
                    f"{buffer.label} is buffered, and this admin edits its stored rows: the next "
                    "flush undoes an edit of a row to which a write is pending.",
                    hint=f"Put {', '.join(names)} into readonly_fields{no_deletions}. If nothing "
                    "is pending when people edit, add 'writebehind.W020' to "
                    "SILENCED_SYSTEM_CHECKS.",
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
    """A row that looks stored: what an admin says of one may be other than of a new one."""
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


def _options(buffer: Declaration) -> Iterator[checks.CheckMessage]:
    version: Any = buffer.version
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version < 10**9:
        hint = "Set it to a whole number from 0 on, one greater with each change."
        yield _error(11, f"version is {version!r}.", hint, buffer)
    elif version == 0 and type(buffer).upgrade is not Declaration.upgrade:
        yield checks.Warning(
            "upgrade() is never called, as the buffer has no version.",
            hint="Give it version=1: what was written before that is handed to upgrade().",
            obj=buffer,
            id="writebehind.W010",
        )
    for name, value in buffer.options.items():
        if problem := conf.problem(name, value):
            hint = f"Set {name.lower()} to such a value, or leave it out for the project's."
            yield _error(11, problem.replace(name, name.lower()), hint, buffer)


def _retain(buffer: KeyedDeclaration) -> Iterator[checks.CheckMessage]:
    """Errors for what keeps rows from being read from Redis alone, where they are to be."""
    project = conf.raw() if isinstance(conf.raw(), dict) else {}
    given = {**project, **buffer.options}
    if not given.get("RETAIN"):
        return
    for name in ("WHEN_DOWN", "WHEN_FULL"):
        if given.get(name, "direct") == "direct":
            yield _error(
                23,
                f"retain is set, and {name.lower()} is 'direct'.",
                "What goes around Redis cannot change the copies that others read there: set "
                f"{name.lower()}='raise', or leave retain out.",
                buffer,
            )
    hint = "Leave retain out: its copies have all fields of a row."
    yield from _supported(buffer, buffer.model._meta.concrete_fields, hint)


def _table(buffer: Declaration) -> Iterator[checks.CheckMessage]:
    meta = buffer.model._meta
    if meta.proxy or meta.parents:
        yield _error(
            12,
            f"{buffer.label} keeps its rows in the table of another model too.",
            "Multi-table inheritance and proxies cannot be written in bulk: declare the buffer on "
            "a model with one table of its own.",
            buffer,
        )
    elif len(meta.pk_fields) > 1:
        yield _error(
            12,
            f"{buffer.label} has a composite primary key.",
            "Rows with one cannot be written in bulk: give the model a primary key of one field, "
            "and a unique constraint over those fields.",
            buffer,
        )


def _row_buffer(buffer: RowBuffer) -> Iterator[checks.CheckMessage]:
    if buffer.on_missing not in ("insert", "discard"):
        yield _error(
            13,
            f"on_missing is {buffer.on_missing!r}.",
            "Set it to 'insert' or 'discard'.",
            buffer,
        )
    yield from _fields(buffer, buffer.sensitive, "sensitive")
    key = yield from _fields(buffer, buffer.key, "key")
    named = written = yield from _fields(buffer, buffer.fields or (), "fields")
    if not buffer.key:
        yield _error(15, "The key is empty.", "Name the fields that name a row.", buffer)
    if key and len(key) == len(buffer.key):
        yield from _names_a_row(buffer, key, "key")
    for field in written:
        if field.primary_key or field in key:
            yield _error(
                16,
                f"The field {field.name!r} names the row and is among the written ones.",
                f"Leave {field.name!r} out of `fields`.",
                buffer,
            )
        elif _sets_itself(field):
            yield _error(
                17,
                f"The field {field.name!r} sets itself and is among the written ones.",
                f"Leave {field.name!r} out of `fields`; it gets the time of the write.",
                buffer,
            )
    if buffer.flush_when is not None and not callable(buffer.flush_when):
        yield _error(
            22,
            f"flush_when is {buffer.flush_when!r}.",
            "Set it to a function that takes a row and says whether to flush it at once.",
            buffer,
        )
    yield from _expires(buffer)
    if buffer.fields is None:
        written = [f for f in buffer.model._meta.concrete_fields if may_be_written(f)]
    yield from _supported(buffer, key, "Choose another key.")
    others = [field for field in written if field not in key]
    hint = "Name the fields to be written in `fields`, without this one."
    yield from _supported(buffer, others, hint)
    if buffer.on_missing == "insert" and len(named) == len(buffer.fields or ()):
        hint = "Name it in `fields`, give it a default, let it be NULL; or set on_missing='discard'"
        yield from _left_out(buffer, [*key, *written], f"{hint}, if all rows are there.")


def _expires(buffer: RowBuffer) -> Iterator[checks.CheckMessage]:
    if buffer.expires is None:
        return
    for field in (yield from _fields(buffer, [buffer.expires], "expires")):
        if not isinstance(field, models.DateTimeField) or own_methods(field):
            wrong = f"is a {type(field).__name__}"
        elif field.auto_now or field.auto_now_add:
            wrong = "is the time of a write"
        else:
            continue
        yield _error(
            20,
            f"`expires` names the field {field.name!r}, which {wrong}: rows cannot end by it.",
            "Name a DateTimeField that writes set, with null=True for rows that stay.",
            buffer,
        )


def _meta_buffer(buffer: MetaBuffer) -> Iterator[checks.CheckMessage]:
    entity = yield from _fields(buffer, buffer.entity, "entity")
    name = yield from _fields(buffer, [buffer.name_field], "name")
    value = yield from _fields(buffer, [buffer.value_field], "value")
    if not buffer.entity:
        yield _error(15, "The entity is empty.", "Name the fields that name an entity.", buffer)
    if not (entity and name and value and len(entity) == len(buffer.entity)):
        return
    key = [*entity, *name]
    yield from _names_a_row(buffer, key, "entity and name")
    if not isinstance(name[0], models.CharField | models.TextField):
        kind = type(name[0]).__name__
        yield _error(
            19,
            f"The field {name[0].name!r} of the meta key is a {kind}.",
            "A meta key is text: make it a CharField.",
            buffer,
        )
    if value[0] in key or value[0].primary_key or not may_be_written(value[0]):
        yield _error(
            16,
            f"The field {value[0].name!r} cannot take the value of a meta key.",
            "Name a field in `value` that is neither part of the key nor set by itself.",
            buffer,
        )
    yield from _supported(buffer, [*key, *value], "Choose another field.")
    yield from _left_out(buffer, [*key, *value], "Give it a default, or let it be NULL.")


def _log_buffer(buffer: LogBuffer) -> Iterator[checks.CheckMessage]:
    yield from _fields(buffer, buffer.sensitive, "sensitive")
    time = yield from _fields(buffer, [buffer.time], "time")
    unique = yield from _fields(buffer, buffer.unique, "unique")
    written = yield from _fields(buffer, buffer.fields or (), "fields")
    if time and not isinstance(time[0], models.DateTimeField):
        kind = type(time[0]).__name__
        yield _error(
            20,
            f"The field {time[0].name!r} of the time is a {kind}.",
            "A record has a moment to the microsecond: make it a DateTimeField.",
            buffer,
        )
    if unique and len(unique) == len(buffer.unique):
        yield from _names_a_row(buffer, unique, "unique")
    for field in (*unique, *written):
        if isinstance(field, models.AutoField) or _sets_itself(field):
            yield _error(
                17,
                f"The field {field.name!r} sets itself and is among the written ones.",
                f"Leave {field.name!r} out; it gets its value with the record.",
                buffer,
            )
    if not time or len(unique) < len(buffer.unique) or len(written) < len(buffer.fields or ()):
        return
    given = buffer.written()
    hint = "Name the fields to be written in `fields`, without this one."
    yield from _supported(buffer, unique, "Choose other unique fields.")
    yield from _supported(buffer, [field for field in given if field not in unique], hint)
    hint = "Name it in `fields`, give it a default, or let it be NULL."
    yield from _left_out(buffer, [*given, *time], hint)


_KINDS: dict[type[Declaration], Callable[[Any], Iterator[checks.CheckMessage]]] = {
    RowBuffer: _row_buffer,
    MetaBuffer: _meta_buffer,
    LogBuffer: _log_buffer,
}


def _sets_itself(field: models.Field[Any, Any]) -> bool:
    return bool(getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False))


def _left_out(
    buffer: Declaration, given: Sequence[models.Field[Any, Any]], hint: str
) -> Iterator[checks.CheckMessage]:
    """An error for each field without which there can be no row, and which gets no value."""
    for field in buffer.model._meta.concrete_fields:
        may_be_left_out = field.null or field.generated or field.has_db_default()
        if (
            not (field in given or field.primary_key or may_be_left_out)
            and may_be_written(field)
            and field.get_default() is None
        ):
            yield _error(
                21,
                f"The field {field.name!r} has no value in a row that the buffer makes.",
                hint,
                buffer,
            )


def _supported(
    buffer: Declaration, fields: Iterable[models.Field[Any, Any]], hint: str
) -> Iterator[checks.CheckMessage]:
    """An error for each field whose values cannot travel."""
    using = router.db_for_write(buffer.model)
    for field in dict.fromkeys(fields):
        if field.name == "once" and not isinstance(buffer, MetaBuffer):
            message = "The field 'once' cannot be given in a call: there, `once` names the call."
            yield _error(22, message, hint, buffer)
        try:
            column(field, using)
        except Unsupported as reason:
            message = f"The field {field.name!r} cannot be buffered: {reason}."
            yield _error(18, message, hint, buffer)


def _fields(
    buffer: Declaration, names: Iterable[str], option: str
) -> Generator[checks.CheckMessage, None, list[models.Field[Any, Any]]]:
    """The fields of these names, with an error for each name that there is none for."""
    meta = buffer.model._meta
    concrete = [field.name for field in meta.concrete_fields]
    found: list[models.Field[Any, Any]] = []
    for name in names:
        field: Any = meta.pk if name == "pk" else None
        if field is None:
            with suppress(FieldDoesNotExist):
                field = meta.get_field(name)
        if field not in meta.concrete_fields:
            yield _error(
                14,
                f"`{option}` names {name!r}, which is not a field with a column.",
                nearest(str(name), concrete),
                buffer,
            )
        else:
            found.append(field)
    return found


def _names_a_row(
    buffer: Declaration, key: Sequence[models.Field[Any, Any]], option: str
) -> Iterator[checks.CheckMessage]:
    """An error for what keeps the fields of an option from naming one row."""
    for field in key:
        if isinstance(field, NOT_FOR_KEYS) or field.null:
            why = "can be NULL" if field.null else f"is a {type(field).__name__}"
            yield _error(
                15,
                f"The {option} field {field.name!r} {why}: it cannot name a row.",
                "Choose fields that are never NULL and whose values are equal or not.",
                buffer,
            )
    names = {field.name for field in key}
    if len(key) == 1 and (key[0].unique or key[0].primary_key):
        return
    meta = buffer.model._meta
    plain = [set(group) for group in meta.unique_together]
    plain += [
        set(c.fields)
        for c in meta.constraints
        if isinstance(c, models.UniqueConstraint)
        and not (c.condition or c.expressions or c.deferrable)
    ]
    if names not in plain:
        fields = ", ".join(repr(field.name) for field in key)
        yield _error(
            15,
            f"The {option} ({', '.join(field.name for field in key)}) has no plain unique "
            "constraint.",
            f"Add models.UniqueConstraint(fields=[{fields}], name=…) to the model, without a "
            "condition, an expression or `deferrable`; or `unique=True` for a single field.",
            buffer,
        )


def _error(number: int, message: str, hint: str, obj: Any = None) -> checks.Error:
    return checks.Error(message, hint=hint, obj=obj, id=f"writebehind.E{number:03}")
