"""Submissions that come at the same moment share a transaction, and each is met as if it had come alone."""

import asyncio
from uuid import uuid4

from tests.cases import case_numbers
from tests.conftest import MakeSettings
from tests.world import World, open_world

NUMBERS = case_numbers(20)


async def test_submissions_of_one_moment_have_each_a_job_of_its_own(api: World) -> None:
    one, other = await api.caller("one"), await api.caller("other")
    answers = await asyncio.gather(
        *(
            caller.post("/jobs", json={"process_number": number, "reference": f"{name} {number}"})
            for number in NUMBERS
            for name, caller in (("one", one), ("other", other))
        )
    )
    assert {answer.status for answer in answers} == {202}
    wanted = [(number, f"{name} {number}") for number in NUMBERS for name in ("one", "other")]
    assert [(answer.json["process_number"], answer.json["reference"]) for answer in answers] == wanted
    # The two clients share the job of a process, and nothing else.
    assert len({answer.json["job_id"] for answer in answers}) == len(NUMBERS)
    for name, caller in (("one", one), ("other", other)):
        listed = (await caller.get("/jobs?limit=100")).json["items"]
        assert {job["reference"] for job in listed} == {f"{name} {number}" for number in NUMBERS}


async def test_what_is_refused_is_refused_alone(api: World) -> None:
    caller = await api.caller()
    unknown = str(uuid4())
    bodies = [
        {"process_number": number, "webhook_endpoint_id": unknown}
        if place % 4 == 0
        else {"process_number": number}
        for place, number in enumerate(NUMBERS)
    ]
    answers = await asyncio.gather(*(caller.post("/jobs", json=body) for body in bodies))
    assert [answer.status for answer in answers] == [422 if place % 4 == 0 else 202 for place in range(20)]
    assert answers[0].json["errors"][0]["pointer"] == "#/webhook_endpoint_id"


async def test_of_one_moment_no_more_are_taken_than_a_client_may_have(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_world(make_settings(max_active_jobs=5), with_worker=False) as api:
        full, other = await api.caller("full"), await api.caller("other")
        answers = await asyncio.gather(
            *(full.post("/jobs", json={"process_number": number}) for number in NUMBERS),
            *(other.post("/jobs", json={"process_number": number}) for number in NUMBERS[:2]),
        )
        statuses = [answer.status for answer in answers]
        assert statuses[:20].count(202) >= 5
        assert set(statuses[:20]) == {202, 429}
        assert statuses[20:] == [202, 202]
        async with api.db.connection() as conn:
            made = await conn.fetchval("select count(*) from jobs where client_id = $1", full.client.id)
        assert made <= 5
