"""Polling by the book: entity tags, waiting for a change, and when to come again."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from multidict import CIMultiDict

from service.core.db import Database
from service.core.jobs import Job
from service.core.states import JobStatus
from service.polling import retry_after_s
from tests.conftest import MakeSettings
from tests.faults.faults import END_CONNECTIONS
from tests.s3 import open_client
from tests.world import Answer, Caller, World, open_world, until

CASE = "1003579-22.2025.8.26.0564"
HOOK = "https://hooks.example.com/"


async def _submitted(caller: Caller) -> str:
    job_id: str = (await caller.post("/jobs", json={"process_number": CASE})).json["job_id"]
    return job_id


async def _touch(db: Database, job_id: str) -> None:
    """Let the job change in a way that callers see."""
    async with db.connection() as conn:
        await conn.execute(
            "update jobs set downloaded_bytes = downloaded_bytes + 1 where id = $1", UUID(job_id)
        )


async def _waiting(
    api: World, caller: Caller, path: str, job_id: str, **options: Any
) -> asyncio.Task[Answer]:
    """Begin a call that waits; return once it does."""
    news = api.news
    before = news.watching(UUID(job_id))
    task = asyncio.create_task(caller.get(path, **options))
    await until(lambda: news.watching(UUID(job_id)) > before)
    return task


@pytest.mark.parametrize("path", ["/jobs/{}", f"/processes/{CASE}/status"])
async def test_a_state_that_the_caller_has_is_304_with_the_same_headers(api: World, path: str) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    first = await caller.get(path.format(job_id))
    assert first.headers["ETag"].startswith('W/"')
    assert first.headers["Cache-Control"] == "private, no-cache"
    for known in (
        first.headers["ETag"],
        first.headers["ETag"].removeprefix("W/"),
        f'"x", {first.headers["ETag"]}',
        "*",
    ):
        again = await caller.get(path.format(job_id), headers={"If-None-Match": known})
        assert (again.status, again.text) == (304, "")
        for name in ("ETag", "Cache-Control", "Retry-After"):
            assert again.headers[name] == first.headers[name]
    await _touch(api.db, job_id)
    changed = await caller.get(path.format(job_id), headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status == 200
    assert changed.headers["ETag"] != first.headers["ETag"]


@pytest.mark.parametrize("path", ["/jobs/{}", f"/processes/{CASE}/status", "/jobs?ids={}", "/jobs"])
async def test_whatever_is_shown_beside_the_job_makes_another_tag(api: World, path: str) -> None:
    caller, other = await api.caller(), await api.caller("other")
    endpoint = (await caller.post("/webhooks/endpoints", json={"url": f"{HOOK}a"})).json["id"]

    async def ask(caller: Caller, **options: Any) -> str:
        answer = await caller.post("/jobs", json={"process_number": CASE, **options})
        job_id: str = answer.json["job_id"]
        return job_id

    async def write(statement: str) -> None:
        async with api.db.connection() as conn:
            await conn.execute(statement)

    job_id = await ask(caller, filter={"types": ["Despacho"]}, priority="low")
    known = await caller.get(path.format(job_id))
    for change in (
        lambda: ask(caller, reference="mine", filter={"types": ["Despacho"]}, priority="low"),
        lambda: ask(caller, reference="mine", filter={"types": ["Sentença"]}, priority="low"),
        lambda: ask(caller, reference="mine", filter={"types": ["Sentença"]}, priority="high"),
        lambda: ask(caller, webhook_endpoint_id=endpoint),
        lambda: caller.call("PATCH", f"/webhooks/endpoints/{endpoint}", json={"url": f"{HOOK}b"}),
        lambda: caller.post(f"/jobs/{job_id}/cancel"),
        lambda: write("update deliveries set attempts = 1, last_error = 'HTTP 500'"),
        lambda: write("update deliveries set attempts = 2, last_error = 'no answer'"),
        lambda: write(
            """update deliveries set status = 'delivered', delivered_at = now(), finished_at = now(),
                                     last_error = null"""
        ),
    ):
        tag = {"If-None-Match": known.headers["ETag"]}
        assert (await caller.get(path.format(job_id), headers=tag)).status == 304
        await change()
        answer = await caller.get(path.format(job_id), headers=tag)
        assert answer.status == 200, known.text
        assert answer.text != known.text
        known = answer
    # What others ask for is none of it.
    again = await ask(caller)
    tag = {"If-None-Match": (await caller.get(path.format(again))).headers["ETag"]}
    assert await ask(other, reference="theirs", webhook_url=HOOK) == again
    assert (await caller.get(path.format(again), headers=tag)).status == 304


async def test_a_file_that_vanishes_and_comes_again_makes_another_tag_of_every_job_that_shows_it(
    world: World,
) -> None:
    caller, other = await world.caller(), await world.caller("other")
    first = await _submitted(caller)
    await caller.wait_until_final(CASE)
    await other.post("/jobs", json={"process_number": CASE, "force_refresh": True})
    await other.wait_until_final(CASE)
    paths = (f"/jobs/{first}", f"/processes/{CASE}/status")
    known = {path: await caller.get(path) for path in paths}

    async def changed(status: str) -> None:
        for path in paths:
            tag = {"If-None-Match": known[path].headers["ETag"]}
            known[path] = await caller.get(path, headers=tag)
            assert known[path].status == 200
            shown = {one["id"]: one["status"] for one in known[path].json["documents"]}
            assert shown[lost["id"]] == status
            tag = {"If-None-Match": known[path].headers["ETag"]}
            assert (await caller.get(path, headers=tag)).status == 304

    lost = known[paths[0]].json["documents"][3]
    async with world.db.connection() as conn:
        key = await conn.fetchval("select object_key from documents where id = $1", UUID(lost["id"]))
    async with open_client(world.settings) as s3:
        await s3.delete_object(Bucket=world.settings.bucket, Key=key)
    assert (await caller.get(f"/documents/{lost['id']}/content")).status == 410
    await changed("failed")
    # Fetched again by a job of somebody else's.
    await other.get(f"/processes/{CASE}")
    await other.wait_until_final(CASE)
    await changed("available")


async def test_the_tag_of_a_process_tells_one_job_from_the_next(api: World) -> None:
    """Sequences begin anew: the second job's first state is not what the caller has of the first."""
    caller = await api.caller()
    first = await _submitted(caller)
    tag = (await caller.get(f"/processes/{CASE}/status")).headers["ETag"]
    await caller.post(f"/jobs/{first}/cancel")
    await _submitted(caller)
    answer = await caller.get(f"/processes/{CASE}/status", headers={"If-None-Match": tag})
    assert (answer.status, answer.json["sequence"]) == (200, 1)


