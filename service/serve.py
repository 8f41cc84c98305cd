"""The API as a process: it listens until it is told to stop."""

import asyncio
import logging
import signal
import sys

from aiohttp import web

from service.app import MAX_LINE_BYTES, create_app
from service.core.garbage import leave_alone_what_lives
from service.core.key_ring import NO_KEYS
from service.core.settings import Settings
from service.keys import DRAINING, NEWS

_KEEPALIVE_TIMEOUT_S = 75.0

log = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Answer requests until SIGTERM, then finish those that are under way."""
    if not settings.key_ring:
        log.warning(NO_KEYS)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    app = create_app(settings)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=_KEEPALIVE_TIMEOUT_S,
        shutdown_timeout=settings.drain_s,
        # A compressed body would be unpacked, and a refused one read to its end, before any of our
        # limits is asked.
        auto_decompress=False,
        lingering_time=0,
        max_line_size=MAX_LINE_BYTES,
    )
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
