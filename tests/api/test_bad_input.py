"""Bad input: one clear problem each, and nothing created."""

import asyncio
import gzip
import json

import pytest

from service.core import clients
from service.problems import CATALOGUE
from tests.world import Answer, Caller, World

CASE = "1003579-22.2025.8.26.0564"
NOBODYS_ID = "5e7a2f10-0f7b-4b5e-9d0c-3d6d2f0a9b11"


async def _nothing_created(world: World) -> bool:
    async with world.db.connection() as conn:
        count: int = await conn.fetchval(
            """select (select count(*) from processes) + (select count(*) from jobs)
                    + (select count(*) from subscriptions)"""
        )
    return count == 0


def assert_problem(answer: Answer, status: int, code: str) -> None:
    """The answer is one whole problem of this type."""
    assert answer.status == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json
    assert problem["type"].endswith(f"/problems/{code}")
    assert problem["title"] == CATALOGUE[code].title
    assert problem["status"] == status == CATALOGUE[code].status
    assert problem["detail"]
    assert problem["instance"].startswith("/")


async def test_a_wrong_check_digit_is_refused_with_the_right_one(api: World) -> None:
    caller = await api.caller()
    for path in ("", "/status", "/files"):
        answer = await caller.get(f"/processes/1003579-23.2025.8.26.0564{path}")
        assert_problem(answer, 422, "invalid-process-number")
        assert "should be 22" in answer.json["detail"]
    answer = await caller.post("/jobs", json={"process_number": "1003579-23.2025.8.26.0564"})
    assert_problem(answer, 422, "invalid-process-number")
    assert answer.json["errors"] == [{"pointer": "#/process_number", "detail": answer.json["detail"]}]
    assert await _nothing_created(api)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("auto_download=maybe", "#/auto_download"),
        ("force_refresh=2", "#/force_refresh"),
        ("webhok_url=https://hooks.example.com/", "#/webhok_url"),
        ("auto_download=true&auto_download=false", "#/auto_download"),
        ("webhook_url=not-a-url", "#/webhook_url"),
        ("auto_download=false&webhook_url=https://hooks.example.com/", "#/webhook_url"),
        ("webhook_url=ftp://hooks.example.com/", "#/webhook_url"),
        ("webhook_url=http://169.254.169.254/latest/meta-data", "#/webhook_url"),
        ("webhook_url=", "#/webhook_url"),
        ("webhook_url=https://user:password@hooks.example.com/&auto_download=false", "#/webhook_url"),
    ],
)
async def test_a_query_with_something_wrong_names_it_and_creates_nothing(
    api: World, query: str, pointer: str
) -> None:
    caller = await api.caller()
    answer = await caller.get(f"/processes/{CASE}?{query}")
    assert_problem(answer, 422, "invalid-request")
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]
    assert await _nothing_created(api)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad-request"),
        (b"{", 400, "bad-request"),
        (b"\xff\xfe", 400, "bad-request"),
        (b"[]", 422, "invalid-request"),
        (b"{}", 422, "invalid-request"),
        (b'{"process_number": 7}', 422, "invalid-request"),
        (b'{"process_number": "1003579-22.2025.8.26.0564", "webhook": "x"}', 422, "invalid-request"),
        (b'{"process_number": "' + b"1" * 70_000 + b'"}', 413, "payload-too-large"),
        (b"[" * 60_000, 400, "bad-request"),
    ],
)
async def test_a_wrong_body_is_a_clear_problem(api: World, body: bytes, status: int, code: str) -> None:
    caller = await api.caller()
    answer = await caller.post("/jobs", data=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, status, code)
    assert await _nothing_created(api)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_another_type_of_body_is_refused(api: World, headers: dict[str, str]) -> None:
    caller = await api.caller()
    body = gzip.compress(json.dumps({"process_number": CASE}).encode())
    answer = await caller.post("/jobs", data=body, headers=headers)
    assert_problem(answer, 415, "unsupported-media-type")
    assert await _nothing_created(api)


@pytest.mark.parametrize(
    "path",
    [
        f"/jobs/{NOBODYS_ID}",
        "/jobs/not-a-uuid",
        f"/documents/{NOBODYS_ID}/content",
        "/documents/7/content",
        f"/processes/{CASE}/status",
        f"/processes/{CASE}/files",
        f"/processes/{CASE}?auto_download=false",
        "/nothing/here",
        "/problems/unheard-of",
    ],
)
async def test_what_does_not_exist_is_not_found(api: World, path: str) -> None:
    caller = await api.caller()
    assert_problem(await caller.get(path), 404, "not-found")
    assert await _nothing_created(api)


