"""A server that stands before another one, remembers what was asked, and misbehaves as a test tells it to."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from tests.core.s3_servers import Fault

_OF_ONE_HOP = ("Transfer-Encoding", "Connection", "Keep-Alive")


@dataclass(frozen=True)
class Seen:
    """One request and what was answered; `is_whole` is false when the answer was cut."""

    method: str
    path: str
    headers: dict[str, str]
    status: int
    answered: dict[str, str]
    is_whole: bool


@dataclass
class Front:
    """Passes requests on with the host that they were sent to, since that is signed.

    Attributes:
        matches: the requests that are meant by what follows, by method and path.
        faults: what happens to the first of them, the second, and so on, before they are passed on.
        cuts: after which bytes the answers to the first of them, and so on, are cut; None for not at all.
        loses: how many answers are lost whole, though the request arrives.
        ignored: headers that are not passed on.
        is_spoiled: whether the last byte of each answer is another one.
        is_endless: whether each answer goes on and on.
    """

    target: str
    url: str = ""
    matches: str = ".*"
    faults: list[Fault] = field(default_factory=list)
    cuts: list[re.Pattern[bytes] | int | None] = field(default_factory=list)
    loses: int = 0
    ignored: set[str] = field(default_factory=set)
    is_spoiled: bool = False
    is_endless: bool = False
    seen: list[Seen] = field(default_factory=list)
    session: aiohttp.ClientSession = field(init=False, repr=False)

    def asked(self, matches: str) -> list[Seen]:
        """The requests so far whose method and path match."""
        return [one for one in self.seen if re.search(matches, f"{one.method} {one.path}")]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer any request."""
        is_meant = re.search(self.matches, f"{request.method} {request.raw_path}") is not None
        if is_meant and self.faults and (response := await self.faults.pop(0)(request)):
            self._note(request, response.status, {}, is_whole=True)
            return response
        headers = {name: value for name, value in request.headers.items() if name not in self.ignored}
        async with self.session.request(
            request.method,
            URL(self.target + request.raw_path, encoded=True),
            headers=headers,
            data=await request.read(),
            allow_redirects=False,
        ) as upstream:
            return await self._pass_on(request, upstream, is_meant=is_meant)

    async def _pass_on(
        self, request: web.Request, upstream: aiohttp.ClientResponse, *, is_meant: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=upstream.status)
        response.headers.update({k: v for k, v in upstream.headers.items() if k not in _OF_ONE_HOP})
        if self.is_endless and is_meant:
            del response.headers["Content-Length"]
        cut = self.cuts.pop(0) if is_meant and self.cuts else None
        if is_meant and self.loses:
            self.loses -= 1
            await upstream.read()
            return self._cut_off(request, upstream, response)
        await response.prepare(request)
        passed, size = bytearray(), int(upstream.headers.get("Content-Length", 0))
        async for chunk in upstream.content.iter_any():
            passed += chunk
            if isinstance(cut, int) and len(passed) > cut:
                await response.write(chunk[: cut - len(passed)])
                return self._cut_off(request, upstream, response)
            if is_meant and self.is_spoiled and len(passed) == size:
                chunk = chunk[:-1] + bytes([chunk[-1] ^ 1])  # noqa: PLW2901
            await response.write(chunk)
            if isinstance(cut, re.Pattern) and cut.search(passed):
                return self._cut_off(request, upstream, response)
        while self.is_endless and is_meant:
            await response.write(b"more" * 1024)
        self._note(request, upstream.status, upstream.headers, is_whole=True)
        await response.write_eof()
        return response

    def _cut_off(
        self, request: web.Request, upstream: aiohttp.ClientResponse, response: web.StreamResponse
    ) -> web.StreamResponse:
        """Close the connection; what was written before arrives."""
        self._note(request, upstream.status, upstream.headers, is_whole=False)
        assert request.transport is not None
        request.transport.close()
        return response

    def _note(
        self, request: web.Request, status: int, answered: Mapping[str, str], *, is_whole: bool
    ) -> None:
        headers = dict(request.headers)
        self.seen.append(Seen(request.method, request.raw_path, headers, status, dict(answered), is_whole))


@asynccontextmanager
async def open_front(target: str = "") -> AsyncIterator[Front]:
    """Serve on a free port of loopback; the target may be set later."""
    front = Front(target)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", front.answer)
    server = TestServer(app)
    # Requests that hang end with their connection.
    await server.start_server(shutdown_timeout=0.1)
    front.url = str(server.make_url("")).rstrip("/")
    async with aiohttp.ClientSession(
        auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        front.session = session
        try:
            yield front
        finally:
            await server.close()
