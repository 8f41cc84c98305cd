"""Around every handler: errors become problems, callers are known, headers are safe."""

import logging
import math
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import web

from service import problems
from service.core import clients
from service.core.clients import Client
from service.core.errors import (
    DatabaseUnavailableError,
    DestinationRefusedError,
    EndpointDisabledError,
    ErasedError,
    InvalidProcessNumberError,
    JobFinalError,
    JobSharedError,
    KeyInUseError,
    KeyReusedError,
    NotFoundError,
    NothingToRetryError,
    StorageUnavailableError,
    TooManyActiveJobsError,
    TooManyEndpointsError,
    UnknownEndpointError,
)
from service.core.rate_limit import WINDOW_S, Verdict
from service.keys import (
    BEGUN,
    CLIENT,
    DRAINING,
    LOAD,
    LOOK_AGAIN,
    LOOKUPS,
    RATE_LIMIT,
    REQUEST_ID,
    SETTINGS,
    VERDICT,
)
from service.load import Kind
from service.problems import ProblemError, problem_response
from service.requests import asked_language
from service.streams import come_again

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ShowProblem = Callable[[web.Request, ProblemError], web.Response]

ERROR_PAGE = web.AppKey[ShowProblem]("error_page")
"""Answers people, who asked for a page."""

SAFE_HEADERS = {
    "Server": "Autos",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}
_RETRY_AFTER_S = "2"
_RETRY_QUOTA_AFTER_S = "30"

# Errors whose own words are the detail of the problem.
_SAID: dict[type[Exception], problems.Problem] = {
    NotFoundError: problems.NOT_FOUND,
    JobFinalError: problems.JOB_FINAL,
    JobSharedError: problems.JOB_SHARED,
    KeyInUseError: problems.KEY_IN_USE,
    KeyReusedError: problems.KEY_REUSED,
    ErasedError: problems.ERASED,
    NothingToRetryError: problems.NOTHING_TO_RETRY,
    EndpointDisabledError: problems.ENDPOINT_DISABLED,
    TooManyEndpointsError: problems.TOO_MANY_ENDPOINTS,
}

# Errors of validation, each with the member that it is about.
_AT: dict[type[Exception], str] = {
    DestinationRefusedError: "#/webhook_url",
    UnknownEndpointError: "#/webhook_endpoint_id",
}

log = logging.getLogger(__name__)


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Translate every error into a problem answer, in this one place."""
    try:
        response = await handler(request)
    except Exception as error:
        if BEGUN in request:
            _cut_short(request, error)
            return request[BEGUN]
        response = _answer(request, error)
    if not response.prepared and request.app[DRAINING].is_set():
        response.force_close()
    return response


def _answer(request: web.Request, error: Exception) -> web.Response:
    """Tell of an error in the form that is of use to who asked."""
    handler, problem = request.match_info.handler, translate(error)
    if problem.problem is problems.INTERNAL:
        log.error("%s %s", request.method, request.match_info.route.resource, exc_info=error)
    if getattr(handler, "is_stream", False):
        if problem.problem in (problems.UNAVAILABLE, problems.OVERLOADED):
            return come_again()
    elif getattr(handler, "is_page", False):
        return request.app[ERROR_PAGE](request, problem)
    return problem_response(
        problem,
        base_url=request.app[SETTINGS].public_url,
        instance=request.path,
        language=asked_language(request),
        request_id=request[REQUEST_ID],
    )


def _cut_short(request: web.Request, error: Exception) -> None:
    """Break the connection of an answer that has begun, so that nobody takes what came for the whole."""
    if isinstance(error, OSError):
        log.info("an answer broke off: %s", type(error).__name__)
    elif translate(error).problem is problems.INTERNAL:
        log.error("an answer to %s broke off", request.match_info.route.resource, exc_info=error)
    else:
        log.warning("an answer was cut short: %s", type(error).__name__)
    if request.transport is None:
        return
    # An answer of HTTP/1.0, in which proxies like to ask, ends with its connection: only a reset tells that
    # it is not whole.
    if (connection := request.transport.get_extra_info("socket")) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


async def begin_answer(request: web.Request, response: web.StreamResponse) -> None:
    """Give every answer its headers: streams, too, whose headers are gone when their handler ends."""
    response.headers.popall("Server", None)  # aiohttp has named itself by now
    for name, value in SAFE_HEADERS.items():
        response.headers.setdefault(name, value)
    if verdict := request.get(VERDICT):
        response.headers.update(_rate_headers(verdict))
    # Others begin after their handler; they would stay in memory for the garbage collector, as a ring.
    if not isinstance(response, web.Response):
        request[BEGUN] = response


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who is calling, before anything of the request is read."""
    if is_keyless(request.match_info.handler) or request.match_info.http_exception:
        return await handler(request)
    client, key_sha256, lookups = None, b"", request.app[LOOKUPS]
    if (key := _key(request)) and clients.is_plausible(key):
        key_sha256 = clients.hash_key(key)
        client = await lookups.client(key_sha256)
    if client is None:
        raise ProblemError(problems.UNAUTHORIZED, headers={"WWW-Authenticate": 'Bearer realm="autos"'})
    request[CLIENT] = client
    request[LOOK_AGAIN] = lambda: lookups.client(key_sha256)
    await _count(request, client, key_sha256)
    # `GET /processes/{number}` looks at what it starts by itself.
    need_scope(request, *_scopes(request))
    return await handler(request)


