"""Everything the package raises of its own."""

from __future__ import annotations


class WritebehindError(Exception):
    """The base of all of them."""


class AlreadyExists(WritebehindError):
    """The row that was to be created is there, pending or stored."""


class BufferUnavailable(WritebehindError):
    """Redis did not take or answer the call; nothing says that it ran."""
