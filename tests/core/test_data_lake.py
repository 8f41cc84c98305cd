"""The data lake's client, against servers whose answers the test sets."""

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.core import cnj
from service.core.data_lake import DataLake, open_data_lake
from service.core.errors import (
    BadContentError,
    CodexFailureError,
    DocumentNotReadyError,
    LinkRefusedError,
    NoAccessError,
    PortalError,
    PortalOverloadedError,
    PortalThrottledError,
    PortalUnauthorizedError,
    PortalUnavailableError,
    ProcessNotFoundError,
    RefusedError,
)
from service.core.settings import Settings
from service.core.token_source import FixedToken
from service.sandbox.cases import process_object

NUMBER = "10035792220258260564"
UUID_ = UUID("9a87a518-93e8-5bb6-af38-59189fe6c8f8")
PDF = b"%PDF-1.7\n" + b"x" * 20_000
CPF = "00000000191"
OPERATOR = "X-PDPJ-CPF-USUARIO-OPERADOR"
LINK_QUERY = "X-Amz-Signature=hush%2Fhush%20hush"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    """A data lake, and beside it the place that its links lead to; `answers` are by the path's last part."""

    answers: dict[str, Answer] = field(default_factory=dict)
    file: Answer | None = None
    seen: list[web.Request] = field(default_factory=list)
    fetched: list[web.Request] = field(default_factory=list)
    link: str = ""

    def asked(self) -> list[str]:
        """Method and last part of the path of each request."""
        return [f"{request.method} {request.path.rpartition('/')[2]}" for request in self.seen]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request to the API."""
        self.seen.append(request)
        last = request.path.rpartition("/")[2]
        name = "processo" if last == cnj.mask(NUMBER) else last
        if (answer := self.answers.get(name)) is None:
            said = {"timestamp": 1, "status": 404, "error": "Not Found", "message": "", "path": request.path}
            return web.json_response(said, status=404)
        return await answer(request)

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for a file."""
        self.fetched.append(request)
        return await self.file(request) if self.file else web.Response(body=PDF)


@asynccontextmanager
async def opened(server: Server, **settings: Any) -> AsyncIterator[DataLake]:
    """A client of the server, which may follow its links."""
    api, files = web.Application(), web.Application()
    api.router.add_route("*", "/{path:.*}", server.answer)
    files.router.add_route("*", "/{path:.*}", server.send)
    async with TestServer(api) as at, TestServer(files) as files_at:
        server.link = f"{files_at.make_url('/a')}?{LINK_QUERY}"
        made = Settings.model_validate(
            {
                "data_lake_url": str(at.make_url("/processo-api/api/v1")),
                "data_lake_redirect_hosts": "127.0.0.1",
                "data_lake_operator_cpf": "000.000.001-91",
                **settings,
            }
        )
        async with open_data_lake(made.data_lake, FixedToken("secret-token")) as data_lake:
            yield data_lake


def saying(said: Any, **options: Any) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=said if isinstance(said, bytes) else json.dumps(said).encode(), **options)

    return answer


def described(**course: Any) -> dict[str, Any]:
    """A process as the data lake has it: without its documents."""
    process: dict[str, Any] = deepcopy(dict(process_object(NUMBER)))
    del process["tramitacaoAtual"]["documentos"]
    process["tramitacaoAtual"] |= course
    return process


def listed() -> list[dict[str, Any]]:
    course: Any = process_object(NUMBER)["tramitacaoAtual"]
    return deepcopy(course["documentos"])


def listing(**answers: Answer) -> Server:
    """A server that has the process and its list."""
    at_first = {"processo": saying([described()]), "documentos": saying({"documentos": listed()})}
    return Server({**at_first, **answers})


