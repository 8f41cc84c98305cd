"""Reading a request: its query and its JSON body, each checked against a model."""

import asyncio
from collections.abc import Collection
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
from aiohttp import web
from pydantic import ValidationError

from service import problems
from service.problems import ProblemError
from service.request_schemas import Request
from service.words import preferred_language

R = TypeVar("R", bound=Request)

_BODY_TIMEOUT_S = 10.0
_MAX_BATCH_BYTES = 1024 * 1024
_IN_FRAGMENTS = "~!$&'()*+,;=:@"
_JSON = frozenset({"application/json"})
_LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})


def read_query(request: web.Request, model: type[R]) -> R:
    """Return the query as `model`; anything unknown, doubled or of a wrong form is a 422."""
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise problems.invalid(f"#/{name}", "given more than once")
    return validate(model, dict(request.query))


async def read_json(request: web.Request, model: type[R]) -> R:
    """Return the JSON body as `model`.

    Raises:
        ProblemError: 400 not JSON, 408 too slow, 413 too large, 415 another type, 422 not as described.
    """
    return validate(model, _parse(await _read_body(request)))


def idempotency_key(request: web.Request) -> str | None:
    """Return the `Idempotency-Key`, a quoted string by its draft, taken bare too.

    Raises:
        ProblemError: 422, it is empty or longer than 255 characters.
    """
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return None
    key = given[1:-1] if len(given) >= 2 and given[0] == given[-1] == '"' else given
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise problems.invalid("#/Idempotency-Key", "should have 1 to 255 printable characters")
    return key


async def read_object(request: web.Request) -> tuple[bytes, dict[str, Any]]:
    """Return a JSON object of any shape, and the very bytes it came in; raises like `read_json`."""
    body = await _read_body(request)
    value = _parse(body)
    if not isinstance(value, dict):
        raise problems.invalid("#", "should be a JSON object")
    return body, value


def asked_language(request: web.Request) -> str:
    """Return the language in which the caller wishes to be told what is wrong."""
    return preferred_language(",".join(request.headers.getall("Accept-Language", ())))


def is_lines(request: web.Request) -> bool:
    """Whether the body says that it is NDJSON: one JSON value a line."""
    return request.content_type in _LINES


async def read_batch_json(request: web.Request, model: type[R]) -> R:
    """Return a JSON body of up to 1 MiB as `model`; raises like `read_json`."""
    return validate(model, _parse(await _read_body(request, max_bytes=_MAX_BATCH_BYTES)))


async def read_lines(request: web.Request, model: type[R], *, most: int) -> list[R | ProblemError]:
    """Return each line of an NDJSON body of up to 1 MiB as `model`, or what is wrong with it.

    Raises:
        ProblemError: like `read_json`; 422 also for no line, or more than `most`.
    """
    body = await _read_body(request, types=_LINES, max_bytes=_MAX_BATCH_BYTES)
    lines = [line for line in body.splitlines() if line.strip()]
    if not 1 <= len(lines) <= most:
        raise problems.invalid("#", f"should have 1 to {most} lines")
    return [_line(model, line) for line in lines]


def _line(model: type[R], line: bytes) -> R | ProblemError:
    try:
        return validate(model, _parse(line))
    except ProblemError as error:
        return error


async def _read_body(
    request: web.Request, *, types: Collection[str] = _JSON, max_bytes: int | None = None
) -> bytes:
    if request.content_type not in types or request.headers.get("Content-Encoding"):
        raise ProblemError(problems.UNSUPPORTED_MEDIA_TYPE)
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            return await (request.clone(client_max_size=max_bytes) if max_bytes else request).read()
    except TimeoutError as error:
        raise ProblemError(problems.TIMEOUT) from error
    except web.RequestPayloadError as error:
        raise ProblemError(problems.BAD_REQUEST, "the body is not what its headers say") from error


def _parse(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProblemError(problems.BAD_REQUEST, f"the body is not JSON: {error.msg}") from error


def _step(name: int | str) -> str:
    """Return one step of a JSON Pointer in a URI fragment (RFC 6901), whatever the caller calls a member."""
    return quote(str(name).replace("~", "~0").replace("/", "~1"), safe=_IN_FRAGMENTS)


def validate(model: type[R], value: object) -> R:
    """Return a value as `model`.

    Raises:
        ProblemError: 422, with what is wrong of each member.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = [
            {"pointer": "#/" + "/".join(_step(part) for part in item["loc"]), "detail": item["msg"]}
            for item in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise ProblemError(problems.INVALID_REQUEST, errors=errors) from error
