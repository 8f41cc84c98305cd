"""Lists of jobs: pages that miss and repeat nothing, filters, and many jobs by their ids."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest

from service.core import settlement
from tests.api.test_bad_input import assert_problem
from tests.cases import case_numbers
from tests.claims import claim_one
from tests.world import Caller, World


async def _submitted(caller: Caller, numbers: list[str]) -> list[str]:
    """Return the ids of their jobs."""
    answer = await caller.post("/jobs/batch", json={"process_numbers": numbers})
    return [item["job_id"] for item in answer.json["items"]]


async def _pages(caller: Caller, path: str) -> list[list[str]]:
    pages = []
    while path:
        answer = await caller.get(path)
        assert answer.status == 200, answer.text
        pages.append([one["job_id"] for one in answer.json["items"]])
        link = answer.headers.get("Link", "")
        assert bool(link) == bool(answer.json["next_cursor"])
        path = link[1 : link.index(">")] if link else ""
    return pages


async def test_pages_have_every_job_once_the_newest_first(api: World) -> None:
    caller, stranger = await api.caller(), await api.caller("stranger")
    ids = await _submitted(caller, case_numbers(7))
    await _submitted(stranger, case_numbers(5, first=2_000_000))
    pages = await _pages(caller, "/jobs?limit=3")
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [job_id for page in pages for job_id in page] == ids[::-1]


async def test_jobs_created_between_two_pages_shift_nothing(api: World) -> None:
    caller = await api.caller()
    ids = await _submitted(caller, case_numbers(4))
    first = await caller.get("/api/v1/jobs?limit=2")
    await _submitted(caller, case_numbers(3, first=2_000_000))
    second = await caller.get(f"/jobs?limit=2&cursor={first.json['next_cursor']}")
    assert [one["job_id"] for one in second.json["items"]] == ids[1::-1]


async def test_jobs_of_the_very_same_time_are_neither_lost_nor_repeated(api: World) -> None:
    caller = await api.caller()
    ids = await _submitted(caller, case_numbers(6))
    async with api.db.connection() as conn:
        await conn.execute("update jobs set created_at = date_trunc('hour', created_at)")
        await conn.execute("update subscriptions set job_created_at = date_trunc('hour', job_created_at)")
    pages = await _pages(caller, "/jobs?limit=2")
    assert sorted(job_id for page in pages for job_id in page) == sorted(ids)


async def test_a_job_asked_for_twice_is_listed_once(api: World) -> None:
    caller, numbers = await api.caller(), case_numbers(2)
    ids = await _submitted(caller, numbers)
    await caller.post("/jobs", json={"process_number": numbers[0], "reference": "again"})
    assert await _pages(caller, "/jobs?limit=1") == [[ids[1]], [ids[0]]]


async def test_filters_choose_and_go_together(api: World) -> None:
    caller, numbers = await api.caller(), case_numbers(4)
    ids = await _submitted(caller, numbers)
    async with api.db.transaction() as conn:
        job = await claim_one(conn)
        assert job
        assert str(job.id) == ids[0]
        await settlement.settle(conn, job)
        for old in (
            "update subscriptions set job_created_at = job_created_at - interval '1 day' where job_id = $1",
            "update jobs set created_at = created_at - interval '1 day' where id = $1",
        ):
            await conn.execute(old, UUID(ids[3]))
    yesterday = (datetime.now(UTC) - timedelta(hours=12)).isoformat().replace("+00:00", "Z")

    async def found(query: str) -> list[str]:
        return [one["job_id"] for one in (await caller.get(f"/jobs?{query}")).json["items"]]

    assert await found("status=completed") == [ids[0]]
    assert await found("status=pending,completed&limit=2") == [ids[2], ids[1]]
    assert await found(f"process_number={numbers[2]}") == [ids[2]]
    assert await found(f"created_until={yesterday}") == [ids[3]]
    assert await found(f"created_from={yesterday}&status=pending") == [ids[2], ids[1]]


async def test_what_is_rare_is_listed_page_by_page_and_to_its_client_alone(api: World) -> None:
    caller, other, numbers = await api.caller(), await api.caller("other"), case_numbers(5)
    ids = await _submitted(caller, numbers)
    await caller.post("/jobs", json={"process_number": numbers[0], "reference": "again"})
    await _submitted(other, case_numbers(3, first=2_000_000))
    for job_id in ids[:2]:
        await caller.post(f"/jobs/{job_id}/cancel")
    seen, cursor = [], ""
    while cursor is not None:
        page = (await caller.get(f"/jobs?status=pending,cancelled,failed&limit=2{cursor}")).json
        seen += [one["job_id"] for one in page["items"]]
        cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
    assert seen == ids[::-1]
    for query, found in (
        ("status=cancelled", [ids[1], ids[0]]),
        ("status=cancelled&reference=again", [ids[0]]),
        (f"status=cancelled,failed&process_number={numbers[1]}", [ids[1]]),
        (f"status=failed&process_number={numbers[1]}", []),
    ):
        assert [one["job_id"] for one in (await caller.get(f"/jobs?{query}")).json["items"]] == found
    assert (await other.get("/jobs?status=cancelled")).json["items"] == []


async def test_a_cursor_used_with_other_filters_is_refused(api: World) -> None:
    caller = await api.caller()
    await _submitted(caller, case_numbers(3))
    cursor = (await caller.get("/jobs?limit=1")).json["next_cursor"]
    assert (await caller.get(f"/jobs?limit=2&cursor={cursor}")).status == 200
    assert_problem(await caller.get(f"/jobs?status=pending&cursor={cursor}"), 400, "bad-request")


@pytest.mark.parametrize("cursor", ["x", "W10", "é", "bnVsbA", "WzEsMiwzXQ", "A" * 400])
async def test_what_is_no_cursor_is_refused(api: World, cursor: str) -> None:
    answer = await (await api.caller()).get("/jobs", params={"cursor": cursor})
    assert_problem(answer, 400, "bad-request")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "status=done", "created_from=2026-01-01T00:00:00", "color=red", "ids="]
)
async def test_a_query_that_makes_no_sense_is_refused(api: World, query: str) -> None:
    assert_problem(await (await api.caller()).get(f"/jobs?{query}"), 422, "invalid-request")


async def test_two_hundred_jobs_are_polled_in_one_call(api: World) -> None:
    caller, stranger = await api.caller(), await api.caller("stranger")
    ids = await _submitted(caller, case_numbers(197))
    (foreign,) = await _submitted(stranger, case_numbers(1, first=2_000_000))
    asked = [*ids, foreign, str(uuid4()), "no-id"]
    answer = await caller.get("/jobs", params={"ids": ",".join(asked)})
    assert answer.status == 200, answer.text
    assert [one["job_id"] for one in answer.json["items"]] == ids
    assert answer.json["missing"] == asked[197:]
    too_many = await caller.get("/jobs", params={"ids": ",".join([*asked, "x"])})
    assert_problem(too_many, 422, "invalid-request")
    assert_problem(await caller.get(f"/jobs?ids={ids[0]}&limit=5"), 422, "invalid-request")


async def test_an_unchanged_list_is_304(api: World) -> None:
    caller = await api.caller()
    ids = await _submitted(caller, case_numbers(3))
    path = f"/jobs?ids={','.join(ids)}"
    known = {"If-None-Match": (await caller.get(path)).headers["ETag"]}
    assert (await caller.get(path, headers=known)).status == 304
    await caller.post(f"/jobs/{ids[1]}/cancel")
    assert (await caller.get(path, headers=known)).status == 200


async def test_the_next_page_is_named_with_all_its_filters(api: World) -> None:
    caller = await api.caller()
    await _submitted(caller, case_numbers(3))
    link = (await caller.get("/api/v1/jobs?status=pending&limit=1")).headers["Link"]
    url = urlsplit(link[1 : link.index(">")])
    assert url.path == "/api/v1/jobs"
    query = parse_qs(url.query)
    assert (query["status"], query["limit"]) == (["pending"], ["1"])
