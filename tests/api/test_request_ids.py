"""Each request has a name, in its answer and in the log; and one line in the log, without secrets."""

import asyncio
import logging
from typing import Any

import pytest

from tests.api.test_bad_input import assert_problem
from tests.cases import case_numbers
from tests.conftest import MakeSettings
from tests.log_lines import log_lines
from tests.receiver import Receiver
from tests.world import World, open_world

CASE = "1003579-22.2025.8.26.0564"
GIVEN = "Mine.2025_07-01"


def _access(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in lines if one["logger"] == "service.access"]


@pytest.mark.parametrize("given", [GIVEN, "x", "9" * 128])
async def test_a_name_that_the_caller_chose_is_kept(api: World, given: str) -> None:
    caller = await api.caller()
    answer = await caller.post("/jobs", json={"process_number": CASE}, headers={"X-Request-ID": given})
    assert (answer.status, answer.headers["X-Request-ID"]) == (202, given)


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", "ação", "a/b", "a\tb"])
async def test_any_other_is_replaced(api: World, given: str) -> None:
    caller = await api.caller()
    answer = await caller.get("/jobs", headers={"X-Request-ID": given})
    made = answer.headers["X-Request-ID"]
    assert answer.status == 200
    assert len(made) == 32
    assert int(made, 16)


async def test_each_request_is_named_differently(api: World) -> None:
    caller = await api.caller()
    answers = await asyncio.gather(*(caller.get("/jobs") for _ in range(20)))
    assert len({answer.headers["X-Request-ID"] for answer in answers}) == 20


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nothing", 404, "not-found"),
        ("/processes/1/status", 422, "invalid-process-number"),
        ("/jobs?limit=0", 422, "invalid-request"),
    ],
)
async def test_a_problem_names_its_request_in_its_body_too(
    api: World, path: str, status: int, code: str
) -> None:
    caller = await api.caller()
    answer = await caller.get(path, headers={"X-Request-ID": GIVEN})
    assert_problem(answer, status, code)
    assert answer.json["request_id"] == answer.headers["X-Request-ID"] == GIVEN


async def test_who_has_no_key_and_who_is_redirected_are_told_it_too(world: World) -> None:
    caller = await world.caller()
    refused = await caller.get("/jobs", headers={"Authorization": "", "X-Request-ID": GIVEN})
    assert (refused.status, refused.json["request_id"]) == (401, GIVEN)
    await caller.get(f"/processes/{CASE}")
    document = (await caller.wait_until_final(CASE))["documents"][0]
    content = await caller.get(f"/documents/{document['id']}/content", headers={"X-Request-ID": GIVEN})
    assert (content.status, content.headers["X-Request-ID"]) == (302, GIVEN)
    url, headers = f"{caller.base_url}/processes/{CASE}/documents.zip", {"X-API-Key": caller.key}
    async with caller.http.get(url, headers={**headers, "X-Request-ID": GIVEN}) as archive:
        assert (archive.status, archive.headers["X-Request-ID"]) == (200, GIVEN)
        await archive.read()


async def test_a_stream_tells_it_with_its_beginning(api: World) -> None:
    caller = await api.caller()
    headers = {"X-API-Key": caller.key, "X-Request-ID": GIVEN}
    async with caller.http.get(f"{caller.base_url}/events", headers=headers) as stream:
        assert stream.headers["X-Request-ID"] == GIVEN
        await stream.content.readuntil(b"\n\n")


async def test_a_kept_answer_is_the_answer_to_another_request(api: World) -> None:
    caller = await api.caller()
    answers = [
        await caller.post(
            "/jobs",
            json={"process_number": CASE},
            headers={"Idempotency-Key": "once", "X-Request-ID": name},
        )
        for name in ("first", "second")
    ]
    assert [answer.headers["X-Request-ID"] for answer in answers] == ["first", "second"]
    assert answers[0].text == answers[1].text


# The log ------------------------------------------------------------------------------------------


