"""A webhook receiver whose answers the test sets, and which tells when something came."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from service.webhook_schemas import EVENTS


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The body as JSON, which is as the API describes this type of event."""
        event: dict[str, Any] = json.loads(self.body)
        if model := EVENTS.get(event.get("type", "")):
            model.model_validate(event)
            assert event.keys() <= model.model_fields.keys()
        return event


@dataclass
class Receiver:
    """What came so far, and what will be answered: `statuses` in turn, then 204 for ever."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    received: list[Received] = field(default_factory=list)
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def wait_for(self, count: int) -> list[Received]:
        """Return what came once there are so many."""
        async with asyncio.timeout(30), self._came:
            await self._came.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def handle(self, request: web.Request) -> web.Response:
        """Keep the request and answer as the test wants."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        async with self._came:
            self.received.append(Received(request.path_qs, headers, body))
            self._came.notify_all()
        status = self.statuses.pop(0) if self.statuses else 204
        return web.Response(status=status, headers=self.headers, text=self.body if status != 204 else None)


@asynccontextmanager
async def open_receiver() -> AsyncIterator[Receiver]:
    """Serve a receiver on loopback."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    server = TestServer(app)
    await server.start_server()
    receiver.url = str(server.make_url("/hook"))
    try:
        yield receiver
    finally:
        await server.close()
