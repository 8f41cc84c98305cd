"""Callers and receivers that write down what they see, for the checker."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.core import clients
from service.core.cnj import parse_process_number
from service.core.db import Connection
from tests.faults.evidence import Call, Evidence, Hook, Poll
from tests.rings import RING, secret_of

_CALL_TIMEOUT = aiohttp.ClientTimeout(total=20)


@dataclass
class Observer:
    """A client of the API who writes down every answer.

    Attributes:
        base_urls: of API processes, any of which is asked.
        unanswered: how many calls got no answer at all, and how many each status that promises nothing.
    """

    client_id: UUID
    webhook_secret: bytes
    key: str
    base_urls: Sequence[str]
    http: aiohttp.ClientSession
    evidence: Evidence
    unanswered: Counter[str]

    async def submit(self, number: str, webhook_url: str | None = None) -> UUID | None:
        """Ask for a process; the job if the answer promises one."""
        body = {"process_number": number, "webhook_url": webhook_url}
        status, answer = await self._call("POST", "/jobs", json=body)
        return self._acknowledged(number, webhook_url, status, answer)

    async def ask(self, number: str, webhook_url: str | None = None) -> UUID | None:
        """The same by `GET /processes/{number}`."""
        params = {"webhook_url": webhook_url} if webhook_url else {}
        status, answer = await self._call("GET", f"/processes/{number}", params=params)
        return self._acknowledged(number, webhook_url, status, answer)

    async def retry(self, job_id: UUID, number: str) -> UUID | None:
        """Ask for what a job left out."""
        status, answer = await self._call("POST", f"/jobs/{job_id}/retry")
        return self._acknowledged(number, None, status, answer)

    async def cancel(self, job_id: UUID) -> None:
        """Give a job up; a conflict is an answer too."""
        status, answer = await self._call("POST", f"/jobs/{job_id}/cancel")
        if status == 200:
            self._polled(job_id, status, answer)

    async def erase(self, number: str) -> UUID | None:
        """Erase a process; the erasure's id if the answer has one."""
        status, answer = await self._call("DELETE", f"/processes/{number}")
        return UUID(answer["id"]) if status == 202 else None

    async def poll(self, job_id: UUID) -> dict[str, Any]:
        """Look at a job; an empty dictionary when there was no answer."""
        status, answer = await self._call("GET", f"/jobs/{job_id}")
        if status is not None and status < 500:
            self._polled(job_id, status, answer)
        return answer

    def _polled(self, job_id: UUID, status: int, answer: dict[str, Any]) -> None:
        self.evidence.polls.append(Poll(self.client_id, job_id, status, answer, datetime.now(UTC)))

    def _acknowledged(
        self, number: str, webhook_url: str | None, status: int | None, answer: dict[str, Any]
    ) -> UUID | None:
        if status not in (200, 202):
            return None
        job_id = UUID(answer["job_id"])
        digits = parse_process_number(number)
        call = Call(self.client_id, digits, job_id, status, webhook_url, datetime.now(UTC))
        self.evidence.calls.append(call)
        return job_id

    async def _call(self, method: str, path: str, **options: Any) -> tuple[int | None, dict[str, Any]]:
        url = random.choice(self.base_urls) + path
        headers = {"Authorization": f"Bearer {self.key}"}
        try:
            async with self.http.request(
                method, url, headers=headers, timeout=_CALL_TIMEOUT, **options
            ) as response:
                answer = json.loads(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.unanswered[type(error).__name__] += 1
            return None, {}
        if response.status >= 400:
            self.unanswered[str(response.status)] += 1
        return response.status, answer if response.status < 400 else {}


async def new_observer(
    conn: Connection, name: str, *, base_urls: Sequence[str], http: aiohttp.ClientSession, evidence: Evidence
) -> Observer:
    """Make a client with a key of its own."""
    key = clients.new_key()
    client, _ = await clients.ensure(conn, RING, name)
    await clients.add_key(conn, client.id, key)
    evidence.secrets.append(key)
    return Observer(client.id, await secret_of(conn, client.id), key, base_urls, http, evidence, Counter())


# Receivers ----------------------------------------------------------------------------------------

Manner = Callable[[web.Request, int], Awaitable[web.StreamResponse | None]]
"""How a receiver answers the n-th request for one webhook id; None when it gives no answer."""


async def _ok(_request: web.Request, _number: int) -> web.StreamResponse:
    return web.Response(status=204)


async def _fails_at_first(_request: web.Request, number: int) -> web.StreamResponse:
    return web.Response(status=500 if number <= 2 else 200)


async def _fails_often(_request: web.Request, number: int) -> web.StreamResponse:
    return web.Response(status=random.choice((200, 400, 429, 503)) if number < 6 else 200)


async def _is_slow(_request: web.Request, _number: int) -> web.StreamResponse:
    await asyncio.sleep(0.5)
    return web.Response(status=200)


async def _resets(request: web.Request, number: int) -> web.StreamResponse | None:
    if number > 2:
        return web.Response(status=200)
    if request.transport:
        request.transport.abort()
    return None


async def _hangs(request: web.Request, number: int) -> web.StreamResponse | None:
    if number > 1:
        return web.Response(status=200)
    while request.transport is not None:
        await asyncio.sleep(0.1)
    return None


async def _is_gone(_request: web.Request, _number: int) -> web.StreamResponse:
    return web.Response(status=410)


async def _redirects(request: web.Request, number: int) -> web.StreamResponse:
    if number > 1:
        return web.Response(status=200)
    return web.Response(status=302, headers={"Location": str(request.url.with_path("/elsewhere"))})


async def _never_ends(request: web.Request, _number: int) -> web.StreamResponse:
    """A success: the status line decides."""
    response = web.StreamResponse()
    try:
        await response.prepare(request)
        while True:
            await response.write(b"x" * 1024)
            await asyncio.sleep(0.01)
    except (ConnectionError, OSError):
        return response


MANNERS: dict[str, Manner] = {
    "ok": _ok,
    "fails-at-first": _fails_at_first,
    "fails-often": _fails_often,
    "slow": _is_slow,
    "resets": _resets,
    "hangs": _hangs,
    "gone": _is_gone,
    "redirects": _redirects,
    "never-ends": _never_ends,
}


@asynccontextmanager
async def open_receivers(evidence: Evidence) -> AsyncIterator[int]:
    """Serve every manner under a path of its name; yields the port."""
    seen: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.StreamResponse:
        at, body = datetime.now(UTC), await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen[headers.get("webhook-id", "")] += 1
        manner = MANNERS.get(request.path.split("/")[1], _ok)
        place = len(evidence.hooks)
        evidence.hooks.append(Hook(str(request.url), headers, body, None, at))
        # What never ends has said its status before it returns.
        if manner is _never_ends:
            evidence.hooks[place] = Hook(str(request.url), headers, body, 200, at)
        response = await manner(request, seen[headers.get("webhook-id", "")])
        if response is None:
            return web.Response()
        evidence.hooks[place] = Hook(str(request.url), headers, body, response.status, at)
        return response

    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", answer)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0.5)
    assert server.port is not None
    try:
        yield server.port
    finally:
        await server.close()