async def test_a_request_has_one_line_with_its_route_and_neither_number_nor_query(api: World) -> None:
    caller = await api.caller()
    with log_lines() as lines:
        for prefix in ("", "/api/v1"):
            path = f"{prefix}/processes/{CASE}?webhook_url=https://hooks.example.com/in%3Ftoken%3DHIDDEN"
            assert (await caller.get(path, headers={"X-Request-ID": GIVEN})).status == 200
    said = _access(lines)
    assert [one["message"].rpartition(" ms ")[0].rsplit(" ", 1)[0] for one in said] == [
        "GET /processes/{number} 200",
        "GET /api/v1/processes/{number} 200",
    ]
    for one in said:
        assert one["message"].endswith(f" ms client {caller.client.id}")
        assert (one["level"], one["request_id"]) == ("INFO", GIVEN)
        assert not any(word in str(one) for word in ("HIDDEN", "hooks", "1003579"))


async def test_what_is_refused_has_a_line_too(api: World) -> None:
    caller = await api.caller()
    with log_lines() as lines:
        await caller.get(f"/nothing/{CASE}")
        await caller.call("DELETE", "/jobs")
        await caller.get("/jobs", headers={"Authorization": "Bearer wrong"})
    assert [one["message"].split(" ")[:3] for one in _access(lines)] == [
        ["GET", "(no", "route)"],
        ["DELETE", "(no", "route)"],
        ["GET", "/jobs", "401"],
    ]
    assert all(one["message"].endswith("client -") for one in _access(lines))


async def test_the_looks_of_machines_are_no_news(api: World) -> None:
    with log_lines(logging.DEBUG) as lines:
        for path in ("/healthz", "/api/v1/readyz"):
            async with api.http.get(api.base_url + path) as response:
                assert response.status == 200
    assert [one["level"] for one in _access(lines)] == ["DEBUG", "DEBUG"]


async def test_the_lines_can_be_turned_off(empty: None, make_settings: MakeSettings) -> None:
    async with open_world(make_settings(log_requests=False), with_worker=False) as api:
        caller = await api.caller()
        with log_lines(logging.DEBUG) as lines:
            answer = await caller.get("/jobs")
    assert answer.headers["X-Request-ID"]
    assert _access(lines) == []


async def test_what_a_worker_writes_names_it_and_what_it_works_at(world: World, receiver: Receiver) -> None:
    caller, (number,) = await world.caller(), case_numbers(1)
    with log_lines() as lines:
        submitted = await caller.post("/jobs", json={"process_number": number, "webhook_url": receiver.url})
        await receiver.wait_for(1)
        await world.until("select bool_and(status = 'delivered') from deliveries")
        async with asyncio.timeout(30):
            while not (said := [one for one in lines if one["logger"] == "worker.tasks.deliver"]):
                await asyncio.sleep(0.02)
    async with world.db.connection() as conn:
        delivery_id = await conn.fetchval("select id from deliveries")
        worker_ids = {one["worker_id"] for one in said}
    (one,) = said
    assert (one["delivery_id"], one["attempt"]) == (str(delivery_id), "1")
    assert "request_id" not in one
    assert len(worker_ids) == 1
    assert submitted.status == 202


async def test_a_defect_is_logged_with_the_name_that_the_caller_was_told(api: World) -> None:
    """A table that is not as it should be stands for any defect."""
    caller = await api.caller()
    async with api.db.connection() as conn:
        await conn.execute("alter table endpoints rename to elsewhere")
    try:
        with log_lines() as lines:
            answer = await caller.get("/webhooks/endpoints")
    finally:
        async with api.db.connection() as conn:
            await conn.execute("alter table elsewhere rename to endpoints")
    assert_problem(answer, 500, "internal-error")
    (defect,) = [one for one in lines if one["level"] == "ERROR"]
    assert defect["request_id"] == answer.json["request_id"]
    assert "UndefinedTableError" in defect["traceback"]
