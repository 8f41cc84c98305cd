"""A faithful stand-in for the courts' portal, with its traps: tests and `make run` talk to this one."""

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import orjson
from aiohttp import web

from service.core.cnj import parse_process_number
from service.core.errors import InvalidProcessNumberError
from service.sandbox.cases import (
    CaseDocument,
    Special,
    body,
    body_chunks,
    fails_in_codex,
    find_document,
    process_object,
    special_of,
    text_of,
)

PREFIX = "/api/v2"

_WHOLE_BODY_BYTES = 1024 * 1024
_DRIPS = 20
_BURST = 4.0
_REQUESTS_PER_S = 4.0
_BINARIES_BEFORE_EXPIRY = 4


@dataclass
class PortalState:
    """What one portal has seen and remembers; a new application starts afresh.

    Attributes:
        binaries: document uuid -> requests for its binary that passed the token, throttle and firewall.
        processes: 20 digits -> reads of the process that passed the same.
        in_flight: requests inside /api/v2 being answered now.
        max_in_flight: the most of them there ever were at once.
        outage: a status that answers every request under /api/v2 as long as it is set.
        turned_away: requests answered with it.
        levels: 20 digits, or a document's uuid -> its `nivelSigilo`, in place of the one it has by itself.
        prefix: of the API's paths; all others are its web page's.
    """

    latency_s: float
    token: str | None
    drip_s: float
    expiry_s: float
    clock: Callable[[], float]
    binaries: Counter[str] = field(default_factory=Counter)
    processes: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    max_in_flight: int = 0
    outage: int | None = None
    turned_away: int = 0
    levels: dict[str, int | str] = field(default_factory=dict)
    prefix: str = PREFIX
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    binaries_by_case: Counter[str] = field(default_factory=Counter)
    expired_until: dict[str, float] = field(default_factory=dict)
    buckets: dict[str, "_Bucket"] = field(default_factory=dict)
    throttled: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one request as in flight while the block runs."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1


@dataclass
class _Bucket:
    """A token bucket: `_BURST` requests at once, then `_REQUESTS_PER_S`."""

    taken_at: float
    level: float = _BURST

    def take(self, now: float) -> bool:
        self.level = min(_BURST, self.level + (now - self.taken_at) * _REQUESTS_PER_S)
        self.taken_at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


PORTAL_STATE: web.AppKey[PortalState] = web.AppKey("portal_state", PortalState)
DIGITS: web.RequestKey[str] = web.RequestKey("digits", str)
"""The process that the path names, by its 20 digits."""


def create_portal(
    *,
    latency_s: float = 0.5,
    token: str | None = None,
    drip_s: float = 5.0,
    expiry_s: float = 3.0,
    clock: Callable[[], float] = time.monotonic,
) -> web.Application:
    """Build the portal; it answers under `/api/v2`, and everywhere else with its web page.

    Args:
        latency_s: the median wait before each answer of the API; 0 for none.
        token: the only bearer token that is let in; without one, everybody is.
        drip_s: how long each document of the slow case takes.
        expiry_s: how long the token of the case with an expiring token is refused.
        clock: monotonic seconds, for the throttle and the expiry.
    """
    app = web.Application(middlewares=[admit, open_case])
    app[PORTAL_STATE] = PortalState(latency_s, token, drip_s, expiry_s, clock)
    app.on_shutdown.append(let_go)
    process = f"{PREFIX}/processos/{{number}}"
    app.router.add_get(process, _get_process)
    app.router.add_get(f"{process}/documentos/{{uuid}}/binario", get_binary)
    app.router.add_get(f"{process}/documentos/{{uuid}}/texto", get_text)
    app.router.add_route("*", f"{PREFIX}{{rest:(/.*)?}}", answer_unknown_route)
    app.router.add_route("*", "/{rest:.*}", _answer_shell)
    return app


async def let_go(app: web.Application) -> None:
    """Let requests that are never answered end with the server."""
    app[PORTAL_STATE].closing.set()


# On the way in ------------------------------------------------------------------------------------

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count, wait, meet the outage and check the token, for the API but not for the web page."""
    state = request.app[PORTAL_STATE]
    if request.path != state.prefix and not request.path.startswith(f"{state.prefix}/"):
        return await handler(request)
    with state.counted():
        if state.latency_s > 0:
            await asyncio.sleep(state.latency_s * random.lognormvariate(0, 0.25))
        if state.outage is not None:
            state.turned_away += 1
            return web.Response(status=state.outage)
        if state.token is not None and request.headers.get("Authorization") != f"Bearer {state.token}":
            return _unauthorized()
        return await handler(request)


@web.middleware
async def open_case(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Read the number in the path and let the case turn the request away, whatever it asks for."""
    if (number := request.match_info.get("number")) is None:
        return await handler(request)
    try:
        digits = parse_process_number(number)
    except InvalidProcessNumberError:
        return answer_absent()
    gate = _GATES.get(special_of(digits), _stand_open)
    if (refusal := gate(request.app[PORTAL_STATE], digits)) is not None:
        return refusal
    request[DIGITS] = digits
    return await handler(request)


