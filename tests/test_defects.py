"""One test for each way in which the system that Autos replaces failed its callers."""

import asyncio
import hashlib
from collections import Counter

import pytest

from service.core import cnj
from service.sandbox.cases import Special, special_number
from tests.receiver import Receiver
from tests.world import FINAL, World

CASE = "1003579-22.2025.8.26.0564"
DIGITS = "10035792220258260564"


async def test_links_are_signed_for_the_keys_that_were_uploaded(world: World) -> None:
    """They were signed under one prefix and uploaded under another, and no test ever followed one."""
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    await caller.wait_until_final(CASE)
    for document in (await caller.get(f"/processes/{CASE}/files")).json["documents"]:
        async with world.http.get(document["download_url"]) as response:
            assert response.status == 200
            assert hashlib.sha256(await response.read()).hexdigest() == document["sha256"]


async def test_a_download_begins_on_a_process_that_was_never_seen(world: World) -> None:
    """It looked at a field that does not exist upstream and never began."""
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    assert (await caller.wait_until_final(CASE))["completed_documents"] == 26


async def test_documents_are_fetched_also_without_a_webhook(world: World) -> None:
    """Without a webhook every document was preset to processing and then refused, with no request sent."""
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    assert (await caller.wait_until_final(CASE))["failed_documents"] == 0
    assert world.portal.binaries.total() == 26


async def test_a_retry_really_tries_again(world: World) -> None:
    """Retries asked for a move that was not allowed and could not fire."""
    number = special_number(Special.CODEX_SOME)
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    final = await caller.wait_until_final(number)
    tried = Counter(world.portal.binaries)
    for document in final["documents"]:
        runs = 3 if document["status"] == "failed" else 1
        assert (document["attempts"], tried[document["uuid"]]) == (runs, runs)


async def test_a_second_run_leaves_what_is_available_as_it_is(world: World) -> None:
    """A second run turned available documents into failed ones."""
    number = special_number(Special.CODEX_SOME)
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    first = await caller.wait_until_final(number)
    await caller.get(f"/processes/{number}")
    second = await caller.wait_until_final(number)
    assert first["job_id"] != second["job_id"]
    assert second["completed_documents"] == first["completed_documents"] == 7
    available = [one["uuid"] for one in second["documents"] if one["status"] == "available"]
    assert {world.portal.binaries[uuid] for uuid in available} == {1}


async def test_a_partial_failure_is_a_final_state(world: World) -> None:
    """It polled "pending" for ever."""
    number = special_number(Special.CODEX_SOME)
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    final = await caller.wait_until_final(number)
    assert (final["status"], final["progress_percentage"]) == ("partial", 100)
    assert final["pending_documents"] == final["processing_documents"] == 0


@pytest.mark.parametrize("special", [Special.CODEX_ALL, Special.EMPTY, Special.UNKNOWN])
async def test_a_total_failure_and_an_empty_process_send_a_webhook(
    world: World, receiver: Receiver, special: Special
) -> None:
    """Neither they nor a crash sent any."""
    caller = await world.caller()
    await caller.get(f"/processes/{special_number(special)}", params={"webhook_url": receiver.url})
    (got,) = await receiver.wait_for(1)
    assert got.event["status"] in FINAL


async def test_a_second_caller_gets_a_webhook_of_its_own(world: World, receiver: Receiver) -> None:
    """It was dropped."""
    first, second = await world.caller("first"), await world.caller("second")
    number = special_number(Special.SLOW)
    for caller, path in ((first, "/one"), (second, "/two"), (second, "/three")):
        url = receiver.url + path
        answer = await caller.get(f"/processes/{number}", params={"webhook_url": url})
        assert answer.status == 200
    received = await receiver.wait_for(3)
    assert {one.path for one in received} == {"/hook/one", "/hook/two", "/hook/three"}
    assert len({one.event["job_id"] for one in received}) == 1
    assert len({one.headers["webhook-id"] for one in received}) == 3


async def test_two_calls_at_once_make_one_job_and_every_call_after_that_works(world: World) -> None:
    """They made two jobs, after which every call failed."""
    caller = await world.caller()
    calls = await asyncio.gather(*(caller.get(f"/processes/{CASE}") for _ in range(50)))
    assert {call.status for call in calls} == {200}
    assert len({call.json["job_id"] for call in calls}) == 1
    await caller.wait_until_final(CASE)
    assert (await caller.get(f"/processes/{CASE}")).json["job_id"] == calls[0].json["job_id"]


