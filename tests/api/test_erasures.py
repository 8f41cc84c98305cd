"""`DELETE /processes/{number}`: what is the client's goes, and nobody learns of anybody else."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.core import audit, clients, erasing, erasures, submission
from service.core.cnj import parse_process_number
from service.core.db import Connection
from service.core.erasing import Order
from service.core.errors import NotFoundError
from service.core.wishes import Wish
from tests.api.test_bad_input import assert_problem
from tests.api.test_events import following
from tests.cases import case_numbers
from tests.erasures import ERASER, erased
from tests.world import Answer, Caller, World, until

CASE = "1003579-22.2025.8.26.0564"
(OTHER,) = case_numbers(1)
HOOK = "https://hooks.example.com/autos"


async def _submitted(caller: Caller, number: str = CASE, **options: Any) -> UUID:
    answer = await caller.post("/jobs", json={"process_number": number, **options})
    assert answer.status == 202, answer.text
    return UUID(answer.json["job_id"])


async def _count(api: World, table: str) -> int:
    async with api.db.connection() as conn:
        count: int = await conn.fetchval(f"select count(*) from {table}")
    return count


def _but(receipt: Any, *members: str) -> dict[str, Any]:
    return {name: value for name, value in receipt.items() if name not in members}


async def _waiting(api: World, caller: Caller, path: str, job_id: UUID) -> asyncio.Task[Answer]:
    """Begin a call that waits for a job; return once it does."""
    before = api.news.watching(job_id)
    task = asyncio.create_task(caller.get(path, params={"wait": "60"}))
    await until(lambda: api.news.watching(job_id) > before)
    return task


async def test_a_key_needs_the_scope_and_an_operators_for_what_everybody_has(api: World) -> None:
    caller = await api.caller()
    await _submitted(caller)
    eraser = await api.caller(scopes=["erase"])
    operator = await api.caller(scopes=["operator"])
    for key, query in ((caller, ""), (operator, ""), (eraser, "?everyone=true")):
        refused = await key.call("DELETE", f"/processes/{CASE}{query}")
        assert_problem(refused, 403, "insufficient-scope")
    assert await _count(api, "jobs") == 1
    receipt_id = await erased(eraser, CASE)
    for key in (eraser, caller):
        assert (await key.get(f"/erasures/{receipt_id}")).status == 200
    assert (await eraser.get(f"/processes/{CASE}/status")).status == 403


async def test_what_a_client_never_asked_for_is_not_there_and_stays(api: World) -> None:
    caller, other = await api.caller(scopes=ERASER), await api.caller("other")
    await _submitted(other)
    for number in (CASE, OTHER):
        refused = await caller.call("DELETE", f"/processes/{number}")
        assert_problem(refused, 404, "not-found")
    assert await _count(api, "jobs") == 1
    assert await _count(api, "erasures") == 0
    assert_problem(await caller.get(f"/erasures/{uuid4()}"), 404, "not-found")


async def test_a_repeated_call_has_the_same_receipt_until_it_is_finished(api: World) -> None:
    caller = await api.caller(scopes=ERASER)
    await _submitted(caller)
    first = await caller.call("DELETE", f"/api/v1/processes/{CASE}")
    assert first.headers["Location"] == f"/api/v1/erasures/{first.json['id']}"
    assert first.json["finished_at"] is None
    again = await caller.call("DELETE", f"/processes/{parse_process_number(CASE)}")
    assert (again.status, again.json) == (202, first.json)
    assert (await caller.get(first.headers["Location"])).json == first.json
    # Asked for since, it is another one's turn.
    await _submitted(caller)
    assert await erased(caller, CASE) != UUID(first.json["id"])
    async with api.db.connection() as conn:
        await conn.execute("update erasures set quiet_at = now(), finished_at = now(), process_number = null")
    assert_problem(await caller.call("DELETE", f"/processes/{CASE}"), 404, "not-found")
    assert await _count(api, "erasures") == 2


async def test_many_at_once_make_one_erasure(api: World) -> None:
    caller = await api.caller(scopes=ERASER)
    await _submitted(caller)
    assert len(set(await asyncio.gather(*(erased(caller, CASE) for _ in range(4))))) == 1


async def test_who_shares_a_process_cannot_tell_and_loses_nothing_of_the_others(api: World) -> None:
    """The same calls, once alone and once beside another client."""
    caller, other = await api.caller(scopes=ERASER), await api.caller("other")
    receipts, theirs = [], UUID(int=0)
    for is_shared in (False, True):
        if is_shared:
            theirs = await _submitted(other, webhook_url=HOOK)
        await _submitted(caller, webhook_url=HOOK, reference="mine")
        batch = {"process_numbers": [CASE, OTHER]}
        await caller.post("/jobs/batch", json=batch, headers={"Idempotency-Key": f"batch {is_shared}"})
        answer = await caller.call("DELETE", f"/processes/{CASE}")
        receipts.append((answer.status, _but(answer.json, "id", "requested_at", "proof")))
        assert (await caller.get(f"/processes/{CASE}/status")).status == 404
        async with api.db.connection() as conn:
            left = await conn.fetchval("select max(quiet_at - requested_at) from erasures")
            assert left == await conn.fetchval("select min(quiet_at - requested_at) from erasures")
    assert receipts[0] == receipts[1]
    assert receipts[0][1]["counts"] == {
        "jobs": 1,
        "documents": 0,
        "webhooks": 0,
        "batch_items": 1,
        "kept_answers": 1,
    }
    status = (await other.get(f"/processes/{CASE}/status")).json
    assert (status["job_id"], status["status"], status["webhook_url"]) == (str(theirs), "pending", HOOK)
    assert (await other.get(f"/erasures/{(await _receipt_ids(api))[0]}")).status == 404


async def _receipt_ids(api: World) -> list[UUID]:
    async with api.db.connection() as conn:
        return [row["id"] for row in await conn.fetch("select id from erasures")]


async def test_a_job_that_others_need_is_theirs_from_then_on(api: World) -> None:
    caller, other = await api.caller(scopes=ERASER), await api.caller("other")
    job_id = await _submitted(caller)
    assert await _submitted(other) == job_id
    await erased(caller, CASE)
    async with api.db.connection() as conn:
        assert await conn.fetchval("select client_id from jobs") == other.client.id
        assert await conn.fetchval("select array_agg(client_id) from subscriptions") == [other.client.id]


async def test_who_waits_for_what_is_erased_hears_404_at_once(api: World) -> None:
    """Of a job of his own, and of one that goes on for others, who hear nothing."""
    caller, other = await api.caller(scopes=ERASER), await api.caller("other")
    others = list[asyncio.Task[Answer]]()
    for is_shared in (False, True):
        job_id = await _submitted(caller)
        paths = [f"/jobs/{job_id}", f"/processes/{CASE}/status"]
        waiting = [await _waiting(api, caller, path, job_id) for path in paths]
        if is_shared:
            await _submitted(other)
            others.append(await _waiting(api, other, paths[0], job_id))
        async with following(caller, f"/jobs/{job_id}/events") as reader:
            await reader.read(lambda one: bool(one.jobs))
            await erased(caller, CASE)
            await reader.read()  # to its end
        for answer in await asyncio.gather(*waiting):
            assert_problem(answer, 404, "not-found")
        again = await caller.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": str(reader.last_id)})
        assert_problem(again, 404, "not-found")
    (still_waiting,) = others
    assert not still_waiting.done()
    api.drain()
    assert (await still_waiting).status == 200


async def test_a_spent_key_does_not_bring_back_what_was_erased(api: World) -> None:
    caller, other = await api.caller(scopes=ERASER), await api.caller("other")
    key, body = {"Idempotency-Key": f"fetch {CASE}"}, {"process_number": CASE}
    for one in (caller, other):
        await one.post("/jobs", json=body, headers=key)
    batch = {"process_numbers": [OTHER, CASE]}
    await caller.post("/api/v1/jobs/batch", json=batch, headers={"Idempotency-Key": "batch"})
    await caller.post("/jobs", json={"process_number": OTHER}, headers={"Idempotency-Key": "other"})
    await erased(caller, CASE)
    for path, sent, name in (
        ("/jobs", body, key["Idempotency-Key"]),
        ("/jobs", {"process_number": OTHER}, key["Idempotency-Key"]),
        ("/jobs/batch", batch, "batch"),
    ):
        refused = await caller.post(path, json=sent, headers={"Idempotency-Key": name})
        assert_problem(refused, 410, "erased")
    assert (await other.post("/jobs", json=body, headers=key)).headers["Idempotent-Replayed"] == "true"
    kept = await caller.post("/jobs", json={"process_number": OTHER}, headers={"Idempotency-Key": "other"})
    assert kept.headers["Idempotent-Replayed"] == "true"
    assert (await caller.post("/jobs", json=body, headers={"Idempotency-Key": "new"})).status == 202


async def test_a_batch_goes_on_without_what_was_erased_and_ends_when_nothing_else_is_open(
    api: World,
) -> None:
    caller = await api.caller(scopes=ERASER)
    body = {"process_numbers": [CASE, OTHER], "reference": "mine", "batch_webhook_url": HOOK}
    made = (await caller.post("/jobs/batch", json=body)).json
    path = f"/batches/{made['batch_id']}"
    first_job, second_job = (UUID(item["job_id"]) for item in made["items"])
    waiting = await _waiting(api, caller, path, second_job)
    await erased(caller, CASE)
    batch = (await waiting).json
    assert batch["items"][0] == {
        "position": 0,
        "process_number": None,
        "reference": None,
        "outcome": "erased",
        "job_id": None,
        "status": None,
        "progress_percentage": None,
        "problem": None,
    }
    assert (batch["status"], batch["total_processes"], batch["jobs"]) == ("processing", 2, {"pending": 1})
    assert batch["sequence"] > made["sequence"]
    await erased(caller, OTHER)
    ended = (await caller.get(path)).json
    assert (ended["status"], ended["jobs"]) == ("finished", {})
    assert ended["sequence"] > batch["sequence"]
    async with api.db.connection() as conn:
        assert await conn.fetchval("select array_agg(event) from deliveries") == ["batch.finished"]
    assert (await caller.get(f"/jobs/{first_job}")).status == 404


async def test_a_batch_that_shares_its_job_with_others_ends_for_who_erases(api: World) -> None:
    caller, other = await api.caller(scopes=ERASER), await api.caller("other")
    body = {"process_numbers": [CASE], "batch_webhook_url": HOOK}
    alone = (await caller.post("/jobs/batch", json=body)).json["batch_id"]
    await erased(caller, CASE)
    await other.post("/jobs/batch", json=body)
    made = (await caller.post("/jobs/batch", json=body)).json
    await erased(caller, CASE)
    assert (await caller.get(f"/batches/{made['batch_id']}")).json["status"] == "finished"
    async with api.db.connection() as conn:
        open_jobs = await conn.fetch("select client_id, open_jobs from batches order by open_jobs")
        told = {str(row[0]): row[1] for row in await conn.fetch("select batch_id, payload from deliveries")}
    assert [tuple(row) for row in open_jobs] == [*[(caller.client.id, 0)] * 2, (other.client.id, 1)]
    # And is told the same as if it had been alone.
    at = ("batch_id", "timestamp", "created_at", "finished_at")
    assert told.keys() == {alone, made["batch_id"]}
    assert _but(told[alone], *at) == _but(told[made["batch_id"]], *at)
    assert told[alone]["jobs"] == {}


async def test_a_number_that_was_refused_for_other_reasons_goes_too_however_it_was_written(
    api: World,
) -> None:
    numbers = case_numbers(3, first=1)
    digits = [parse_process_number(number) for number in numbers]
    written = [numbers[0], digits[1], numbers[2].lstrip("0")]
    caller = await api.caller(scopes=ERASER)
    async with api.db.connection() as conn:
        await clients.set_limits(conn, "acme", requests_per_minute=None, max_active_jobs=1)
    made = (await caller.post("/jobs/batch", json={"process_numbers": [OTHER, *written]})).json
    assert [one["process_number"] for one in made["items"]] == [OTHER, *written]
    # Nothing would ever forget a process that nobody has asked for in the end.
    assert await _count(api, "processes") == 1
    for number in digits:
        receipt = (await caller.call("DELETE", f"/processes/{number}")).json
        assert receipt["counts"]["batch_items"] == 1
    items = (await caller.get(f"/batches/{made['batch_id']}")).json["items"]
    outcomes = [(one["process_number"], one["outcome"]) for one in items]
    assert outcomes == [(OTHER, "created"), *[(None, "erased")] * 3]


async def test_an_operator_erases_what_every_client_has_and_the_others_are_told(api: World) -> None:
    operator = await api.caller("operations", scopes=["operator", "erase"])
    caller, other = await api.caller(), await api.caller("other")
    endpoint = {"url": HOOK, "events": ["batch.finished"]}
    endpoint_id = (await other.post("/webhooks/endpoints", json=endpoint)).json["id"]
    job_id = await _submitted(caller, webhook_url=HOOK)
    await _submitted(other, webhook_endpoint_id=endpoint_id)
    async with api.db.connection() as conn:
        await conn.execute("insert into canaries (process_number) values ($1)", parse_process_number(CASE))
    assert (await operator.call("DELETE", f"/processes/{CASE}")).status == 404
    receipt_id = await erased(operator, CASE, everyone="true")
    for table in ("processes", "jobs", "subscriptions", "canaries"):
        assert await _count(api, table) == 0
    async with api.db.connection() as conn:
        told = await conn.fetch("select client_id, event, payload from deliveries order by endpoint_id")
        (entry,) = await audit.list_latest(conn, client="operations", limit=9)
    assert {row["client_id"] for row in told} == {caller.client.id, other.client.id}
    for row in told:
        assert _but(row["payload"], "timestamp") == {
            "type": "process.erased",
            "erasure_id": str(receipt_id),
            "job_id": str(job_id),
        }
    assert (entry.action, entry.subject, entry.key_id) == ("process.erased", receipt_id, _key_id(operator))
    receipt = (await operator.get(f"/erasures/{receipt_id}")).json
    assert (receipt["of_everyone"], receipt["counts"]["jobs"]) == (True, 1)
    assert (await caller.get(f"/erasures/{receipt_id}")).status == 404


def _key_id(caller: Caller) -> str:
    return caller.key.split("_")[2]


async def test_who_asks_while_it_is_erased_waits_and_finds_it_new(api: World) -> None:
    """And who retries a job of it finds nothing to retry."""
    caller = await api.caller(scopes=ERASER)
    job_id = await _submitted(caller)
    await caller.post(f"/jobs/{job_id}/cancel")
    order = _order(caller)

    async def blocked(count: int) -> None:
        await api.until(
            "select count(*) = $1 from pg_stat_activity where wait_event_type = 'Lock'"
            " and datname = current_database()",
            count,
        )

    async with api.db.transaction() as conn:
        await erasing.erase(conn, order)
        retrying = asyncio.create_task(_retry(api, caller, job_id))
        await blocked(1)
    with pytest.raises(NotFoundError):
        await retrying
    async with api.db.transaction() as conn:
        await submission.submit(conn, Wish(order.number), caller.client.id, settings=api.settings)
    async with api.db.transaction() as conn:
        await erasing.erase(conn, _order(caller))
        asking = asyncio.create_task(_submitted(caller))
        await blocked(1)
    assert (await caller.get(f"/jobs/{await asking}")).json["status"] == "pending"
    assert await _count(api, "jobs") == 1


def _order(caller: Caller) -> Order:
    return Order(
        number=parse_process_number(CASE),
        proof="$scrypt$",
        client_id=caller.client.id,
        key_id="",
        of_everyone=False,
        lease_s=10.0,
    )


async def _retry(api: World, caller: Caller, job_id: UUID) -> None:
    async def write(conn: Connection) -> None:
        await submission.retry(
            conn, job_id, caller.client.id, webhook_url=None, endpoint_id=None, settings=api.settings
        )

    await api.db.in_transaction(write)


def test_a_proof_is_of_one_number_and_no_other_proof_of_it_is_the_same() -> None:
    number = parse_process_number(CASE)
    first, second = erasures.prove(number), erasures.prove(number)
    assert first != second
    assert erasures.is_about(first, number)
    assert erasures.is_about(second, number)
    assert not erasures.is_about(first, number[:-1] + "5")
    assert not erasures.is_about("$scrypt$", number)
