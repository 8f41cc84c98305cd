"""The whole of Autos in the test's own process: API, worker, stand-in portal, with real backends."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from service.app import create_app
from service.core import clients
from service.core.clients import Client
from service.core.db import Database
from service.core.errors import DatabaseUnavailableError
from service.core.news import News
from service.core.pulse import Pulses
from service.core.settings import Settings
from service.keys import DATABASE, DRAINING, LOAD, NEWS, OPENAPI, PULSES
from service.load import Load
from service.sandbox.data_lake import FILES, Files, create_data_lake
from service.sandbox.data_lake import PREFIX as DATA_LAKE_PREFIX
from service.sandbox.portal import PORTAL_STATE, PortalState, create_portal
from service.serve import make_runner
from service.streams import SILENCE_S
from tests.contract import Contract
from tests.rings import RING, secret_of
from worker.main import open_worker

FINAL = ("completed", "partial", "failed", "cancelled")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    text: str
    json: Any


@dataclass
class Caller:
    """A client of the API with its key."""

    base_url: str
    http: aiohttp.ClientSession
    key: str
    client: clients.Client
    webhook_secret: bytes = b""

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        """Send one request; redirects are answers, not followed."""
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        async with self.http.request(
            method, self.base_url + path, headers=headers, allow_redirects=False, **options
        ) as response:
            text = await response.text()
            is_json = response.content_type.endswith("json")
            value = await response.json(content_type=None) if is_json else None
            return Answer(response.status, response.headers, text, value)

    async def get(self, path: str, **options: Any) -> Answer:
        """GET."""
        return await self.call("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        """POST."""
        return await self.call("POST", path, **options)

    async def wait_until_final(self, number: str, *, timeout_s: float = 60) -> dict[str, Any]:
        """Poll the status as a caller would and return the final one; each is checked on the way."""
        last: dict[str, Any] = {"progress_percentage": 0, "sequence": 0}
        async with asyncio.timeout(timeout_s):
            while last.get("status") not in FINAL:
                if last.get("status"):
                    await asyncio.sleep(0.05)
                answer = await self.get(f"/processes/{number}/status")
                if answer.status == 503:  # a busy machine; who polls comes again, as the answer says
                    continue
                assert answer.status == 200, answer.text
                now: dict[str, Any] = answer.json
                if now["job_id"] == last.get("job_id"):
                    assert now["progress_percentage"] >= last["progress_percentage"]
                    assert now["sequence"] >= last["sequence"]
                assert (now["progress_percentage"] == 100) == (now["status"] in FINAL)
                last = now
        return last


@dataclass
class World:
    """A running Autos; every part can be reached, none is patched."""

    settings: Settings
    db: Database
    http: aiohttp.ClientSession
    base_url: str
    portal: PortalState
    news: News
    draining: asyncio.Event
    load: Load
    pulses: Pulses
    _stack: AsyncExitStack = field(repr=False, default_factory=AsyncExitStack)

    def drain(self) -> None:
        """Let the API behave as a process that is about to end."""
        self.draining.set()
        self.news.may_have_come()

    async def caller(self, name: str = "acme", *, scopes: Collection[str] = clients.SCOPES) -> Caller:
        """Return a client with a key of its own; the same name twice is one client with two keys."""
        key = clients.new_key()
        # A busy machine may let the API's own patience with PostgreSQL run out.
        tries = AsyncRetrying(
            retry=retry_if_exception_type(DatabaseUnavailableError), stop=stop_after_attempt(5), reraise=True
        )
        added: tuple[Client, bytes] = await tries(self._add_client, name, key, scopes)
        return Caller(self.base_url, self.http, key, *added)

    async def _add_client(self, name: str, key: str, scopes: Collection[str]) -> tuple[Client, bytes]:
        async with self.db.transaction() as conn:
            client, _ = await clients.ensure(conn, RING, name)
            await clients.add_key(conn, client.id, key, scopes=scopes)
            return client, await secret_of(conn, client.id)

    async def until(self, query: str, *arguments: object, timeout_s: float = 60) -> None:
        """Wait until a query of one boolean says yes; each look has a connection of its own.

        No process lends a connection for as long as a test may have to wait on a busy machine.
        """
        async with asyncio.timeout(timeout_s):
            while not await self._says(query, *arguments):
                await asyncio.sleep(0.03)

    async def _says(self, query: str, *arguments: object) -> bool:
        async with self.db.connection() as conn:
            return bool(await conn.fetchval(query, *arguments))


async def until(is_so: Callable[[], bool], *, timeout_s: float = 30) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def open_api(
    settings: Settings, *, silence_s: float = SILENCE_S
) -> AsyncIterator[tuple[str, web.Application]]:
    """Serve the API on a free port; yields its address and the application."""
    app = create_app(settings, silence_s=silence_s)
    runner = make_runner(app, shutdown_s=60)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", app
    finally:
        await runner.cleanup()


@asynccontextmanager
async def open_portal_stand_in(latency_s: float = 0.0) -> AsyncIterator[tuple[str, PortalState]]:
    """Serve the stand-in portal; yields the address of its API and its state."""
    app = create_portal(latency_s=latency_s, token="portal-token", drip_s=0.5, expiry_s=0.7)
    server = TestServer(app)
    await server.start_server()
    try:
        yield str(server.make_url("/api/v2")), app[PORTAL_STATE]
    finally:
        await server.close()


@dataclass(frozen=True)
class DataLakeStandIn:
    """The stand-in data lake; `settings` lead to it."""

    settings: dict[str, Any]
    state: PortalState
    files: Files


@asynccontextmanager
async def open_data_lake_stand_in(*, prepare_s: int = 0) -> AsyncIterator[DataLakeStandIn]:
    """Serve the stand-in data lake and the site of its files."""
    api, files = create_data_lake(
        latency_s=0, token="lake-token", drip_s=0.5, expiry_s=0.7, prepare_s=prepare_s
    )
    async with TestServer(api) as server, TestServer(files) as site:
        api[FILES].url = str(site.make_url("")).rstrip("/")
        settings = {
            "data_lake_url": str(server.make_url(DATA_LAKE_PREFIX)),
            "data_lake_token": "lake-token",
            "data_lake_redirect_hosts": "127.0.0.1",
            "data_lake_operator_cpf": "00000000191",
            "data_lake_concurrency": 32,
            "data_lake_concurrency_start": 32,
        }
        yield DataLakeStandIn(settings, api[PORTAL_STATE], api[FILES])


@asynccontextmanager
async def open_world(
    settings: Settings, *, with_worker: bool = True, latency_s: float = 0.0, silence_s: float = SILENCE_S
) -> AsyncIterator[World]:
    """Start a portal, an API and, if wished, a worker, on the backends that `settings` name."""
    async with AsyncExitStack() as stack:
        portal_url, portal = await stack.enter_async_context(open_portal_stand_in(latency_s))
        settings = settings.model_copy(update={"portal_url": portal_url})
        base_url, app = await stack.enter_async_context(open_api(settings, silence_s=silence_s))
        if with_worker:
            await stack.enter_async_context(open_worker(settings))
        contract = Contract(base_url, app[OPENAPI])
        http = await stack.enter_async_context(aiohttp.ClientSession(middlewares=(contract,)))
        yield World(
            settings,
            app[DATABASE],
            http,
            base_url,
            portal,
            app[NEWS],
            app[DRAINING],
            app[LOAD],
            app[PULSES],
        )
