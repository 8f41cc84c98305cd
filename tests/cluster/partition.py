"""A host of a worker, and one of an API, are cut off in the middle of their work and come back."""

import asyncio
import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import aiohttp

from service.core.db import Database, open_database
from service.sandbox.cases import special_number
from tests.cluster.growth import CHANGES, new_caller, places
from tests.cluster.hosts import ADDRESS, Host
from tests.faults.checker import Violation
from tests.faults.cluster import Cluster, open_cluster
from tests.faults.members import Member
from tests.faults.observers import Observer
from tests.faults.quiet import settle_and_check

# More than one worker takes, and fewer than the others have room for when it is gone.
_PROCESSES, _JOBS_PER_WORKER = 9, 6
_LATENCY_S = 0.25
_LEASE_S = 5.0
_JOBS_HELD = 3
_TIMEOUT_S = 120.0
_LOOK_EVERY_S = 0.02
# Until a cut-off worker has noticed that its leases are gone, and its tries of everything have ended.
_APART_S = 10.0


@dataclass
class Partition:
    """What came of it.

    Attributes:
        orphaned: the jobs that the cut-off worker held.
        takeover_s: from the cut to another worker's claim of each.
        came_back: whether the cut-off worker took jobs again afterwards.
        unanswered: calls that met the cut-off API.
    """

    lease_s: float = _LEASE_S
    orphaned: int = 0
    takeover_s: list[float] = field(default_factory=list)
    came_back: bool = False
    jobs: dict[str, int] = field(default_factory=dict)
    unanswered: int = 0
    violations: list[Violation] = field(default_factory=list)


async def cut_off(folder: Path, apis: Sequence[Host], workers: Sequence[Host]) -> Partition:
    """Cut a worker's host off in mid-job, then the first API's, bring both back, check everything."""
    outcome = Partition()
    changes = CHANGES | {"lease_s": _LEASE_S, "jobs_per_worker": _JOBS_PER_WORKER}
    async with (
        open_cluster(
            folder, address=ADDRESS, places=places(apis, workers), latency_s=_LATENCY_S, changes=changes
        ) as cluster,
        aiohttp.ClientSession() as http,
        open_database(cluster.settings) as db,
    ):
        caller = await new_caller(cluster, db, http)
        await _submit(cluster, caller, range(_PROCESSES))
        lost = await _lose_a_worker(cluster, db, workers, outcome)
        await _lose_an_api(cluster, caller, apis[0], outcome)
        await _welcome_back(cluster, db, caller, lost, outcome)
        outcome.violations = await settle_and_check(cluster.settings, cluster.evidence, timeout_s=_TIMEOUT_S)
        async with db.connection() as conn:
            rows = await conn.fetch("select status::text, count(*) from jobs group by status")
        outcome.jobs = {row[0]: row[1] for row in rows}
        outcome.unanswered = caller.unanswered.total()
    return outcome


async def _lose_a_worker(cluster: Cluster, db: Database, hosts: Sequence[Host], outcome: Partition) -> Member:
    """Pull the plug of a worker in mid-job, wait until others have all of its jobs, and plug it in again."""
    candidates = itertools.cycle(zip(cluster.members_of("worker"), hosts, strict=True))
    worker, host = next(candidates)
    async with asyncio.timeout(_TIMEOUT_S):
        while len(lost := await _held(db, worker)) < _JOBS_HELD:
            await asyncio.sleep(_LOOK_EVERY_S)
            worker, host = next(candidates)
        host.pull_the_plug()
        cut_at, outcome.orphaned = time.monotonic(), len(lost)
        while len(outcome.takeover_s) < len(lost):
            await asyncio.sleep(_LOOK_EVERY_S)
            new = await _taken_over(db, lost) - len(outcome.takeover_s)
            outcome.takeover_s += [time.monotonic() - cut_at] * new
    await asyncio.sleep(max(0.0, _APART_S - (time.monotonic() - cut_at)))
    host.plug_in()
    return worker


async def _lose_an_api(cluster: Cluster, caller: Observer, host: Host, outcome: Partition) -> None:
    """Whoever asks the other one is served meanwhile."""
    host.pull_the_plug()
    base_urls, caller.base_urls = caller.base_urls, cluster.api_urls[1:]
    await _submit(cluster, caller, range(_PROCESSES, _PROCESSES + 4))
    outcome.unanswered = caller.unanswered.total()
    caller.base_urls = base_urls
    host.plug_in()


async def _welcome_back(
    cluster: Cluster, db: Database, caller: Observer, worker: Member, outcome: Partition
) -> None:
    """Both are given work again; the worker, whose claims failed for a while, takes some."""
    first = 1000
    while not outcome.came_back:
        await _submit(cluster, caller, range(first, first + 6))
        first += 6
        outcome.came_back = await _takes_some(db, worker)


async def _takes_some(db: Database, worker: Member) -> bool:
    """Whether a worker has a job begun before all of them have ended."""
    async with asyncio.timeout(_TIMEOUT_S):
        while not await _held(db, worker):
            async with db.connection() as conn:
                if await conn.fetchval("select bool_and(job_status_is_final(status)) from jobs"):
                    return False
            await asyncio.sleep(_LOOK_EVERY_S)
    return True


async def _submit(cluster: Cluster, caller: Observer, which: range) -> None:
    receiver = f"http://{ADDRESS}:{cluster.proxies['receivers'].port}/ok/1"
    await asyncio.gather(*(caller.submit(special_number(1_000_000 + n), receiver) for n in which))


async def _held(db: Database, member: Member) -> dict[UUID, UUID]:
    """The jobs of which a worker has brought in a part, each with the name it works under."""
    names = [UUID(name) for name in re.findall(r"worker (\S{36}) ready", member.log.read_text())]
    async with db.connection() as conn:
        rows = await conn.fetch(
            """select id, worker_id from jobs
               where status = 'processing' and worker_id = any($1::uuid[]) and completed_documents > 0""",
            names,
        )
    return {row["id"]: row["worker_id"] for row in rows}


async def _taken_over(db: Database, lost: dict[UUID, UUID]) -> int:
    """How many of the jobs another worker has claimed since."""
    async with db.connection() as conn:
        count: int = await conn.fetchval(
            """select count(*) from jobs j
                      join unnest($1::uuid[], $2::uuid[]) as lost(id, worker_id) using (id)
               where j.worker_id <> lost.worker_id""",
            list(lost),
            list(lost.values()),
        )
    return count
