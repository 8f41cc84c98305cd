import time

import pytest
from aiohttp.test_utils import TestClient, TestServer

from service.core.signing import new_secret, show_secret, signed_headers
from service.sandbox.receiver import KEPT, create_receiver

BODY = b'{"type": "job.completed", "process_number": "1003579-22.2025.8.26.0564", "status": "completed"}'


async def test_a_signed_webhook_is_kept_and_said_in_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret = new_secret()
    headers = signed_headers([secret], message_id="msg_1", timestamp=int(time.time()), body=BODY)
    async with TestClient(TestServer(create_receiver(show_secret(secret)))) as client:
        async with client.post("/anywhere", data=BODY, headers=headers) as response:
            assert response.status == 200
        async with client.get("/") as response:
            (received,) = await response.json()
    assert received["valid"] is True
    assert received["webhook_id"] == "msg_1"
    assert received["body"]["status"] == "completed"
    line = "webhook: job.completed 1003579-22.2025.8.26.0564 completed, signature valid\n"
    assert capsys.readouterr().out == line


async def test_a_forged_webhook_is_answered_and_marked(capsys: pytest.CaptureFixture[str]) -> None:
    headers = signed_headers([new_secret()], message_id="msg_1", timestamp=int(time.time()), body=BODY)
    async with TestClient(TestServer(create_receiver(show_secret(new_secret())))) as client:
        async with client.post("/", data=BODY, headers=headers) as response:
            assert response.status == 200
        async with client.get("/") as response:
            assert [received["valid"] for received in await response.json()] == [False]
    assert "signature NOT VALID" in capsys.readouterr().out


async def test_what_is_no_webhook_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with TestClient(TestServer(create_receiver(show_secret(new_secret())))) as client:
        for body in (b"\xff not json", b"[1]", b'{"type": "\\u001b[2J\\nforged line"}'):
            async with client.post("/", data=body) as response:
                assert response.status == 200
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 3


async def test_the_newest_come_first_and_the_oldest_are_forgotten() -> None:
    async with TestClient(TestServer(create_receiver(show_secret(new_secret())))) as client:
        for number in range(KEPT + 1):
            async with client.post("/", json=number):
                pass
        async with client.get("/") as response:
            assert [received["body"] for received in await response.json()] == list(range(KEPT, 0, -1))


async def test_delete_forgets_everything() -> None:
    async with TestClient(TestServer(create_receiver(show_secret(new_secret())))) as client:
        async with client.post("/", json={}):
            pass
        async with client.delete("/") as response:
            assert response.status == 204
        async with client.get("/") as response:
            assert await response.json() == []


def test_a_secret_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="signing secret"):
        create_receiver("whsec_short")
