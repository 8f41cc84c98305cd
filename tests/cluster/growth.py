"""How the throughput grows with the hosts that work."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from service.core.db import Database, open_database
from service.sandbox.cases import special_number
from tests.cluster.hosts import ADDRESS, Host
from tests.faults.checker import Violation
from tests.faults.cluster import Cluster, Place, open_cluster
from tests.faults.observers import Observer, new_observer
from tests.faults.quiet import settle_and_check

# What bounds a host: it asks for so many documents at once, and the portal thinks about each.
_DOWNLOADS, _LATENCY_S = 4, 0.25
_PROCESSES = 30
_TIMEOUT_S = 120.0
CHANGES = {
    "downloads_per_worker": _DOWNLOADS,
    # Fewer than there are, so that no host takes all of them before the others have woken up.
    "jobs_per_worker": 4,
    "portal_concurrency": 64,
    "portal_concurrency_start": 64,
    "fresh_s": 900,
    "job_deadline_s": 300,
}


@dataclass(frozen=True)
class Throughput:
    """What some hosts did with the same work: documents, and seconds from first submission to last end."""

    hosts: int
    documents: int
    seconds: float

    @property
    def documents_per_s(self) -> float:
        """The figure."""
        return self.documents / self.seconds


async def measure(
    folder: Path, apis: Sequence[Host], workers: Sequence[Host]
) -> tuple[Throughput, list[Violation]]:
    """Give the hosts the work, wait for its end, and check every invariant."""
    async with (
        open_cluster(
            folder, address=ADDRESS, places=places(apis, workers), latency_s=_LATENCY_S, changes=CHANGES
        ) as cluster,
        aiohttp.ClientSession() as http,
        open_database(cluster.settings) as db,
    ):
        caller = await new_caller(cluster, db, http)
        receiver = f"http://{ADDRESS}:{cluster.proxies['receivers'].port}/ok/1"
        numbers = [special_number(1_000_000 + n) for n in range(_PROCESSES)]
        given = await asyncio.gather(*(caller.submit(number, receiver) for number in numbers))
        assert all(given), "a submission was refused"
        violations = await settle_and_check(cluster.settings, cluster.evidence, timeout_s=_TIMEOUT_S)
        return await _figure(db, len(workers)), violations


async def _figure(db: Database, hosts: int) -> Throughput:
    async with db.connection() as conn:
        row = await conn.fetchrow(
            """select sum(completed_documents)::int,
                      extract(epoch from max(finished_at) - min(created_at))::float8 from jobs"""
        )
    assert row is not None
    return Throughput(hosts, *row)


def places(apis: Sequence[Host], workers: Sequence[Host]) -> list[Place]:
    """An API or a worker on each host."""
    return [
        Place(program, host.name, host.address, host.enter)
        for program, hosts in (("service", apis), ("worker", workers))
        for host in hosts
    ]


async def new_caller(cluster: Cluster, db: Database, http: aiohttp.ClientSession) -> Observer:
    """A client who asks either API."""
    async with db.connection() as conn:
        return await new_observer(
            conn, "caller", base_urls=cluster.api_urls, http=http, evidence=cluster.evidence
        )
