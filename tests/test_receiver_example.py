"""The receivers that we show to integrators take what we send, and nothing else."""

import asyncio
import json
import os
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from service.core import clients, signing
from service.sandbox.children import free_port
from tests.rings import RING
from tests.world import World

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CASE = "1003579-22.2025.8.26.0564"
BODY = json.dumps({"type": "job.completed", "process_number": CASE}).encode()
LINE = f"job.completed {CASE}"
SECRET = signing.new_secret()


@dataclass(frozen=True)
class Example:
    """A receiver that runs."""

    url: str
    process: asyncio.subprocess.Process
    http: aiohttp.ClientSession

    async def post(self, headers: dict[str, str], body: bytes = BODY) -> int:
        """Send it a body; return the status."""
        async with self.http.post(self.url, data=body, headers=headers) as response:
            return response.status


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout
    async with asyncio.timeout(20):
        return (await process.stdout.readline()).decode().strip()


@asynccontextmanager
async def running(program: str, *arguments: str, port: int = 0) -> AsyncIterator[Example]:
    """Run a receiver until the block ends; its first line names the address, unless the port is given."""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        env={**os.environ, "SECRET": signing.show_secret(SECRET), "PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{port}/"
            if port:
                await _until_open(http, url)
            else:
                url = (await _line(process)).rpartition(" ")[2]
            yield Example(url, process, http)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _until_open(http: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                async with http.get(url):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)


@pytest.fixture(params=["python", "node", "php"])
async def example(request: pytest.FixtureRequest) -> AsyncIterator[Example]:
    """Each of the receivers in the documents, if there is something to run it with."""
    language, port = request.param, 0
    program = sys.executable if language == "python" else shutil.which(language)
    if program is None:
        pytest.skip(f"there is no {language} on this machine")
    arguments = [
        str(DOCS / {"python": "receiver.py", "node": "receiver.mjs", "php": "receiver.php"}[language])
    ]
    if language == "php":
        port = free_port()
        arguments = ["-S", f"127.0.0.1:{port}", *arguments]
    async with running(program, *arguments, port=port) as opened:
        yield opened


def signed(message_id: str, *, age_s: int = 0, secret: bytes = SECRET) -> dict[str, str]:
    """The headers of an attempt that was made so long ago."""
    stamp = int(time.time()) - age_s
    return signing.signed_headers([secret], message_id=message_id, timestamp=stamp, body=BODY)


async def test_the_example_verifies_answers_and_drops_repeats(example: Example) -> None:
    for message_id in ("msg_1", "msg_1", "msg_2"):
        assert await example.post(signed(message_id)) == 204
    assert [await _line(example.process) for _ in range(2)] == [LINE, LINE]
    assert await example.post(signed("msg_3"), BODY + b" ") == 401


async def test_the_example_refuses_what_is_not_from_us(example: Example) -> None:
    for headers in (
        {},
        signed("msg_1", secret=signing.new_secret()),
        signed("msg_1", age_s=400),
        signed("msg_1", age_s=-400),
        signed("msg_1") | {"webhook-id": "msg_2"},
        signed("msg_1") | {"webhook-timestamp": "now"},
        signed("msg_1") | {"webhook-signature": "v1,ação"},
    ):
        assert await example.post(headers) == 401, headers


async def test_the_example_takes_one_good_signature_among_several(example: Example) -> None:
    headers = signed("msg_4")
    headers["webhook-signature"] = f"v1,AAAA {headers['webhook-signature']}"
    assert await example.post(headers) == 204


async def test_the_example_takes_what_is_delivered_in_earnest(example: Example, world: World) -> None:
    async with world.db.transaction() as conn:
        await clients.ensure(conn, RING, "acme", webhook_secret=SECRET)
    caller = await world.caller("acme")
    await caller.post("/jobs", json={"process_number": CASE, "webhook_url": example.url})
    assert await _line(example.process) == LINE
    async with asyncio.timeout(30):
        while not (found := (await caller.get("/webhooks/deliveries?status=delivered")).json["items"]):
            await asyncio.sleep(0.05)
    (delivery,) = found
    await caller.post(f"/webhooks/deliveries/{delivery['id']}/redeliver")
    async with asyncio.timeout(30):
        while (await caller.get("/webhooks/deliveries")).json["items"][0]["attempt_count"] < 2:
            await asyncio.sleep(0.05)
    # The repeat was answered, and is no news: the next line tells of the next event.
    assert await example.post(signed("msg_5")) == 204
    assert await _line(example.process) == LINE
    (delivery,) = (await caller.get("/webhooks/deliveries")).json["items"]
    assert (delivery["status"], delivery["last_status_code"]) == ("delivered", 204)


def test_the_guide_shows_the_heart_of_the_example() -> None:
    (shown,) = re.findall(r"```python\n(.+?)```", (DOCS / "webhooks.md").read_text(), re.DOTALL)
    assert shown in (DOCS / "receiver.py").read_text()


async def test_the_receiver_in_the_readme_verifies_what_we_send() -> None:
    found = re.search(r"-c '\n([^']*standardwebhooks[^']*)'", (ROOT / "README.md").read_text())
    assert found
    async with running(sys.executable, "-c", found[1].replace("9000", "0")) as example:
        assert await example.post(signed("msg_1")) == 204
        assert await _line(example.process) == LINE
