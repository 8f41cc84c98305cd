"""Around every handler: errors become problems, callers are known, headers are safe."""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from service import problems
from service.core import clients
from service.core.errors import (
    DatabaseUnavailableError,
    DestinationRefusedError,
    InvalidProcessNumberError,
    JobFinalError,
    JobSharedError,
    KeyInUseError,
    KeyReusedError,
    NotFoundError,
    NothingToRetryError,
    StorageUnavailableError,
)
from service.keys import CLIENT, DATABASE, DRAINING, SETTINGS
from service.problems import ProblemError, problem_response

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_SAFE_HEADERS = {
    "Server": "Autos",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}
_RETRY_AFTER_S = "2"

# Errors whose own words are the detail of the problem.
_SAID: dict[type[Exception], problems.Problem] = {
    NotFoundError: problems.NOT_FOUND,
    JobFinalError: problems.JOB_FINAL,
    JobSharedError: problems.JOB_SHARED,
    KeyInUseError: problems.KEY_IN_USE,
    KeyReusedError: problems.KEY_REUSED,
    NothingToRetryError: problems.NOTHING_TO_RETRY,
}

log = logging.getLogger(__name__)


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Translate every error into a problem answer, in this one place."""
    try:
        response = await handler(request)
    except Exception as error:
        problem = _translate(error)
        if problem.problem is problems.INTERNAL:
            log.exception("%s %s", request.method, request.match_info.route.resource)
        response = problem_response(problem, base_url=request.app[SETTINGS].public_url, instance=request.path)
    if not response.prepared:
        response.headers.update(_SAFE_HEADERS)
        if request.app[DRAINING].is_set():
            response.force_close()
    return response


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who is calling, before anything of the request is read."""
    if getattr(request.match_info.handler, "is_public", False) or request.match_info.http_exception:
        return await handler(request)
    client = None
    if (key := _key(request)) and clients.is_plausible(key):
        async with request.app[DATABASE].connection() as conn:
            client = await clients.authenticate(conn, key)
    if client is None:
        raise ProblemError(problems.UNAUTHORIZED, headers={"WWW-Authenticate": 'Bearer realm="autos"'})
    request[CLIENT] = client
    return await handler(request)


def public(handler: Handler) -> Handler:
    """Mark a handler that answers without a key."""
    handler.is_public = True  # type: ignore[attr-defined]
    return handler


def _key(request: web.Request) -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    return request.headers.get("X-API-Key")


def _translate(error: Exception) -> ProblemError:
    """The one table from errors to problems."""
    match error:
        case ProblemError():
            return error
        case InvalidProcessNumberError():
            detail = str(error)
            pointer = [{"pointer": "#/process_number", "detail": detail}]
            return ProblemError(problems.INVALID_PROCESS_NUMBER, detail, errors=pointer)
        case DestinationRefusedError():
            return problems.invalid("#/webhook_url", str(error))
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
