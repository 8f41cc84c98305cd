"""What can be said of a job: which documents, how urgently, how fresh, until when, and by which name."""

from typing import Any

import orjson
import pytest

from service.core import jobs
from service.core.cnj import parse_process_number
from service.core.db import open_database
from service.core.submission import Outcome, submit
from service.core.wishes import Wish
from service.sandbox.cases import Special, expected_documents, special_number
from tests.api.test_bad_input import assert_problem
from tests.conftest import MakeSettings
from tests.dashboard.reader import signed_in
from tests.databases import clock_apart
from tests.receiver import Receiver
from tests.world import Answer, Caller, World, until

CASE = "1003579-22.2025.8.26.0564"
DESPACHO, SENTENCA = {"types": ["despacho"]}, {"types": ["sentença"]}


async def _submit(caller: Caller, **options: Any) -> Answer:
    return await caller.post("/jobs", json={"process_number": CASE, **options})


async def _ended(caller: Caller, submitted: Answer) -> dict[str, Any]:
    """Return the job once it is final."""
    answer = submitted
    while "completed_at" not in answer.json or answer.json["completed_at"] is None:
        answer = await caller.get(f"/jobs/{submitted.json['job_id']}?wait=30")
    job: dict[str, Any] = (await caller.get(f"/jobs/{submitted.json['job_id']}")).json
    return job


async def test_a_filter_by_type_brings_in_those_documents_and_no_others(world: World) -> None:
    caller, listed = await world.caller(), expected_documents(CASE)
    job = await _ended(caller, await _submit(caller, filter={"types": ["SENTENÇA", "Despacho"]}))
    async with world.db.connection() as conn:
        rows = await conn.fetch("select portal_uuid from documents where type in ('Sentença', 'Despacho')")
    wanted = {str(row["portal_uuid"]) for row in rows}
    assert 0 < len(wanted) < len(listed)
    assert job["status"] == "completed"
    assert {one["uuid"] for one in job["documents"]} == wanted
    assert {one["status"] for one in job["documents"]} == {"available"}
    assert job["total_documents"] == job["completed_documents"] == len(wanted)
    # The process shows the others as listed and left out.
    files = (await caller.get(f"/processes/{CASE}/files")).json["documents"]
    left_out = {one["uuid"] for one in files if one["status"] == "skipped"}
    assert left_out == {one.uuid for one in listed} - wanted


async def test_a_job_without_filters_takes_up_what_was_left_out(world: World) -> None:
    caller, listed = await world.caller(), expected_documents(CASE)
    few = await _ended(caller, await _submit(caller, filter={"ids": [listed[0].uuid, listed[1].uuid]}))
    assert few["total_documents"] == 2
    # The list is fresh, but not everything that is wished for is there.
    everything = await _submit(caller)
    assert everything.status == 202
    job = await _ended(caller, everything)
    assert (job["status"], job["completed_documents"]) == ("completed", len(listed))
    # A complete process serves every filter.
    assert (await _submit(caller, filter={"ids": [listed[0].uuid]})).status == 200


