"""The receivers that we show to integrators take what we send, and nothing else."""

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from service.core import signing

ROOT = Path(__file__).parents[1]
EXAMPLE = str(ROOT / "docs" / "receiver.py")
BODY = b'{"type": "job.completed", "process_number": "1003579-22.2025.8.26.0564"}'
LINE = "job.completed 1003579-22.2025.8.26.0564"
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
async def running(*arguments: str) -> AsyncIterator[Example]:
    """Run Python with these arguments until the block ends; its first line names the address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env={**os.environ, "SECRET": signing.show_secret(SECRET), "PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as http:
            yield Example((await _line(process)).rpartition(" ")[2], process, http)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def signed(message_id: str, *, age_s: int = 0, secret: bytes = SECRET) -> dict[str, str]:
    """The headers of an attempt that was made so long ago."""
    stamp = int(time.time()) - age_s
    return signing.signed_headers(secret, message_id=message_id, timestamp=stamp, body=BODY)


async def test_the_example_verifies_answers_and_drops_repeats() -> None:
    async with running(EXAMPLE) as example:
        for message_id in ("msg_1", "msg_1", "msg_2"):
            assert await example.post(signed(message_id)) == 204
        assert [await _line(example.process) for _ in range(2)] == [LINE, LINE]
        assert await example.post(signed("msg_3"), BODY + b" ") == 401


async def test_the_example_refuses_what_is_not_from_us() -> None:
    async with running(EXAMPLE) as example:
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


async def test_the_example_takes_one_good_signature_among_several() -> None:
    headers = signed("msg_1")
    headers["webhook-signature"] = f"v1,AAAA {headers['webhook-signature']}"
    async with running(EXAMPLE) as example:
        assert await example.post(headers) == 204


def test_the_guide_shows_the_heart_of_the_example() -> None:
    (shown,) = re.findall(r"```python\n(.+?)```", (ROOT / "docs" / "webhooks.md").read_text(), re.DOTALL)
    assert shown in Path(EXAMPLE).read_text()


async def test_the_receiver_in_the_readme_verifies_what_we_send() -> None:
    found = re.search(r"-c '\n([^']*standardwebhooks[^']*)'", (ROOT / "README.md").read_text())
    assert found
    async with running("-c", found[1].replace("9000", "0")) as example:
        assert await example.post(signed("msg_1")) == 204
        assert await _line(example.process) == LINE
