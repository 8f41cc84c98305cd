"""The portal's client, against servers whose answers the test sets."""

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.core import cnj
from service.core.errors import (
    BadContentError,
    CodexFailureError,
    PortalError,
    PortalUnauthorizedError,
    PortalUnavailableError,
    ProcessNotFoundError,
    RefusedError,
)
from service.core.portal import Portal, open_portal
from service.core.settings import Settings
from service.core.token_source import FixedToken
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
        made = Settings.model_validate({"portal_url": url, **settings})
        async with open_portal(made.portal, FixedToken("secret-token")) as portal:
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
        [process_object(NUMBER), process_object(NUMBER)],
        [{"numeroProcesso": cnj.mask(NUMBER), "tramitacaoAtual": None}],
        {"status": 200, "message": "manutenção", "error": "x"},
    ],
)
async def test_a_process_described_otherwise_is_not_taken_for_an_empty_one(described: Any) -> None:
    async with portal_answering(answering(described)) as portal:
        with pytest.raises(BadContentError):
            await portal.read_process(NUMBER)


async def test_a_description_of_another_shape_costs_neither_the_case_nor_its_documents() -> None:
    described: dict[str, Any] = deepcopy(dict(process_object(NUMBER)))
    described |= {"siglaTribunal": ["odd"], "novidade": {}}
    described["tramitacaoAtual"] |= {
        "assunto": {"descricao": "no list"},
        "classe": ["odd"],
        "movimentos": "none",
        "tribunal": "no object",
        "grau": 1,
        "valorAcao": "R$ 1.000,00",
        "dataHoraAjuizamento": [],
    }
    first = described["tramitacaoAtual"]["documentos"][0]
    first |= {"sequencia": None, "tipo": "Petição", "dataHoraJuntada": "9999-12-31T23:59:59"}
    async with portal_answering(answering([described])) as portal:
        record = await portal.read_process(NUMBER)
    assert len(record.documents) == 26
    assert record.documents[0].filed_at is None
    assert (record.court, record.subject, record.case_class, record.source_updated_at) == (None,) * 4


async def test_a_link_into_another_process_is_no_file_of_this_one() -> None:
    described: dict[str, Any] = deepcopy(dict(process_object(NUMBER)))
    first = described["tramitacaoAtual"]["documentos"][0]
    first["hrefBinario"] = f"/processos/1000145-91.2023.8.26.0597/documentos/{UUID_}/binario"
    async with portal_answering(answering([described])) as portal:
        record = await portal.read_process(NUMBER)
    assert [document.has_file for document in record.documents] == [False] + [True] * 25
    assert record.documents[0].uuid != UUID_


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
            assert (stream.declared_type, stream.declared_bytes) == ("text/richtext", len(PDF))
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
        (answering(b"", status=304), BadContentError),
        (answering(b"", status=302), BadContentError),
        (answering(b"", status=401), PortalUnauthorizedError),
        (answering({"timestamp": "x", "externalUrlService": "y"}, status=500), CodexFailureError),
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