async def test_a_wrong_method_names_the_right_ones(api: World) -> None:
    answer = await (await api.caller()).call("DELETE", "/jobs")
    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["Allow"] == "GET,POST"


async def _with_key(api: World, key: str) -> Answer:
    caller = await api.caller()
    return await Caller(api.base_url, api.http, key, caller.client).get(f"/processes/{CASE}")


@pytest.mark.parametrize(
    "key",
    ["", "nonsense", clients.new_key(), clients.new_key()[:-1] + "!", "ключ", "x" * 5000],
    ids=["empty", "nonsense", "unknown", "misspelt", "not ascii", "long"],
)
async def test_a_key_that_is_none_gets_one_generic_answer(api: World, key: str) -> None:
    answer = await _with_key(api, key)
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert await _nothing_created(api)


async def test_a_revoked_and_an_expired_key_are_worth_nothing(api: World) -> None:
    caller, other = await api.caller(), await api.caller()
    async with api.db.connection() as conn:
        keys = {key.last_four: key.id for key in await clients.list_keys(conn)}
        await clients.revoke_key(conn, keys[caller.key[-4:]])
        await conn.execute("update api_keys set expires_at = now() where id = $1", keys[other.key[-4:]])
    for one in (caller, other):
        assert_problem(await one.get(f"/processes/{CASE}"), 401, "unauthorized")
    assert await _nothing_created(api)


@pytest.mark.parametrize(
    "line",
    [
        b"GET /processes/%ff HTTP/1.1\r\nX-API-Key: KEY",
        b"GET /jobs/%ed%a0%80 HTTP/1.1\r\nX-API-Key: KEY",
        b"GET /processes/1003579-22.2025.8.26.0564?webhook_url=%ff%00 HTTP/1.1\r\nX-API-Key: KEY",
        b"GET /jobs/\xff HTTP/1.1\r\nX-API-Key: KEY",
        b"GET /nothing HTTP/1.1\r\nX-API-Key: \xff\xfe",
        b"GET /jobs/7 HTTP/1.1\r\nX-API-Key: \xff\xfe",
        b"GET /jobs/7 HTTP/1.1\r\nAuthorization: Bearer \xed\xa0\x80",
    ],
)
async def test_bytes_that_are_no_text_are_the_callers_mistake_and_not_ours(api: World, line: bytes) -> None:
    caller = await api.caller()
    reader, writer = await asyncio.open_connection(*api.base_url.removeprefix("http://").split(":"))
    writer.write(line.replace(b"KEY", caller.key.encode()) + b"\r\nHost: autos\r\n\r\n")
    async with asyncio.timeout(10):
        status = int((await reader.readline()).split()[1])
    writer.close()
    await writer.wait_closed()
    assert 400 <= status < 500
    assert await _nothing_created(api)


async def test_a_body_that_breaks_its_own_framing_is_a_bad_request(api: World) -> None:
    caller = await api.caller()
    reader, writer = await asyncio.open_connection(*api.base_url.removeprefix("http://").split(":"))
    writer.write(
        b"POST /jobs HTTP/1.1\r\nHost: autos\r\nContent-Type: application/json\r\n"
        b"X-API-Key: " + caller.key.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    await writer.drain()
    writer.write(b"not-a-length\r\n{}\r\n")
    async with asyncio.timeout(10):
        assert (await reader.readline()).split()[1] == b"400"
    writer.close()
    await writer.wait_closed()
    assert await _nothing_created(api)


async def test_the_key_is_asked_for_before_the_body_is_read(api: World) -> None:
    """A stranger's 10 MiB are not worth reading."""
    reader, writer = await asyncio.open_connection(*api.base_url.removeprefix("http://").split(":"))
    writer.write(
        b"POST /jobs HTTP/1.1\r\nHost: autos\r\nContent-Type: application/json\r\n"
        b"Content-Length: 10485760\r\n\r\n{"
    )
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")
    writer.close()
    await writer.wait_closed()


async def test_every_problem_type_answers_a_page(api: World) -> None:
    for code, problem in CATALOGUE.items():
        async with api.http.get(f"{api.base_url}/problems/{code}") as response:
            assert response.status == 200
            assert problem.title in await response.text()
