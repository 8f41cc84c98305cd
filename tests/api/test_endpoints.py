"""Endpoints: created, changed, deleted; each signed for with a secret of its own."""

import asyncio
from typing import Any, get_args
from uuid import uuid4

import pytest
from standardwebhooks import Webhook
from svix.webhooks import Webhook as SvixWebhook

from service.core import signing
from service.core.endpoints import MOST_ENDPOINTS
from service.core.events import FINAL_EVENTS
from service.request_schemas import EndpointEvent
from service.webhook_schemas import EVENTS
from tests.cases import case_numbers
from tests.conftest import MakeSettings
from tests.receiver import Receiver
from tests.rings import secret_of
from tests.world import Answer, Caller, World, open_world

CASE, OTHER_CASE = "1003579-22.2025.8.26.0564", case_numbers(1)[0]
URL = "https://hooks.example.com/autos?token=kept"
SHOWN = "https://hooks.example.com/autos"


async def _created(caller: Caller, **options: Any) -> Any:
    answer = await caller.post("/webhooks/endpoints", json={"url": URL, **options})
    assert answer.status == 201, answer.text
    return answer.json


async def test_an_endpoint_is_created_shown_listed_and_deleted(api: World) -> None:
    caller = await api.caller()
    answer = await caller.post("/webhooks/endpoints", json={"url": URL, "description": "production"})
    created = answer.json
    at = answer.headers["Location"]
    assert (answer.status, at) == (201, f"/webhooks/endpoints/{created['id']}")
    assert len(signing.parse_secret(created.pop("secret"))) == 32
    assert (created["url"], created["description"]) == (SHOWN, "production")
    assert (created["events"], created["enabled"]) == (list(FINAL_EVENTS), True)
    assert (await caller.get(at)).json == created
    assert (await caller.get("/webhooks/endpoints")).json == {"items": [created], "next_cursor": None}
    assert (await caller.call("DELETE", at)).status == 204
    assert (await caller.get(at)).status == 404
    assert (await caller.get("/webhooks/endpoints")).json["items"] == []
    assert (await caller.call("DELETE", at)).status == 404


def test_an_endpoint_may_ask_for_every_event_but_those_that_are_sent_unasked() -> None:
    assert set(get_args(EndpointEvent)) == EVENTS.keys() - {"webhook.test", "process.erased"}


async def test_a_change_leaves_what_it_does_not_name(api: World) -> None:
    caller = await api.caller()
    before = await _created(
        caller, description="first", events=["job.failed", "job.failed", "batch.finished"]
    )
    assert before["events"] == ["job.failed", "batch.finished"]
    at = f"/webhooks/endpoints/{before['id']}"
    answer = await caller.call("PATCH", at, json={"description": None})
    assert (answer.status, answer.json["description"], answer.json["url"]) == (200, None, SHOWN)
    assert answer.json["events"] == before["events"]
    answer = await caller.call(
        "PATCH", at, json={"url": "https://other.example.com/", "events": ["job.failed"]}
    )
    assert (answer.json["url"], answer.json["events"]) == ("https://other.example.com/", ["job.failed"])
    assert (await caller.call("PATCH", at, json={})).json["url"] == "https://other.example.com/"


async def test_an_endpoint_is_disabled_and_enabled_by_hand(api: World) -> None:
    caller = await api.caller()
    at = f"/webhooks/endpoints/{(await _created(caller))['id']}"
    off = (await caller.call("PATCH", at, json={"enabled": False})).json
    assert (off["enabled"], off["disabled_reason"]) == (False, "by_hand")
    assert off["disabled_at"]
    again = (await caller.call("PATCH", at, json={"enabled": False})).json
    assert again["disabled_at"] == off["disabled_at"]
    on = (await caller.call("PATCH", at, json={"enabled": True})).json
    assert (on["enabled"], on["disabled_reason"], on["disabled_at"]) == (True, None, None)
    created = await _created(caller, enabled=False)
    assert (created["enabled"], created["disabled_reason"]) == (False, "by_hand")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"url": "https://127.0.0.1.nip.io:22/"}, "#/url"),
        ({"url": "ftp://hooks.example.com/"}, "#/url"),
        ({}, "#/url"),
        ({"url": URL, "events": []}, "#/events"),
        ({"url": URL, "events": ["job.exploded"]}, "#/events/0"),
        ({"url": URL, "secret": "whsec_dG9vIHNob3J0"}, "#/secret"),
        ({"url": URL, "secret": "no base64!"}, "#/secret"),
        ({"url": URL, "description": ""}, "#/description"),
        ({"url": URL, "colour": "blue"}, "#/colour"),
    ],
)
async def test_what_is_no_endpoint_is_refused(
    empty: None, make_settings: MakeSettings, body: dict[str, Any], pointer: str
) -> None:
    async with open_world(make_settings(webhook_allow_private=False), with_worker=False) as api:
        caller = await api.caller()
        answer = await caller.post("/webhooks/endpoints", json=body)
        assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, pointer)
        assert (await caller.get("/webhooks/endpoints")).json["items"] == []