@web.middleware
async def shed_load(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what this process cannot take on, before it costs anything."""
    if getattr(request.match_info.handler, "is_public", False):
        return await handler(request)
    load = request.app[LOAD]
    if not load.has_room(_kind(request)):
        raise ProblemError(problems.OVERLOADED, headers={"Retry-After": _RETRY_AFTER_S})
    with load.taken():
        return await handler(request)


def need_scope(request: web.Request, *scopes: str) -> None:
    """Refuse a key that has none of these scopes.

    Raises:
        ProblemError: 403.
    """
    if request[CLIENT].scopes.isdisjoint(scopes):
        raise ProblemError(
            problems.INSUFFICIENT_SCOPE, f"this needs a key with the scope {' or '.join(scopes)}"
        )


def _scopes(request: web.Request) -> tuple[str, ...]:
    scopes: tuple[str, ...] | None = getattr(request.match_info.handler, "scopes", None)
    return scopes or ("read" if request.method == "GET" else "write",)


def scoped(*scopes: str) -> Callable[[Handler], Handler]:
    """Mark a handler that takes keys with one of these scopes, in place of those that its method says."""

    def mark(handler: Handler) -> Handler:
        handler.scopes = scopes  # type: ignore[attr-defined]
        return handler

    return mark


def _kind(request: web.Request) -> Kind:
    kind: Kind | None = getattr(request.match_info.handler, "kind", None)
    return kind or (Kind.READ if request.method == "GET" else Kind.SUBMISSION)


def taken_as(kind: Kind) -> Callable[[Handler], Handler]:
    """Mark a handler whose requests are of another kind than their method says."""

    def mark(handler: Handler) -> Handler:
        handler.kind = kind  # type: ignore[attr-defined]
        return handler

    return mark


async def _count(request: web.Request, client: Client, key_sha256: bytes) -> None:
    """Count the request against the key's limit.

    Raises:
        ProblemError: 429; never for a stream, whose reader would give up for good.
    """
    limit = client.requests_per_minute or request.app[SETTINGS].requests_per_minute
    request[VERDICT] = verdict = await request.app[RATE_LIMIT].admit(key_sha256.hex()[:32], limit=limit)
    if not verdict.is_admitted and not getattr(request.match_info.handler, "is_stream", False):
        raise ProblemError(problems.RATE_LIMITED, headers={"Retry-After": str(verdict.retry_after_s)})


def _rate_headers(verdict: Verdict) -> dict[str, str]:
    """Return the fields of draft-ietf-httpapi-ratelimit-headers."""
    return {
        "RateLimit-Policy": f'"default";q={verdict.limit};w={WINDOW_S}',
        "RateLimit": f'"default";r={verdict.remaining};t={math.ceil(verdict.whole_in_s)}',
    }


def public(handler: Handler) -> Handler:
    """Mark a handler that answers without a key."""
    handler.is_public = True  # type: ignore[attr-defined]
    return handler


def page(handler: Handler) -> Handler:
    """Mark a handler of the dashboard, which knows its readers by their session."""
    handler.is_page = True  # type: ignore[attr-defined]
    return handler


def is_keyless(handler: object) -> bool:
    """Whether a handler answers without a key."""
    return getattr(handler, "is_public", False) or getattr(handler, "is_page", False)


def stream(handler: Handler) -> Handler:
    """Mark a handler whose callers give up for good when they are told to come again later."""
    handler.is_stream = True  # type: ignore[attr-defined]
    return handler


def _key(request: web.Request) -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    return request.headers.get("X-API-Key")


def translate(error: Exception) -> ProblemError:
    """The one table from errors to problems."""
    match error:
        case ProblemError():
            return error
        case InvalidProcessNumberError():
            detail = str(error)
            pointer = [{"pointer": "#/process_number", "detail": detail}]
            return ProblemError(problems.INVALID_PROCESS_NUMBER, detail, errors=pointer)
        case _ if type(error) in _AT:
            return problems.invalid(_AT[type(error)], str(error))
        case TooManyActiveJobsError():
            headers = {"Retry-After": _RETRY_QUOTA_AFTER_S}
            return ProblemError(problems.TOO_MANY_ACTIVE_JOBS, str(error), headers=headers)
        case _ if type(error) in _SAID:
            return ProblemError(_SAID[type(error)], str(error))
        case DatabaseUnavailableError() | StorageUnavailableError():
            log.warning("%s", error)
            return ProblemError(problems.UNAVAILABLE, headers={"Retry-After": _RETRY_AFTER_S})
        case web.HTTPException():
            return _translate_http(error)
        case _:
            return ProblemError(problems.INTERNAL)


def _translate_http(error: web.HTTPException) -> ProblemError:
    match error:
        case web.HTTPNotFound():
            return ProblemError(problems.NOT_FOUND, "there is no such path")
        case web.HTTPMethodNotAllowed():
            return ProblemError(problems.METHOD_NOT_ALLOWED, headers={"Allow": error.headers["Allow"]})
        case web.HTTPRequestEntityTooLarge():
            return ProblemError(problems.PAYLOAD_TOO_LARGE)
        case web.HTTPException() if error.status < 400:
            raise error
        case web.HTTPBadRequest():
            return ProblemError(problems.BAD_REQUEST)
        case _:
            return ProblemError(problems.INTERNAL)
