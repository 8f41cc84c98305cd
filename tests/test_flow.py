"""The main job, end to end: a caller names a process; its documents arrive, links work, webhooks come."""

import asyncio
import hashlib
import json

import pytest
from standardwebhooks import Webhook

from service.core import signing
from service.sandbox.cases import Special, expected_documents, special_number
from tests.conftest import MakeSettings
from tests.core.s3_servers import reset
from tests.core.sso import open_sso
from tests.receiver import Receiver
from tests.world import World, open_world

CASE = "1003579-22.2025.8.26.0564"
pytestmark = pytest.mark.integration


async def test_a_process_is_fetched_whole_and_every_link_gives_the_very_bytes(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    first = await caller.get(f"/processes/{CASE}", params={"webhook_url": receiver.url})
    assert first.status == 200
    assert first.json["status"] in ("pending", "processing")
    assert first.headers["Location"] == f"/jobs/{first.json['job_id']}"

    final = await caller.wait_until_final(CASE)

    assert final["status"] == "completed"
    assert (final["total_documents"], final["completed_documents"]) == (26, 26)
    expected = {one.uuid: one for one in expected_documents(CASE)}
    assert {one["uuid"] for one in final["documents"]} == set(expected)
    for document in final["documents"]:
        async with world.http.get(document["download_url"]) as response:
            body = await response.read()
        truth = expected[document["uuid"]]
        assert hashlib.sha256(body).hexdigest() == document["sha256"] == truth.sha256
        assert len(body) == document["size"] == truth.size
        assert document["name"] == truth.name
        assert document["mime_type"] == truth.media_type


async def test_the_webhook_arrives_signed_and_tells_the_whole_result(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}", params={"webhook_url": receiver.url + "?token=kept"})
    (got,) = await receiver.wait_for(1)

    secret = signing.show_secret(caller.webhook_secret)
    event = Webhook(secret).verify(got.body, got.headers)
    assert event == got.event
    assert got.path == "/hook?token=kept"
    assert (event["type"], event["status"]) == ("job.completed", "completed")
    assert (event["total_documents"], event["completed_documents"], event["failed_documents"]) == (26, 26, 0)
    assert event["progress_percentage"] == 100
    assert len(event["documents"]) == 26
    link = event["documents"][0]
    async with world.http.get(link["download_url"]) as response:
        assert hashlib.sha256(await response.read()).hexdigest() == link["sha256"]
    final = await caller.wait_until_final(CASE)
    assert event["sequence"] == final["sequence"]
    assert event["job_id"] == final["job_id"]
    assert final["webhook_url"] == receiver.url  # without its query, where callers keep tokens


async def test_the_status_tells_that_the_webhook_was_delivered(world: World, receiver: Receiver) -> None:
    receiver.statuses = [500, 500]
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}", params={"webhook_url": receiver.url})
    received = await receiver.wait_for(3)
    status = await caller.get(f"/processes/{CASE}/status")
    while not status.json["webhook_sent"]:
        status = await caller.get(f"/processes/{CASE}/status")
    assert status.json["webhook_attempts"] == 3
    assert status.json["webhook_sent_at"] is not None
    assert len({one.headers["webhook-id"] for one in received}) == 1
    assert len({one.body for one in received}) == 1


async def test_some_documents_failing_end_partial_and_the_webhook_says_which(
    world: World, receiver: Receiver
) -> None:
    number = special_number(Special.CODEX_SOME)
    caller = await world.caller()
    await caller.get(f"/processes/{number}", params={"webhook_url": receiver.url})
    final = await caller.wait_until_final(number)
    assert (final["status"], final["completed_documents"], final["failed_documents"]) == ("partial", 7, 3)
    assert {one["error_code"] for one in final["documents"] if one["status"] == "failed"} == {"codex_error"}
    (got,) = await receiver.wait_for(1)
    assert (got.event["type"], got.event["failed_documents"]) == ("job.partial", 3)


async def test_every_document_failing_ends_failed_and_the_webhook_comes_all_the_same(
    world: World, receiver: Receiver
) -> None:
    number = special_number(Special.CODEX_ALL)
    caller = await world.caller()
    await caller.get(f"/processes/{number}", params={"webhook_url": receiver.url})
    final = await caller.wait_until_final(number)
    assert (final["status"], final["error_code"]) == ("failed", "all_documents_failed")
    (got,) = await receiver.wait_for(1)
    assert (got.event["type"], got.event["failed_documents"]) == ("job.failed", 5)


async def test_a_process_without_documents_completes_and_the_webhook_comes(
    world: World, receiver: Receiver
) -> None:
    number = special_number(Special.EMPTY)
    caller = await world.caller()
    await caller.get(f"/processes/{number}", params={"webhook_url": receiver.url})
    final = await caller.wait_until_final(number)
    assert (final["status"], final["total_documents"], final["progress_percentage"]) == ("completed", 0, 100)
    (got,) = await receiver.wait_for(1)
    assert (got.event["type"], got.event["documents"]) == ("job.completed", [])


