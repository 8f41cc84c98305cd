"""The OpenAPI 3.1 description of the API, made from its routes, models and problems.

https://spec.openapis.org/oas/v3.1.1
"""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from inspect import getdoc
from itertools import groupby
from operator import attrgetter
from types import UnionType
from typing import Any, Literal, get_args

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service import __version__, problems, webhook_schemas
from service.contract import Content, Operation
from service.problems import CATALOGUE, Problem, ProblemError, problem_body
from service.schemas import ProblemAnswer
from service.streams import EVENT_STREAM

Json = dict[str, Any]

_REF = "#/components/schemas/{model}"
_PROBLEM = {"$ref": _REF.format(model="ProblemAnswer")}

_TAGS = {
    "processes": "Ask for a process by its number, see how it goes, get its documents.",
    "jobs": "Submit processes, one or a thousand, and follow each submission.",
    "documents": "One document.",
    "streams": "Server-sent events: news as they happen.",
    "webhooks": "Tools for those who build a receiver.",
    "service": "The service itself.",
}

_PATH_PARAMETERS: dict[str, Json] = {
    "number": {
        "description": "The CNJ number of a process, masked or as its 20 digits.",
        "schema": {"type": "string", "maxLength": 64, "examples": ["1003579-22.2025.8.26.0564"]},
    },
    "job_id": {"description": "A job's id.", "schema": {"type": "string", "format": "uuid"}},
    "batch_id": {"description": "A batch's id.", "schema": {"type": "string", "format": "uuid"}},
    "document_id": {"description": "A document's id.", "schema": {"type": "string", "format": "uuid"}},
    "erasure_id": {"description": "An erasure's id.", "schema": {"type": "string", "format": "uuid"}},
    "endpoint_id": {"description": "An endpoint's id.", "schema": {"type": "string", "format": "uuid"}},
    "delivery_id": {"description": "A delivery's id.", "schema": {"type": "string", "format": "uuid"}},
    "code": {
        "description": "The code of a type of problem.",
        "schema": {"type": "string", "enum": sorted(CATALOGUE)},
    },
}

_READ_HEADERS = {
    "Accept-Language": "`pt-BR` for problems in Brazilian Portuguese; without it they are in English.",
    "Idempotency-Key": "Names this request, so that repeating it does nothing twice; kept for 24 hours.",
    "If-None-Match": "The `ETag` that you have: 304 while it is the present one.",
    "X-Request-ID": "Your own name for this request: 1 to 128 of `A-Z a-z 0-9 . _ -`. Any other is ignored.",
    "Prefer": "`wait=N`: answer as soon as there is news, after N seconds (60 at most) at the latest.",
    "traceparent": "The span that asks (W3C): what it begins, and its webhooks, are parts of that trace.",
    "Last-Event-ID": "The `id` of the last event that you got: what you missed since is sent first.",
}

_TOLD_HEADERS = {
    "Allow": "The methods of this path.",
    "Content-Disposition": "The name under which to save it.",
    "ETag": "Names the present state.",
    "Idempotent-Replayed": "`true` when this is the answer to an earlier request with the same key.",
    "Link": 'The next page, as `rel="next"`.',
    "Location": "Where to go on.",
    "Preference-Applied": "The wait that was granted.",
    "RateLimit": "How many requests are left, and in how many seconds all are back.",
    "RateLimit-Policy": "How many requests a key may make in how many seconds.",
    "Retry-After": "In how many seconds to come again.",
    "WWW-Authenticate": "How to say who you are.",
    "X-Request-ID": "Names the request: as you did, or else as we do.",
}

_EXAMPLE_REQUEST_ID = "0c2f6b1d9d2f4a56b4f4f3a2a7c1d9e0"


def describe(routes: Iterable[web.RouteDef], *, base_url: str) -> Json:
    """Return the description of the routes.

    Args:
        routes: those under one prefix; each handler carries an `Operation`.
        base_url: where callers reach the API.
    """
    paths: dict[str, Json] = {}
    operations = list[Operation]()
    for route in routes:
        said: Operation = route.handler.operation  # type: ignore[union-attr]
        operations.append(said)
        path = re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, said, base_url)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Autos",
            "version": __version__,
            "description": "Fetches every document of a Brazilian court case from the judiciary's PDPJ API, "
            "stores them in S3, shows the progress, and tells by webhook when the case is complete.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": base_url}, {"url": f"{base_url}/api/v1"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "security": [{"bearer": []}, {"header": []}],
        "paths": paths,
        "webhooks": _webhooks(),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
            "headers": {name: _header(text) for name, text in _TOLD_HEADERS.items()},
            "schemas": _schemas(operations),
        },
    }


def _operation(route: web.RouteDef, path: str, said: Operation, base_url: str) -> Json:
    summary, _, rest = (getdoc(route.handler) or "").partition("\n\n")
    is_public = getattr(route.handler, "is_public", False)
    described: Json = {
        "operationId": route.handler.__name__,
        "tags": [said.tag],
        "summary": " ".join(summary.split()).rstrip("."),
        "parameters": [*_path_parameters(path), *_query(said), *_read_headers(said)],
        "responses": _answers(said, is_public=is_public),
    }
    if rest:
        described["description"] = " ".join(rest.split())
    if said.body is not None:
        described["requestBody"] = _body(said)
    if is_public:
        described["security"] = []
    for status, group in groupby(_problems(route, said), attrgetter("status")):
        told = ["Retry-After"] if status in (429, 503) else ["WWW-Authenticate"] if status == 401 else []
        described["responses"][str(status)] = _refusal(list(group), told, path, base_url)
    return described


