"""Batches: many processes in one call, each met or refused on its own, and one word when all have ended."""

import asyncio
from io import BytesIO
from typing import Any
from uuid import UUID

import orjson
import pytest

from service.core import settlement
from service.request_schemas import JobOptions
from service.sandbox.cases import Special, special_number
from tests.api.test_bad_input import assert_problem
from tests.cases import case_numbers
from tests.claims import claim_one
from tests.conftest import MakeSettings
from tests.receiver import Receiver
from tests.world import Answer, Caller, World, open_world, until

CASE, OTHER, THIRD = case_numbers(3)
WRONG = "1003579-23.2025.8.26.0564"
HOOK = "https://hooks.example.com/"


async def _batch(caller: Caller, *numbers: str, **options: Any) -> Answer:
    headers = options.pop("headers", {})
    return await caller.post(
        "/jobs/batch", json={"process_numbers": list(numbers), **options}, headers=headers
    )


async def _count(api: World, table: str) -> int:
    async with api.db.connection() as conn:
        count: int = await conn.fetchval(f"select count(*) from {table}")
    return count


async def _settle_one(api: World) -> None:
    async with api.db.transaction() as conn:
        job = await claim_one(conn, worker_id=UUID(int=1), lease_s=60)
        assert job
        await settlement.settle(conn, job)


async def test_each_process_has_its_own_result_in_the_callers_order(api: World) -> None:
    caller = await api.caller()
    await caller.post("/jobs", json={"process_number": OTHER})
    answer = await _batch(caller, CASE, WRONG, OTHER, CASE, reference="r-1")
    assert answer.status == 202
    items = answer.json["items"]
    assert [item["outcome"] for item in items] == ["created", "refused", "joined", "joined"]
    assert [item["position"] for item in items] == [0, 1, 2, 3]
    assert [item["process_number"] for item in items] == [CASE, WRONG, OTHER, CASE]
    assert items[0]["job_id"] == items[3]["job_id"] != items[2]["job_id"]
    assert items[1]["job_id"] is None
    problem = items[1]["problem"]
    assert (problem["status"], problem["type"].rpartition("/")[2]) == (422, "invalid-process-number")
    assert (answer.json["total_processes"], answer.json["refused_processes"]) == (4, 1)
    assert answer.json["jobs"] == {"pending": 2}
    assert answer.headers["Location"] == f"/batches/{answer.json['batch_id']}"
    assert answer.headers["Retry-After"] == "1"
    assert await _count(api, "jobs") == 2


async def test_a_thousand_processes_make_a_thousand_jobs_and_one_more_is_refused(api: World) -> None:
    caller = await api.caller()
    numbers = case_numbers(1001)
    assert_problem(await _batch(caller, *numbers), 422, "invalid-request")
    assert await _count(api, "jobs") == 0
    answer = await _batch(caller, *numbers[:1000])
    assert {item["outcome"] for item in answer.json["items"]} == {"created"}
    assert await _count(api, "jobs") == 1000
    again = await _batch(caller, *reversed(numbers[:1000]))
    assert {item["outcome"] for item in again.json["items"]} == {"joined"}
    assert await _count(api, "jobs") == 1000


async def test_two_batches_at_once_in_opposite_order_make_each_job_once(api: World) -> None:
    caller, numbers = await api.caller(), case_numbers(100)
    answers = await asyncio.gather(_batch(caller, *numbers), _batch(caller, *reversed(numbers)))
    assert [answer.status for answer in answers] == [202, 202]
    assert await _count(api, "jobs") == 100


