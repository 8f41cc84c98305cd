"""Workloads A, B, C and H: documents from the portal to S3, by Autos and by those it is held against.

Each contender has one run a round, in turns, against the same servers. Its time runs from the first request
to the moment in which its own books say that everything is done; then the bucket is counted, and what is not
there with all its bytes ends the benchmark.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
import asyncpg

from service.core import cnj
from service.sandbox.children import free_port
from tests.bench.programs import Program, open_program
from tests.bench.report import Report
from tests.bench.servers import Servers, connected, open_api, open_portal, open_workers, with_new_store
from tests.cases import case_numbers
from tests.faults.members import until_it_listens

LEAVE_NOTHING = "truncate processes, batches, turns, idempotency_keys cascade"
"""Empties Autos' tables of all that was done, for clients that stay."""

_TIMEOUT_S = 900.0
_LOOK_EVERY_S = 0.02
_POST_AT_ONCE = 32
_FIRST_NUMBER = 1_000_000


@dataclass(frozen=True)
class Workload:
    """So many processes with so many documents each.

    Attributes:
        concurrency: requests to the portal at once, of all workers together.
        downloads_per_worker: documents that one of Autos' workers may have in flight.
        first: which processes of the stand-in's these are.
        is_kept: whether Autos' tables keep what was done.
    """

    name: str
    jobs: int
    documents: int
    sizes: str
    latency_s: float = 0.15
    concurrency: int = 64
    workers: int = 1
    downloads_per_worker: int | None = None
    first: int = 0
    is_kept: bool = False
    contenders: Sequence[str] = ("Autos", "replaced design", "peer", "limit")

    @property
    def total(self) -> int:
        """Documents in all."""
        return self.jobs * self.documents


A = Workload("A: 100 jobs of 30 documents of real sizes", 100, 30, "real")
B = Workload("B: 500 jobs of 5 tiny documents", 500, 5, "tiny", contenders=("Autos", "peer", "limit"))
C = Workload(
    *("C: 4 documents of 1 GiB", 4, 1, "gib"),
    latency_s=0,
    concurrency=4,
    contenders=("Autos", "peer", "limit"),
)
H = Workload("H: one job of 5,000 documents", 1, 5_000, "tiny", contenders=("Autos", "peer", "limit"))


class Contender(Protocol):
    """Who brings the documents of processes in; `programs` are those whose work is counted."""

    programs: Sequence[Program]

    async def run(self, numbers: Sequence[str]) -> None:
        """Bring them all in."""


@dataclass
class Autos:
    """API and workers.

    Attributes:
        url: of the API.
    """

    programs: Sequence[Program]
    url: str
    key: str
    database: "asyncpg.Connection[asyncpg.Record]"
    is_kept: bool = False

    async def run(self, numbers: Sequence[str]) -> None:
        """Submit a batch, and wait for the last of its jobs."""
        async with aiohttp.ClientSession(headers={"X-API-Key": self.key}) as http:
            body = {"process_numbers": list(numbers)}
            async with http.post(f"{self.url}/jobs/batch", json=body) as answer:
                answer.raise_for_status()
        open_jobs = "select exists (select from jobs where status in ('pending', 'processing'))"
        while await self.database.fetchval(open_jobs):
            await asyncio.sleep(_LOOK_EVERY_S)
        ended = await self.database.fetch(
            "select status::text, count(*) from jobs where process_number = any($1::text[]) group by status",
            numbers,
        )
        if [tuple(row) for row in ended] != [("completed", len(numbers))]:
            raise RuntimeError(f"not every job is complete: {ended}")
        if not self.is_kept:
            await self.database.execute(LEAVE_NOTHING)


@dataclass
class _Replaced:
    programs: Sequence[Program]
    url: str
    key: str
    database: "asyncpg.Connection[asyncpg.Record]"

    async def run(self, numbers: Sequence[str]) -> None:
        connector = aiohttp.TCPConnector(limit=_POST_AT_ONCE)
        async with aiohttp.ClientSession(connector=connector, headers={"X-API-Key": self.key}) as http:
            await asyncio.gather(*(self._post(http, number) for number in numbers))
        query = "select count(*) from replaced_jobs where status = 'completed'"
        while await self.database.fetchval(query) < len(numbers):
            await asyncio.sleep(_LOOK_EVERY_S)
        await self.database.execute("truncate replaced_jobs, replaced_documents cascade")

    async def _post(self, http: aiohttp.ClientSession, number: str) -> None:
        async with http.post(f"{self.url}/jobs", json={"process_number": number}) as answer:
            answer.raise_for_status()


@dataclass
class _Piped:
    """A program that is told numbers and says when it is done."""

    programs: Sequence[Program]

    async def run(self, numbers: Sequence[str]) -> None:
        answer = await self.programs[0].ask(" ".join(numbers), timeout_s=_TIMEOUT_S)
        if answer != "done":
            raise RuntimeError(f"the program says {answer!r}")


@dataclass
class Run:
    """One run of one contender; bytes are those of memory."""

    seconds: float
    cpu_s: float
    idle_bytes: int
    peak_bytes: int
    per_program: list[float] = field(default_factory=list)


async def measure(servers: Servers, report: Report, workload: Workload, *, rounds: int) -> None:
    """Let every contender bring the workload in, in turns, and note what it took."""
    print(f"\n{workload.name}", flush=True)
    async with open_portal(
        latency_s=workload.latency_s, documents=workload.documents, sizes=workload.sizes
    ) as portal_url:
        for _ in range(rounds):
            for name in workload.contenders:
                note(report, workload, name, await bring_in(servers, portal_url, workload, name))


