"""`python -m tests.bench.waiters [COUNT]`: callers who wait for one job at one API process.

Prints the memory of the process for each of them, and how long after the job's change they had their answer.
The callers run in this process, beside the API's: on a small machine they are a part of what is measured.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from service.core import clients
from service.core.db import open_database
from service.core.schema import upgrade
from service.core.settings import Settings
from service.sandbox.children import free_port
from service.sandbox.postgres import open_postgres
from service.sandbox.redis import open_redis
from service.sandbox.s3 import open_s3
from tests.rings import RING

CASE = "1003579-22.2025.8.26.0564"
_AT_ONCE = 100
_BETWEEN_S = 0.1
# Long enough for the last to have come, and for the processor time of callers who only wait.
_CALM_S = 5.0


async def main(count: int) -> None:
    """Let so many callers wait for a job, cancel it, and print what was seen."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = await stack.enter_async_context(open_postgres(folder, durable=False))
        redis_url = await stack.enter_async_context(open_redis(folder, durable=False))
        s3 = await stack.enter_async_context(open_s3(folder))
        await upgrade(url)
        key, port = clients.new_key(), free_port()
        async with (
            open_database(Settings.model_validate({"database_url": url})) as db,
            db.transaction() as conn,
        ):
            client, _ = await clients.ensure(conn, RING, "acme")
            await clients.add_key(conn, client.id, key)
        environ = {
            "DATABASE_URL": url,
            "REDIS_URL": redis_url,
            "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AUTOS_PORT": str(port),
            "AUTOS_REQUESTS_PER_MINUTE": "1000000",
            "AUTOS_LOG_REQUESTS": "false",
        }
        pid = await stack.enter_async_context(_api(environ, port))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                f"http://127.0.0.1:{port}",
                headers={"X-API-Key": key},
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=90),
            )
        )
        await _measure(http, pid, count)


async def _measure(http: aiohttp.ClientSession, pid: int, count: int) -> None:
    async with http.post("/jobs", json={"process_number": CASE}) as response:
        job_id = (await response.json())["job_id"]
    # Once, so that what is opened at the first use is not counted.
    async with http.get(f"/jobs/{job_id}", params={"wait": 1}) as response:
        assert response.status == 200
    idle_bytes, answered_at = _resident_bytes(pid), list[float]()

    async def call() -> None:
        async with http.get(f"/jobs/{job_id}", params={"wait": 60, "fields": "summary"}) as response:
            body = await response.json()
            answered_at.append(time.perf_counter())
            assert (response.status, body["status"]) == (200, "cancelled"), body

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as waiting:
        for number in range(count):
            waiting.create_task(call())
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(_BETWEEN_S)
        await asyncio.sleep(_CALM_S)
        taken_bytes = _resident_bytes(pid) - idle_bytes
        calm_s = _cpu_s(pid)
        await asyncio.sleep(_CALM_S)
        calm_s = _cpu_s(pid) - calm_s
        changed_at = time.perf_counter()
        async with http.post(f"/jobs/{job_id}/cancel") as response:
            assert response.status == 200
    late_ms = sorted((one - changed_at) * 1000 for one in answered_at)
    print(f"callers waiting for one job at one process:    {count:>8,}")
    print(f"all of them had come after:                    {changed_at - begun:>8.1f} s")
    print(f"resident memory of the API, idle:              {idle_bytes / 2**20:>8.1f} MiB")
    print(f"more of it for each caller:                    {taken_bytes / count / 1024:>8.1f} KiB")
    print(f"its processor time while they wait:            {calm_s / _CALM_S * 100:>8.1f} %")
    print(f"answered after the change, p50:                {statistics.median(late_ms):>8.0f} ms")
    print(f"                           p99:                {late_ms[int(count * 0.99) - 1]:>8.0f} ms")
    print(f"                           last:               {late_ms[-1]:>8.0f} ms")


@asynccontextmanager
async def _api(environ: dict[str, str], port: int) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service"), env={**os.environ, **environ}, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with aiohttp.ClientSession() as http, asyncio.timeout(20):
            while not await _lives(http, port):
                await asyncio.sleep(_BETWEEN_S)
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


async def _lives(http: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with http.get(f"http://127.0.0.1:{port}/healthz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000))
