"""`Idempotency-Key`: a request that is repeated is answered as the first time, and creates nothing more."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from service.core import idempotency
from service.core.idempotency import KeyedRequest
from tests.api.test_bad_input import assert_problem
from tests.world import Answer, Caller, World

CASE = "1003579-22.2025.8.26.0564"
OTHER = "0919992-11.2023.8.19.0001"


async def _post(caller: Caller, key: str, path: str = "/jobs", **body: Any) -> Answer:
    body = body or {"process_number": CASE}
    return await caller.post(path, json=body, headers={"Idempotency-Key": key})


async def _jobs(api: World) -> int:
    async with api.db.connection() as conn:
        count: int = await conn.fetchval("select count(*) from jobs")
    return count


@pytest.mark.parametrize("form", ['"{}"', "{}"])
async def test_a_repeated_request_gets_the_very_same_answer(api: World, form: str) -> None:
    caller, key = await api.caller(), form.format(uuid4())
    first = await _post(caller, key)
    assert first.status == 202
    # What became of the job since does not matter.
    await caller.post(f"/jobs/{first.json['job_id']}/cancel")
    again = await _post(caller, key)
    assert (again.status, again.text) == (first.status, first.text)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert await _jobs(api) == 1


@pytest.mark.parametrize(
    ("path", "asked", "name"),
    [
        ("/jobs/batch", {"process_numbers": [CASE]}, "batch_webhook_endpoint_id"),
        ("/jobs/batch", {"process_numbers": [CASE]}, "webhook_endpoint_id"),
        ("/jobs", {"process_number": CASE}, "webhook_endpoint_id"),
    ],
)
async def test_a_repeated_request_gets_it_though_its_endpoint_was_deleted_since(
    api: World, path: str, asked: dict[str, Any], name: str
) -> None:
    caller = await api.caller()
    made = await caller.post("/webhooks/endpoints", json={"url": "https://example.com/hook"})
    asked = {**asked, name: made.json["id"]}
    first = await _post(caller, "a key", path, **asked)
    assert first.status == 202
    assert (await caller.call("DELETE", f"/webhooks/endpoints/{made.json['id']}")).status == 204
    again = await _post(caller, "a key", path, **asked)
    assert (again.status, again.text) == (202, first.text)
    refused = await _post(
        caller, "another key", "/jobs", process_number=CASE, webhook_endpoint_id=made.json["id"]
    )
    assert_problem(refused, 422, "invalid-request")


async def test_quoted_and_bare_are_the_same_key(api: World) -> None:
    caller = await api.caller()
    first, again = await _post(caller, '"a key"'), await _post(caller, "a key")
    assert first.text == again.text


async def test_twenty_at_once_make_one_job_and_the_others_are_told_to_come_again(api: World) -> None:
    caller = await api.caller()
    answers = await asyncio.gather(*(_post(caller, "k") for _ in range(20)))
    assert {answer.status for answer in answers} <= {202, 409}
    assert len({answer.text for answer in answers if answer.status == 202}) == 1
    assert await _jobs(api) == 1


async def test_while_the_first_is_under_way_the_second_is_a_conflict(api: World) -> None:
    caller = await api.caller()
    first = KeyedRequest(caller.client.id, "/jobs", "k", b"x" * 32)
    async with api.db.transaction() as conn:
        assert await idempotency.begin(conn, first) is None
        assert_problem(await _post(caller, "k"), 409, "idempotency-key-in-use")
    assert (await _post(caller, "k")).status == 202


async def test_a_key_with_another_body_is_refused(api: World) -> None:
    caller = await api.caller()
    await _post(caller, "k")
    assert_problem(await _post(caller, "k", process_number=OTHER), 422, "idempotency-key-reused")
    assert await _jobs(api) == 1


async def test_the_order_of_the_members_makes_no_other_body(api: World) -> None:
    caller = await api.caller()
    first = await _post(caller, "k", process_number=CASE, force_refresh=False)
    again = await _post(caller, "k", force_refresh=False, process_number=CASE)
    assert first.text == again.text


async def test_a_key_is_one_clients_and_one_routes(api: World) -> None:
    one, two = await api.caller("one"), await api.caller("two")
    first = await _post(one, "k", process_number=CASE)
    assert (await _post(two, "k", process_number=OTHER)).status == 202
    await one.post(f"/jobs/{first.json['job_id']}/cancel")
    retried = await one.post(f"/jobs/{first.json['job_id']}/retry", headers={"Idempotency-Key": "k"})
    assert retried.status == 202
    again = await one.post(f"/jobs/{first.json['job_id']}/retry", headers={"Idempotency-Key": "k"})
    assert again.text == retried.text


async def test_what_was_refused_is_not_kept(api: World) -> None:
    caller = await api.caller()
    assert (await _post(caller, "k", process_number="7")).status == 422
    assert (await _post(caller, "k")).status == 202


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "a\tb"])
async def test_a_key_that_is_none_is_refused(api: World, key: str) -> None:
    answer = await _post(await api.caller(), key)
    assert_problem(answer, 422, "invalid-request")
    assert await _jobs(api) == 0


async def test_answers_are_kept_for_two_days(api: World) -> None:
    caller = await api.caller()
    for key, age in (("young", 47), ("old", 49)):
        await _post(caller, key)
        async with api.db.connection() as conn:
            await conn.execute(
                "update idempotency_keys set created_at = now() - make_interval(hours => $2) where key = $1",
                key,
                age,
            )
    async with api.db.connection() as conn:
        assert await idempotency.forget_old(conn) == 1
        assert await conn.fetchval("select array_agg(key) from idempotency_keys") == ["young"]
