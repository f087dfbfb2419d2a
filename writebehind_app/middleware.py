"""One round trip for the writes of a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from writebehind_app.buffers.blocks import batch, fail


class BatchMiddleware:
    """Gathers the writes of each request in a `batch()`, and sends them before its response. An
    exception that leaves the view sends nothing."""

    sync_capable = True
    async_capable = True

    def __init__(
        self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]
    ) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._respond(request)
        with batch():
            return self.get_response(request)

    async def _respond(self, request: HttpRequest) -> HttpResponseBase:
        async with batch():
            response = self.get_response(request)
            assert isinstance(response, Awaitable)
            return await response

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """Django makes a response of it, which says nothing of what became of the view."""
        fail()