def _stand_open(_state: PortalState, _digits: str) -> web.Response | None:
    return None


def _refuse_access(_state: PortalState, _digits: str) -> web.Response:
    return answer_json({"code": "403", "message": "Usuário não possui acesso ao processo."}, status=403)


def _throttle(state: PortalState, digits: str) -> web.Response | None:
    bucket = state.buckets.setdefault(digits, _Bucket(state.clock()))
    if bucket.take(state.clock()):
        return None
    state.throttled[digits] += 1
    answer = answer_json({"code": "429", "message": "Limite de requisições excedido."}, status=429)
    if state.throttled[digits] % 2:
        answer.headers["Retry-After"] = "1"
    return answer


def _expire_token(state: PortalState, digits: str) -> web.Response | None:
    if state.binaries_by_case[digits] < _BINARIES_BEFORE_EXPIRY:
        return None
    # It runs from the first refusal, so that a client slower than the expiry meets it too.
    now = state.clock()
    return _unauthorized() if now < state.expired_until.setdefault(digits, now + state.expiry_s) else None


def _reject(_state: PortalState, _digits: str) -> web.Response:
    return _firewall_page()


def _firewall_page() -> web.Response:
    page = "<html><head><title>Request Rejected</title></head><body>The request was rejected.</body></html>"
    return web.Response(text=page, content_type="text/html", status=403)


_GATES: dict[int, Callable[[PortalState, str], web.Response | None]] = {
    Special.NO_ACCESS: _refuse_access,
    Special.THROTTLED: _throttle,
    Special.TOKEN_EXPIRES: _expire_token,
    Special.FIREWALL: _reject,
}


# Processes ----------------------------------------------------------------------------------------


async def _get_process(request: web.Request) -> web.StreamResponse:
    if (refusal := await note_read(request)) is not None:
        return refusal
    digits = request[DIGITS]
    state = request.app[PORTAL_STATE]
    return answer_json([process_object(digits, reads=state.processes[digits], levels=state.levels)])


async def note_read(request: web.Request) -> web.StreamResponse | None:
    """Count a read of the process; return what is answered in place of it, if it is a special one."""
    state, digits = request.app[PORTAL_STATE], request[DIGITS]
    state.processes[digits] += 1
    special = special_of(digits)
    if special == Special.HANGING:
        return await _hang(request)
    if special == Special.BUSY and state.processes[digits] <= 2:
        return _gateway_error(503)
    return answer_json([]) if special == Special.UNKNOWN else None


async def _hang(request: web.Request) -> web.Response:
    """Say nothing until the client goes away; aiohttp has no event for that, so look now and then."""
    closing = request.app[PORTAL_STATE].closing
    while request.transport is not None and not closing.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(closing.wait(), 0.1)
    return _cut(request)


# Documents ----------------------------------------------------------------------------------------


async def get_binary(request: web.Request) -> web.StreamResponse:
    """Send the body of a document, or what goes wrong with it."""
    state, digits = request.app[PORTAL_STATE], request[DIGITS]
    document = asked_document(request)
    if isinstance(document, web.Response):
        return document
    uuid = request.match_info["uuid"].lower()
    state.binaries[uuid] += 1
    state.binaries_by_case[digits] += 1
    if fails_in_codex(digits, document):
        return answer_codex_failure(request)
    if special_of(digits) == Special.FLAKY and state.binaries[uuid] == 1:
        return await _FLAWS[document.position % len(_FLAWS)](request, document)
    if special_of(digits) == Special.SLOW:
        return await _send_pieces(request, document, _drip(document, state.drip_s), document.size)
    return await _send(request, document)


async def get_text(request: web.Request) -> web.StreamResponse:
    """Send the text of a document, if there is one."""
    document = asked_document(request)
    if isinstance(document, web.Response):
        return document
    text = text_of(document)
    return (
        answer_absent()
        if text is None
        else web.Response(text=text, content_type="text/plain", charset="utf-8")
    )


def asked_document(request: web.Request) -> CaseDocument | web.Response:
    """Find the document that the path names, under its own uuid or that of a stale copy."""
    try:
        uuid = str(UUID(request.match_info["uuid"]))
    except ValueError:
        return answer_json(
            _error(request, 400, "Bad Request", "Identificador de documento inválido."), status=400
        )
    digits = request[DIGITS]
    reads = request.app[PORTAL_STATE].processes[digits]
    return find_document(digits, uuid, reads=reads) or answer_absent()


async def _send(request: web.Request, document: CaseDocument) -> web.StreamResponse:
    if document.size > _WHOLE_BODY_BYTES:
        return await _send_pieces(request, document, _at_once(document), document.size)
    return web.Response(body=body(document), headers={"Content-Type": document.declared_type})