async def test_documents_of_one_name_do_not_overwrite_each_other(world: World) -> None:
    """Files were named by document name in a folder shared by all cases."""
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    final = await caller.wait_until_final(CASE)
    names = Counter(one["name"] for one in final["documents"])
    assert names.most_common(1)[0][1] > 1
    async with world.db.connection() as conn:
        keys = [row["object_key"] for row in await conn.fetch("select object_key from documents")]
    assert len(set(keys)) == 26
    assert all(key.startswith(f"processes/{DIGITS}/") for key in keys)


async def test_stale_copies_of_a_case_are_no_documents(world: World) -> None:
    """43 documents were counted for 26."""
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    assert (await caller.wait_until_final(CASE))["total_documents"] == 26


async def test_two_courts_may_use_the_same_ids(world: World) -> None:
    """An id that is unique only inside one court was unique over all, and the second court's row failed."""
    numbers = [CASE, special_number(1_000_001), special_number(1_000_002)]
    caller = await world.caller()
    for number in numbers:
        await caller.get(f"/processes/{number}")
    for number in numbers:
        assert (await caller.wait_until_final(number))["status"] == "completed"
    async with world.db.connection() as conn:
        owners = await conn.fetch("select distinct process_number from documents")
    assert {row["process_number"] for row in owners} == {cnj.parse_process_number(one) for one in numbers}


async def test_upstream_errors_keep_their_meaning(world: World) -> None:
    """Every one of them became a 404."""
    caller = await world.caller()
    codes = {}
    for special in (Special.UNKNOWN, Special.NO_ACCESS, Special.CODEX_ALL):
        number = special_number(special)
        assert (await caller.get(f"/processes/{number}")).status == 200
        codes[special] = (await caller.wait_until_final(number))["error_code"]
    assert list(codes.values()) == ["not_found", "no_access", "all_documents_failed"]


async def test_a_web_page_or_an_error_body_is_never_an_available_document(world: World) -> None:
    """Both were stored as available documents."""
    number = special_number(Special.FLAKY)
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    for document in (await caller.wait_until_final(number))["documents"]:
        async with world.http.get(document["download_url"]) as response:
            body = await response.read()
        assert b"<app-root" not in body
        assert not body.startswith(b'{"')


async def test_a_receiver_that_fails_leaves_the_finished_job_as_it_is(
    world: World, receiver: Receiver
) -> None:
    """A connection reset by the receiver crashed the finished job."""
    receiver.statuses = [500] * 100
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}", params={"webhook_url": receiver.url})
    assert (await caller.wait_until_final(CASE))["status"] == "completed"
    await receiver.wait_for(4)
    assert (await caller.get(f"/processes/{CASE}/status")).json["status"] == "completed"


@pytest.mark.parametrize(
    "tool",
    [
        "webhook-validate",
        "webhook-test-connectivity",
        "webhook-send-test",
        "webhook-test-receiver",
    ],
)
async def test_the_webhook_tools_are_no_open_relay(api: World, receiver: Receiver, tool: str) -> None:
    """They called any address for anybody, without authentication."""
    async with api.http.post(
        f"{api.base_url}/webhooks/{tool}", json={"webhook_url": receiver.url}
    ) as response:
        assert response.status == 401
    assert receiver.received == []


async def test_polling_signs_links_without_asking_or_writing_anything(world: World) -> None:
    """Each poll made three commits and one presign request per document."""
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    final = await caller.wait_until_final(CASE)
    async with world.db.connection() as conn:
        before = await conn.fetch("select id, updated_at from documents order by id")
    assert (await caller.get(f"/processes/{CASE}/status")).json["sequence"] == final["sequence"]
    async with world.db.connection() as conn:
        assert await conn.fetch("select id, updated_at from documents order by id") == before


async def test_keys_are_stored_as_hashes(world: World) -> None:
    """They were stored in plain text."""
    caller = await world.caller()
    async with world.db.connection() as conn:
        row = await conn.fetchrow("select k::text as whole, key_sha256 from api_keys k")
    assert row is not None
    assert row["key_sha256"] == hashlib.sha256(caller.key.encode()).digest()
    assert caller.key[:-4] not in row["whole"]


async def test_a_token_that_dies_in_mid_job_costs_no_document(world: World) -> None:
    """A token that ended after eight hours failed whole runs."""
    number = special_number(Special.TOKEN_EXPIRES)
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    final = await caller.wait_until_final(number)
    assert (final["status"], final["completed_documents"]) == ("completed", 12)
    assert {one["attempts"] for one in final["documents"]} == {1}
