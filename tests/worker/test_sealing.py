"""What has become too secret for the whole system: no links are given, those given end, nothing is kept."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from service.core.cnj import parse_process_number
from tests.world import Caller, World
from worker.context import Context, open_context
from worker.janitor import Janitor
from worker.tasks.fetch_process import fetch_process

CASE = "1003579-22.2025.8.26.0564"
DIGITS = parse_process_number(CASE)


@pytest.fixture
async def context(world: World) -> AsyncIterator[Context]:
    async with open_context(world.settings) as opened:
        yield opened


async def _fetched(world: World) -> tuple[Caller, dict[str, str]]:
    """Fetch the case; return who did, and the link of each document by the portal's id."""
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    status = await caller.wait_until_final(CASE)
    assert status["status"] == "completed"
    return caller, {one["uuid"]: one["download_url"] for one in status["documents"]}


async def _listed_anew(caller: Caller) -> tuple[str, str | None, int, int]:
    """Have the portal asked again; return how the job ended, why, and its counts."""
    await caller.post("/jobs", json={"process_number": CASE, "max_age_s": 0})
    status = await caller.wait_until_final(CASE)
    counts = status["completed_documents"], status["failed_documents"]
    return status["status"], status["error_code"], *counts


async def _follow(world: World, link: str) -> int:
    async with world.http.get(link) as answer:
        return answer.status


async def _keys(context: Context) -> set[str]:
    """The objects that rows name."""
    async with context.db.connection() as conn:
        rows = await conn.fetch("select object_key from documents where object_key is not null")
    return {row["object_key"] for row in rows}


async def _stored(context: Context, keys: set[str]) -> set[str]:
    """Which of these are there."""
    pages = context.storage.list_objects(f"processes/{DIGITS}/")
    return keys & {one.key async for page in pages for one in page}


async def test_a_process_that_is_sealed_ends_its_links_until_it_is_open_again(
    world: World, context: Context
) -> None:
    caller, links = await _fetched(world)
    link, keys = next(iter(links.values())), await _keys(context)
    assert await _follow(world, link) == 200
    world.portal.levels[DIGITS] = 4
    assert await _listed_anew(caller) == ("failed", "secrecy_above_limit", 0, 26)
    assert await _follow(world, link) == 404
    assert await _stored(context, keys) == set()
    shown = (await caller.get(f"/processes/{CASE}?auto_download=false")).json
    assert (shown["subject"], shown["case_class"], shown["source_updated_at"]) == (None, None, None)
    assert {one["error_code"] for one in shown["documents"]} == {"secrecy_above_limit"}
    async with world.db.connection() as conn:
        row = await conn.fetchrow("select secrecy_level, subject, metadata::text from processes")
    assert tuple(row or ()) == (4, None, "{}")
    # What is as secret as before is asked for once a job and never fetched.
    assert await _listed_anew(caller) == ("failed", "secrecy_above_limit", 0, 26)
    assert world.portal.binaries.total() == 26
    del world.portal.levels[DIGITS]
    assert await _listed_anew(caller) == ("completed", None, 26, 0)
    assert len(await _stored(context, await _keys(context))) == 26
    assert (await caller.get(f"/processes/{CASE}?auto_download=false")).json["subject"]


async def test_a_document_that_becomes_secret_goes_alone(world: World, context: Context) -> None:
    caller, links = await _fetched(world)
    (uuid, other, *_), keys = links, await _keys(context)
    world.portal.levels[uuid] = "SIGILO_MEDIO"
    assert await _listed_anew(caller) == ("partial", None, 25, 1)
    assert [await _follow(world, links[one]) for one in (uuid, other)] == [404, 200]
    assert await _stored(context, keys) == await _keys(context)
    world.portal.levels[uuid] = "A LEVEL THAT NOBODY KNOWS"
    assert await _listed_anew(caller) == ("partial", None, 25, 1)
    assert world.portal.binaries.total() == 26


async def test_what_no_run_has_let_go_is_let_go_by_the_janitor(world: World, context: Context) -> None:
    """As after a run that could not remove the objects, or when the system's ceiling was lowered."""
    await _fetched(world)
    keys, one_is_secret = await _keys(context), "update documents set secrecy_level = 1 where position = 2"
    async with world.db.connection() as conn:
        await conn.execute(one_is_secret)
        allowed = context.settings.model_copy(update={"max_secrecy": 1})
        async with open_context(allowed) as generous:
            await Janitor(generous).remove_too_secret()
        assert await _stored(context, keys) == keys
        await Janitor(context).remove_too_secret()
        assert len(await _stored(context, keys)) == 25
        await conn.execute("update processes set secrecy_level = 3")
        await Janitor(context).remove_too_secret()
        assert await _stored(context, keys) == set()
        codes = await conn.fetchval("select array_agg(distinct error_code) from documents")
    assert codes == ["secrecy_above_limit"]


async def test_links_are_refused_at_once_though_the_store_removes_nothing_now(api: World) -> None:
    caller = await api.caller()
    await caller.post("/jobs", json={"process_number": CASE})
    async with open_context(api.settings) as context:
        await fetch_process(context, uuid4())
        keys = await _keys(context)
        (one, *_) = (await caller.get(f"/processes/{CASE}/files")).json["documents"]
        assert await _follow(api, one["download_url"]) == 200
        api.portal.levels[DIGITS] = 5
        job = (await caller.post("/jobs", json={"process_number": CASE, "max_age_s": 0})).json
        nowhere = api.settings.model_copy(update={"bucket": "autos-nowhere"})
        async with open_context(nowhere) as astray:
            await fetch_process(astray, uuid4())
        waiting = (await caller.get(f"/jobs/{job['job_id']}?fields=summary")).json
        assert (waiting["status"], waiting["waiting_reason"]) == ("pending", "storage_unavailable")
        assert (await caller.get(f"/documents/{one['id']}/content")).status == 403
        assert await _follow(api, one["download_url"]) == 200
        async with api.db.connection() as conn:
            await conn.execute("update jobs set next_attempt_at = now() where finished_at is null")
        await fetch_process(context, uuid4())
        ended = (await caller.get(f"/jobs/{job['job_id']}?fields=summary")).json
        assert (ended["status"], ended["error_code"]) == ("failed", "secrecy_above_limit")
        assert await _follow(api, one["download_url"]) == 404
        assert await _stored(context, keys) == set()