async def bring_in(servers: Servers, portal_url: str, workload: Workload, name: str) -> Run:
    """Let one contender bring the workload into an empty store, and see that it did."""
    masked = case_numbers(workload.jobs, first=_FIRST_NUMBER + workload.first)
    numbers = [cnj.parse_process_number(one) for one in masked]
    expected = workload.total, await _listed_bytes(portal_url, numbers[0]) * workload.jobs
    async with with_new_store(servers) as at_store:
        async with _CONTENDERS[name](at_store, portal_url, workload) as contender:
            done = await _timed(contender, numbers)
        stock = at_store.take_stock()
    if stock != expected:
        raise RuntimeError(f"{name}: {stock} in the bucket, not {expected}")
    return done


async def _timed(contender: Contender, numbers: Sequence[str]) -> Run:
    programs = contender.programs
    idle_bytes = sum(one.resident_bytes() for one in programs)
    for one in programs:
        one.forget_peak()
    cpu_s, begun = sum(one.cpu_s() for one in programs), time.monotonic()
    async with asyncio.timeout(_TIMEOUT_S):
        await contender.run(numbers)
    seconds = time.monotonic() - begun
    cpu_s = sum(one.cpu_s() for one in programs) - cpu_s
    return Run(seconds, cpu_s, idle_bytes, sum(one.peak_bytes() for one in programs))


def note(report: Report, workload: Workload, name: str, done: Run) -> None:
    """Note what a run took, per second and per second of processor time."""
    report.note(
        workload.name,
        name,
        seconds=done.seconds,
        jobs__s=workload.jobs / done.seconds,
        documents__s=workload.total / done.seconds,
        jobs_per_CPU_second=workload.jobs / done.cpu_s,
        documents_per_CPU_second=workload.total / done.cpu_s,
        MiB_at_its_peak=done.peak_bytes / 2**20,
        MiB_above_rest=(done.peak_bytes - done.idle_bytes) / 2**20,
    )


async def _listed_bytes(portal_url: str, number: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{portal_url}/processos/{number}") as answer:
        (process,) = json.loads(await answer.read())
    documents = process["tramitacaoAtual"]["documentos"]
    return sum(int(one["arquivo"]["tamanho"]) for one in documents)


# Contenders ---------------------------------------------------------------------------------------


@asynccontextmanager
async def open_autos(servers: Servers, portal_url: str, workload: Workload) -> AsyncIterator[Autos]:
    """Autos as it would be run for such work; the work of API and workers is counted."""
    settings = {
        "portal_url": portal_url,
        "portal_concurrency": workload.concurrency,
        "portal_concurrency_start": workload.concurrency,
        # More than may ask the portal: as in the settings' defaults, some are on their way to S3.
        "downloads_per_worker": workload.downloads_per_worker or 2 * workload.concurrency,
        "downloads_per_job": min(workload.concurrency, 64 if workload.jobs == 1 else 16),
    }
    async with AsyncExitStack() as stack:
        api, port = await stack.enter_async_context(open_api(servers, **settings))
        workers = await stack.enter_async_context(open_workers(servers, workload.workers, **settings))
        database = await stack.enter_async_context(connected(servers))
        await _until_ready(workers)
        url = f"http://127.0.0.1:{port}"
        yield Autos([api, *workers], url, servers.key, database, workload.is_kept)


@asynccontextmanager
async def _open_replaced(servers: Servers, portal_url: str, _: Workload) -> AsyncIterator[Contender]:
    environ, port = servers.environ(portal_url=portal_url), free_port()
    tables = ("-m", "tests.bench.baselines.replaced_api", "empty", servers.key)
    api = ("-m", "uvicorn", "tests.bench.baselines.replaced_api:app", "--port", str(port), "--no-access-log")
    worker = ("-m", "celery", "-A", "tests.bench.baselines.replaced", "worker", "--loglevel", "WARNING")
    alone = ("--pool", "prefork", "--concurrency", "4", *("--without-gossip", "--without-mingle"))
    async with AsyncExitStack() as stack:
        await (await stack.enter_async_context(open_program(*tables, environ=environ))).ended()
        programs = [
            await stack.enter_async_context(open_program(*api, "--log-level", "warning", environ=environ)),
            await stack.enter_async_context(open_program(*worker, *alone, environ=environ)),
        ]
        await until_it_listens(port)
        await _until_ready(programs)
        database = await stack.enter_async_context(connected(servers))
        yield _Replaced(programs, f"http://127.0.0.1:{port}", servers.key, database)


@asynccontextmanager
async def _open_peer(servers: Servers, portal_url: str, workload: Workload) -> AsyncIterator[Contender]:
    async with _open_piped("peer", servers, portal_url, workload) as contender:
        yield contender


@asynccontextmanager
async def _open_limit(servers: Servers, portal_url: str, workload: Workload) -> AsyncIterator[Contender]:
    async with _open_piped("limit", servers, portal_url, workload) as contender:
        yield contender


@asynccontextmanager
async def _open_piped(
    name: str, servers: Servers, portal_url: str, workload: Workload
) -> AsyncIterator[Contender]:
    environ = {**servers.environ(portal_url=portal_url), "CONCURRENCY": str(workload.concurrency)}
    command = ("-m", f"tests.bench.baselines.{name}")
    async with open_program(*command, environ=environ, ready="ready") as program:
        yield _Piped([program])


async def _until_ready(programs: Sequence[Program]) -> None:
    """Wait until they have nothing more to do to begin with."""
    before = -1.0
    while (now := sum(one.cpu_s() for one in programs)) != before:
        before = now
        await asyncio.sleep(0.5)


_CONTENDERS = {
    "Autos": open_autos,
    "replaced design": _open_replaced,
    "peer": _open_peer,
    "limit": _open_limit,
}
