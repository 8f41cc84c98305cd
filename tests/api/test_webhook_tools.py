"""The four tools for those who build a receiver."""

import asyncio
import time

import pytest
from standardwebhooks import Webhook

from service.core import signing
from service.core.outbound import REQUESTS_PER_ENDPOINT
from tests.conftest import MakeSettings
from tests.receiver import Receiver
from tests.wire import answer_nothing, open_wire
from tests.world import Answer, World, open_world, until


@pytest.mark.parametrize("form", ["json", "alias", "query"])
async def test_a_good_url_is_valid_however_it_is_given(api: World, form: str) -> None:
    caller, url = await api.caller(), "https://hooks.example.com/in?token=1"
    options = {
        "json": {"json": {"webhook_url": url}},
        "alias": {"json": {"url": url}},
        "query": {"params": {"webhook_url": url}},
    }[form]
    answer = await caller.post("/webhooks/webhook-validate", **options)
    assert answer.status == 200
    assert (answer.json["valid"], answer.json["url"], answer.json["error"]) == (True, url, None)
    assert answer.json["message"]


@pytest.mark.parametrize(
    "url", ["nonsense", "http://localhost.evil.example.com:80:80/", "http://169.254.169.254/", ""]
)
async def test_a_bad_url_is_answered_with_200_and_the_reason(api: World, url: str) -> None:
    answer = await (await api.caller()).post("/webhooks/webhook-validate", json={"webhook_url": url})
    assert answer.status == 200
    assert (answer.json["valid"], answer.json["url"]) == (False, url)
    assert answer.json["error"]


async def test_in_production_loopback_and_plain_http_are_not_valid(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_world(make_settings(webhook_allow_private=False), with_worker=False) as api:
        caller = await api.caller()
        for url in ("http://hooks.example.com/", "https://127.0.0.1/", "https://localhost/"):
            answer = await caller.post("/webhooks/webhook-validate", json={"webhook_url": url})
            assert answer.json["valid"] is False
            refused = await caller.post("/webhooks/webhook-send-test", json={"webhook_url": url})
            assert refused.status == 422


async def test_where_hosts_are_named_no_other_is_accepted_anywhere(
    empty: None, make_settings: MakeSettings, receiver: Receiver
) -> None:
    async with open_world(make_settings(), with_worker=False) as api:
        earlier = await (await api.caller()).post("/webhooks/endpoints", json={"url": receiver.url})
    settings = make_settings(webhook_allowed_hosts=("escritorio.com.br",))
    async with open_world(settings, with_worker=False) as api:
        caller, job = await api.caller(), {"process_number": "1003579-22.2025.8.26.0564"}
        for path, body in (
            ("/jobs", {**job, "webhook_url": receiver.url}),
            ("/jobs/batch", {"process_numbers": [*job.values()], "batch_webhook_url": receiver.url}),
            ("/webhooks/endpoints", {"url": receiver.url}),
            ("/webhooks/webhook-send-test", {"webhook_url": receiver.url}),
            ("/webhooks/webhook-test-connectivity", {"webhook_url": receiver.url}),
            ("/webhooks/webhook-send-test", {"endpoint_id": earlier.json["id"]}),
        ):
            refused = await caller.post(path, json=body, headers={"Accept-Language": "pt-BR"})
            assert refused.status == 422, path
            assert "esse host não está entre os que podem ser chamados" in refused.text
        shown = await caller.post("/webhooks/webhook-validate", json={"webhook_url": receiver.url})
        assert shown.json["error"] == "the host is not one of those that may be called"
        url = "https://hooks.escritorio.com.br/in"
        assert (await caller.post("/jobs", json={**job, "webhook_url": url})).status == 202
    assert receiver.received == []


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_any_http_answer_is_a_sign_of_life(api: World, receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    answer = await (await api.caller()).post(
        "/webhooks/webhook-test-connectivity", json={"webhook_url": receiver.url}
    )
    assert (answer.json["success"], answer.json["status_code"]) == (True, status)
    assert answer.json["response_time_ms"] > 0


async def test_a_receiver_that_is_not_there_is_no_success(api: World) -> None:
    answer = await (await api.caller()).post(
        "/webhooks/webhook-test-connectivity", json={"webhook_url": "http://127.0.0.1:9/"}
    )
    assert (answer.status, answer.json["success"], answer.json["status_code"]) == (200, False, None)
    assert "127.0.0.1" not in answer.json["error"]


async def test_a_test_event_is_signed_like_a_real_one(api: World, receiver: Receiver) -> None:
    receiver.statuses = [500]
    caller = await api.caller()
    answer = await caller.post("/webhooks/webhook-send-test", json={"webhook_url": receiver.url})
    assert (answer.json["success"], answer.json["status_code"], answer.json["attempts"]) == (True, 204, 2)
    secret = signing.show_secret(caller.webhook_secret)
    for got in await receiver.wait_for(2):
        assert Webhook(secret).verify(got.body, got.headers)["type"] == "webhook.test"
        assert got.headers["webhook-id"] == answer.json["message_id"]


async def test_a_receiver_that_refuses_the_test_event_is_no_success(api: World, receiver: Receiver) -> None:
    receiver.statuses = [403]
    answer = await (await api.caller()).post(
        "/webhooks/webhook-send-test", json={"webhook_url": receiver.url}
    )
    assert (answer.json["success"], answer.json["status_code"], answer.json["attempts"]) == (False, 403, 1)


async def test_the_test_receiver_echoes_what_came(api: World) -> None:
    caller = await api.caller()
    answer = await caller.post("/webhooks/webhook-test-receiver", json={"b": 1, "a": [2]})
    assert answer.json == {
        "received": True,
        "payload_keys": ["b", "a"],
        "payload": {"b": 1, "a": [2]},
        "signature_valid": None,
    }


async def test_what_is_nested_too_deeply_to_be_echoed_is_refused(api: World) -> None:
    body = b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"
    answer = await (await api.caller()).post(
        "/webhooks/webhook-test-receiver", data=body, headers={"Content-Type": "application/json"}
    )
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "#")


async def test_a_receiver_with_no_turn_left_is_no_success(api: World) -> None:
    """Callers who try out a receiver that hangs cannot pile up in our process."""
    caller = await api.caller()

    async def test_it() -> Answer:
        return await caller.post("/webhooks/webhook-test-connectivity", json={"webhook_url": url})

    async with open_wire(answer_nothing) as wire:
        url = f"http://127.0.0.1:{wire.port}/"
        tests = [asyncio.create_task(test_it()) for _ in range(REQUESTS_PER_ENDPOINT)]
        await until(lambda: wire.connections == REQUESTS_PER_ENDPOINT)
        assert "too many requests" in (await test_it()).json["error"]
        for test in tests:
            test.cancel()
        await asyncio.wait(tests)


async def test_the_test_receiver_verifies_a_signature(api: World) -> None:
    caller = await api.caller()
    body, secret = b'{"type":"x"}', caller.webhook_secret
    for key, is_valid in ((secret, True), (signing.new_secret(), False)):
        stamp = int(time.time())
        headers = signing.signed_headers([key], message_id="msg_1", timestamp=stamp, body=body)
        headers["Content-Type"] = "application/json"
        answer = await caller.post("/webhooks/webhook-test-receiver", data=body, headers=headers)
        assert answer.json["signature_valid"] is is_valid
