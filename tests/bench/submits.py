"""Workload D: how many submissions a second; how soon a submitted job has begun, at rest and under load."""

import asyncio
import statistics
from collections.abc import Sequence

import aiohttp
import asyncpg
import orjson

from service.core import cnj
from tests.bench.downloads import LEAVE_NOTHING, Workload, open_autos
from tests.bench.load import drive_apart, post
from tests.bench.programs import Program
from tests.bench.report import Report
from tests.bench.servers import Servers, connected, create_key, open_api, open_bare_api, open_portal
from tests.cases import case_numbers

RATE = "D: submissions over 32 connections"
START = "D: from the submission to its start, one at a time"

_CONNECTIONS = 32
_SUBMISSIONS = 3_000
_SINGLES = 40
_SINGLES_UNDER_LOAD = 20
_FIRST_SINGLE = 2_000_000
_SINGLE = Workload(START, 1, 1, "tiny")
_LOAD = [cnj.parse_process_number(one) for one in case_numbers(1_000)]
_LOOK_EVERY_S = 0.005


async def measure(servers: Servers, report: Report, *, rounds: int) -> None:
    """Submit to Autos and to a bare insert, in turns; then one job at a time, at rest and under load."""
    print(f"\n{RATE}", flush=True)
    numbers = [cnj.parse_process_number(one) for one in case_numbers(_SUBMISSIONS)]
    async with connected(servers) as conn:
        async with open_api(servers) as (autos, autos_port), open_bare_api(servers) as (bare, bare_port):
            for _ in range(rounds):
                report.note(RATE, "Autos", **await _submit(autos, autos_port, servers.key, numbers))
                await conn.execute(LEAVE_NOTHING)
                report.note(RATE, "bare insert", **await _submit(bare, bare_port, servers.key, numbers))
        print(f"\n{START}", flush=True)
        async with (
            open_portal(latency_s=0.15, documents=1, sizes="tiny") as portal_url,
            open_autos(servers, portal_url, _SINGLE) as running,
        ):
            other_key = await create_key(servers.settings, "other")
            for _ in range(rounds):
                waits_ms = await _start_singly(conn, running.url, servers.key, _SINGLES)
                report.note(START, "Autos at rest", **_spread(waits_ms))
                await conn.execute(LEAVE_NOTHING)
                # Everything is taken by the many jobs of one client as another comes.
                async with asyncio.TaskGroup() as group:
                    group.create_task(running.run(_LOAD))
                    await _until_it_runs(conn)
                    waits_ms = await _start_singly(conn, running.url, other_key, _SINGLES_UNDER_LOAD)
                report.note(START, "Autos at work", **_spread(waits_ms))


async def _submit(program: Program, port: int, key: str, numbers: Sequence[str]) -> dict[str, float]:
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    requests = [post("/jobs", headers, orjson.dumps({"process_number": number})) for number in numbers]
    cpu_s = program.cpu_s()
    program.forget_peak()
    load = await drive_apart(port, requests, connections=_CONNECTIONS, count=len(requests))
    if load.statuses.keys() != {202} or load.lost:
        raise RuntimeError(f"{load.statuses}, {load.lost} lost")
    return {
        "submissions__s": load.per_s,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "CPU_µs_a_submission": (program.cpu_s() - cpu_s) / len(requests) * 1e6,
        "MiB_at_its_peak": program.peak_bytes() / 2**20,
    }


async def _until_it_runs(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    while not await conn.fetchval("select exists (select from jobs where status = 'completed')"):
        await asyncio.sleep(_LOOK_EVERY_S)


async def _start_singly(
    conn: "asyncpg.Connection[asyncpg.Record]", url: str, key: str, count: int
) -> list[float]:
    """Submit one job after the other; return for each the ms from its row to its claim."""
    waits_ms = []
    async with aiohttp.ClientSession(headers={"X-API-Key": key}) as http:
        for number in case_numbers(count, first=_FIRST_SINGLE):
            async with http.post(f"{url}/jobs", json={"process_number": number}) as answer:
                job_id = (await answer.json())["job_id"]
            while not await conn.fetchval("select finished_at is not null from jobs where id = $1", job_id):
                await asyncio.sleep(_LOOK_EVERY_S)
            query = "select extract(epoch from started_at - created_at) from jobs where id = $1"
            waits_ms.append(float(await conn.fetchval(query, job_id)) * 1000)
    return waits_ms


def _spread(waits_ms: Sequence[float]) -> dict[str, float]:
    return {"p50_ms": statistics.median(waits_ms), "p90_ms": sorted(waits_ms)[len(waits_ms) * 9 // 10]}
