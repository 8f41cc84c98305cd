"""Answers that are sent while they are made: they have every header, and none that breaks off looks whole."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.app import create_app
from service.core.settings import Settings
from service.middleware import page, public, stream
from tests.log_lines import log_lines

BEGINNING = b"a beginning"
SAFE = (
    "Content-Security-Policy",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-Request-ID",
)


@asynccontextmanager
async def _breaking(settings: Settings, error: Exception) -> AsyncIterator[tuple[TestServer, asyncio.Event]]:
    """An API with handlers that begin an answer and raise when the event is set."""
    go = asyncio.Event()

    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(BEGINNING)
        await go.wait()
        raise error

    async def breaks_as_page(request: web.Request) -> web.StreamResponse:
        return await breaks(request)

    async def breaks_as_stream(request: web.Request) -> web.StreamResponse:
        return await breaks(request)

    app = create_app(settings)
    app.add_routes(
        [
            web.get("/breaks", public(breaks)),
            web.get("/page", page(breaks_as_page)),
            web.get("/stream", public(stream(breaks_as_stream))),
        ]
    )
    server = TestServer(app, auto_decompress=False)
    async with server:
        yield server, go


async def _read_raw(server: TestServer, path: str, version: str, go: asyncio.Event) -> bytes:
    """Return what comes down the connection until it is reset."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        async with asyncio.timeout(10):
            writer.write(f"GET {path} HTTP/{version}\r\nHost: autos\r\n\r\n".encode())
            got = await reader.readuntil(BEGINNING)
            go.set()
            with suppress(ConnectionResetError):
                while more := await reader.read(4096):
                    got += more
                pytest.fail(f"the connection ended in good order, after {got!r}")
    finally:
        writer.close()
    return got


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_that_breaks_off_is_reset_and_nothing_is_written_into_it(
    settings: Settings, version: str
) -> None:
    """What ends in good order ends an answer of HTTP/1.0, and so proxies like to ask."""
    for path in ("/breaks", "/page", "/stream"):
        with log_lines() as lines:
            async with _breaking(settings, RuntimeError("a defect")) as (server, go):
                got = await _read_raw(server, path, version, go)
        assert got.count(b"HTTP/1.") == 1
        assert got.rstrip().endswith(BEGINNING)  # and no last chunk of nothing after it
        told = [one for one in lines if one["level"] == "ERROR"]
        assert len(told) == 1
        assert "a defect" in str(told[0])


async def test_a_caller_sees_that_an_answer_broke_off(settings: Settings) -> None:
    async with (
        _breaking(settings, RuntimeError("a defect")) as (server, go),
        asyncio.timeout(10),
        aiohttp.ClientSession() as http,
        http.get(server.make_url("/breaks")) as response,
    ):
        assert response.status == 200
        go.set()
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_a_reader_who_leaves_is_no_defect(settings: Settings) -> None:
    with log_lines() as lines:
        async with (
            _breaking(settings, ConnectionResetError()) as (server, go),
            asyncio.timeout(10),
            aiohttp.ClientSession() as http,
            http.get(server.make_url("/breaks")) as response,
        ):
            go.set()
            with pytest.raises(aiohttp.ClientError):
                await response.read()
    assert not [one for one in lines if one["level"] in ("WARNING", "ERROR")]


async def test_every_answer_has_the_safe_headers_and_names_no_library(settings: Settings) -> None:
    async with (
        _breaking(settings, RuntimeError("a defect")) as (server, _),
        aiohttp.ClientSession() as http,
    ):
        for path, expect in (
            ("/breaks", ""),
            ("/nothing", ""),
            ("/healthz", ""),
            ("/", ""),
            ("/healthz", "the impossible"),  # aiohttp refuses this before any code of ours
        ):
            headers = {"Expect": expect} if expect else {}
            async with http.get(server.make_url(path), headers=headers, allow_redirects=False) as response:
                assert response.headers["Server"] == "Autos", path
                # What is refused before our code has no id yet.
                assert [one for one in SAFE if one not in response.headers] == (
                    ["X-Request-ID"] if expect else []
                ), path
