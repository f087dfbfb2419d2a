"""Serves the site from threads of this process, as `runserver --noreload` does."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable
from typing import Any

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application

_HOST = "127.0.0.1"
_PAUSE = 0.1  # seconds
_PATIENCE = 5.0  # seconds for requests that are under way when the site closes


class PortTaken(Exception):
    """Someone else listens there."""


class Site:
    """Takes the port when it is made, answers from `start()` on, until `end()`."""

    def __init__(self, port: int) -> None:
        try:
            self._server = ThreadedWSGIServer((_HOST, port), WSGIRequestHandler)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise PortTaken(error.strerror) from error
            raise
        # How often it looks whether it is to end.
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_PAUSE,), daemon=True
        )
        self._idle = threading.Condition()
        self._requests = 0
        self._closed = False

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self._server.server_port}/"

    def start(self) -> None:
        self._handler = StaticFilesHandler(get_wsgi_application())
        self._server.set_app(self._answer)
        self._thread.start()

    def end(self) -> None:
        """Returns when no request is under way, and none can come any more.

        A browser keeps its connection, and the server its thread, after the last request: waiting
        for threads to end could take forever.
        """
        if self._thread.ident is not None:
            self._server.shutdown()
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._requests, timeout=_PATIENCE)
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[Any]:
        with self._idle:
            if self._closed:
                start_response("503 Service Unavailable", [("Content-Length", "0")])
                return []
            self._requests += 1
        try:
            response: Iterable[Any] = self._handler(environ, start_response)
            return response
        finally:
            with self._idle:
                self._requests -= 1
                self._idle.notify_all()
