"""What no handler sees because it is no HTTP: one clear problem, which repeats nothing of it."""

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from service.problems import CATALOGUE
from tests.log_lines import log_lines
from tests.world import World

SECRET = "autos_of_somebody_else"
NO_HTTP = {
    "a long path": f"GET /jobs?ids={SECRET}{'a' * 20_000} HTTP/1.1\r\nHost: autos\r\n\r\n",
    "a long field": f"GET /jobs HTTP/1.1\r\nHost: autos\r\nX-API-Key: {SECRET}{'a' * 20_000}\r\n\r\n",
    "a NUL in a key": f"GET /jobs HTTP/1.1\r\nHost: autos\r\nAuthorization: Bearer {SECRET}\0\r\n\r\n",
    "a field without a name": f"GET /jobs HTTP/1.1\r\nHost: autos\r\n: {SECRET}\r\n\r\n",
    "two lengths": f"POST /{SECRET} HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "no method": f"{SECRET}\r\n\r\n",
}


async def _say(world: World, text: str) -> tuple[int, dict[str, str], bytes]:
    """Send a text as it is; return the status, the fields and the body of what comes until the end."""
    address = urlsplit(world.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(10):
            writer.write(text.encode())
            got = await reader.read(-1)
    finally:
        writer.close()
    head, _, body = got.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    return int(first.split()[1]), dict(one.split(": ", 1) for one in fields), body


@pytest.mark.parametrize("text", NO_HTTP.values(), ids=NO_HTTP)
async def test_what_is_no_http_is_a_problem_that_repeats_nothing_of_it(api: World, text: str) -> None:
    with log_lines() as lines:
        status, headers, body = await _say(api, text)
    assert status == 400
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Server"] == "Autos"
    assert headers["X-Content-Type-Options"] == "nosniff"
    problem = json.loads(body)
    assert problem["title"] == CATALOGUE["bad-request"].title
    assert problem["request_id"] == headers["X-Request-ID"]
    assert SECRET not in body.decode()
    assert [one["request_id"] for one in lines] == [problem["request_id"]]
    assert SECRET not in str(lines)


async def test_a_line_that_is_too_long_is_told_with_its_bound(api: World) -> None:
    _, _, body = await _say(api, NO_HTTP["a long path"])
    assert json.loads(body)["detail"] == "the request has a line of more than 16384 bytes"