async def _dripping_from_the_start(request: web.Request) -> web.StreamResponse:
    """Not even the beginning comes, and no single read takes long."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


async def _dripping_an_error(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=500)
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


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


BREAKING_OFF = [
    _dripping,
    _dripping_an_error,
    _dripping_from_the_start,
    _reset,
    _silent,
    _silent_after_the_head,
    _truncated,
]


@pytest.mark.parametrize("handler", BREAKING_OFF)
async def test_a_body_that_breaks_off_is_a_passing_fault(handler: Handler) -> None:
    async with portal_answering(handler, portal_read_timeout_s=0.3) as portal:
        with pytest.raises(PortalUnavailableError):
            await read_document(portal)


@pytest.mark.parametrize("handler", [_dripping, _reset, _silent, _truncated])
async def test_a_description_that_breaks_off_is_a_passing_fault(handler: Handler) -> None:
    async with portal_answering(handler, portal_read_timeout_s=0.2) as portal:
        with pytest.raises(PortalUnavailableError):
            await portal.read_process(NUMBER)


@pytest.mark.parametrize("handler", [_dripping, _reset, _silent, _truncated])
async def test_a_text_that_breaks_off_is_a_passing_fault(handler: Handler) -> None:
    async with portal_answering(handler, portal_read_timeout_s=0.2) as portal:
        with pytest.raises(PortalUnavailableError):
            await portal.read_text(NUMBER, UUID_)


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("ação".encode(), "text/plain; charset=utf-8", "ação"),
        ("ação".encode("latin-1"), "text/plain; charset=iso-8859-1", "ação"),
        ("ação".encode(), "text/plain", "ação"),
        ("ação".encode(), "text/plain; charset=nonsense", "ação"),
        (b"a\xffb", "text/plain", "a\ufffdb"),
        (b"", "text/plain", ""),
    ],
)
async def test_a_text_is_read_in_the_encoding_it_has(body: bytes, content_type: str, text: str) -> None:
    async with portal_answering(answering(body, headers={"Content-Type": content_type})) as portal:
        assert await portal.read_text(NUMBER, UUID_) == text


async def test_a_text_of_more_than_8_mib_is_refused() -> None:
    most = 8 * 1024 * 1024
    async with portal_answering(answering(b"x" * most)) as portal:
        assert len(await portal.read_text(NUMBER, UUID_)) == most
    async with portal_answering(answering(b"x" * (most + 1))) as portal:
        with pytest.raises(RefusedError) as caught:
            await portal.read_text(NUMBER, UUID_)
    assert caught.value.code == "too_large"


async def test_a_slow_reader_is_no_slow_portal() -> None:
    body = PDF * 50
    received = 0
    async with (
        portal_answering(answering(body), portal_read_timeout_s=0.2) as portal,
        portal.open_document(NUMBER, UUID_) as stream,
    ):
        async for chunk in stream.chunks:
            received += len(chunk)
            await asyncio.sleep(0.05)
    assert received == len(body)


async def test_what_fails_while_a_document_is_open_is_not_blamed_on_the_portal() -> None:
    async with portal_answering(answering(PDF)) as portal:
        with pytest.raises(OSError, match="disk"):
            async with portal.open_document(NUMBER, UUID_):
                raise OSError("the disk is full")


async def test_documents_that_are_left_unread_do_no_harm_to_the_next() -> None:
    async with portal_answering(answering(PDF * 100)) as portal:
        for _ in range(5):
            async with portal.open_document(NUMBER, UUID_) as stream:
                await anext(stream.chunks)
        assert await read_document(portal) == PDF * 100


async def test_a_portal_that_is_not_there_is_a_passing_fault() -> None:
    settings = Settings.model_validate({"portal_url": "http://127.0.0.1:1/api/v2"})
    async with open_portal(settings.portal, FixedToken(None)) as portal:
        with pytest.raises(PortalUnavailableError):
            await portal.read_process(NUMBER)


@asynccontextmanager
async def another_place() -> AsyncIterator[tuple[str, list[str]]]:
    """A server that is not the portal: its address, and the tokens that reached it."""
    tokens: list[str] = []

    async def serve(request: web.Request) -> web.Response:
        tokens.append(request.headers.get("Authorization", "none"))
        return web.Response(body=PDF)

    app = web.Application()
    app.router.add_get("/{path:.*}", serve)
    async with TestServer(app) as server:
        yield str(server.make_url("/binary?signature=abc")), tokens


def redirecting(location: str) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    return handler


async def test_no_redirect_leads_to_another_place() -> None:
    async with another_place() as (target, tokens), portal_answering(redirecting(target)) as portal:
        with pytest.raises(RefusedError) as refused:
            await read_document(portal)
    assert refused.value.code == "bad_redirect"
    assert "signature" not in str(refused.value)
    assert tokens == []


async def test_a_host_that_the_operator_allows_gets_the_request_but_never_the_token() -> None:
    async with (
        another_place() as (target, tokens),
        portal_answering(redirecting(target), portal_redirect_hosts="files.example, 127.0.0.1") as portal,
    ):
        assert await read_document(portal) == PDF
    assert tokens == ["none"]


@pytest.mark.parametrize(
    "location",
    [
        "http://localhost:1/x",
        "https://evil.example/x",
        "https://files.example.evil.example/x",
        "https://evil.example@files.example/x",
        "ftp://files.example/x",
        "//evil.example/x",
        "https://[/x",
        "javascript:alert(1)",
    ],
)
async def test_a_redirect_that_is_not_allowed_is_not_followed(location: str) -> None:
    async with portal_answering(redirecting(location), portal_redirect_hosts="files.example") as portal:
        with pytest.raises(RefusedError, match="not allowed"):
            await read_document(portal)


async def test_a_redirect_inside_the_portal_is_followed_three_times_at_most() -> None:
    hops: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        hops.append(request.headers["Authorization"])
        wanted = int(request.query.get("left", "3"))
        if wanted == 0:
            return web.Response(body=PDF)
        return web.Response(status=307, headers={"Location": f"{request.path}?left={wanted - 1}"})

    async with portal_answering(handler) as portal:
        assert await read_document(portal) == PDF
    assert hops == ["Bearer secret-token"] * 4
    async with portal_answering(redirecting("?again")) as portal:
        with pytest.raises(RefusedError, match="too often"):
            await read_document(portal)


async def test_no_error_carries_the_token_or_an_address() -> None:
    async with portal_answering(_reset) as portal:
        with pytest.raises(PortalUnavailableError) as failed:
            await read_document(portal)
    told = "".join(traceback.format_exception(failed.value))
    assert "secret-token" not in told
    assert "127.0.0.1" not in told