def linking(server: Server, form: Callable[[str], Any] = lambda link: {"url": link}) -> Server:
    """Let the server give its link, in this form."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await saying(form(server.link))(request)

    server.answers["binario-url"] = answer
    return server


async def read_document(data_lake: DataLake) -> bytes:
    async with data_lake.open_document(NUMBER, UUID_) as stream:
        return b"".join([chunk async for chunk in stream.chunks])


# The process and its list -------------------------------------------------------------------------


@pytest.mark.parametrize("is_bare", [False, True])
async def test_a_process_and_its_list_are_read_apart_with_token_and_operator(is_bare: bool) -> None:
    server = listing(processo=saying(described() if is_bare else [described()]))
    async with opened(server) as data_lake:
        record = await data_lake.read_process(NUMBER)
    assert record is not None
    by_portal = {item["hrefBinario"].split("/")[4] for item in listed()}
    assert {str(document.uuid) for document in record.documents} == by_portal
    assert (record.number, record.court, len(record.documents), record.changed_at) == (
        NUMBER,
        "TJSP",
        26,
        None,
    )
    assert server.asked() == ["HEAD ultima-atualizacao", f"GET {cnj.mask(NUMBER)}", "GET documentos"]
    for request in server.seen:
        assert request.path.startswith(f"/processo-api/api/v1/processos/{cnj.mask(NUMBER)}")
        assert request.headers["Authorization"] == "Bearer secret-token"
        assert request.headers[OPERATOR] == CPF


async def test_a_document_without_a_link_is_known_by_its_id_and_one_of_elsewhere_by_none() -> None:
    items = listed()[:4]
    uuids = [item["hrefBinario"].split("/")[4] for item in items]
    items[0] |= {"hrefBinario": None, "id": uuids[0]}
    items[1] |= {"hrefBinario": f"{items[1]['hrefBinario']}-url"}
    items[2] |= {
        "hrefBinario": f"/processos/1000145-91.2023.8.26.0597/documentos/{UUID_}/binario",
        "id": uuids[2],
    }
    items[3] |= {"hrefBinario": None, "id": 12345}
    async with opened(listing(documentos=saying({"documentos": items}))) as data_lake:
        record = await data_lake.read_process(NUMBER)
    assert record is not None
    assert [document.has_file for document in record.documents] == [True, True, False, False]
    assert [str(document.uuid) for document in record.documents[:2]] == uuids[:2]


@pytest.mark.parametrize("said", [{"documentos": None}, {"documentos": []}])
async def test_an_empty_list_is_a_process_without_documents(said: Any) -> None:
    async with opened(listing(documentos=saying(said))) as data_lake:
        record = await data_lake.read_process(NUMBER)
    assert record is not None
    assert record.documents == []


ABSENT = saying({"code": "404", "message": "Não foram encontrados registros"}, status=404)


@pytest.mark.parametrize(
    "answer",
    [
        saying({}),
        saying([]),
        saying(None),
        saying(b"no json"),
        saying({"documentos": ["odd"]}),
        saying({"documentos": {}}),
        saying({"status": 200, "message": "manutenção"}),
        saying(b"<html><app-root></app-root></html>"),
        ABSENT,  # the process is there: its list has to be somewhere
    ],
)
async def test_a_list_of_another_shape_is_not_taken_for_an_empty_one(answer: Answer) -> None:
    async with opened(listing(documentos=answer)) as data_lake:
        with pytest.raises(BadContentError):
            await data_lake.read_process(NUMBER)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (saying([]), ProcessNotFoundError),
        (ABSENT, ProcessNotFoundError),
        (saying({"message": "não possui acesso ao processo"}, status=403), NoAccessError),
        (saying(b"", status=401), PortalUnauthorizedError),
        (saying([described(), described()]), BadContentError),
        (saying(b"", status=202), DocumentNotReadyError),
    ],
)
async def test_a_process_that_cannot_be_had_says_why(answer: Answer, expected: type[PortalError]) -> None:
    async with opened(listing(processo=answer)) as data_lake:
        with pytest.raises(expected):
            await data_lake.read_process(NUMBER)


# Its last change ----------------------------------------------------------------------------------

CHANGED_AT = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
CHANGED = "Tue, 04 Mar 2025 05:06:07 GMT"


def changed(**headers: str) -> Answer:
    return saying(b"", headers={"Last-Modified": CHANGED, **headers})


async def test_a_process_that_has_not_changed_is_told_by_one_head() -> None:
    server = listing(**{"ultima-atualizacao": changed()})
    async with opened(server) as data_lake:
        record = await data_lake.read_process(NUMBER)
        assert record is not None
        assert record.changed_at == CHANGED_AT
        server.seen.clear()
        assert await data_lake.read_process(NUMBER, known_at=CHANGED_AT) is None
        assert server.asked() == ["HEAD ultima-atualizacao"]
        other = await data_lake.read_process(NUMBER, known_at=CHANGED_AT.replace(second=8))
    assert other is not None
    assert len(other.documents) == 26


async def _never(_request: web.Request) -> web.StreamResponse:
    assert _request.transport
    _request.transport.abort()
    return web.Response()


@pytest.mark.parametrize(
    "answer",
    [
        saying(b""),
        changed(**{"Last-Modified": "yesterday"}),
        changed(**{"Last-Modified": "Tue, 04 Mar 99999 05:06:07 GMT"}),
        # Within a minute of the answer a later change may bear the same second.
        changed(Date="Tue, 04 Mar 2025 05:07:06 GMT"),
        changed(Date="Tue, 04 Mar 2025 05:06:07 GMT"),
        changed(Date="?"),
        saying(b"", status=302, headers={"Location": "/", "Last-Modified": CHANGED}),
        saying(b"", status=401),
        saying(b"", status=403),
        saying(b"", status=404),
        saying(b"", status=405),
        saying(b"", status=500),
        saying(b"", status=503),
        _never,
    ],
)
async def test_an_odd_answer_about_the_last_change_has_the_list_read_as_always(answer: Answer) -> None:
    async with opened(listing(**{"ultima-atualizacao": answer})) as data_lake:
        record = await data_lake.read_process(NUMBER, known_at=CHANGED_AT)
    assert record is not None
    assert (record.changed_at, len(record.documents)) == (None, 26)


async def test_who_is_asked_for_patience_by_the_first_request_sends_no_second() -> None:
    server = listing(**{"ultima-atualizacao": saying(b"", status=429, headers={"Retry-After": "7"})})
    async with opened(server) as data_lake:
        with pytest.raises(PortalThrottledError) as told:
            await data_lake.read_process(NUMBER)
    assert told.value.retry_after_s == 7
    assert len(server.seen) == 1


# Documents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        lambda link: {"url": link},
        lambda link: {"binarioUrl": link, "expiraEm": 60},
        lambda link: {"urlBinario": link},
        lambda link: {"url": None, "link": link},
        lambda link: {"url": link, "status": 200, "message": "ok"},
        lambda link: link,
        lambda link: f"{link}\n".encode(),
    ],
)
async def test_a_link_is_followed_as_it_stands_without_token_and_operator(form: Callable[[str], Any]) -> None:
    server = linking(Server(), form)
    async with opened(server) as data_lake, data_lake.open_document(NUMBER, UUID_) as stream:
        assert (stream.media_type, stream.declared_bytes) == ("application/pdf", len(PDF))
        assert b"".join([chunk async for chunk in stream.chunks]) == PDF
    (asked,), (fetched,) = server.seen, server.fetched
    assert asked.path.endswith(f"/documentos/{UUID_}/binario-url")
    assert asked.headers["Authorization"] == "Bearer secret-token"
    assert not {"Authorization", OPERATOR} & {*fetched.headers}
    assert fetched.raw_path == f"/a?{LINK_QUERY}"


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"url": None},
        {"url": 5},
        {"url": "/relative"},
        {"url": "ftp://127.0.0.1/x"},
        [],
        "",
        None,
        b"",
        b"<html><app-root></app-root></html>",
        {"status": 500, "message": "Erro", "error": "x"},
    ],
)
async def test_an_answer_without_a_link_is_a_passing_fault(said: Any) -> None:
    server = Server({"binario-url": saying(said)})
    async with opened(server) as data_lake:
        with pytest.raises(BadContentError):
            await read_document(data_lake)
    assert server.asked() == ["GET binario-url"]


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/x?sig=hush",
        "http://evil.example/x?sig=hush",
        "https://files.example.evil.example/x?sig=hush",
        "https://me:hush@files.example/x",
        "https://files.example /x?sig=hush",
        "https://[/x?sig=hush",
        "https://files.example/\x00?sig=hush",
        "https://files.example/ação?sig=hush",
        f"https://files.example/?sig=hush{'x' * 9000}",
    ],
)
async def test_a_link_to_a_place_that_is_not_allowed_is_not_followed_and_its_secret_not_told(
    link: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = Server({"binario-url": saying({"url": link})})
    async with opened(server, data_lake_redirect_hosts="files.example") as data_lake:
        with pytest.raises(RefusedError) as refused:
            await read_document(data_lake)
    assert refused.value.code == "bad_redirect"
    told = "".join(traceback.format_exception(refused.value)) + caplog.text
    assert "hush" not in told.replace(repr(link), "")
    if "evil.example" in link:
        assert "AUTOS_DATA_LAKE_REDIRECT_HOSTS" in caplog.text


async def test_a_link_in_clear_text_is_not_followed_by_who_asks_in_secret() -> None:
    made = Settings(data_lake_url="https://lake.example/api", data_lake_redirect_hosts=("files.example",))
    async with open_data_lake(made.data_lake, FixedToken(None)) as data_lake:
        with pytest.raises(RefusedError, match="not allowed"):
            async with data_lake._upstream.open_link("http://files.example/x"):
                pass


async def test_a_place_that_a_link_redirects_to_has_to_be_allowed_too() -> None:
    server = linking(Server(file=saying(b"", status=302, headers={"Location": "https://evil.example/"})))
    async with opened(server) as data_lake:
        with pytest.raises(RefusedError, match="not allowed"):
            await read_document(data_lake)


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_link_that_has_run_out_is_asked_for_once_more(status: int) -> None:
    refusals = [status]

    async def send(_request: web.Request) -> web.StreamResponse:
        said = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
        return web.Response(status=refusals.pop(), body=said) if refusals else web.Response(body=PDF)

    server = linking(Server(file=send))
    async with opened(server) as data_lake:
        assert await read_document(data_lake) == PDF
        assert server.asked() == ["GET binario-url"] * 2
        refusals += [status] * 9
        server.seen.clear()
        with pytest.raises(LinkRefusedError) as refused:
            await read_document(data_lake)
        assert server.asked() == ["GET binario-url"] * 2
    assert isinstance(refused.value, PortalUnavailableError)
    assert "hush" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(("headers", "wait_s"), [({"Retry-After": "3"}, 3), ({}, None)])
async def test_a_document_that_is_being_prepared_says_when_to_come_again(
    headers: dict[str, str], wait_s: float | None
) -> None:
    async with opened(Server({"binario-url": saying(b"", status=202, headers=headers)})) as data_lake:
        with pytest.raises(DocumentNotReadyError) as told:
            await read_document(data_lake)
    assert told.value.retry_after_s == wait_s


async def test_where_there_are_no_links_the_document_comes_from_the_api_itself() -> None:
    server = Server({"binario": saying(PDF)})
    async with opened(server) as data_lake:
        assert await read_document(data_lake) == PDF
    assert server.asked() == ["GET binario-url", "GET binario"]
    assert all(request.headers["Authorization"] == "Bearer secret-token" for request in server.seen)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ABSENT, ProcessNotFoundError),
        (saying({"timestamp": "x", "externalUrlService": "y"}, status=500), CodexFailureError),
        (saying(b"", status=503), PortalOverloadedError),
        (saying(b"", status=401), PortalUnauthorizedError),
    ],
)
async def test_a_link_that_cannot_be_had_is_no_reason_to_go_another_way(
    answer: Answer, expected: type[PortalError]
) -> None:
    server = Server({"binario-url": answer, "binario": saying(PDF)})
    async with opened(server) as data_lake:
        with pytest.raises(expected):
            await read_document(data_lake)
    assert server.asked() == ["GET binario-url"]


async def _truncated(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(PDF))})
    await response.prepare(request)
    await response.write(PDF[:9000])
    assert request.transport
    request.transport.close()
    return response


async def _silent(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (saying(b""), BadContentError),
        (saying(b"<html><app-root></app-root>"), BadContentError),
        (saying({"status": 500, "error": "x"}), BadContentError),
        (saying(b"<Error/>", status=404), BadContentError),
        (saying(b"", status=503), PortalUnavailableError),
        (_truncated, PortalUnavailableError),
        (_silent, PortalUnavailableError),
        (_never, PortalUnavailableError),
    ],
)
async def test_what_a_link_leads_to_is_checked_like_any_document(
    file: Answer, expected: type[PortalError]
) -> None:
    async with opened(linking(Server(file=file)), portal_read_timeout_s=0.3) as data_lake:
        with pytest.raises(expected) as failed:
            await read_document(data_lake)
    told = "".join(traceback.format_exception(failed.value))
    assert not any(secret in told for secret in ("hush", "secret-token", CPF, "127.0.0.1"))


async def test_a_text_is_read_by_its_path() -> None:
    server = Server({"texto": saying("ação".encode(), content_type="text/plain")})
    async with opened(server) as data_lake:
        assert await data_lake.read_text(NUMBER, UUID_) == "ação"
    assert server.seen[0].path.endswith(f"/documentos/{UUID_}/texto")
