"""Write-behind for Django: small writes go to Redis at once and to the database in batches.

Each name is imported when it is first used. So `import writebehind_app` costs next to nothing, and
Django can import the app before there are models, which the buffers import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from writebehind_app.buffers.blocks import batch
    from writebehind_app.buffers.log import LogBuffer
    from writebehind_app.buffers.meta import MetaBuffer
    from writebehind_app.buffers.receipt import Receipt
    from writebehind_app.buffers.row import RowBuffer
    from writebehind_app.exceptions import (
        AlreadyExists,
        BufferFull,
        BufferPaused,
        BufferUnavailable,
        EditedSince,
        NewerVersion,
        NotDurable,
        Overtaken,
        WritebehindError,
        WriteUncertain,
    )
    from writebehind_app.fields.operations import DELETED, Add, Max, Merge, Min
    from writebehind_app.orm.admin import BufferedAdmin, BufferedInline
    from writebehind_app.orm.manager import BufferedManager, BufferedQuerySet
    from writebehind_app.registry import register

__all__ = [
    "DELETED",
    "Add",
    "AlreadyExists",
    "BufferFull",
    "BufferPaused",
    "BufferUnavailable",
    "BufferedAdmin",
    "BufferedInline",
    "BufferedManager",
    "BufferedQuerySet",
    "EditedSince",
    "LogBuffer",
    "Max",
    "Merge",
    "MetaBuffer",
    "Min",
    "NewerVersion",
    "NotDurable",
    "Overtaken",
    "Receipt",
    "RowBuffer",
    "WriteUncertain",
    "WritebehindError",
    "batch",
    "register",
]
__version__ = "0.9.0"

_MODULES = {
    **dict.fromkeys(("DELETED", "Add", "Max", "Merge", "Min"), "fields.operations"),
    **dict.fromkeys(
        (
            *("AlreadyExists", "BufferFull", "BufferPaused", "BufferUnavailable", "EditedSince"),
            *("NewerVersion", "NotDurable", "Overtaken", "WriteUncertain", "WritebehindError"),
        ),
        "exceptions",
    ),
    **dict.fromkeys(("BufferedAdmin", "BufferedInline"), "orm.admin"),
    **dict.fromkeys(("BufferedManager", "BufferedQuerySet"), "orm.manager"),
    "LogBuffer": "buffers.log",
    "MetaBuffer": "buffers.meta",
    "Receipt": "buffers.receipt",
    "RowBuffer": "buffers.row",
    "batch": "buffers.blocks",
    "register": "registry",
}


if not TYPE_CHECKING:  # a type checker would take any name for one of the package

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from django.core.exceptions import AppRegistryNotReady

        try:
            module = import_module(f"{__name__}.{_MODULES[name]}")
        except AppRegistryNotReady as error:
            raise AppRegistryNotReady(
                f"{name} was imported before Django had loaded the apps: import {name} in "
                "models.py, or inside ready() of an AppConfig. A script calls django.setup() "
                "before the import."
            ) from error
        value = globals()[name] = getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