def _path_parameters(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, **_PATH_PARAMETERS[name]}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query(said: Operation) -> list[Json]:
    schema = said.query.model_json_schema()
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": described["description"],
            "schema": _without_null(described),
        }
        for name, described in schema.get("properties", {}).items()
    ]


def _without_null(schema: Json) -> Json:
    """Return the schema of a member without the null that only says that it may be left out."""
    kept = {key: value for key, value in schema.items() if key not in ("anyOf", "title", "description")}
    if kept.get("default", 0) is None:
        del kept["default"]
    choices = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    return {**kept, **(choices[0] if len(choices) == 1 else {"anyOf": choices} if choices else {})}


def _read_headers(said: Operation) -> list[Json]:
    return [
        {"name": name, "in": "header", "description": _READ_HEADERS[name], "schema": {"type": "string"}}
        for name in ("Accept-Language", "X-Request-ID", *said.reads)
    ]


def _body(said: Operation) -> Json:
    schema = said.body if isinstance(said.body, dict) else _ref(said.body)
    content: Json = {"application/json": {"schema": schema}}
    if said.lines is not None:
        text = f"One `{said.lines.__name__}` a line."
        content["application/x-ndjson"] = {"schema": {"type": "string", "description": text}}
    return {"required": said.is_body_needed, "content": content}


def _answers(said: Operation, *, is_public: bool) -> Json:
    told = said.tells if is_public else (*said.tells, "RateLimit", "RateLimit-Policy")
    headers = _told((*told, "X-Request-ID"))
    return {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "headers": headers,
            **({} if content is None else {"content": _content(content)}),
        }
        for status, content in said.answers.items()
    }


def _content(content: Content) -> Json:
    if content == EVENT_STREAM:
        return {EVENT_STREAM: {}}  # each event has data of its own kind; there is no schema of them all
    if isinstance(content, tuple):
        return {media_type: described for one in content for media_type, described in _content(one).items()}
    if isinstance(content, str):
        form = {} if content.startswith("text/") else {"format": "binary"}
        return {content: {"schema": {"type": "string", **form}}}
    if isinstance(content, dict):
        return {"application/json": {"schema": content}}
    refs = [_ref(model) for model in _models(content)]
    return {"application/json": {"schema": refs[0] if len(refs) == 1 else {"anyOf": refs}}}


def _models(content: Content) -> Sequence[type[BaseModel]]:
    if isinstance(content, UnionType):
        return get_args(content)
    return [content] if isinstance(content, type) else []


def _problems(route: web.RouteDef, said: Operation) -> list[Problem]:
    """Return all that a handler refuses with: its own problems, and what goes before each of its kind."""
    found = {*said.problems, problems.INTERNAL}
    if "{" in route.path:
        found.add(problems.NOT_FOUND)
    if "{number}" in route.path:
        found.add(problems.INVALID_PROCESS_NUMBER)
    if said.body is not None:
        found |= {
            problems.BAD_REQUEST,
            problems.TIMEOUT,
            problems.PAYLOAD_TOO_LARGE,
            problems.UNSUPPORTED_MEDIA_TYPE,
        }
    if not getattr(route.handler, "is_public", False):
        found |= {
            problems.UNAUTHORIZED,
            problems.INSUFFICIENT_SCOPE,
            problems.RATE_LIMITED,
            problems.OVERLOADED,
            problems.UNAVAILABLE,
            problems.INVALID_REQUEST,
        }
    return sorted(found, key=lambda one: (one.status, one.code))


def _refusal(refused: Sequence[Problem], told: Sequence[str], path: str, base_url: str) -> Json:
    examples = {
        one.code: {
            "summary": one.title,
            "value": problem_body(
                ProblemError(one), base_url=base_url, instance=path, request_id=_EXAMPLE_REQUEST_ID
            ),
        }
        for one in refused
    }
    return {
        "description": "; or: ".join(one.title for one in refused),
        "headers": _told((*told, "X-Request-ID")),
        "content": {"application/problem+json": {"schema": _PROBLEM, "examples": examples}},
    }


def _told(headers: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


def _webhooks() -> Json:
    headers = [
        {
            "name": name,
            "in": "header",
            "required": name not in webhook_schemas.NOT_ALWAYS,
            "description": text,
            "schema": {"type": "string"},
        }
        for name, text in webhook_schemas.HEADERS.items()
    ]
    return {
        name: {
            "post": {
                "operationId": name.replace(".", "_"),
                "tags": ["webhooks"],
                "summary": " ".join((getdoc(model) or "").split()).rstrip("."),
                "security": [],
                "parameters": headers,
                "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(model)}}},
                "responses": {
                    "2XX": {"description": "Received; anything else is tried again."},
                },
            }
        }
        for name, model in webhook_schemas.EVENTS.items()
    }


def _schemas(operations: Sequence[Operation]) -> Json:
    """Return the schemas of all models, requests as they are read and answers as they are written."""
    read: list[type[BaseModel]] = [
        model
        for one in operations
        for model in (one.body, one.lines)
        if model and not isinstance(model, dict)
    ]
    written: list[type[BaseModel]] = [
        model for one in operations for content in one.answers.values() for model in _models(content)
    ]
    written += [ProblemAnswer, *webhook_schemas.EVENTS.values()]
    asked: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        *((model, "validation") for model in dict.fromkeys(read)),
        *((model, "serialization") for model in dict.fromkeys(written)),
    ]
    _, found = models_json_schema(asked, ref_template=_REF)
    schemas: Json = found["$defs"]
    return schemas


def _ref(model: type[BaseModel] | None) -> Json:
    return {"$ref": _REF.format(model=model.__name__)} if model else {}


def _header(text: str) -> Json:
    return {"description": text, "schema": {"type": "string"}}
