"""Asking for a process: join, use what is there, begin anew; and who may see what."""

import asyncio
from uuid import UUID

from service.core.db import Database
from service.sandbox.cases import Special, special_number
from tests.conftest import MakeSettings
from tests.receiver import Receiver
from tests.world import World, open_world

CASE = "1003579-22.2025.8.26.0564"


async def _count(db: Database, table: str) -> int:
    async with db.connection() as conn:
        count: int = await conn.fetchval(f"select count(*) from {table}")
    return count


async def test_without_auto_download_nothing_is_started(world: World) -> None:
    caller = await world.caller()
    assert (await caller.get(f"/processes/{CASE}?auto_download=false")).status == 404
    await caller.get(f"/processes/{CASE}")
    await caller.wait_until_final(CASE)
    known = await caller.get(f"/processes/{CASE}?auto_download=false&force_refresh=true")
    assert (known.status, known.json["documents_downloaded"]) == (200, True)
    assert await _count(world.db, "jobs") == 1


async def test_the_answer_tells_what_is_known_of_the_case(world: World) -> None:
    caller = await world.caller()
    before = (await caller.get(f"/processes/{CASE}")).json
    assert (before["court"], before["has_documents"], before["last_consultation"]) == (None, None, None)
    await caller.wait_until_final(CASE)
    after = (await caller.get(f"/processes/{CASE}")).json
    assert after["process_number"] == CASE
    assert after["court"] == "TJSP"
    assert after["subject"]
    assert (after["has_documents"], after["documents_downloaded"]) == (True, True)
    assert after["last_consultation"] is not None
    for path in after["links"].values():
        assert (await caller.get(path)).status == 200


async def test_every_way_to_write_a_number_names_the_same_process(api: World) -> None:
    caller = await api.caller()
    forms = ["0000001-93.1979.8.26.0495", "00000019319798260495", "1-93.1979.8.26.0495"]
    ids = {(await caller.get(f"/processes/{form}")).json["job_id"] for form in forms}
    assert len(ids) == 1


async def test_a_fresh_complete_process_makes_no_new_job_and_tells_the_webhook(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    final = await caller.wait_until_final(CASE)
    again = await caller.get(f"/processes/{CASE}", params={"webhook_url": receiver.url})
    assert again.json["job_id"] == final["job_id"]
    assert len([one for one in again.json["documents"] if one["download_url"]]) == 26
    (got,) = await receiver.wait_for(1)
    assert (got.event["type"], got.event["job_id"]) == ("job.completed", final["job_id"])
    await caller.get(f"/processes/{CASE}", params={"webhook_url": receiver.url})
    first, second = await receiver.wait_for(2)
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert await _count(world.db, "jobs") == 1
    assert set(world.portal.binaries.values()) == {1}


async def test_a_list_that_is_no_longer_fresh_makes_a_job_that_fetches_nothing_again(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_world(make_settings(fresh_s=0)) as world:
        caller = await world.caller()
        await caller.get(f"/processes/{CASE}")
        first = await caller.wait_until_final(CASE)
        await caller.get(f"/processes/{CASE}")
        second = await caller.wait_until_final(CASE)
        assert second["job_id"] != first["job_id"]
        assert second["completed_documents"] == 26
        assert set(world.portal.binaries.values()) == {1}


async def test_the_same_call_repeated_while_the_job_runs_is_told_once(
    world: World, receiver: Receiver
) -> None:
    number = special_number(Special.SLOW)
    caller = await world.caller()
    url = {"webhook_url": receiver.url}
    await asyncio.gather(*(caller.get(f"/processes/{number}", params=url) for _ in range(10)))
    await caller.wait_until_final(number)
    await receiver.wait_for(1)
    assert await _count(world.db, "deliveries") == 1


async def test_the_answer_does_not_wait_for_a_portal_that_hangs(world: World) -> None:
    """The portal never answers for this case; each call would otherwise run into the client's time-out."""
    number = special_number(Special.HANGING)
    caller = await world.caller()
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*(caller.get(f"/processes/{number}") for _ in range(20)))
    assert {answer.status for answer in answers} == {200}


async def test_a_submission_is_taken_while_redis_is_away_and_done_when_it_is_back(
    empty: None, make_settings: MakeSettings
) -> None:
    """The API's Redis refuses connections; the worker's sweep finds the job in PostgreSQL."""
    settings = make_settings()
    dead = make_settings(redis_url="redis://127.0.0.1:1/0")
    async with open_world(dead, with_worker=False) as api:
        caller = await api.caller()
        answer = await caller.post("/jobs", json={"process_number": CASE})
        assert answer.status == 202
    async with open_world(settings) as world:
        caller = await world.caller()
        assert (await caller.wait_until_final(CASE))["status"] == "completed"


async def test_a_client_sees_only_what_it_asked_for(world: World) -> None:
    owner, stranger = await world.caller("owner"), await world.caller("stranger")
    await owner.get(f"/processes/{CASE}")
    final = await owner.wait_until_final(CASE)
    paths = [
        f"/processes/{CASE}/status",
        f"/processes/{CASE}/files",
        f"/processes/{CASE}?auto_download=false",
        f"/jobs/{final['job_id']}",
        f"/documents/{final['documents'][0]['id']}/content",
    ]
    assert {(await owner.get(path)).status for path in paths} == {200, 302}
    assert {(await stranger.get(path)).status for path in paths} == {404}


async def test_a_document_that_is_not_there_yet_says_so(world: World) -> None:
    number = special_number(Special.CODEX_ALL)
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    final = await caller.wait_until_final(number)
    answer = await caller.get(f"/documents/{UUID(final['documents'][0]['id'])}/content")
    assert (answer.status, answer.json["type"].rsplit("/", 1)[1]) == (409, "document-not-available")


async def test_the_downloaded_file_gets_its_name_accents_and_all(world: World) -> None:
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    final = await caller.wait_until_final(CASE)
    named = [one for one in final["documents"] if not one["name"].isascii()]
    assert named
    for document in named:
        assert "response-content-disposition=attachment" in document["download_url"]
        assert "filename%2A%3DUTF-8%27%27" in document["download_url"]


async def test_nothing_presigned_is_ever_stored(world: World, receiver: Receiver) -> None:
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}", params={"webhook_url": receiver.url})
    await caller.wait_until_final(CASE)
    await receiver.wait_for(1)
    async with world.db.connection() as conn:
        for table in ("processes", "jobs", "documents", "subscriptions", "deliveries"):
            rows = await conn.fetch(f"select t::text as whole from {table} t")
            assert rows
            assert not [row for row in rows if "X-Amz" in row["whole"]]
