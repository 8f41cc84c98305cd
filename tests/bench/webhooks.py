"""Workload F: webhooks, also to receivers of which a third hang.

In turns, the healthy two thirds alone, all of them together, and as many bare requests under the same guard.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import uvloop
from aiohttp import web

from service.core.queue import open_queue
from service.sandbox.run import open_site
from tests.bench.programs import Program, open_program
from tests.bench.report import Report
from tests.bench.servers import CLIENT, Servers, open_workers

WORKLOAD = "F: webhooks to 30 receivers"
ALONE, WITH_HANGING, BARE = "Autos, the healthy alone", "Autos, a third hang", "bare POST loop"

_RECEIVERS = 30
_TIMEOUT_S = 300.0
_LOOK_EVERY_S = 0.05


async def measure(servers: Servers, report: Report, *, rounds: int, count: int = 10_000) -> None:
    """Send so many webhooks in turns, and note how soon the healthy ones had theirs, and at what cost."""
    print(f"\n{WORKLOAD}", flush=True)
    async with _receivers("healthy") as healthy, _receivers("hanging") as hanging:
        for _ in range(rounds):
            for who, hangs in ((ALONE, None), (WITH_HANGING, hanging)):
                report.note(WORKLOAD, who, **await _deliver(servers, _urls(count, healthy, hangs), healthy))
            report.note(WORKLOAD, BARE, **await _post_barely(servers, count * 2 // 3, healthy))


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


async def _deliver(servers: Servers, urls: Sequence[str], healthy: str) -> dict[str, float]:
    conn = await asyncpg.connect(servers.settings.database_url.get_secret_value())
    count = sum(url.startswith(healthy) for url in urls)
    try:
        await conn.execute("truncate delivery_attempts, deliveries")
        async with open_workers(servers, drain_s=0.1) as (worker,), open_queue(servers.settings) as rings:
            await rings.redis.flushdb()
            rows = await conn.fetch(
                """insert into deliveries (client_id, webhook_url, event, payload)
                   select id, url, 'webhook.test', '{"type": "webhook.test"}'
                   from clients, unnest($1::text[]) url where name = $2 returning destination""",
                urls,
                CLIENT,
            )
            cpu_s, begun = worker.cpu_s(), time.monotonic()
            await rings.ring_destinations(row["destination"] for row in rows)
            async with asyncio.timeout(_TIMEOUT_S):
                while await _delivered(conn) < count:
                    await asyncio.sleep(_LOOK_EVERY_S)
            return _figures(worker, count, time.monotonic() - begun, worker.cpu_s() - cpu_s)
    finally:
        await conn.close()


async def _delivered(conn: "asyncpg.Connection[asyncpg.Record]") -> int:
    delivered: int = await conn.fetchval("select count(*) from deliveries where status = 'delivered'")
    return delivered


async def _post_barely(servers: Servers, count: int, healthy: str) -> dict[str, float]:
    environ = {**servers.environ(), "CONCURRENCY": str(servers.settings.deliveries_per_worker)}
    command = ("-m", "tests.bench.baselines.bare_webhooks")
    async with open_program(*command, environ=environ, ready="ready") as program:
        cpu_s, begun = program.cpu_s(), time.monotonic()
        if await program.ask(f"{count} {healthy}", timeout_s=_TIMEOUT_S) != "done":
            raise RuntimeError("the loop did not end well")
        return _figures(program, count, time.monotonic() - begun, program.cpu_s() - cpu_s)


def _figures(program: Program, count: int, seconds: float, cpu_s: float) -> dict[str, float]:
    return {
        "seconds": seconds,
        "webhooks__s": count / seconds,
        "webhooks_per_CPU_second": count / cpu_s,
        "MiB_at_its_peak": program.peak_bytes() / 2**20,
    }


@asynccontextmanager
async def _receivers(kind: str) -> AsyncIterator[str]:
    """Serve receivers in a process of their own; yields their address."""
    async with open_program("-m", "tests.bench.webhooks", kind, environ={}) as program:
        yield await program.line()


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
    uvloop.run(receive(sys.argv[1]))
