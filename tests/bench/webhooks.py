"""`python -m tests.bench.webhooks [COUNT [ROUNDS]]`: webhooks to receivers of which a third hang.

In turns, the healthy two thirds alone and all of them together go to one worker process; prints how long the
healthy ones took each time, the ratio of the medians, and the most memory that the worker had.
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

from aiohttp import web

from service.core import clients, queue
from service.core import db as database
from service.core.db import Database, open_database
from service.core.settings import Settings
from service.sandbox.postgres import open_postgres
from service.sandbox.redis import open_redis
from service.sandbox.run import open_site
from service.sandbox.s3 import open_s3
from tests.faults.children import open_worker_process, peak_memory_bytes
from tests.rings import RING, SECRET_KEYS

_RECEIVERS = 30
_TIMEOUT_S = 300.0


async def main(count: int, rounds: int) -> None:
    """Measure and print."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = await stack.enter_async_context(open_postgres(folder, durable=False))
        s3 = await stack.enter_async_context(open_s3(folder))
        settings = Settings.model_validate(
            {
                "database_url": url,
                "redis_url": await stack.enter_async_context(open_redis(folder, durable=False)),
                "s3_endpoint_url": s3.endpoint_url,
                "aws_access_key_id": s3.access_key,
                "aws_secret_access_key": s3.secret_key,
                "secret_keys": SECRET_KEYS,
                "webhook_allow_private": True,
                "drain_s": 0.1,
                "log_level": "WARNING",
            }
        )
        await database.upgrade(url)
        healthy = await stack.enter_async_context(_receivers("healthy"))
        hanging = await stack.enter_async_context(_receivers("hanging"))
        db = await stack.enter_async_context(open_database(settings))
        took: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(rounds):
            for with_hanging, times in took.items():
                urls = _urls(count, healthy, hanging if with_hanging else None)
                seconds, peak_bytes = await _deliver(settings, db, urls, healthy)
                times.append(seconds)
                healthy_count = sum(one.startswith(healthy) for one in urls)
                print(
                    f"{healthy_count} healthy, {len(urls) - healthy_count} hanging: {seconds:.1f} s for the "
                    f"healthy ones ({healthy_count / seconds:.0f}/s), "
                    f"the worker's peak {peak_bytes / 2**20:.0f} MiB",
                    flush=True,
                )
        ratio = statistics.median(took[True]) / statistics.median(took[False])
        print(f"with the hanging ones: {ratio:.2f} of the time that the healthy ones need alone")


def _urls(count: int, healthy: str, hanging: str | None) -> list[str]:
    """A third of the receivers hang; without them their deliveries are left out."""
    urls = []
    for number in range(count):
        receiver = number % _RECEIVERS
        if receiver % 3:
            urls.append(f"{healthy}/{receiver}")
        elif hanging:
            urls.append(f"{hanging}/{receiver}")
    return urls


async def _deliver(settings: Settings, db: Database, urls: list[str], healthy: str) -> tuple[float, int]:
    """Return in how many seconds the healthy ones had theirs, and the worker's peak of memory in bytes."""
    async with db.transaction() as conn:
        client, _ = await clients.ensure(conn, RING, "acme")
        await conn.execute("truncate delivery_attempts, deliveries")
    async with open_worker_process(settings) as worker, queue.open_queue(settings) as rings:
        await rings.redis.flushdb()
        async with db.connection() as conn:
            rows = await conn.fetch(
                """insert into deliveries (client_id, webhook_url, event, payload)
                   select $1, url, 'webhook.test', '{"type": "webhook.test"}' from unnest($2::text[]) url
                   returning destination""",
                client.id,
                urls,
            )
        begun = time.monotonic()
        await rings.ring_destinations(row["destination"] for row in rows)
        await _until_delivered(db, sum(url.startswith(healthy) for url in urls))
        return time.monotonic() - begun, peak_memory_bytes(worker)


async def _until_delivered(db: Database, count: int) -> None:
    delivered = -1
    async with asyncio.timeout(_TIMEOUT_S):
        while delivered < count:
            await asyncio.sleep(0.1)
            async with db.connection() as conn:
                delivered = await conn.fetchval("select count(*) from deliveries where status = 'delivered'")


@asynccontextmanager
async def _receivers(kind: str) -> AsyncIterator[str]:
    """Serve receivers in a process of their own; yields their address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.webhooks", kind, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


async def receive(kind: str) -> None:
    """Answer at once, or never."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        if kind == "hanging":
            await asyncio.Event().wait()
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    async with open_site(app) as url:
        print(url.rstrip("/"), flush=True)
        while os.getppid() != 1:
            await asyncio.sleep(1)


if __name__ == "__main__":
    if sys.argv[1:2] and not sys.argv[1].isdecimal():
        asyncio.run(receive(sys.argv[1]))
    else:
        numbers = [int(one) for one in sys.argv[1:]]
        asyncio.run(main(*(numbers + [10_000, 3][len(numbers) :])))
