"""Write-behind for Django: small writes go to Redis at once and to the database in batches."""

from __future__ import annotations

from writebehind_app.buffers.batch import batch
from writebehind_app.buffers.log import LogBuffer
from writebehind_app.buffers.meta import MetaBuffer
from writebehind_app.buffers.operations import DELETED, Add, Max, Merge, Min
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.buffers.registry import register
from writebehind_app.buffers.row import RowBuffer

__all__ = [
    "DELETED",
    "Add",
    "LogBuffer",
    "Max",
    "Merge",
    "MetaBuffer",
    "Min",
    "Receipt",
    "RowBuffer",
    "batch",
    "register",
]
__version__ = "0.1.0"
