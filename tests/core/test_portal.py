"""The portal's client, against servers whose answers the test sets."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.core import cnj
from service.core.errors import (
    BadContentError,
    PortalError,
    PortalUnavailableError,
    ProcessNotFoundError,
    RefusedError,
)
from service.core.portal import Portal, open_portal
from service.core.settings import Settings
from service.sandbox.cases import process_object

NUMBER = "10035792220258260564"
UUID_ = UUID("9a87a518-93e8-5bb6-af38-59189fe6c8f8")
PDF = b"%PDF-1.7\n" + b"x" * 20_000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def portal_answering(handler: Handler, **settings: Any) -> AsyncIterator[Portal]:
    """A client whose portal answers everything with one handler."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    async with TestServer(app) as server:
        url = str(server.make_url("/api/v2"))
        async with open_portal(
            Settings.model_validate({"portal_url": url, "portal_token": "secret-token", **settings})
        ) as portal:
            yield portal


async def read_document(portal: Portal) -> bytes:
    async with portal.open_document(NUMBER, UUID_) as stream:
        return b"".join([chunk async for chunk in stream.chunks])


def answering(body: bytes | dict[str, Any] | list[Any], **options: Any) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=sent, **options)

    return handler


@pytest.mark.parametrize("is_bare", [False, True])
async def test_a_process_is_read_from_an_array_and_from_a_bare_object(is_bare: bool) -> None:
    described = process_object(NUMBER)
    async with portal_answering(answering(described if is_bare else [described])) as portal:
        record = await portal.read_process(NUMBER)
    assert (record.number, record.court, len(record.documents)) == (NUMBER, "TJSP", 26)
    assert len({document.uuid for document in record.documents}) == 26


async def test_the_token_and_an_honest_name_are_sent_to_the_masked_path() -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return web.json_response([process_object(NUMBER)])

    async with portal_answering(handler) as portal:
        await portal.read_process(NUMBER)
    (request,) = seen
    assert request.path == f"/api/v2/processos/{cnj.mask(NUMBER)}"
    assert request.headers["Authorization"] == "Bearer secret-token"
    assert request.headers["User-Agent"].startswith("Autos/")
    assert request.headers["Accept-Encoding"] == "identity"


async def test_an_empty_array_is_an_absent_process() -> None:
    async with portal_answering(answering([])) as portal:
        with pytest.raises(ProcessNotFoundError):
            await portal.read_process(NUMBER)


def _other_process() -> dict[str, Any]:
    return {**process_object(NUMBER), "numeroProcesso": "1000145-91.2023.8.26.0597"}


@pytest.mark.parametrize(
    "described",
    [
        b"<html><app-root></app-root></html>",
        b"no json",
        [{}],
        [{"numeroProcesso": cnj.mask(NUMBER)}],
        [{"numeroProcesso": cnj.mask(NUMBER), "tramitacaoAtual": {"documentos": ["odd"]}}],
        [_other_process()],
        {"status": 200, "message": "manutenção", "error": "x"},
    ],
)
async def test_a_process_described_otherwise_is_not_taken_for_an_empty_one(described: Any) -> None:
    async with portal_answering(answering(described)) as portal:
        with pytest.raises(BadContentError):
            await portal.read_process(NUMBER)


async def test_an_answer_without_bound_is_cut() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 1024 * 1024)

    async with portal_answering(handler) as portal:
        with pytest.raises(BadContentError, match="too large"):
            await portal.read_process(NUMBER)


async def test_a_document_is_streamed_whole_with_the_type_of_its_bytes() -> None:
    async with portal_answering(answering(PDF, content_type="text/richtext")) as portal:
        async with portal.open_document(NUMBER, UUID_) as stream:
            assert (stream.media_type, stream.extension) == ("application/pdf", "pdf")
            assert stream.declared_bytes == len(PDF)
        assert await read_document(portal) == PDF


async def test_a_document_of_21_bytes_of_html_is_a_document() -> None:
    body = b"<p>Vista ao autor</p>"
    async with portal_answering(answering(body, content_type="text/html")) as portal:
        assert await read_document(portal) == body


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (answering(b"<html><app-root></app-root>", content_type="text/html"), BadContentError),
        (answering({"status": 500, "error": "x"}), BadContentError),
        (answering(b""), BadContentError),
        (answering(PDF, headers={"Content-Encoding": "gzip"}), BadContentError),
        (answering(b"", status=503), PortalUnavailableError),
    ],
)
async def test_what_is_no_document_is_refused(handler: Handler, expected: type[PortalError]) -> None:
    async with portal_answering(handler) as portal:
        with pytest.raises(expected):
            await read_document(portal)


async def _truncated(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(PDF))})
    await response.prepare(request)
    await response.write(PDF[:9000])
    assert request.transport
    request.transport.close()
    return response


async def _reset(request: web.Request) -> web.StreamResponse:
    assert request.transport
    request.transport.abort()
    return web.Response()


async def _silent(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


async def _silent_after_the_head(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(PDF))})
    await response.prepare(request)
    await response.write(PDF[:9000])
    await asyncio.Event().wait()
    return response


async def _dripping(request: web.Request) -> web.StreamResponse:
    """A byte at a time keeps every read time-out quiet."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(PDF[:9000])
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("handler", [_dripping, _truncated, _reset, _silent, _silent_after_the_head])
async def test_a_body_that_breaks_off_is_a_passing_fault(handler: Handler) -> None:
    async with portal_answering(handler, portal_read_timeout_s=0.3) as portal:
        with pytest.raises(PortalUnavailableError):
            await read_document(portal)


async def test_a_portal_that_is_not_there_is_a_passing_fault() -> None:
    settings = Settings.model_validate({"portal_url": "http://127.0.0.1:1/api/v2"})
    async with open_portal(settings) as portal:
        with pytest.raises(PortalUnavailableError):
            await portal.read_process(NUMBER)


async def test_the_token_never_follows_a_redirect_to_another_place() -> None:
    reached: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        reached.append(request.headers.get("Authorization", "none"))
        return web.Response(body=PDF)

    other = web.Application()
    other.router.add_get("/{path:.*}", elsewhere)
    async with TestServer(other) as server:
        target = str(server.make_url("/binary"))

        async def handler(_request: web.Request) -> web.Response:
            return web.Response(status=302, headers={"Location": target})

        async with portal_answering(handler) as portal:
            with pytest.raises(RefusedError) as refused:
                await read_document(portal)
    assert refused.value.code == "bad_redirect"
    assert reached == []


async def test_a_redirect_inside_the_portal_is_followed_three_times_at_most() -> None:
    hops: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        hops.append(request.headers["Authorization"])
        wanted = int(request.query.get("left", "3"))
        if wanted == 0:
            return web.Response(body=PDF)
        return web.Response(status=307, headers={"Location": f"{request.path}?left={wanted - 1}"})

    async def loop(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": request.path})

    async with portal_answering(handler) as portal:
        assert await read_document(portal) == PDF
    assert hops == ["Bearer secret-token"] * 4
    async with portal_answering(loop) as portal:
        with pytest.raises(RefusedError, match="too often"):
            await read_document(portal)


async def test_no_error_carries_the_token_or_an_address() -> None:
    async with portal_answering(_reset) as portal:
        with pytest.raises(PortalUnavailableError) as failed:
            await read_document(portal)
    assert "secret-token" not in str(failed.value)
    assert "127.0.0.1" not in str(failed.value)
