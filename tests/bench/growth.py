"""Workload G: more workers, and a longer past.

Workers are added while cores are free: each may have few documents in flight, so that it waits for the portal
most of its time. The pasts lie in databases of their own, on one server, and are worked on in turns.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import asyncpg
from pydantic import SecretStr

from service.core import clients
from tests.bench.downloads import Workload, bring_in, note
from tests.bench.report import Report
from tests.bench.servers import CLIENT, Servers, create_key, open_portal
from tests.databases import new_database
from tests.history import write_history

WORKERS = "G: 100 jobs of 5 documents by more and more workers"
PAST = "G: 200 jobs of 5 documents after more and more others"

_COUNTS = (1, 2, 4)
_PASTS = (1_000, 100_000, 1_000_000)
_BY_WORKERS = Workload(WORKERS, 100, 5, "tiny", downloads_per_worker=4)
_AFTER_OTHERS = Workload(PAST, 200, 5, "tiny")


def with_workers(count: int) -> str:
    """Name the contender."""
    return f"Autos, {count} worker{'s' * (count > 1)}"


def after(jobs: int) -> str:
    """Name the contender."""
    return f"Autos, {jobs:,} finished jobs"


async def measure(servers: Servers, report: Report, *, rounds: int) -> None:
    """Bring the same in with one, two and four workers; then with one after so many jobs and so many more."""
    print(f"\n{WORKERS}", flush=True)
    async with _portal_of(_BY_WORKERS) as portal_url:
        for _ in range(rounds):
            for count in _COUNTS:
                workload = replace(_BY_WORKERS, workers=count)
                done = await bring_in(servers, portal_url, workload, "Autos")
                note(report, workload, with_workers(count), done)
    print(f"\n{PAST}", flush=True)
    async with AsyncExitStack() as stack:
        portal_url = await stack.enter_async_context(_portal_of(_AFTER_OTHERS))
        pasts = {jobs: await stack.enter_async_context(_with_past(servers, jobs)) for jobs in _PASTS}
        for number in range(rounds):
            workload = replace(_AFTER_OTHERS, first=(number + 1) * _AFTER_OTHERS.jobs, is_kept=True)
            for jobs, full in pasts.items():
                note(report, workload, after(jobs), await bring_in(full, portal_url, workload, "Autos"))


@asynccontextmanager
async def _portal_of(workload: Workload) -> AsyncIterator[str]:
    async with open_portal(
        latency_s=workload.latency_s, documents=workload.documents, sizes=workload.sizes
    ) as url:
        yield url


@asynccontextmanager
async def _with_past(servers: Servers, jobs: int) -> AsyncIterator[Servers]:
    """The same servers with a database in which so many jobs have ended."""
    async with new_database(servers.settings.database_url.get_secret_value(), name="past") as url:
        settings = servers.settings.model_copy(update={"database_url": SecretStr(url)})
        key = await create_key(settings)
        conn = await asyncpg.connect(url)
        client = await clients.get(conn, CLIENT)
        print(f"  writing {jobs:,} finished jobs", flush=True)
        await write_history(conn, client.id, jobs)
        # The objects of this past were never in S3.
        await conn.execute("update chores set due_at = 'infinity'")
        await conn.close()
        yield replace(servers, settings=settings, key=key)