@pytest.mark.parametrize(
    ("special", "error_code"),
    [
        (Special.UNKNOWN, "not_found"),
        (Special.NO_ACCESS, "no_access"),
        (Special.SEALED, "secrecy_above_limit"),
    ],
)
async def test_a_process_that_cannot_be_read_fails_with_its_reason_and_a_webhook(
    world: World, receiver: Receiver, special: Special, error_code: str
) -> None:
    number = special_number(special)
    caller = await world.caller()
    await caller.get(f"/processes/{number}", params={"webhook_url": receiver.url})
    final = await caller.wait_until_final(number)
    assert (final["status"], final["error_code"]) == ("failed", error_code)
    (got,) = await receiver.wait_for(1)
    assert (got.event["type"], got.event["error_code"]) == ("job.failed", error_code)


@pytest.mark.parametrize("special", [Special.FLAKY, Special.BUSY, Special.TOKEN_EXPIRES, Special.THROTTLED])
async def test_faults_that_pass_are_waited_out(world: World, special: Special) -> None:
    number = special_number(special)
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    final = await caller.wait_until_final(number)
    assert final["status"] == "completed", json.dumps(final, indent=1)


async def test_a_firewall_is_waited_for_until_the_deadline_and_then_said(
    empty: None, make_settings: MakeSettings
) -> None:
    number = special_number(Special.FIREWALL)
    async with open_world(make_settings(job_deadline_s=2)) as world:
        caller = await world.caller()
        await caller.get(f"/processes/{number}")
        waiting = (await caller.get(f"/processes/{number}/status")).json
        while waiting["waiting_reason"] is None and waiting["status"] != "failed":
            waiting = (await caller.get(f"/processes/{number}/status")).json
        assert waiting["waiting_reason"] == "upstream_blocked"
        assert (await caller.wait_until_final(number))["status"] == "failed"


async def test_a_thousand_documents_get_stable_links_that_redirect_to_fresh_ones(world: World) -> None:
    number = special_number(Special.THOUSAND)
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    final = await caller.wait_until_final(number)
    assert (final["status"], final["total_documents"]) == ("completed", 1000)
    document = final["documents"][500]
    assert document["download_url"] == document["content_url"]
    path = document["content_url"].removeprefix(world.settings.public_url)
    redirect = await caller.get(path)
    assert redirect.status == 302
    async with world.http.get(redirect.headers["Location"]) as response:
        assert hashlib.sha256(await response.read()).hexdigest() == document["sha256"]


async def test_documents_that_appear_later_are_found_and_the_others_are_not_fetched_again(
    world: World,
) -> None:
    number = special_number(Special.GROWING)
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    first = await caller.wait_until_final(number)
    await caller.get(f"/processes/{number}", params={"force_refresh": "true"})
    second = await caller.wait_until_final(number)
    assert (first["total_documents"], second["total_documents"]) == (4, 6)
    assert second["job_id"] != first["job_id"]
    assert set(world.portal.binaries.values()) == {1}


async def test_the_same_flow_works_under_the_versioned_prefix(world: World) -> None:
    caller = await world.caller()
    created = await caller.post("/api/v1/jobs", json={"process_number": CASE})
    assert created.status == 202
    assert created.headers["Location"] == f"/api/v1/jobs/{created.json['job_id']}"
    await caller.wait_until_final(CASE)
    job = await caller.get(created.headers["Location"])
    assert job.json["status"] == "completed"
    again = await caller.post("/api/v1/jobs", json={"process_number": CASE})
    assert (again.status, again.json["job_id"]) == (200, created.json["job_id"])


async def test_a_token_replaced_in_mid_job_costs_no_document_an_attempt(
    empty: None, make_settings: MakeSettings
) -> None:
    number = special_number(Special.SLOW)
    async with open_sso() as sso, open_world(sso.session(make_settings, downloads_per_job=2)) as world:
        world.portal.token = "access.1.hush"
        caller = await world.caller()
        await caller.get(f"/processes/{number}")
        async with asyncio.timeout(30):
            while world.portal.binaries.total() < 2:
                await asyncio.sleep(0.01)
        async with world.db.connection() as conn:
            # A token that is only some seconds old is not given up.
            await conn.execute("update portal_tokens set obtained_at = now() - interval '1 h'")
        world.portal.token = "access.2.hush"
        final = await caller.wait_until_final(number)
    assert (final["status"], final["completed_documents"]) == ("completed", 8)
    assert {document["attempts"] for document in final["documents"]} == {1}
    assert set(world.portal.binaries.values()) == {1}
    assert len(sso.forms) == 2


async def test_a_job_waits_for_a_sign_on_server_that_is_away_and_loses_nothing(
    empty: None, make_settings: MakeSettings
) -> None:
    number = special_number(Special.EMPTY)
    async with open_sso() as sso, open_world(sso.service(make_settings)) as world:
        world.portal.token = "access.1.hush"
        sso.fault = reset
        caller = await world.caller()
        await caller.get(f"/processes/{number}")
        waiting = (await caller.get(f"/processes/{number}/status")).json
        while waiting["waiting_reason"] is None and waiting["status"] != "failed":
            waiting = (await caller.get(f"/processes/{number}/status")).json
        assert waiting["waiting_reason"] == "upstream_auth"
        sso.fault = None
        async with world.db.connection() as conn:
            await conn.execute("update portal_tokens set next_attempt_at = now()")
        assert (await caller.wait_until_final(number))["status"] == "completed"
