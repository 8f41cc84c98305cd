"""The API as a process: it listens until it is told to stop."""

import asyncio
import logging
import signal
import sys

from aiohttp import web

from service import problems
from service.access import REQUEST_ID_HEADER
from service.app import create_app
from service.core.garbage import leave_alone_what_lives
from service.core.http_runner import HttpRunner
from service.core.key_ring import NO_KEYS
from service.core.settings import Settings
from service.keys import DRAINING, NEWS, SETTINGS
from service.middleware import SAFE_HEADERS
from service.problems import ProblemError, problem_response
from service.words import ENGLISH

_MAX_LINE_BYTES = 16 * 1024
"""Of a request line: 200 ids need half of it."""

_KEEPALIVE_S = 75.0

log = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Answer requests until SIGTERM, then finish those that are under way."""
    if not settings.key_ring:
        log.warning(NO_KEYS)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    app = create_app(settings)
    runner = make_runner(app, shutdown_s=settings.drain_s)
    try:
        await runner.setup()
        leave_alone_what_lives()
        await web.TCPSite(runner, settings.host, settings.port, reuse_port=False).start()
        print(f"autos: listening on {settings.host}:{settings.port}", file=sys.stderr, flush=True)
        await stop.wait()
        # It still answers for a while, and each answer ends its connection: who sends a request down a
        # connection in the moment in which it is closed cannot know whether it was heard.
        app[DRAINING].set()
        app[NEWS].may_have_come()
        await asyncio.sleep(settings.drain_notice_s)
    finally:
        await runner.cleanup()


def make_runner(app: web.Application, *, shutdown_s: float) -> HttpRunner:
    """Prepare to serve the API; requests that are under way have `shutdown_s` to end."""

    def refuse(status: int, detail: str, request_id: str) -> web.Response:
        is_bad = status == web.HTTPBadRequest.status_code
        response = problem_response(
            ProblemError(problems.BAD_REQUEST, detail) if is_bad else ProblemError(problems.INTERNAL),
            base_url=app[SETTINGS].public_url,
            instance="/",  # what it asked for is not known
            language=ENGLISH,
            request_id=request_id,
        )
        response.headers.update(SAFE_HEADERS | {REQUEST_ID_HEADER: request_id})
        return response

    return HttpRunner(
        app, refuse, max_line_bytes=_MAX_LINE_BYTES, keepalive_s=_KEEPALIVE_S, shutdown_s=shutdown_s
    )