async def test_days_are_days_in_brasilia_and_included(world: World) -> None:
    caller = await world.caller()
    job = await _ended(caller, await _submit(caller))
    days = sorted({one["filed_at"][:10] for one in job["documents"]})
    day = days[len(days) // 2]
    narrow = await _ended(
        caller, await _submit(caller, force_refresh=True, filter={"filed_from": day, "filed_until": day})
    )
    assert 0 < narrow["total_documents"] < job["total_documents"]
    async with world.db.connection() as conn:
        fits = await conn.fetchval(
            """select count(*) from documents
               where (filed_at at time zone 'America/Sao_Paulo')::date = $1::text::date""",
            day,
        )
    assert narrow["total_documents"] == fits


async def test_who_joins_with_another_filter_gets_his_documents_too(api: World) -> None:
    """The job widens; its worker finds that out before it ends it (the test after the next)."""
    first, second = await api.caller(), await api.caller("other")
    one = await _submit(first, filter={"types": ["Despacho"]}, priority="low")
    joined = await _submit(second, filter={"types": ["Sentença"]}, priority="high")
    assert joined.json["job_id"] == one.json["job_id"]
    async with api.db.connection() as conn:
        job = await jobs.get(conn, one.json["job_id"])
        assert (job.priority, job.filters) == ("high", [{"types": ["despacho"]}, {"types": ["sentença"]}])
        await _submit(first)
        await _submit(second, filter={"types": ["Despacho"]})
        job = await jobs.get(conn, one.json["job_id"])
        assert (job.priority, job.filters) == ("high", None)


async def test_a_client_sees_all_that_it_asked_for_itself_of_one_job(api: World) -> None:
    caller, hook = await api.caller(), "https://hooks.example.com/"
    await _submit(caller, filter={"types": ["Despacho"]}, priority="low")
    # The same again is one subscription, and another webhook is another.
    again = await _submit(caller, filter={"types": ["Sentença"]}, priority="low")
    assert (again.json["priority"], again.json["filters"]) == ("low", [DESPACHO, SENTENCA])
    told = await _submit(caller, filter={"filed_from": "2024-01-01"}, webhook_url=hook, priority="high")
    shown = (await caller.get(f"/jobs/{told.json['job_id']}")).json
    assert shown["priority"] == "high"
    assert shown["filters"] == [DESPACHO, SENTENCA, {"filed_from": "2024-01-01"}]
    lines = [
        orjson.dumps({"process_number": CASE, "webhook_url": hook, "reference": "x", "filter": one})
        for one in (DESPACHO, SENTENCA)
    ]
    await caller.post("/jobs/batch", data=b"\n".join(lines), headers={"Content-Type": "application/x-ndjson"})
    async with api.db.connection() as conn:
        rows = await conn.fetch(
            "select priority::text, jsonb_array_length(filters) from subscriptions order by created_at"
        )
        assert [tuple(row) for row in rows] == [("low", 2), ("high", 1), ("normal", 2)]
    assert (await _submit(caller)).json["filters"] is None


async def test_nobody_sees_or_retries_what_another_asked_for(world: World, receiver: Receiver) -> None:
    first, second = await world.caller(), await world.caller("other")
    partial = special_number(Special.CODEX_SOME)

    async def ask(caller: Caller, day: str, priority: str) -> str:
        asked = {"process_number": partial, "webhook_url": f"{receiver.url}/{day}", "priority": priority}
        answer = await caller.post("/jobs", json={**asked, "filter": {"filed_from": day}})
        assert (answer.json["priority"], answer.json["filters"]) == (priority, [{"filed_from": day}])
        job_id: str = answer.json["job_id"]
        return job_id

    # One job, held back until both have asked for it.
    async with world.db.transaction() as conn:
        await conn.execute("lock table turns in exclusive mode")
        job_id = await ask(first, "2001-01-01", "low")
        assert await ask(second, "2002-02-02", "high") == job_id
    told = [one.body.decode() for one in await receiver.wait_for(2)]
    assert not any("2001-01-01" in one or "2002-02-02" in one for one in told)
    for caller, day, foreign in ((first, "2001-01-01", "2002-02-02"), (second, "2002-02-02", "2001-01-01")):
        priority = "low" if caller is first else "high"
        async with caller.http.get(
            f"{caller.base_url}/jobs/{job_id}/events", headers={"X-API-Key": caller.key}
        ) as stream:
            streamed = await stream.text()
        shown = [
            *[(await caller.get(path)).text for path in _everywhere(job_id, partial)],
            streamed,
        ]
        assert not any(foreign in one for one in shown)
        assert sum(f'"filed_from":"{day}"' in one for one in shown) == 4
        async with signed_in(world, caller.key) as reader:
            page = (await reader.get(f"/dashboard/jobs/{job_id}")).text
        assert f"<dt>Priority</dt><dd>{priority}</dd>" in page
    again = await first.post(f"/jobs/{job_id}/retry")
    assert (again.status, again.json["priority"], again.json["filters"]) == (
        202,
        "low",
        [{"filed_from": "2001-01-01"}],
    )
    async with world.db.connection() as conn:
        job = await jobs.get(conn, again.json["job_id"])
    assert (job.priority, job.filters) == ("low", [{"filed_from": "2001-01-01"}])


def _everywhere(job_id: str, number: str) -> tuple[str, ...]:
    """Where a client's job is shown; the first three and the stream show what was asked for."""
    return (
        f"/jobs/{job_id}",
        f"/processes/{number}/status",
        f"/jobs?ids={job_id}",
        f"/jobs/{job_id}/manifest",
        f"/processes/{number}/files",
        "/webhooks/deliveries",
    )


async def test_who_is_served_by_what_is_there_sees_his_own_filter(world: World) -> None:
    first, second = await world.caller(), await world.caller("other")
    await _ended(first, await _submit(first, priority="high"))
    cached = await _submit(second, filter=SENTENCA, priority="low")
    assert (cached.status, cached.json["priority"], cached.json["filters"]) == (200, "low", [SENTENCA])


async def test_a_job_that_is_widened_while_it_runs_goes_round_again(world: World) -> None:
    caller, slow = await world.caller(), special_number(Special.SLOW)
    listed = expected_documents(slow)
    submitted = await caller.post("/jobs", json={"process_number": slow, "filter": {"ids": [listed[0].uuid]}})
    await until(lambda: world.portal.binaries[listed[0].uuid] > 0)
    joined = await caller.post("/jobs", json={"process_number": slow})
    assert joined.json["job_id"] == submitted.json["job_id"]
    job = await _ended(caller, submitted)
    assert (job["status"], job["completed_documents"]) == ("completed", len(listed))
    assert world.portal.binaries[listed[0].uuid] == 1


async def test_the_reference_is_echoed_everywhere(world: World, receiver: Receiver) -> None:
    caller = await world.caller()
    submitted = await _submit(caller, reference="pasta 17/ç", webhook_url=receiver.url)
    assert submitted.json["reference"] == "pasta 17/ç"
    job = await _ended(caller, submitted)
    assert job["reference"] == "pasta 17/ç"
    (told,) = await receiver.wait_for(1)
    assert orjson.loads(told.body)["reference"] == "pasta 17/ç"
    listed = (await caller.get("/jobs", params={"reference": "pasta 17/ç"})).json["items"]
    assert [one["job_id"] for one in listed] == [job["job_id"]]
    assert (await caller.get("/jobs", params={"reference": "pasta"})).json["items"] == []


async def test_two_references_of_one_client_are_both_told(world: World, receiver: Receiver) -> None:
    caller = await world.caller()
    for reference in ("a", "b", "a"):
        await _submit(caller, reference=reference, webhook_url=receiver.url)
    told = [orjson.loads(one.body)["reference"] for one in await receiver.wait_for(2)]
    assert sorted(told) == ["a", "b"]


async def test_another_client_does_not_see_the_reference(api: World) -> None:
    await _submit(await api.caller(), reference="secret")
    joined = await _submit(await api.caller("other"))
    assert joined.json["reference"] is None


async def test_max_age_decides_whether_what_is_there_serves(world: World) -> None:
    caller = await world.caller()
    await _ended(caller, await _submit(caller))
    async with world.db.connection() as conn:
        await conn.execute("update processes set listed_at = listed_at - interval '1 hour'")
    assert (await _submit(caller, max_age_s=4000)).status == 200
    assert (await _submit(caller, max_age_s=3000)).status == 202


async def test_how_old_a_list_is_goes_by_the_databases_clock(
    world: World, database_url: str, make_settings: MakeSettings
) -> None:
    caller = await world.caller()
    await _ended(caller, await _submit(caller))
    outcomes = {}
    for hours in (1, -1):
        async with (
            clock_apart(database_url, hours=hours) as url,
            open_database(make_settings(database_url=url)) as db,
            db.connection() as conn,
        ):
            for max_age_s in (0, 3000, 4000):
                wish = Wish(parse_process_number(CASE), max_age_s=max_age_s)
                undone = conn.transaction()
                await undone.start()
                submitted = await submit(conn, wish, caller.client.id, settings=world.settings)
                outcomes[hours, max_age_s] = submitted.outcome
                await undone.rollback()
    assert {which for which, outcome in outcomes.items() if outcome is Outcome.CACHED} == {
        (1, 4000),
        (-1, 3000),
        (-1, 4000),
    }
    assert {*outcomes.values()} == {Outcome.CACHED, Outcome.CREATED}


async def test_the_deadline_of_a_job_is_what_its_caller_said(api: World) -> None:
    submitted = await _submit(await api.caller(), deadline_s=120)
    async with api.db.connection() as conn:
        left_s = await conn.fetchval(
            "select extract(epoch from deadline_at - created_at)::int from jobs where id = $1",
            submitted.json["job_id"],
        )
    assert left_s == pytest.approx(120, abs=1)


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"priority": "urgent"}, "#/priority"),
        ({"deadline_s": 0}, "#/deadline_s"),
        ({"deadline_s": 604_801}, "#/deadline_s"),
        ({"max_age_s": -1}, "#/max_age_s"),
        ({"reference": ""}, "#/reference"),
        ({"reference": "x" * 201}, "#/reference"),
        ({"reference": "two\nlines"}, "#/reference"),
        ({"filter": {}}, "#/filter"),
        ({"filter": {"types": []}}, "#/filter/types"),
        ({"filter": {"ids": ["no uuid"]}}, "#/filter/ids/0"),
        ({"filter": {"filed_from": "2026-02-02", "filed_until": "2026-02-01"}}, "#/filter"),
        ({"filter": {"filed_from": "yesterday"}}, "#/filter/filed_from"),
        ({"filter": {"kind": "x"}}, "#/filter/kind"),
        ({"force_refresh": True, "max_age_s": 5}, "#/"),
    ],
)
async def test_an_option_that_makes_no_sense_is_refused(
    api: World, options: dict[str, Any], pointer: str
) -> None:
    answer = await _submit(await api.caller(), **options)
    assert_problem(answer, 422, "invalid-request")
    assert answer.json["errors"][0]["pointer"] == pointer
    async with api.db.connection() as conn:
        assert await conn.fetchval("select count(*) from jobs") == 0