@pytest.mark.parametrize("path", ["/jobs/{}", f"/processes/{CASE}/status"])
@pytest.mark.parametrize(
    "how", [{"params": {"wait": "60"}}, {"headers": {"Prefer": "respond-async, wait=60"}}]
)
async def test_who_waits_is_answered_when_the_job_changes(api: World, path: str, how: dict[str, Any]) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    task = await _waiting(api, caller, path.format(job_id), job_id, **how)
    await _touch(api.db, job_id)
    answer = await task
    assert (answer.status, answer.json["sequence"]) == (200, 2)
    assert answer.headers["Preference-Applied"] == "wait=60"


async def test_preferences_may_come_in_lines_of_their_own(api: World) -> None:
    caller = await api.caller()
    url = f"{api.base_url}/jobs/{await _submitted(caller)}"
    # With a tag that is old: answered at once.
    given = [("X-API-Key", caller.key), ("If-None-Match", '"0"'), ("Prefer", "respond-async")]
    async with api.http.get(url, headers=CIMultiDict([*given, ("Prefer", "wait=60")])) as answer:
        assert answer.headers["Preference-Applied"] == "wait=60"


async def test_who_waits_with_a_tag_that_is_old_is_answered_at_once(api: World) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    tag = (await caller.get(f"/jobs/{job_id}")).headers["ETag"]
    await _touch(api.db, job_id)
    answer = await caller.get(f"/jobs/{job_id}", params={"wait": "60"}, headers={"If-None-Match": tag})
    assert (answer.status, answer.json["sequence"]) == (200, 2)


async def test_when_the_time_is_over_the_present_state_is_told(api: World) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    shown = await caller.get(f"/jobs/{job_id}", params={"wait": "1"})
    assert (shown.status, shown.json["sequence"]) == (200, 1)
    known = await caller.get(
        f"/jobs/{job_id}", params={"wait": "1"}, headers={"If-None-Match": shown.headers["ETag"]}
    )
    assert (known.status, known.headers["Preference-Applied"]) == (304, "wait=1")


async def test_when_the_time_is_over_the_present_state_is_told_though_no_news_came(
    empty: None, make_settings: MakeSettings, postgres_url: str
) -> None:
    """The listener hears what is said in another database, which is nothing."""
    settings = make_settings(database_direct_url=postgres_url)
    async with open_world(settings, with_worker=False) as api:
        caller = await api.caller()
        job_id = await _submitted(caller)
        task = await _waiting(api, caller, f"/jobs/{job_id}", job_id, params={"wait": "1"})
        await _touch(api.db, job_id)
        assert (await task).json["sequence"] == 2


async def test_nobody_waits_for_a_job_that_has_ended(world: World) -> None:
    caller = await world.caller()
    job_id = await _submitted(caller)
    await caller.wait_until_final(CASE)
    answer = await caller.get(f"/jobs/{job_id}", params={"wait": "60"})
    assert answer.json["status"] == "completed"
    assert "Retry-After" not in answer.headers


