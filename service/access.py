"""Each request has an id, which the caller may choose, and one line in the log when it is over."""

import logging
import re
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

from aiohttp import web

from service.core.log import bound
from service.keys import CLIENT, REQUEST_ID, SETTINGS

REQUEST_ID_HEADER = "X-Request-ID"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Asked every few seconds by machines.
_CHATTER = ("/healthz", "/readyz", "/metrics")
# Of a request whose handler was cut off before it had an answer.
_NO_STATUS = 0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


@web.middleware
async def log_access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Name the request in every line of the log, and write its own at its end."""
    request[REQUEST_ID] = request_id = _given_id(request) or uuid4().hex
    begun, status = time.perf_counter(), _NO_STATUS
    with bound(request_id=request_id):
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as answer:
            status = answer.status
            raise
        finally:
            if request.app[SETTINGS].log_requests:
                _write_line(request, status, time.perf_counter() - begun)
    return response


async def tell_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Let every answer name its request: streams, too, whose headers are gone when their handler ends."""
    if request_id := request.get(REQUEST_ID):  # none where aiohttp answers before us, as to a strange Expect
        response.headers[REQUEST_ID_HEADER] = request_id


def _given_id(request: web.Request) -> str | None:
    given = request.headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else None


def _write_line(request: web.Request, status: int, took_s: float) -> None:
    # The route, not the path, which holds process numbers; nothing of the query, which may hold tokens.
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "(no route)"
    client = request.get(CLIENT)
    log.log(
        logging.DEBUG if route.endswith(_CHATTER) else logging.INFO,
        "%s %s %d %.1f ms client %s",
        request.method,
        route,
        status,
        took_s * 1000,
        client.id if client else "-",
    )
