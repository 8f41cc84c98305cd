"""Limits seen from outside: requests with a key, what a key is for, and a process with too much to do."""

import asyncio
from uuid import UUID

import pytest

from service.core import clients
from tests.api.test_bad_input import assert_problem
from tests.conftest import MakeSettings
from tests.world import Answer, Caller, World, open_world, until

CASE = "1003579-22.2025.8.26.0564"


async def test_each_answer_says_what_is_left_and_beyond_it_is_429(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_world(make_settings(requests_per_minute=3), with_worker=False) as api:
        caller, other = await api.caller(), await api.caller()
        answers = [await caller.get("/jobs") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert_problem(answers[3], 429, "rate-limited")
        assert 1 <= int(answers[3].headers["Retry-After"]) <= 20
        assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"default";q=3;w=60'}
        assert [answer.headers["RateLimit"][:13] for answer in answers] == [
            f'"default";r={left}' for left in (2, 1, 0, 0)
        ]
        # Another key of the same client has a limit of its own, and an unknown key none to be told.
        assert (await other.get("/jobs")).status == 200
        unknown = Caller(api.base_url, api.http, "unknown", caller.client)
        assert "RateLimit" not in (await unknown.get("/jobs")).headers
        assert (await caller.get("/healthz")).status == 200
        # A stream is never told to come again later: its reader would give up.
        assert (await caller.get("/jobs/00000000-0000-0000-0000-000000000000/events")).status == 404


async def test_a_client_can_have_limits_of_its_own(api: World) -> None:
    caller = await api.caller()
    async with api.db.connection() as conn:
        await clients.set_limits(conn, "acme", requests_per_minute=2, max_active_jobs=1)
    assert (await caller.post("/jobs", json={"process_number": CASE})).status == 202
    second = await caller.post("/jobs", json={"process_number": "0919992-11.2023.8.19.0001"})
    assert_problem(second, 429, "too-many-active-jobs")
    assert_problem(await caller.get("/jobs"), 429, "rate-limited")


@pytest.mark.parametrize(
    ("scope", "method", "path", "status"),
    [
        ("read", "GET", "/jobs", 200),
        ("read", "GET", f"/processes/{CASE}?auto_download=false", 404),
        ("read", "GET", f"/processes/{CASE}", 403),
        ("read", "POST", "/jobs", 403),
        ("write", "POST", "/jobs", 202),
        ("write", "GET", "/jobs", 403),
    ],
)
async def test_a_key_is_for_what_its_scopes_say(
    api: World, scope: str, method: str, path: str, status: int
) -> None:
    caller, key = await api.caller(), clients.new_key()
    async with api.db.connection() as conn:
        await clients.add_key(conn, caller.client.id, key, scopes=[scope])
    limited = Caller(api.base_url, api.http, key, caller.client)
    options = {"json": {"process_number": CASE}} if method == "POST" else {}
    answer = await limited.call(method, path, **options)
    assert answer.status == status
    if status == 403:
        assert_problem(answer, 403, "insufficient-scope")
        async with api.db.connection() as conn:
            assert await conn.fetchval("select count(*) from jobs") == 0


async def test_a_full_process_refuses_submissions_first_and_status_reads_last(
    empty: None, make_settings: MakeSettings
) -> None:
    """Requests are held by a lock in the database, so that they are certainly under way together."""
    async with open_world(make_settings(max_requests=4), with_worker=False) as api:
        caller = await api.caller()
        job_id = (await caller.post("/jobs", json={"process_number": CASE})).json["job_id"]
        async with api.db.transaction() as conn:
            await conn.execute("select from processes for update")
            held = [
                asyncio.create_task(caller.post("/jobs", json={"process_number": CASE})) for _ in range(2)
            ]
            await until(lambda: api.load.under_way == 2)
            refused = await caller.post("/jobs", json={"process_number": CASE})
            assert_problem(refused, 503, "overloaded")
            assert int(refused.headers["Retry-After"]) > 0
            assert (await caller.get(f"/processes/{CASE}/files")).status == 200
            with api.load.taken():
                assert_problem(await caller.get(f"/processes/{CASE}/files"), 503, "overloaded")
                assert (await caller.get(f"/jobs/{job_id}")).status == 200
                with api.load.taken():
                    assert_problem(await caller.get(f"/jobs/{job_id}"), 503, "overloaded")
                    stream = await caller.get(f"/jobs/{job_id}/events")
                    assert (stream.status, stream.text[:6]) == (200, "retry:")
                    assert (await caller.get("/readyz")).status == 200
        assert {answer.status for answer in await asyncio.gather(*held)} == {202}
        assert api.load.under_way == 0


async def test_who_waits_for_news_does_not_count(empty: None, make_settings: MakeSettings) -> None:
    async with open_world(make_settings(max_requests=2), with_worker=False) as api:
        caller = await api.caller()
        job_id = (await caller.post("/jobs", json={"process_number": CASE})).json["job_id"]
        waiting = [await _waiting(api, caller, job_id) for _ in range(10)]
        assert (await caller.post(f"/jobs/{job_id}/cancel")).status == 200
        assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}


async def _waiting(api: World, caller: Caller, job_id: str) -> asyncio.Task[Answer]:
    before = api.news.watching(UUID(job_id))
    task = asyncio.create_task(caller.get(f"/jobs/{job_id}?wait=60"))
    await until(lambda: api.news.watching(UUID(job_id)) > before and api.load.under_way == 0)
    return task