async def test_whoever_only_waits_sees_the_end_without_a_single_poll_too_many(world: World) -> None:
    caller = await world.caller()
    job_id = await _submitted(caller)
    seen, headers = list[int](), dict[str, str]()
    while True:
        answer = await caller.get(f"/jobs/{job_id}", params={"wait": "60"}, headers=headers)
        assert answer.status == 200
        seen.append(answer.json["sequence"])
        headers = {"If-None-Match": answer.headers["ETag"]}
        if answer.json["status"] == "completed":
            break
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("wait", ["-1", "61", "soon"])
async def test_a_wait_that_is_none_is_refused_in_the_query(api: World, wait: str) -> None:
    caller = await api.caller()
    answer = await caller.get(f"/jobs/{await _submitted(caller)}", params={"wait": wait})
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "#/wait")


@pytest.mark.parametrize("prefer", ["wait=soon", "handling=lenient", "waiting=5", ""])
async def test_a_preference_that_says_nothing_is_ignored(api: World, prefer: str) -> None:
    caller = await api.caller()
    answer = await caller.get(f"/jobs/{await _submitted(caller)}", headers={"Prefer": prefer})
    assert answer.status == 200
    assert "Preference-Applied" not in answer.headers


async def test_a_summary_leaves_the_documents_out(world: World) -> None:
    caller = await world.caller()
    job_id = await _submitted(caller)
    await caller.wait_until_final(CASE)
    answer = await caller.get(f"/jobs/{job_id}", params={"fields": "summary"})
    assert "documents" not in answer.json
    assert answer.json["completed_documents"] == 26


async def test_many_wait_on_one_process_with_one_subscription_to_the_database(
    empty: None, make_settings: MakeSettings
) -> None:
    """A hundred callers wait, and two connections to PostgreSQL are enough for all of them."""
    async with open_world(make_settings(database_pool_size=1), with_worker=False) as api:
        caller = await api.caller()
        job_id = await _submitted(caller)
        calls = [
            asyncio.create_task(caller.get(f"/jobs/{job_id}", params={"wait": "60", "fields": "summary"}))
            for _ in range(100)
        ]
        await until(lambda: api.news.watching(UUID(job_id)) == 100)
        await _touch(api.db, job_id)
        answers = await asyncio.gather(*calls)
    assert {answer.status for answer in answers} == {200}
    assert {answer.json["sequence"] for answer in answers} == {2}


async def test_callers_who_are_woken_together_are_no_load_while_they_look(api: World) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    waiting = [await _waiting(api, caller, f"/jobs/{job_id}?wait=30", job_id) for _ in range(20)]
    await until(lambda: api.load.under_way == 0)
    async with api.db.transaction() as conn:
        await conn.execute("lock table jobs in access exclusive mode")
        api.news.may_have_come()
        await api.until("select exists (select from pg_stat_activity where wait_event_type = 'Lock')")
        assert api.load.under_way == 0
    assert not any(task.done() for task in waiting)
    await caller.post(f"/jobs/{job_id}/cancel")
    assert {(one.status, one.json["status"]) for one in await asyncio.gather(*waiting)} == {
        (200, "cancelled")
    }


async def test_news_come_again_after_the_connection_that_brought_them_was_cut(
    api: World, database_url: str
) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    task = await _waiting(api, caller, f"/jobs/{job_id}", job_id, params={"wait": "60"})
    conn = await asyncpg.connect(database_url)
    await conn.execute(END_CONNECTIONS)
    await conn.execute("update jobs set downloaded_bytes = 7")
    await conn.close()
    answer = await task
    assert answer.status in (200, 503)
    async with asyncio.timeout(10):
        while (await caller.get(f"/jobs/{job_id}")).status != 200:
            await asyncio.sleep(0.05)


def _job(**changes: Any) -> Job:
    now = datetime.now(UTC)
    row: dict[str, Any] = {
        "id": uuid4(),
        "process_number": "",
        "status": JobStatus.PROCESSING,
        "error_code": None,
        "error_message": None,
        "waiting_reason": None,
        "next_attempt_at": now,
        "created_at": now,
        "updated_at": now,
        "started_at": now,
        "finished_at": None,
        "progress_percentage": 0.0,
    }
    numbers = {name: 0 for name in Job.__dataclass_fields__ if name not in row}
    return Job(**{**numbers, **row, **changes})


@pytest.mark.parametrize(
    ("changes", "expected_s"),
    [
        ({}, 1),
        ({"started_at": None, "status": JobStatus.PENDING}, 1),
        ({"progress_percentage": 50.0}, 10),
        ({"progress_percentage": 1.0}, 30),
        ({"progress_percentage": 99.0}, 1),
        ({"waiting_reason": "throttled", "in_s": 12}, 12),
        ({"waiting_reason": "throttled", "in_s": 900}, 30),
        ({"waiting_reason": "throttled", "in_s": -5}, 1),
    ],
)
def test_retry_after_goes_by_the_pace_of_the_job(changes: dict[str, Any], expected_s: int) -> None:
    now = datetime.now(UTC)
    job = _job(
        **{
            "started_at": now - timedelta(seconds=40),
            "next_attempt_at": now + timedelta(seconds=changes.pop("in_s", 0)),
            **changes,
        }
    )
    assert retry_after_s(job, now) == expected_s
