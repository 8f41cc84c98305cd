"""`POST /jobs/{id}/cancel` and `/retry`: who may, when, and what comes of it."""

from uuid import uuid4

from service.core import settlement
from service.sandbox.cases import Special, special_number
from tests.claims import claim_one
from tests.receiver import Receiver
from tests.world import Answer, Caller, World, until

CASE = "1003579-22.2025.8.26.0564"


async def _submitted(caller: Caller, number: str = CASE, webhook_url: str | None = None) -> str:
    answer = await caller.post("/jobs", json={"process_number": number, "webhook_url": webhook_url})
    assert answer.status == 202
    job_id: str = answer.json["job_id"]
    return job_id


async def _cancel(caller: Caller, job_id: str) -> Answer:
    return await caller.post(f"/jobs/{job_id}/cancel")


async def test_a_job_that_waits_is_cancelled_and_told(api: World) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller, webhook_url="https://hooks.example.com/")
    answer = await _cancel(caller, job_id)
    assert (answer.status, answer.json["status"], answer.json["error_code"]) == (
        200,
        "cancelled",
        "cancelled",
    )
    async with api.db.connection() as conn:
        assert await conn.fetchval("select array_agg(event) from deliveries") == ["job.cancelled"]
    again = await _cancel(caller, job_id)
    assert (again.status, again.json["sequence"]) == (200, answer.json["sequence"])


async def test_cancelling_stops_the_downloads_and_settles_the_documents(
    world: World, receiver: Receiver
) -> None:
    number = special_number(Special.THOUSAND)
    caller = await world.caller()
    job_id = await _submitted(caller, number, receiver.url)
    await until(lambda: world.portal.binaries.total() > 20)
    answer = await _cancel(caller, job_id)
    assert answer.json["status"] == "cancelled"
    (got,) = await receiver.wait_for(1)
    assert (got.event["type"], got.event["total_documents"]) == ("job.cancelled", 1000)
    await until(lambda: world.portal.in_flight == 0)
    assert world.portal.binaries.total() < 1000
    final = (await caller.get(f"/jobs/{job_id}")).json
    assert (final["status"], final["sequence"]) == ("cancelled", answer.json["sequence"])
    assert {one["status"] for one in final["documents"]} <= {"available", "failed"}
    assert got.event["completed_documents"] == final["completed_documents"]


async def test_what_was_available_when_a_job_was_cancelled_stays_so(world: World) -> None:
    caller = await world.caller()
    await _submitted(caller)
    await caller.wait_until_final(CASE)
    again = await caller.post("/jobs", json={"process_number": CASE, "force_refresh": True})
    answer = await _cancel(caller, again.json["job_id"])
    assert {one["status"] for one in answer.json["documents"]} == {"available"}


async def test_a_job_that_has_ended_otherwise_cannot_be_cancelled(world: World) -> None:
    caller = await world.caller()
    job_id = await _submitted(caller)
    await caller.wait_until_final(CASE)
    answer = await _cancel(caller, job_id)
    assert (answer.status, answer.json["type"].rpartition("/")[2]) == (409, "job-final")
    assert (await caller.get(f"/jobs/{job_id}")).json["status"] == "completed"


async def test_a_job_that_another_client_waits_for_goes_on(api: World) -> None:
    first, second = await api.caller("first"), await api.caller("second")
    job_id = await _submitted(first)
    assert await _submitted(second) == job_id
    for caller in (first, second):
        answer = await _cancel(caller, job_id)
        assert (answer.status, answer.json["type"].rpartition("/")[2]) == (409, "job-shared")
    assert (await first.get(f"/jobs/{job_id}")).json["status"] == "pending"


async def test_a_strangers_job_is_not_found(api: World) -> None:
    job_id = await _submitted(await api.caller("owner"))
    stranger = await api.caller("stranger")
    for action in ("cancel", "retry"):
        for asked in (job_id, str(uuid4()), "nonsense"):
            assert (await stranger.post(f"/jobs/{asked}/{action}")).status == 404
    async with api.db.connection() as conn:
        assert await conn.fetchval("select status::text from jobs") == "pending"


async def test_a_retry_is_a_new_job_for_what_failed(world: World) -> None:
    number = special_number(Special.CODEX_SOME)
    caller = await world.caller()
    first = await _submitted(caller, number)
    ended = await caller.wait_until_final(number)
    asked = dict(world.portal.binaries)
    answer = await caller.post(f"/jobs/{first}/retry")
    assert (answer.status, answer.json["completed_documents"]) == (202, 0)
    assert answer.headers["Location"] == f"/jobs/{answer.json['job_id']}"
    assert answer.json["job_id"] != first
    again = await caller.wait_until_final(number)
    assert (again["job_id"], again["status"]) == (answer.json["job_id"], "partial")
    assert again["completed_documents"] == ended["completed_documents"] == 7
    for document in again["documents"]:
        times = world.portal.binaries[document["uuid"]] - asked[document["uuid"]]
        assert (times > 0) == (document["status"] == "failed")


async def test_a_retry_tells_the_webhooks_of_the_old_job_or_the_one_it_names(api: World) -> None:
    urls = ["https://hooks.example.com/a", "https://hooks.example.com/b"]
    caller = await api.caller()
    job_id, _ = [await _submitted(caller, webhook_url=url) for url in urls]
    await _cancel(caller, job_id)
    second = (await caller.post(f"/jobs/{job_id}/retry")).json["job_id"]
    await _cancel(caller, second)
    third = (await caller.post(f"/jobs/{second}/retry", json={"webhook_url": urls[0]})).json["job_id"]
    async with api.db.connection() as conn:
        rows = await conn.fetch("select job_id::text, webhook_url from subscriptions order by webhook_url")
    told = {one: [row["webhook_url"] for row in rows if row["job_id"] == one] for one in (second, third)}
    assert told == {second: urls, third: urls[:1]}


async def test_two_retries_at_once_share_one_new_job(api: World) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    await _cancel(caller, job_id)
    first, second = [await caller.post(f"/jobs/{job_id}/retry") for _ in range(2)]
    assert first.json["job_id"] == second.json["job_id"] != job_id


async def test_there_is_nothing_to_retry_in_a_running_or_completed_job(api: World) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    running = await caller.post(f"/jobs/{job_id}/retry")
    async with api.db.transaction() as conn:
        job = await claim_one(conn)
        assert job
        await settlement.settle(conn, job)
    completed = await caller.post(f"/jobs/{job_id}/retry")
    for answer in (running, completed):
        assert (answer.status, answer.json["type"].rpartition("/")[2]) == (409, "nothing-to-retry")


async def test_a_retry_with_a_webhook_that_may_not_be_called_changes_nothing(api: World) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    await _cancel(caller, job_id)
    answer = await caller.post(f"/jobs/{job_id}/retry", json={"webhook_url": "ftp://hooks.example.com/"})
    assert answer.status == 422
    async with api.db.connection() as conn:
        assert await conn.fetchval("select count(*) from jobs") == 1
