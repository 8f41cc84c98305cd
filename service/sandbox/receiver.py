"""A webhook receiver to look at: checks each signature, keeps what came, and says a line about it."""

import json
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import web

from service.core.signing import parse_secret, verify

KEPT = 200

_SECRET = web.AppKey("secret", bytes)


@dataclass(frozen=True)
class Received:
    """One request that came in.

    Attributes:
        webhook_id: the header; None when it is missing.
        webhook_timestamp: the header, unix seconds in text; None when it is missing.
        valid: whether the signature is right and the timestamp recent.
        body: the JSON value, or the text when it is no JSON.
    """

    webhook_id: str | None
    webhook_timestamp: str | None
    valid: bool
    body: Any

    def line(self) -> str:
        """Return what is worth knowing at a glance."""
        body = self.body if isinstance(self.body, dict) else {}
        words = (body.get(name) for name in ("type", "process_number", "status"))
        shown = " ".join(_printable(word) for word in words if word)
        return f"webhook: {shown or 'unknown body'}, signature {'valid' if self.valid else 'NOT VALID'}"


_RECEIVED = web.AppKey("received", deque[Received])


def create_receiver(secret: str) -> web.Application:
    """Build the receiver: POST anywhere takes a webhook, GET lists the last 200, DELETE forgets them.

    Args:
        secret: the signing secret, `whsec_` and base64.

    Raises:
        ValueError: that is no signing secret.
    """
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app[_SECRET] = parse_secret(secret)
    app[_RECEIVED] = deque(maxlen=KEPT)
    app.router.add_post("/{path:.*}", take)
    app.router.add_get("/{path:.*}", show)
    app.router.add_delete("/{path:.*}", forget)
    return app


async def take(request: web.Request) -> web.Response:
    """Answer 200, whether the signature is valid or not: the list says which."""
    raw = await request.read()
    received = Received(
        request.headers.get("webhook-id"),
        request.headers.get("webhook-timestamp"),
        verify([request.app[_SECRET]], request.headers, raw),
        _parse(raw),
    )
    request.app[_RECEIVED].appendleft(received)
    print(received.line(), flush=True)
    return web.Response()


async def show(request: web.Request) -> web.Response:
    """Answer what came, newest first: `[{webhook_id, webhook_timestamp, valid, body}]`."""
    return web.json_response([asdict(received) for received in request.app[_RECEIVED]])


async def forget(request: web.Request) -> web.Response:
    """Forget what came."""
    request.app[_RECEIVED].clear()
    return web.Response(status=204)


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")


def _printable(word: object) -> str:
    """Keep a body's text from steering the terminal."""
    return "".join(letter for letter in str(word)[:80] if letter.isprintable())