async def test_each_line_of_ndjson_has_options_of_its_own_and_a_bad_line_harms_no_other(api: World) -> None:
    caller = await api.caller()
    lines = [
        orjson.dumps({"process_number": CASE, "reference": "first", "priority": "high"}),
        b"not json",
        orjson.dumps({"process_number": OTHER, "priority": "urgent"}),
        orjson.dumps({"process_number": THIRD, "webhook_url": "ftp://hooks.example.com/"}),
        orjson.dumps({"process_number": OTHER, "reference": "last"}),
    ]
    answer = await caller.post(
        "/jobs/batch?batch_reference=mine",
        data=b"\n".join(lines) + b"\n",
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert answer.status == 202, answer.text
    items = answer.json["items"]
    assert [item["outcome"] for item in items] == ["created", "refused", "refused", "refused", "created"]
    assert [item["reference"] for item in items] == ["first", None, None, None, "last"]
    assert [item["problem"]["status"] for item in items[1:4]] == [400, 422, 422]
    assert answer.json["reference"] == "mine"
    job = (await caller.get(f"/jobs/{items[0]['job_id']}")).json
    assert (job["reference"], job["priority"]) == ("first", "high")


async def test_every_option_of_a_job_goes_for_the_jobs_of_a_batch_in_either_form(api: World) -> None:
    caller = await api.caller()
    endpoint = (await caller.post("/webhooks/endpoints", json={"url": HOOK})).json["id"]
    ids = [str(UUID(int=1)), str(UUID(int=2))]
    days = {"filed_from": "2024-01-01", "filed_until": "2024-12-31"}
    whole: dict[str, Any] = {"types": ["despacho", "sentença"], **days, "ids": ids}
    given: list[dict[str, Any]] = [
        {"webhook_url": HOOK, "webhook_events": ["job.started", "document.available"]},
        {"webhook_endpoint_id": endpoint},
        {"force_refresh": True},
        {"max_age_s": 60},
        {"deadline_s": 600},
        {"priority": "high"},
        {"reference": "r-1"},
        *({"filter": {name: value}} for name, value in whole.items()),
        {"filter": whole, "force_refresh": False, "priority": "low", "deadline_s": 60, "max_age_s": 0},
    ]
    assert {name for one in given for name in one} == set(JobOptions.model_fields)
    numbers = iter(case_numbers(2 * len(given)))
    for options in given:
        number, other = next(numbers), next(numbers)
        as_json = await _batch(caller, number, **options)
        line = orjson.dumps({"process_number": other, **options})
        as_line = await caller.post(
            "/jobs/batch", data=line, headers={"Content-Type": "application/x-ndjson"}
        )
        for answer in (as_json, as_line):
            assert answer.status == 202, (options, answer.text)
            job = (await caller.get(f"/jobs/{answer.json['items'][0]['job_id']}")).json
            is_told = options.keys() & {"webhook_url", "webhook_endpoint_id"}
            assert job["webhook_url"] == (HOOK if is_told else None)
            assert job["webhook_endpoint_id"] == options.get("webhook_endpoint_id")
            assert job["priority"] == options.get("priority", "normal")
            assert job["reference"] == options.get("reference")
            assert job["filters"] == ([options["filter"]] if "filter" in options else None)
    async with api.db.connection() as conn:
        left = await conn.fetch(
            "select extract(epoch from deadline_at - created_at)::int, count(*) from jobs group by 1"
        )
        events = await conn.fetchval("select count(*) from subscriptions where 'job.started' = any(events)")
    assert {(600, 2), (60, 2)} <= {tuple(row) for row in left}
    assert events == 2


@pytest.mark.parametrize("body", [b"", b"\n\n"])
async def test_ndjson_without_a_line_is_refused(api: World, body: bytes) -> None:
    caller = await api.caller()
    answer = await caller.post("/jobs/batch", data=body, headers={"Content-Type": "application/x-ndjson"})
    assert_problem(answer, 422, "invalid-request")


async def test_a_body_of_more_than_a_mebibyte_is_refused(api: World) -> None:
    caller = await api.caller()
    answer = await caller.post(
        "/jobs/batch", data=BytesIO(b" " * (1024 * 1024 + 1)), headers={"Content-Type": "application/json"}
    )
    assert_problem(answer, 413, "payload-too-large")


async def test_a_webhook_that_may_not_be_called_refuses_the_whole_batch(api: World) -> None:
    caller = await api.caller()
    for option in ("webhook_url", "batch_webhook_url"):
        answer = await _batch(caller, CASE, **{option: "ftp://hooks.example.com/"})
        assert_problem(answer, 422, "invalid-request")
        assert answer.json["errors"][0]["pointer"] == f"#/{option}"
    assert await _count(api, "jobs") == 0


async def test_the_same_key_and_body_get_the_same_batch(api: World) -> None:
    caller, headers = await api.caller(), {"Idempotency-Key": "b"}
    first = await _batch(caller, CASE, OTHER, headers=headers)
    again = await _batch(caller, CASE, OTHER, headers=headers)
    assert again.text == first.text
    assert await _count(api, "batches") == 1
    assert_problem(await _batch(caller, CASE, headers=headers), 422, "idempotency-key-reused")


async def test_a_batch_of_somebody_else_is_not_found(api: World) -> None:
    answer = await _batch(await api.caller(), CASE)
    stranger = await api.caller("stranger")
    assert_problem(await stranger.get(f"/batches/{answer.json['batch_id']}"), 404, "not-found")


async def test_more_active_jobs_than_the_client_may_have_are_refused_one_by_one(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_world(make_settings(max_active_jobs=2), with_worker=False) as api:
        caller = await api.caller()
        answer = await _batch(caller, CASE, OTHER, THIRD)
        assert [item["outcome"] for item in answer.json["items"]] == ["created", "created", "refused"]
        problem = answer.json["items"][2]["problem"]
        assert (problem["status"], problem["type"].rpartition("/")[2]) == (429, "too-many-active-jobs")
        single = await caller.post("/jobs", json={"process_number": THIRD})
        assert_problem(single, 429, "too-many-active-jobs")
        assert int(single.headers["Retry-After"]) > 0
        # Who needs no new job is welcome.
        assert (await caller.post("/jobs", json={"process_number": CASE})).status == 202
        await _settle_one(api)
        assert (await caller.post("/jobs", json={"process_number": THIRD})).status == 202


async def test_progress_rises_to_the_end_and_the_tag_changes_with_it(api: World) -> None:
    caller = await api.caller()
    path = (await _batch(caller, CASE, OTHER)).headers["Location"]
    before = await caller.get(path)
    known = {"If-None-Match": before.headers["ETag"]}
    assert (await caller.get(path, headers=known)).status == 304
    await _settle_one(api)
    halfway = await caller.get(path, headers=known)
    assert (halfway.json["status"], halfway.json["progress_percentage"]) == ("processing", 50.0)
    await _settle_one(api)
    ended = await caller.get(f"{path}?fields=summary")
    assert (ended.json["status"], ended.json["progress_percentage"]) == ("finished", 100.0)
    assert ended.json["jobs"] == {"completed": 2}
    assert "items" not in ended.json
    assert "Retry-After" not in ended.headers


async def test_who_waits_for_a_batch_is_woken_by_any_of_its_jobs(api: World) -> None:
    caller = await api.caller()
    first = await _batch(caller, CASE, OTHER)
    job_id = UUID(first.json["items"][1]["job_id"])
    waiting = asyncio.create_task(caller.get(f"{first.headers['Location']}?wait=60"))
    await until(lambda: api.news.watching(job_id) > 0)
    await _settle_one(api)
    assert (await waiting).json["jobs"] == {"completed": 1, "pending": 1}


async def test_of_jobs_that_end_at_the_same_time_one_ends_the_batch(api: World) -> None:
    """Each transaction would otherwise see the other's job still running, and nobody would tell."""
    caller, numbers = await api.caller(), case_numbers(8)
    for _ in range(3):
        path = (await _batch(caller, *numbers, batch_webhook_url=HOOK, force_refresh=True)).headers[
            "Location"
        ]
        await asyncio.gather(*(_settle_one(api) for _ in numbers))
        assert (await caller.get(path)).json["status"] == "finished"
    async with api.db.connection() as conn:
        told = await conn.fetch("select batch_id, count(*) as n from deliveries group by batch_id")
    assert [row["n"] for row in told] == [1, 1, 1]


async def test_the_batch_tells_its_webhook_once_when_the_last_job_has_ended(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    failing = special_number(Special.UNKNOWN)
    answer = await _batch(
        caller,
        CASE,
        failing,
        WRONG,
        webhook_url=f"{receiver.url}/job",
        reference="each",
        batch_webhook_url=f"{receiver.url}/batch",
        batch_reference="all",
    )
    received = await receiver.wait_for(3)
    bodies = [orjson.loads(one.body) for one in received]
    (batch,) = [body for body in bodies if body["type"] == "batch.finished"]
    assert (batch["batch_id"], batch["reference"]) == (answer.json["batch_id"], "all")
    assert batch["jobs"] == {"completed": 1, "failed": 1}
    assert (batch["total_processes"], batch["refused_processes"]) == (3, 1)
    assert {body["reference"] for body in bodies if body is not batch} == {"each"}
    shown = (await caller.get(f"/batches/{batch['batch_id']}")).json
    assert (shown["status"], shown["total_documents"]) == ("finished", batch["total_documents"])
    # Everything is there already: the next batch has ended with its beginning, and says so too.
    again = await _batch(caller, CASE, batch_webhook_url=f"{receiver.url}/again")
    assert (again.status, again.json["status"]) == (200, "finished")
    assert orjson.loads((await receiver.wait_for(4))[3].body)["batch_id"] == again.json["batch_id"]