async def _send_pieces(
    request: web.Request, document: CaseDocument, pieces: AsyncIterator[bytes], length: int
) -> web.StreamResponse:
    """Send a body piece by piece; one shorter than `length` is cut off by the closing connection."""
    response = web.StreamResponse(headers={"Content-Type": document.declared_type})
    response.content_length = length
    sent = 0
    # A client that goes away in the middle is nothing to report.
    with suppress(ConnectionError):
        await response.prepare(request)
        async for piece in pieces:
            await response.write(piece)
            sent += len(piece)
    if sent < length:
        response.force_close()
    return response


async def _at_once(document: CaseDocument) -> AsyncIterator[bytes]:
    for chunk in body_chunks(document):
        yield chunk


async def _drip(document: CaseDocument, drip_s: float) -> AsyncIterator[bytes]:
    whole = body(document)
    step = len(whole) // _DRIPS + 1
    for start in range(0, len(whole), step):
        await asyncio.sleep(drip_s / _DRIPS)
        yield whole[start : start + step]


async def _first_half(document: CaseDocument) -> AsyncIterator[bytes]:
    yield body(document)[: document.size // 2]


# Flaws of the flaky case, in turn -----------------------------------------------------------------


async def _flaw_bad_gateway(_request: web.Request, _document: CaseDocument) -> web.StreamResponse:
    return _gateway_error(502)


async def _flaw_unavailable(_request: web.Request, _document: CaseDocument) -> web.StreamResponse:
    return _gateway_error(503)


async def _flaw_reset(request: web.Request, _document: CaseDocument) -> web.StreamResponse:
    return _cut(request)


async def _flaw_truncated(request: web.Request, document: CaseDocument) -> web.StreamResponse:
    return await _send_pieces(request, document, _first_half(document), document.size)


async def _flaw_shell(request: web.Request, _document: CaseDocument) -> web.StreamResponse:
    return await _answer_shell(request)


async def _flaw_envelope(request: web.Request, _document: CaseDocument) -> web.StreamResponse:
    return answer_json(_error(request, 500, "Internal Server Error", "Serviço temporariamente indisponível."))


_FLAWS: tuple[Callable[[web.Request, CaseDocument], Awaitable[web.StreamResponse]], ...] = (
    _flaw_bad_gateway,
    _flaw_unavailable,
    _flaw_reset,
    _flaw_truncated,
    _flaw_shell,
    _flaw_envelope,
)


# Answers ------------------------------------------------------------------------------------------

_SHELL = """<!doctype html>
<html lang="pt-BR">
<head>
<meta charset="utf-8">
<title>Portal de Serviços - PDPJ</title>
<base href="/">
<meta name="viewport" content="width=device-width, initial-scale=1">
{styles}
</head>
<body>
<app-root ng-version="17.3.12"></app-root>
<noscript>Este aplicativo precisa de JavaScript.</noscript>
{scripts}
</body>
</html>
""".format(
    styles="\n".join(
        f'<link rel="modulepreload" href="chunk-{part * 7919:08X}.js">' for part in range(1, 39)
    ),
    scripts="\n".join(
        f'<script src="{name}.js" type="module"></script>' for name in ("polyfills", "scripts", "main")
    ),
)


async def _answer_shell(_request: web.Request) -> web.Response:
    return web.Response(text=_SHELL, content_type="text/html", charset="utf-8")


async def answer_unknown_route(request: web.Request) -> web.Response:
    """Say that there is no such path."""
    return answer_json(_error(request, 404, "Not Found", ""), status=404)


def answer_json(content: object, *, status: int = 200) -> web.Response:
    """Answer with JSON."""
    return web.Response(body=orjson.dumps(content), content_type="application/json", status=status)


def _error(request: web.Request, status: int, error: str, message: str) -> dict[str, object]:
    """The envelope of the portal's own framework; the time is an integer of milliseconds."""
    now_ms = int(time.time() * 1000)
    return {"timestamp": now_ms, "status": status, "error": error, "message": message, "path": request.path}


def answer_codex_failure(request: web.Request) -> web.Response:
    """Say that the court's store behind the API failed."""
    content = _error(request, 500, "Internal Server Error", "Erro interno na API do Codex.") | {
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "externalUrlService": "https://codex.exemplo.invalid/documentos",
    }
    return answer_json(content, status=500)


def answer_absent() -> web.Response:
    """Say that there is no such process or document."""
    return answer_json(
        {"code": "404", "message": "Não foram encontrados registros para a consulta."}, status=404
    )


def _unauthorized() -> web.Response:
    return web.Response(status=401)


def _gateway_error(status: int) -> web.Response:
    page = f"<html><body><h1>{status}</h1><p>Serviço indisponível no momento.</p></body></html>"
    return web.Response(text=page, content_type="text/html", status=status)


_OUTAGES: dict[int, Callable[[], web.Response]] = {401: _unauthorized, 403: _firewall_page}


def _cut(request: web.Request) -> web.Response:
    """Reset the connection; the answer returned is for aiohttp only, it never leaves."""
    if (transport := request.transport) is not None:
        if (connection := transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=503)
