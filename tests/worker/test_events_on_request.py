"""What is told on request: a job's start, its documents as they come, batches, disabled endpoints."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.cases import case_numbers
from tests.receiver import Received, Receiver, open_receiver
from tests.world import Caller, World

CASE = "1003579-22.2025.8.26.0564"
PARTIAL = "9000003-16.2025.8.26.0100"
LARGE = "9000007-53.2025.8.26.0100"
EVENTS = ["job.started", "document.available", "document.failed"]


async def _endpoint(caller: Caller, url: str, **options: Any) -> str:
    answer = await caller.post("/webhooks/endpoints", json={"url": url, **options})
    assert answer.status == 201, answer.text
    return str(answer.json["id"])


async def _until_told(receiver: Receiver, kind: str, *, count: int = 1) -> list[Received]:
    """Wait until so many events of a type have come."""
    seen = 0
    while True:
        of_kind = [one for one in receiver.received if one.event["type"] == kind]
        if len(of_kind) >= count:
            return of_kind
        seen = max(seen, len(receiver.received))
        await receiver.wait_for(seen + 1)


def _documents(receiver: Receiver, kind: str) -> Counter[str]:
    return Counter(
        document["id"]
        for one in receiver.received
        if one.event["type"] == kind
        for document in one.event["documents"]
    )


@pytest.mark.parametrize("is_endpoint", [False, True], ids=["url", "endpoint"])
async def test_whoever_asks_for_it_hears_of_the_start_and_of_each_document_once(
    world: World, receiver: Receiver, is_endpoint: bool
) -> None:
    caller = await world.caller()
    place: dict[str, Any] = {"webhook_url": receiver.url, "webhook_events": EVENTS}
    if is_endpoint:
        place = {
            "webhook_endpoint_id": await _endpoint(caller, receiver.url, events=[*EVENTS, "job.partial"])
        }
    answer = await caller.post("/jobs", json={"process_number": PARTIAL, "reference": "mine", **place})
    job = await caller.wait_until_final(PARTIAL)
    async with asyncio.timeout(30):
        await _until_told(receiver, "job.partial")
        for kind in EVENTS:
            await _until_told(receiver, kind)
    failed = {one["id"] for one in job["documents"] if one["status"] == "failed"}
    available = {one["id"] for one in job["documents"] if one["status"] == "available"}
    async with asyncio.timeout(30):
        while _documents(receiver, "document.available").keys() < available:
            await receiver.wait_for(len(receiver.received) + 1)
    assert _documents(receiver, "document.available") == Counter(available)
    assert _documents(receiver, "document.failed") == Counter(failed)
    assert len(receiver.received) == len({one.headers["webhook-id"] for one in receiver.received})
    (started,) = await _until_told(receiver, "job.started")
    (ended,) = await _until_told(receiver, "job.partial")
    assert started.event["sequence"] < ended.event["sequence"]
    assert {one.event["job_id"] for one in receiver.received} == {answer.json["job_id"]}
    assert {one.event["reference"] for one in receiver.received} == {"mine"}
    links = [
        one["download_url"]
        for got in receiver.received
        if got.event["type"] == "document.available"
        for one in got.event["documents"]
    ]
    assert len(links) == len(available)
    assert all(links)


async def test_who_does_not_ask_hears_of_the_end_alone(world: World, receiver: Receiver) -> None:
    caller = await world.caller()
    await caller.post("/jobs", json={"process_number": PARTIAL, "webhook_url": receiver.url})
    other = await _endpoint(caller, receiver.url + "/other", events=["job.completed"])
    await caller.post("/jobs", json={"process_number": PARTIAL, "webhook_endpoint_id": other})
    await receiver.wait_for(1)
    async with world.db.connection() as conn:
        assert await conn.fetchval("select array_agg(event) from deliveries") == ["job.partial"]


async def test_a_thousand_documents_are_told_in_events_of_a_hundred_at_most(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    place = {"webhook_url": receiver.url, "webhook_events": ["document.available"]}
    await caller.post("/jobs", json={"process_number": LARGE, **place})
    async with asyncio.timeout(120):
        while len(_documents(receiver, "document.available")) < 1000:
            await receiver.wait_for(len(receiver.received) + 1)
    assert set(_documents(receiver, "document.available").values()) == {1}
    sizes = [len(one.event["documents"]) for one in receiver.received if "documents" in one.event]
    assert max(sizes) <= 100


async def test_a_batch_tells_the_endpoint_that_it_names(world: World, receiver: Receiver) -> None:
    caller = await world.caller()
    endpoint = await _endpoint(caller, receiver.url)
    body = {
        "process_numbers": case_numbers(2),
        "batch_webhook_endpoint_id": endpoint,
        "batch_reference": "July",
    }
    answer = await caller.post("/jobs/batch", json=body)
    assert answer.json["webhook_endpoint_id"] == endpoint
    (got,) = await receiver.wait_for(1)
    assert (got.event["type"], got.event["batch_id"]) == ("batch.finished", answer.json["batch_id"])
    assert got.event["reference"] == "July"


async def test_an_endpoint_that_answers_410_is_disabled_and_the_others_hear_of_it(
    world: World, receiver: Receiver
) -> None:
    caller, stranger = await world.caller(), await world.caller("stranger")
    async with open_receiver() as others:
        gone = await _endpoint(caller, receiver.url + "?token=kept")
        await _endpoint(caller, others.url, events=["endpoint.disabled"])
        await _endpoint(stranger, others.url + "/stranger", events=["endpoint.disabled"])
        receiver.statuses = [410]
        await caller.post("/jobs", json={"process_number": CASE, "webhook_endpoint_id": gone})
        (told,) = await others.wait_for(1)
        assert told.event["endpoint_id"] == gone
        assert (told.event["reason"], told.event["url"]) == ("gone", receiver.url)
        shown = (await caller.get(f"/webhooks/endpoints/{gone}")).json
        assert (shown["enabled"], shown["disabled_reason"]) == (False, "gone")
        assert len(others.received) == 1
    async with world.db.connection() as conn:
        assert await conn.fetchval("select array_agg(action order by id) from audit_log") == [
            *["endpoint.created"] * 3,
            "endpoint.disabled",
        ]


@pytest.mark.parametrize(
    ("since", "last", "is_disabled"),
    [
        (timedelta(days=5, minutes=1), timedelta(hours=24), True),
        (timedelta(days=4, hours=23), timedelta(hours=24), False),
        # It was left in peace for so long that nobody knows how it was in between.
        (timedelta(days=30), timedelta(days=3), False),
    ],
    ids=["five days", "not yet", "not asked in between"],
)
async def test_an_endpoint_that_did_nothing_but_fail_for_five_days_is_disabled(
    world: World, receiver: Receiver, since: timedelta, last: timedelta, is_disabled: bool
) -> None:
    caller = await world.caller()
    endpoint = await _endpoint(caller, receiver.url)
    async with world.db.connection() as conn:
        await conn.execute(
            """update endpoints
               set failing_since = now() - $1::interval, last_failed_at = now() - $2::interval""",
            since,
            last,
        )
    receiver.statuses = [404]
    await caller.post("/jobs", json={"process_number": CASE, "webhook_endpoint_id": endpoint})
    await receiver.wait_for(1)
    await _until_noted(world)
    shown = (await caller.get(f"/webhooks/endpoints/{endpoint}")).json
    assert (shown["disabled_reason"] == "failing") is is_disabled
    if not is_disabled:
        await receiver.wait_for(2)
        async with asyncio.timeout(30):
            while (await caller.get(f"/webhooks/endpoints/{endpoint}")).json["failing_since"]:
                await asyncio.sleep(0.05)


async def test_what_waits_for_an_endpoint_is_dead_once_that_is_disabled_or_deleted(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    for number, method, options in (
        (case_numbers(2)[0], "PATCH", {"json": {"enabled": False}}),
        (case_numbers(2)[1], "DELETE", {}),
    ):
        endpoint = await _endpoint(caller, receiver.url)
        receiver.statuses = [404]
        count = len(receiver.received)
        await caller.post("/jobs", json={"process_number": number, "webhook_endpoint_id": endpoint})
        await receiver.wait_for(count + 1)
        await caller.call(method, f"/webhooks/endpoints/{endpoint}", **options)
        await world.until("select status <> 'pending' from deliveries where endpoint_id = $1", UUID(endpoint))


async def _until_noted(world: World) -> None:
    await world.until("select exists (select from delivery_attempts)")
