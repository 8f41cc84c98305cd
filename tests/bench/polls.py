"""Workload E: callers who poll the status of finished jobs.

32 connections are kept busy with one kind of request after the other, in turns, by a process of its own.
Beside Autos stand the design that it replaced, and a bare server: the most that the same libraries can do.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import chain, cycle, islice

import aiohttp
import asyncpg
from redis.asyncio import Redis

from service.core import cnj
from service.sandbox.children import free_port
from tests.bench.load import Load, drive_apart, get
from tests.bench.programs import Program, open_program
from tests.bench.report import Report
from tests.bench.servers import CLIENT, Servers, open_api, open_bare_api
from tests.cases import case_numbers
from tests.faults.members import until_it_listens

WORKLOAD = "E: polling the status of finished jobs over 32 connections"

STATIC, STATIC_304 = "bare: prepared bytes", "bare: prepared 304"
BARE = "bare: 30 documents"
REPLACED = "replaced design: 30 documents"
AUTOS, AUTOS_304 = "Autos: 30 documents", "Autos: 304"
PER_S, CPU_US = "requests__s", "CPU_µs_a_request"

_CONNECTIONS = 32
# Long enough for the ticks (10 ms) in which processor time is counted.
_RUN_S = 1.5
_PROBE_S = 0.3
# A process that was held up, as by its first callers, counts requests by itself for five seconds.
_CALM_S = 6.0
_FIRST_NUMBER = 9_000_000
# So many jobs of each number of documents are polled in turns: no two callers at once ask for the same one.
_JOBS = {0: 64, 30: 64, 1_000: 8}


@dataclass(frozen=True)
class Poll:
    """Requests, again and again, to a port of a program; `status` is what they have to be answered with."""

    name: str
    program: Program
    port: int
    requests: Sequence[bytes]
    status: int = 200
    is_of_autos: bool = False


async def measure(servers: Servers, report: Report, *, rounds: int) -> None:
    """Send each kind of request in turns, and note what its answers took."""
    print(f"\n{WORKLOAD}", flush=True)
    async with (
        _jobs_of(servers) as numbers,
        _open_polls(servers, numbers) as polls,
        Redis.from_url(servers.settings.redis_url.get_secret_value()) as redis,
    ):
        counts = {poll.name: await _count_for(poll, _RUN_S) for poll in polls[::-1]}
        await asyncio.sleep(_CALM_S)
        for number in range(rounds):
            # There and back, so that none always follows the same other.
            for poll in polls[::-1] if number % 2 else polls:
                report.note(WORKLOAD, poll.name, **await _figures(poll, counts[poll.name], redis))


async def _figures(poll: Poll, count: int, redis: Redis) -> dict[str, float]:
    counted, cpu_s = await _admissions(redis), poll.program.cpu_s()
    poll.program.forget_peak()
    load = await _drive(poll, count)
    counted, cpu_s = await _admissions(redis) - counted, poll.program.cpu_s() - cpu_s
    figures = {
        PER_S: load.statuses[poll.status] / load.seconds,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        CPU_US: cpu_s / count * 1e6,
        "MiB_at_its_peak": poll.program.peak_bytes() / 2**20,
    }
    if poll.is_of_autos:
        # Requests of one moment are counted together; none at all are when Redis is taken for away.
        figures["requests_a_call_of_Redis"] = count / max(1, counted)
        figures["%_refused"] = load.statuses[503] / count * 100
    return figures


async def _admissions(redis: Redis) -> int:
    """Return how often the rate limit asked Redis."""
    calls: int = (await redis.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
    return calls


async def _count_for(poll: Poll, seconds: float) -> int:
    """Return how many requests take so long; everything is warm afterwards."""
    count = 2 * _CONNECTIONS
    while (load := await _drive(poll, count)).seconds < _PROBE_S:
        count *= 4
    return max(2 * _CONNECTIONS, round(load.per_s * seconds))


async def _drive(poll: Poll, count: int) -> Load:
    load = await drive_apart(poll.port, poll.requests, connections=_CONNECTIONS, count=count)
    if load.lost or not {poll.status} <= load.statuses.keys() <= {poll.status, 503}:
        raise RuntimeError(f"{poll.name}: {load.statuses}, {load.lost} lost")
    return load


# What is polled -----------------------------------------------------------------------------------


@asynccontextmanager
async def _open_polls(servers: Servers, numbers: dict[int, list[str]]) -> AsyncIterator[list[Poll]]:
    """Start the servers; yields what to ask them, given the processes with so many documents."""
    async with AsyncExitStack() as stack:
        autos, autos_port = await stack.enter_async_context(open_api(servers))
        bare, bare_port = await stack.enter_async_context(open_bare_api(servers))
        replaced, replaced_port = await stack.enter_async_context(_open_replaced(servers, numbers[30]))
        key = {"X-API-Key": servers.key}
        tags = [await _tag(f"http://127.0.0.1:{autos_port}{_path(one)}", key) for one in numbers[30]]
        known = [{**key, "If-None-Match": tag} for tag in tags]
        # The longest answers make Autos take Redis for away: far from its others in both directions.
        yield [
            Poll(AUTOS_304, autos, autos_port, _gets(numbers[30], *known), 304, is_of_autos=True),
            Poll("Autos: no document", autos, autos_port, _gets(numbers[0], key), is_of_autos=True),
            Poll(AUTOS, autos, autos_port, _gets(numbers[30], key), is_of_autos=True),
            Poll(STATIC, bare, bare_port, [get("/static", key)]),
            Poll(STATIC_304, bare, bare_port, [get("/static/304", known[0])], 304),
            Poll(BARE, bare, bare_port, _gets(numbers[30], key)),
            Poll(REPLACED, replaced, replaced_port, _gets(numbers[30], key)),
            Poll("Autos: 1,000 documents", autos, autos_port, _gets(numbers[1_000], key), is_of_autos=True),
        ]


def _path(number: str) -> str:
    return f"/processes/{number}/status"


def _gets(numbers: Sequence[str], *headers: dict[str, str]) -> list[bytes]:
    """With the headers of each, or the same ones for all."""
    return [get(_path(number), those) for number, those in zip(numbers, cycle(headers), strict=False)]


async def _tag(url: str, headers: dict[str, str]) -> str:
    async with aiohttp.ClientSession(headers=headers) as http, http.get(url) as answer:
        answer.raise_for_status()
        return answer.headers["ETag"]


@asynccontextmanager
async def _open_replaced(servers: Servers, numbers: Sequence[str]) -> AsyncIterator[tuple[Program, int]]:
    environ, port = servers.environ(), free_port()
    module = "tests.bench.baselines.replaced_api"
    serve = ("-m", "uvicorn", f"{module}:app", "--host", "127.0.0.1", "--port", str(port), "--no-access-log")
    fill = ("-m", module, "fill", ",".join(numbers), "30", servers.key)
    async with open_program(*fill, environ=environ) as filling:
        await filling.ended()
    async with open_program(*serve, "--log-level", "warning", environ=environ) as program:
        await until_it_listens(port)
        yield program, port


# Jobs that are done -------------------------------------------------------------------------------


@asynccontextmanager
async def _jobs_of(servers: Servers) -> AsyncIterator[dict[int, list[str]]]:
    """Write finished jobs of each number of documents; yields their processes, gone afterwards."""
    free = map(cnj.parse_process_number, case_numbers(sum(_JOBS.values()), first=_FIRST_NUMBER))
    numbers = {count: list(islice(free, jobs)) for count, jobs in _JOBS.items()}
    conn = await asyncpg.connect(servers.settings.database_url.get_secret_value())
    try:
        async with conn.transaction():
            for count, those in numbers.items():
                for number in those:
                    await _write_job(conn, number, count)
        # As autovacuum does sooner or later.
        await conn.execute("analyze")
        yield numbers
        await _remove_jobs(conn, list(chain.from_iterable(numbers.values())))
    finally:
        await conn.close()


async def _write_job(conn: "asyncpg.Connection[asyncpg.Record]", number: str, documents: int) -> None:
    """Write a complete process as a worker leaves it; what its documents name is not in S3."""
    await conn.execute(
        """insert into processes (number, court, subject, case_class, secrecy_level, listed_at)
           values ($1, 'TJSP', 'Compra e venda', 'Procedimento comum cível', 0, now())""",
        number,
    )
    job_id = await conn.fetchval(
        """insert into jobs (process_number, client_id, status, sequence, total_documents,
                             completed_documents, downloaded_bytes, expected_bytes, progress_percentage,
                             deadline_at, started_at, finished_at)
           select $1, id, 'completed', $2::int + 3, $2, $2, $2 * 50000, $2 * 50000, 100,
                  now() + interval '6 h', now(), now()
           from clients where name = $3 returning id""",
        number,
        documents,
        CLIENT,
    )
    await conn.execute(
        """insert into subscriptions (job_id, client_id, job_created_at)
           select id, client_id, created_at from jobs where id = $1""",
        job_id,
    )
    await conn.execute(
        """insert into documents (process_number, portal_uuid, position, name, type, has_file, declared_type,
                                  declared_bytes, secrecy_level, filed_at, status, job_id, attempts,
                                  media_type, size_bytes, sha256, object_key, download_started_at,
                                  download_completed_at)
           select $1::text, uuid, n, 'Petição ' || n || '.pdf', 'Petição', true, 'application/pdf',
                  50000, 0, now() - n * interval '1 day', 'available', $2::uuid, 1,
                  'application/pdf', 50000, sha256(uuid::text::bytea),
                  format('processes/%s/%s/%s.pdf', $1::text, uuid, $2::uuid), now(), now()
           from (select n, gen_random_uuid() as uuid from generate_series(1, $3::int) n) new""",
        number,
        job_id,
        documents,
    )


async def _remove_jobs(conn: "asyncpg.Connection[asyncpg.Record]", numbers: Sequence[str]) -> None:
    jobs = "(select id from jobs where process_number = any($1::text[]))"
    async with conn.transaction():
        await conn.execute(f"delete from subscriptions where job_id in {jobs}", numbers)
        for statement in (
            "delete from documents where process_number = any($1::text[])",
            "delete from jobs where process_number = any($1::text[])",
            "delete from processes where number = any($1::text[])",
        ):
            await conn.execute(statement, numbers)
