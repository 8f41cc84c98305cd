"""The receiver that we show to integrators takes what we send, and nothing else."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from service.core import signing
from service.sandbox.children import free_port

EXAMPLE = Path(__file__).parents[1] / "docs" / "receiver.py"
BODY = b'{"type": "job.completed", "process_number": "1003579-22.2025.8.26.0564"}'


@asynccontextmanager
async def running_example(secret: bytes) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLE),
        env={"SECRET": signing.show_secret(secret), "PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        await process.wait()


async def _post(http: aiohttp.ClientSession, url: str, secret: bytes, message_id: str) -> int:
    headers = signing.signed_headers(secret, message_id=message_id, timestamp=int(time.time()), body=BODY)
    async with asyncio.timeout(10):
        while True:
            try:
                async with http.post(url, data=BODY, headers=headers) as response:
                    return response.status
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)  # it is still starting


async def test_the_example_verifies_answers_and_drops_repeats() -> None:
    secret = signing.new_secret()
    async with running_example(secret) as (url, process), aiohttp.ClientSession() as http:
        assert await _post(http, url, secret, "msg_1") == 204
        assert await _post(http, url, secret, "msg_1") == 204
        assert await _post(http, url, signing.new_secret(), "msg_2") == 401
        assert await _post(http, url, secret, "msg_3") == 204
        assert process.stdout
        line = b"job.completed 1003579-22.2025.8.26.0564\n"
        async with asyncio.timeout(10):
            assert [await process.stdout.readline() for _ in range(2)] == [line, line]