async def test_another_clients_endpoint_is_not_there(api: World) -> None:
    caller, other = await api.caller("acme"), await api.caller("other")
    endpoint_id = (await _created(caller))["id"]
    at = f"/webhooks/endpoints/{endpoint_id}"
    answers: list[Answer] = [
        await other.get(at),
        await other.call("PATCH", at, json={"enabled": False}),
        await other.call("DELETE", at),
        await other.post(f"{at}/rotate-secret"),
        await other.post("/webhooks/webhook-send-test", json={"endpoint_id": endpoint_id}),
        await other.post(
            "/webhooks/deliveries/redeliver",
            json={"since": "2026-01-01T00:00:00Z", "endpoint_id": endpoint_id},
        ),
    ]
    assert {one.status for one in answers} == {404}
    answer = await other.post("/jobs", json={"process_number": CASE, "webhook_endpoint_id": endpoint_id})
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "#/webhook_endpoint_id")
    batch = {"process_numbers": [CASE], "batch_webhook_endpoint_id": endpoint_id}
    answer = await other.post("/jobs/batch", json=batch)
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "#/batch_webhook_endpoint_id")
    assert (await other.get(f"/processes/{CASE}/status")).status == 404
    assert (await caller.get(at)).json["enabled"]


async def test_a_batch_refuses_the_items_that_name_an_unknown_endpoint_and_no_others(api: World) -> None:
    caller = await api.caller()
    known = (await _created(caller))["id"]
    lines = "".join(
        f'{{"process_number": "{number}", "webhook_endpoint_id": "{endpoint_id}"}}\n'
        for number, endpoint_id in ((CASE, known), (OTHER_CASE, uuid4()))
    )
    headers = {"Content-Type": "application/x-ndjson"}
    answer = await caller.post("/jobs/batch", data=lines, headers=headers)
    first, second = answer.json["items"]
    assert (first["outcome"], second["outcome"]) == ("created", "refused")
    assert second["problem"]["errors"][0]["pointer"] == "#/webhook_endpoint_id"


