"""Holds every answer of the API against its own OpenAPI description, and every request that it took."""

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import jsonschema_rs
import orjson
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

Json = dict[str, Any]
_Paths = dict[re.Pattern[str], Json]


class Contract:
    """A client middleware that fails the test whose request or answer is not as described.

    Args:
        base_url: answers from elsewhere are not looked at.
        description: an OpenAPI description; beyond it an answer may have no member, although a caller should
            bear with new ones.
    """

    def __init__(self, base_url: str, description: Json) -> None:
        self._base_url = base_url
        self._paths, self._validator = _prepare(orjson.dumps(description))

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send the request and check what comes back."""
        response = await handler(request)
        if str(request.url.origin()) == self._base_url:
            await self._check(request, response)
        return response

    async def _check(self, request: ClientRequest, response: ClientResponse) -> None:
        where = f"{request.method} {request.url.path}: {response.status}"
        operation = self._operation(request.method, request.url.path)
        if operation is None:
            assert response.status in (404, 405), f"{where} is not described"
            return
        described = operation["responses"].get(str(response.status))
        assert described is not None, f"{where} is not described"
        if contents := described.get("content"):
            assert response.content_type in contents, f"{where} is {response.content_type}"
        if response.content_type.endswith("json"):
            content = contents[response.content_type]
            answer = json.loads(await response.read())
            self._validate(content["schema"], answer, where)
            if response.content_type == "application/problem+json":
                code = answer["type"].rpartition("/")[2]
                assert code in content["examples"], f"{where} {code} is not described"
        if response.status < 300:
            self._check_request(request, operation, where)

    def _check_request(self, request: ClientRequest, operation: Json, where: str) -> None:
        known = {(one["in"], one["name"]) for one in operation["parameters"]}
        for name, _ in parse_qsl(request.url.raw_query_string):
            assert ("query", name) in known, f"{where}: the parameter {name} is not described"
        for name in ("Idempotency-Key", "If-None-Match", "Last-Event-ID", "Prefer"):
            # What a handler does not heed may be sent all the same, except where it must mean something.
            assert name not in request.headers or ("header", name) in known, (
                f"{where}: {name} is not described"
            )

    def _operation(self, method: str, path: str) -> Json | None:
        path = path.removeprefix("/api/v1")
        for pattern, methods in self._paths.items():
            if pattern.fullmatch(path):
                found: Json | None = methods.get(method.lower())
                if found is not None:
                    return found
        return None

    def validate(self, model: str, value: object) -> None:
        """Check a value against one of the described schemas."""
        self._validate({"$ref": f"#/components/schemas/{model}"}, value, model)

    def _validate(self, schema: Json, value: object, where: str) -> None:
        wrong = [
            f"{'/'.join(map(str, one.instance_path))}: {one.message[:300]}"
            for one in self._validator(json.dumps(schema)).iter_errors(value)
        ]
        assert not wrong, f"{where}: {wrong[:5]}"


@cache
def _prepare(description: bytes) -> tuple[_Paths, Callable[[str], jsonschema_rs.Draft202012Validator]]:
    """Return what is the same for every API of one description: its paths, and what makes a validator."""
    described: Json = orjson.loads(description)
    components = _closed(described["components"])

    @cache
    def new_validator(schema: str) -> jsonschema_rs.Draft202012Validator:
        whole = {**json.loads(schema), "components": components}
        return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)

    paths = {
        re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))): methods
        for path, methods in described["paths"].items()
    }
    return paths, new_validator


def _closed(node: Any) -> Any:
    """Return a schema of which no object may have members beyond those described."""
    if isinstance(node, list):
        return [_closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and node.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed
