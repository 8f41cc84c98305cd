"""The delivery log: every attempt with its answer, and sending again, one or many."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cases import case_numbers
from tests.conftest import MakeSettings
from tests.receiver import Receiver
from tests.wire import answer_nothing, open_wire
from tests.world import Caller, World, open_world

CASE = "1003579-22.2025.8.26.0564"


async def _told(caller: Caller, receiver: Receiver, *, number: str = CASE, **options: Any) -> str:
    """Ask for a process and return the delivery's id once it has come to the receiver."""
    count = len(receiver.received)
    place = options or {"webhook_url": receiver.url + "?token=kept"}
    answer = await caller.post("/jobs", json={"process_number": number, **place})
    assert answer.status in (200, 202), answer.text
    await receiver.wait_for(count + 1)
    query = {"job_id": answer.json["job_id"]}
    return str((await caller.get("/webhooks/deliveries", params=query)).json["items"][0]["id"])


async def _until(caller: Caller, delivery_id: str, status: str) -> Any:
    async with asyncio.timeout(30):
        while (found := (await caller.get(f"/webhooks/deliveries/{delivery_id}")).json)["status"] != status:
            await asyncio.sleep(0.05)
    return found


async def test_every_attempt_is_logged_with_what_came_of_it(world: World, receiver: Receiver) -> None:
    caller = await world.caller()
    receiver.statuses = [500, 404]
    receiver.body = "no\0 such " + "\N{SNOWMAN}" * 1000
    delivery_id = await _told(caller, receiver)
    shown = await _until(caller, delivery_id, "delivered")
    assert (shown["attempt_count"], shown["last_status_code"], shown["last_error"]) == (3, 204, None)
    assert [one["status_code"] for one in shown["attempts"]] == [204, 404, 500]
    assert [one["number"] for one in shown["attempts"]] == [3, 2, 1]
    failed = shown["attempts"][1]
    assert failed["error"] is None
    assert failed["duration_ms"] >= 0
    assert failed["answer"].startswith("no\N{REPLACEMENT CHARACTER} such \N{SNOWMAN}")
    assert len(failed["answer"].encode()) <= 1024
    assert (shown["event"], shown["payload"]["type"]) == ("job.completed", "job.completed")
    assert shown["webhook_url"] == receiver.url
    assert "token" not in str(shown)
    assert shown["webhook_id"] == receiver.received[0].headers["webhook-id"]


@pytest.mark.parametrize("is_slow", [False, True], ids=["closed", "hangs"])
async def test_a_closed_port_and_one_that_hangs_look_alike(
    empty: None, make_settings: MakeSettings, is_slow: bool
) -> None:
    settings = make_settings(webhook_timeout_s=0.2, webhook_retry_delays_s=())
    async with open_world(settings) as world, open_wire(answer_nothing) as wire:
        url = f"http://127.0.0.1:{wire.port if is_slow else 1}/"
        caller = await world.caller()
        await caller.post("/jobs", json={"process_number": CASE, "webhook_url": url})
        async with asyncio.timeout(30):
            while not (dead := (await caller.get("/webhooks/deliveries?status=dead")).json["items"]):
                await asyncio.sleep(0.05)
        shown = (await caller.get(f"/webhooks/deliveries/{dead[0]['id']}")).json
        assert shown["last_error"] == "the destination did not answer"
        assert {(one["error"], one["duration_ms"], one["answer"]) for one in shown["attempts"]} == {
            ("no_answer", None, "")
        }


async def test_the_log_is_listed_in_pages_and_filtered(world: World, receiver: Receiver) -> None:
    caller, other = await world.caller("acme"), await world.caller("other")
    numbers = case_numbers(5)
    endpoint = (await caller.post("/webhooks/endpoints", json={"url": receiver.url})).json["id"]
    for number in numbers[:3]:
        await _told(caller, receiver, number=number)
    for number in numbers[3:]:
        await _told(caller, receiver, number=number, webhook_endpoint_id=endpoint)
    await _told(other, receiver, number=numbers[0])

    async def ids(**query: Any) -> list[str]:
        page = (await caller.get("/webhooks/deliveries", params=query)).json
        return [one["id"] for one in page["items"]]

    everything = await ids()
    assert len(everything) == 5
    first = (await caller.get("/webhooks/deliveries", params={"limit": 2})).json
    second = await caller.get("/webhooks/deliveries", params={"limit": 3, "cursor": first["next_cursor"]})
    assert [one["id"] for one in first["items"] + second.json["items"]] == everything
    assert second.json["next_cursor"] is None
    assert await ids(endpoint_id=endpoint) == everything[:2]
    assert await ids(event="job.completed", status="delivered,pending") == everything
    assert await ids(event="job.failed") == []
    assert await ids(status="dead") == []
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    assert await ids(since=later) == []
    assert await ids(until=later) == everything
    for query in ({"status": "lost"}, {"endpoint_id": "x"}, {"since": "yesterday"}, {"limit": "0"}):
        assert (await caller.get("/webhooks/deliveries", params=query)).status == 422
    mixed = {"cursor": first["next_cursor"], "event": "job.failed"}
    assert (await caller.get("/webhooks/deliveries", params=mixed)).status == 400
    assert (await other.get(f"/webhooks/deliveries/{everything[0]}")).status == 404
    assert (await other.post(f"/webhooks/deliveries/{everything[0]}/redeliver")).status == 404


async def test_what_was_delivered_is_sent_again_with_the_same_id_and_says_so(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    delivery_id = await _told(caller, receiver)
    before = await _until(caller, delivery_id, "delivered")
    answer = await caller.post(f"/webhooks/deliveries/{delivery_id}/redeliver")
    assert (answer.status, answer.json["redeliveries"]) == (202, 1)
    first, second = await receiver.wait_for(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert ("autos-redelivery" in first.headers, second.headers["autos-redelivery"]) == (False, "1")
    assert {**first.event, "documents": []} == {**second.event, "documents": []}
    after = await _until(caller, delivery_id, "delivered")
    assert after["delivered_at"] == before["delivered_at"]
    assert after["attempt_count"] == 2
    status = (await caller.get(f"/processes/{CASE}/status")).json
    assert (status["webhook_sent"], status["webhook_attempts"]) == (True, 2)
    async with world.db.connection() as conn:
        row = await conn.fetchrow("select action, subject::text, key_id from audit_log")
    assert row
    assert (row["action"], row["subject"]) == ("delivery.redelivered", delivery_id)
    assert row["key_id"]


async def test_what_waits_for_its_next_try_is_sent_now_and_is_no_redelivery(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    receiver.statuses = [404]
    delivery_id = await _told(caller, receiver)
    await world.until("select rounds > 0 from deliveries")
    async with world.db.connection() as conn:
        await conn.execute(
            "update deliveries set next_attempt_at = now() + interval '20 h' where status = 'pending'"
        )
    answer = await caller.post(f"/webhooks/deliveries/{delivery_id}/redeliver")
    assert (answer.status, answer.json["redeliveries"]) == (202, 0)
    _, again = await receiver.wait_for(2)
    assert "autos-redelivery" not in again.headers


async def test_all_that_failed_since_a_time_is_sent_again_and_nothing_else(
    world: World, receiver: Receiver
) -> None:
    caller, other = await world.caller("acme"), await world.caller("other")
    numbers = case_numbers(4)
    kept = await _told(caller, receiver, number=numbers[0])
    await _until(caller, kept, "delivered")
    failed = []
    for who, number in ((caller, numbers[1]), (caller, numbers[2]), (other, numbers[3])):
        receiver.statuses = [400] * 4
        failed.append(await _told(who, receiver, number=number))
        await _until(who, failed[-1], "dead")
    async with world.db.connection() as conn:
        await conn.execute(
            "update deliveries set created_at = created_at - interval '1 h' where id = $1", failed[0]
        )
    receiver.statuses = []
    count = len(receiver.received)
    since = (datetime.now(UTC) - timedelta(minutes=30)).isoformat()
    answer = await caller.post("/webhooks/deliveries/redeliver", json={"since": since})
    assert (answer.status, answer.json) == (202, {"redelivered": 1, "next_since": None})
    await _until(caller, failed[1], "delivered")
    assert len(receiver.received) == count + 1
    since = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    options = {"since": since, "failed_only": False, "until": datetime.now(UTC).isoformat()}
    answer = await caller.post("/webhooks/deliveries/redeliver", json=options)
    assert answer.json["redelivered"] == 3
    for delivery_id in (kept, *failed[:2]):
        await _until(caller, delivery_id, "delivered")
    assert (await _until(other, failed[2], "dead"))["redeliveries"] == 0
    async with world.db.connection() as conn:
        noted = await conn.fetch("select details from audit_log where action = 'deliveries.redelivered'")
    assert [row["details"]["count"] for row in noted] == [1, 3]


async def test_what_a_disabled_endpoint_missed_can_be_listed_and_sent_later(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    created = (await caller.post("/webhooks/endpoints", json={"url": receiver.url, "enabled": False})).json
    at, began = f"/webhooks/endpoints/{created['id']}", datetime.now(UTC).isoformat()
    numbers = case_numbers(3)
    for number in numbers:
        await caller.post("/jobs", json={"process_number": number, "webhook_endpoint_id": created["id"]})
    for number in numbers:
        await caller.wait_until_final(number)
    query = {"endpoint_id": created["id"], "status": "dead"}
    missed = (await caller.get("/webhooks/deliveries", params=query)).json["items"]
    assert len(missed) == 3
    assert {(one["attempt_count"], one["last_error"]) for one in missed} == {(0, "the endpoint is disabled")}
    replay = {"since": began, "endpoint_id": created["id"]}
    for refused in (
        await caller.post("/webhooks/deliveries/redeliver", json=replay),
        await caller.post(f"/webhooks/deliveries/{missed[0]['id']}/redeliver"),
    ):
        assert (refused.status, refused.json["type"].rpartition("/")[2]) == (409, "endpoint-disabled")
    assert receiver.received == []
    await caller.call("PATCH", at, json={"enabled": True})
    assert (await caller.post("/webhooks/deliveries/redeliver", json=replay)).json["redelivered"] == 3
    got = await receiver.wait_for(3)
    assert {one.event["process_number"] for one in got} == set(numbers)
    assert {one.headers["autos-redelivery"] for one in got} == {"1"}