async def test_a_client_may_have_many_endpoints_but_not_any_number(api: World) -> None:
    caller = await api.caller()
    made = [
        answer
        for _ in range(MOST_ENDPOINTS // 5 + 1)
        for answer in await asyncio.gather(
            *(caller.post("/webhooks/endpoints", json={"url": URL}) for _ in range(5))
        )
    ]
    assert [one.status for one in made].count(201) == MOST_ENDPOINTS
    refused = next(one for one in made if one.status != 201)
    assert (refused.status, refused.json["type"].rpartition("/")[2]) == (409, "too-many-endpoints")
    pages: list[list[str]] = []
    options: dict[str, Any] | None = {"limit": 30}
    while options:
        page = (await caller.get("/webhooks/endpoints", params=options)).json
        pages.append([one["id"] for one in page["items"]])
        options = {"limit": 30, "cursor": page["next_cursor"]} if page["next_cursor"] else None
    assert [len(page) for page in pages] == [30, 30, 30, 10]
    assert len({one for page in pages for one in page}) == MOST_ENDPOINTS


async def test_secrets_are_sealed_in_the_database(api: World) -> None:
    caller = await api.caller()
    created = await _created(caller)
    raw = signing.parse_secret(created["secret"])
    async with api.db.connection() as conn:
        rows = await conn.fetch("select * from signing_secrets")
        everything = repr([dict(row) for row in rows]).encode()
        assert (
            await secret_of(conn, caller.client.id, rows[0]["endpoint_id"] or rows[1]["endpoint_id"]) == raw
        )
    assert raw not in b"".join(row["sealed"] for row in rows)
    assert created["secret"].encode() not in everything
    assert caller.webhook_secret not in b"".join(row["sealed"] for row in rows)


async def test_a_job_that_names_an_endpoint_is_told_there_signed_with_its_secret(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    own = signing.show_secret(b"a secret that the caller brought")
    created = await _created(caller, url=receiver.url + "?token=kept", secret=own)
    assert created["secret"] == own
    answer = await caller.post("/jobs", json={"process_number": CASE, "webhook_endpoint_id": created["id"]})
    assert answer.status == 202
    assert answer.json["webhook_endpoint_id"] == created["id"]
    (got,) = await receiver.wait_for(1)
    assert got.path == "/hook?token=kept"
    assert Webhook(own).verify(got.body, got.headers) == got.event
    SvixWebhook(own).verify(got.body, got.headers)
    assert signing.verify([signing.parse_secret(own)], got.headers, got.body)
    assert not signing.verify([caller.webhook_secret], got.headers, got.body)
    assert "autos-redelivery" not in got.headers


async def test_the_simplest_call_may_name_an_endpoint_too(world: World, receiver: Receiver) -> None:
    caller = await world.caller()
    endpoint_id = (await _created(caller, url=receiver.url))["id"]
    query = {"webhook_endpoint_id": endpoint_id}
    assert (await caller.get(f"/processes/{CASE}", params=query)).status == 200
    (got,) = await receiver.wait_for(1)
    assert got.event["type"] == "job.completed"
    refused = await caller.get(f"/processes/{CASE}", params={**query, "auto_download": "false"})
    assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "#/webhook_endpoint_id")


async def test_while_a_secret_is_replaced_webhooks_are_signed_with_both(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    created = await _created(caller, url=receiver.url)
    answer = await caller.post(f"/webhooks/endpoints/{created['id']}/rotate-secret")
    assert answer.status == 200
    new, old = answer.json["secret"], created["secret"]
    assert new != old
    assert answer.json["old_secret_expires_at"]
    sent = await caller.post("/webhooks/webhook-send-test", json={"endpoint_id": created["id"]})
    assert sent.json["success"]
    (got,) = await receiver.wait_for(1)
    assert len(got.headers["webhook-signature"].split()) == 2
    for secret in (new, old):
        assert Webhook(secret).verify(got.body, got.headers)
        SvixWebhook(secret).verify(got.body, got.headers)
    newest = signing.sign(
        signing.parse_secret(new),
        message_id=got.headers["webhook-id"],
        timestamp=int(got.headers["webhook-timestamp"]),
        body=got.body,
    )
    assert got.headers["webhook-signature"].split()[0] == newest
    async with world.db.connection() as conn:
        await conn.execute("update signing_secrets set expires_at = now() where expires_at is not null")
    await caller.post("/webhooks/webhook-send-test", json={"endpoint_id": created["id"]})
    _, got = await receiver.wait_for(2)
    assert len(got.headers["webhook-signature"].split()) == 1


async def test_a_leaked_secret_signs_no_more_at_once(api: World, receiver: Receiver) -> None:
    caller = await api.caller()
    answer = await caller.post("/webhooks/rotate-secret", json={"grace_hours": 0})
    await caller.post("/webhooks/webhook-send-test", json={"webhook_url": receiver.url})
    (got,) = await receiver.wait_for(1)
    assert len(got.headers["webhook-signature"].split()) == 1
    assert Webhook(answer.json["secret"]).verify(got.body, got.headers)
    assert not signing.verify([caller.webhook_secret], got.headers, got.body)


async def test_secrets_replaced_again_and_again_do_not_pile_up(api: World) -> None:
    caller = await api.caller()
    answers = await asyncio.gather(*(caller.post("/webhooks/rotate-secret") for _ in range(12)))
    assert {one.status for one in answers} == {200}
    async with api.db.connection() as conn:
        assert await conn.fetchval("select count(*) from signing_secrets") == 4
        assert await conn.fetchval("select count(*) from signing_secrets where expires_at is null") == 1


@pytest.mark.parametrize(
    "body",
    [
        {"webhook_url": URL, "webhook_endpoint_id": str(uuid4())},
        {"webhook_events": ["job.started"]},
        {"webhook_url": URL, "webhook_events": ["job.completed"]},
    ],
    ids=["two places", "events for nobody", "an event that all get"],
)
async def test_a_job_is_told_at_one_place(api: World, body: dict[str, Any]) -> None:
    answer = await (await api.caller()).post("/jobs", json={"process_number": CASE, **body})
    assert answer.status == 422


async def test_what_is_done_to_endpoints_stands_in_the_audit_log(api: World) -> None:
    caller = await api.caller()
    at = f"/webhooks/endpoints/{(await _created(caller))['id']}"
    await caller.call("PATCH", at, json={"enabled": False})
    await caller.post(f"{at}/rotate-secret")
    await caller.call("DELETE", at)
    async with api.db.connection() as conn:
        rows = await conn.fetch("select action, key_id, details::text from audit_log order by id")
        assert [row["action"] for row in rows] == [
            "endpoint.created",
            "endpoint.changed",
            "endpoint.disabled",
            "endpoint.secret_rotated",
            "endpoint.deleted",
        ]
        assert all(row["key_id"] for row in rows)
        assert not any("token" in row["details"] or "whsec" in row["details"] for row in rows)
        for change in ("update audit_log set action = 'x'", "delete from audit_log"):
            with pytest.raises(Exception, match="append only"):
                await conn.execute(change)
