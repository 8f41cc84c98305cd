"""How our servers speak HTTP: their bounds, and an answer in our own words to what is no HTTP.

aiohttp would repeat the bytes that it could not read, in its answer and in the log, and they may hold a key.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from service.core.log import bound

_UNREADABLE = "the request is not HTTP as RFC 9112 has it"

Refuse = Callable[[int, str, str], web.Response]
"""Makes the answer to what no handler sees, of its status (400 or 500), what is wrong, and the id it has."""

log = logging.getLogger(__name__)


class HttpRunner(web.AppRunner):
    """Serves an application."""

    def __init__(
        self,
        app: web.Application,
        refuse: Refuse,
        *,
        max_line_bytes: int,
        keepalive_s: float,
        shutdown_s: float,
    ) -> None:
        """Prepare to serve.

        Args:
            max_line_bytes: of the request line, and of each field of the header.
            keepalive_s: a connection may be idle for so long.
            shutdown_s: requests that are under way have so long to end.
        """
        super().__init__(app, handle_signals=False, shutdown_timeout=shutdown_s)
        self._refuse = refuse
        self._max_line_bytes = max_line_bytes
        self._keepalive_s = keepalive_s

    async def _make_server(self) -> web.Server:
        """Return what makes a connection's protocol; aiohttp lets nobody name the class of it."""
        server = await super()._make_server()
        return _Server(
            self._refuse,
            server.request_handler,
            request_factory=server.request_factory,
            access_log=None,
            keepalive_timeout=self._keepalive_s,
            # A compressed body would be unpacked, and a refused one read to its end, before any of our
            # limits is asked.
            auto_decompress=False,
            lingering_time=0,
            max_line_size=self._max_line_bytes,
            max_field_size=self._max_line_bytes,
        )


class _Server(web.Server):
    def __init__(self, refuse: Refuse, handler: Any, *, request_factory: Any, **options: Any) -> None:
        super().__init__(handler, request_factory=request_factory)
        self._refuse = refuse
        self._options = options

    def __call__(self) -> web.RequestHandler:
        return _Connection(self._refuse, self, loop=asyncio.get_running_loop(), **self._options)


class _Connection(web.RequestHandler):
    __slots__ = ("_refuse",)

    def __init__(self, refuse: Refuse, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._refuse = refuse

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it repeats the bytes
    ) -> web.StreamResponse:
        """Answer what no handler saw, and end the connection."""
        request_id = uuid4().hex
        with bound(request_id=request_id):
            if status == web.HTTPInternalServerError.status_code:
                log.error("a request failed outside its handler", exc_info=exc)
            else:
                log.info("a request could not be read: %s", type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun")
        response = self._refuse(status, _say(exc, self.max_line_size), request_id)
        response.force_close()
        return response


def _say(error: BaseException | None, max_line_bytes: int) -> str:
    if isinstance(error, LineTooLong):
        return f"the request has a line of more than {max_line_bytes} bytes"
    return _UNREADABLE
