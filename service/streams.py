"""Server-sent events (HTML standard, section 9.2: https://html.spec.whatwg.org/#server-sent-events).

An `EventSource` that is answered with an error gives up for good, so a stream that cannot be served now is an
empty one: its reader comes again.
"""

import asyncio
import random

from aiohttp import web

COME_AGAIN_MS = 2000
SILENCE_S = 15.0
"""No stream is silent for longer, and no key that has ended is good for longer."""

_COME_AGAIN_LATER_MS = 10_000
# Who does not read for so long is let go; he comes again and is told what he has missed.
_WRITE_TIMEOUT_S = 30.0
_HEADERS = {"Cache-Control": "private, no-cache", "X-Accel-Buffering": "no"}
EVENT_STREAM = "text/event-stream"


class Stream:
    """One reader's stream, already begun."""

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response

    async def send(self, event: str, data: bytes, *, event_id: str | None = None) -> None:
        """Send an event; `data` is JSON in one line.

        Raises:
            OSError: the reader went away, or did not read for half a minute.
        """
        last = f"id: {event_id}\n" if event_id is not None else ""
        await self._write(f"{last}event: {event}\ndata: ".encode() + data + b"\n\n")

    async def mark(self, event_id: str) -> None:
        """Let the reader know where he stands, without an event."""
        await self._write(f"id: {event_id}\n\n".encode())

    async def show_life(self) -> None:
        """Send a comment, so that nobody between us and the reader takes the connection for dead."""
        await self._write(b":\n\n")

    async def begin(self) -> None:
        """Say when to come again: not all at once, should we go away."""
        await self._write(f"retry: {_jittered(COME_AGAIN_MS)}\n\n".encode())

    async def _write(self, data: bytes) -> None:
        async with asyncio.timeout(_WRITE_TIMEOUT_S):  # a TimeoutError is an OSError
            await self.response.write(data)


async def open_stream(request: web.Request) -> Stream:
    """Begin the answer."""
    response = web.StreamResponse(headers=_HEADERS)
    response.content_type = EVENT_STREAM
    response.force_close()
    await response.prepare(request)
    stream = Stream(response)
    await stream.begin()
    return stream


def come_again() -> web.Response:
    """Return an empty stream, whose reader asks again in some seconds."""
    text = f"retry: {_jittered(_COME_AGAIN_LATER_MS)}\n\n"
    return web.Response(text=text, content_type=EVENT_STREAM, headers=_HEADERS)


def last_event_id(request: web.Request) -> int | None:
    """Return the id of the last event that the reader got; None for none, and for what is none of ours."""
    text = request.headers.get("Last-Event-ID") or request.query.get("last_event_id") or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def _jittered(time_ms: int) -> int:
    return round(time_ms * random.uniform(0.8, 1.2))  # noqa: S311
