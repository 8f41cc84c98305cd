"""Odd texts in every place where the API takes a text: the caller's mistake, and never a fault of ours."""

import copy
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from tests.conftest import MakeSettings
from tests.world import Caller, open_world

# PostgreSQL takes no NUL, in its JSON neither; in UTC this moment lies in a year that Python does not have.
ODD = ("a\0b", "0001-01-01T00:00:00+14:00")
# And a half of a character.
ODD_IN_URLS = (*(quote(one) for one in ODD), "%ed%a0%80")

Json = dict[str, Any]
Requests = Iterator[tuple[str, str, Json]]


def _queries(method: str, path: str, operation: Json) -> Requests:
    """The operation with an odd text for each parameter of its query, and one whose name is odd."""
    names = [one["name"] for one in operation["parameters"] if one["in"] == "query"]
    yield method, f"{path}?%00=1", {}
    for name in names:
        for odd in ODD_IN_URLS:
            yield method, f"{path}?{name}={odd}", {}


def _bodies(method: str, path: str, operation: Json, schemas: Json) -> Requests:
    """The operation with the examples of its body, in each of which one text or name is odd."""
    contents = operation.get("requestBody", {}).get("content", {})
    for media_type, content in contents.items():
        is_lines = media_type == "application/x-ndjson"  # each a JobRequest
        model = "JobRequest" if is_lines else content["schema"].get("$ref", "").rpartition("/")[2]
        for example in schemas.get(model, {}).get("examples", ()):
            for odd in (*_with_odd_texts(example), {**example, "\0": 1}):
                yield method, path, {"data": json.dumps(odd), "headers": {"Content-Type": media_type}}


def _with_odd_texts(value: Any) -> Iterator[Any]:
    if isinstance(value, str):
        yield from ODD
    elif isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            for odd in _with_odd_texts(value[key]):
                changed = copy.copy(value)
                changed[key] = odd
                yield changed


def _paths(path: str, operation: Json) -> list[str]:
    """The path with an id of nobody's, and with odd texts where it takes one."""
    nobodys, found = path, list[str]()
    for one in operation["parameters"]:
        if one["in"] == "path":
            nobodys = nobodys.replace(f"{{{one['name']}}}", "5e7a2f10-0f7b-4b5e-9d0c-3d6d2f0a9b11")
            found += [path.replace(f"{{{one['name']}}}", odd) for odd in ODD_IN_URLS]
    return [nobodys, *found]


async def test_no_text_is_a_fault_of_ours(empty: None, make_settings: MakeSettings) -> None:
    async with open_world(make_settings(requests_per_minute=1_000_000), with_worker=False) as api:
        caller = await api.caller()
        described = (await caller.get("/openapi.json")).json
        asked: list[tuple[str, str, Json]] = []
        for path, methods in described["paths"].items():
            for method, operation in methods.items():
                at, *odd = _paths(path, operation)
                asked += [(method, one, {}) for one in odd]
                asked += _queries(method, at, operation)
                asked += _bodies(method, at, operation, described["components"]["schemas"])
        assert len(asked) > 200
        async with aiohttp.ClientSession() as http:  # which holds no request against the description
            faults = [one for one in asked if await _status(http, caller, *one) >= 500]
    assert faults == []


async def _status(http: aiohttp.ClientSession, caller: Caller, method: str, path: str, options: Json) -> int:
    """Send it as it stands; of a stream nothing but the status is read."""
    url = URL(caller.base_url + path, encoded=True)
    headers = {"X-API-Key": caller.key, **options.get("headers", {})}
    async with http.request(method, url, data=options.get("data"), headers=headers) as answer:
        return answer.status
