"""Workload D: how many submissions a second, and how soon a submitted job has begun."""

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
from tests.bench.servers import Servers, connected, open_api, open_bare_api, open_portal
from tests.cases import case_numbers

RATE = "D: submissions over 32 connections"
START = "D: from the submission to its start, one at a time"

_CONNECTIONS = 32
_SUBMISSIONS = 3_000
_SINGLES = 40
_SINGLE = Workload(START, 1, 1, "tiny")
_LOOK_EVERY_S = 0.005


async def measure(servers: Servers, report: Report, *, rounds: int) -> None:
    """Submit to Autos and to a bare insert, in turns; then one job after the other to an Autos at rest."""
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
            open_autos(servers, portal_url, _SINGLE) as autos_at_rest,
        ):
            for _ in range(rounds):
                await _start_singly(report, conn, autos_at_rest.url, servers.key)
                await conn.execute(LEAVE_NOTHING)


async def _submit(program: Program, port: int, key: str, numbers: Sequence[str]) -> dict[str, float]:
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    requests = [post("/jobs", headers, orjson.dumps({"process_number": number})) for number in numbers]
    cpu_s = program.cpu_s()
    load = await drive_apart(port, requests, connections=_CONNECTIONS, count=len(requests))
    if load.statuses.keys() != {202} or load.lost:
        raise RuntimeError(f"{load.statuses}, {load.lost} lost")
    return {
        "submissions__s": load.per_s,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "CPU_µs_a_submission": (program.cpu_s() - cpu_s) / len(requests) * 1e6,
    }


async def _start_singly(
    report: Report, conn: "asyncpg.Connection[asyncpg.Record]", url: str, key: str
) -> None:
    waits_ms = []
    async with aiohttp.ClientSession(headers={"X-API-Key": key}) as http:
        for number in case_numbers(_SINGLES):
            async with http.post(f"{url}/jobs", json={"process_number": number}) as answer:
                job_id = (await answer.json())["job_id"]
            while not await conn.fetchval("select finished_at is not null from jobs where id = $1", job_id):
                await asyncio.sleep(_LOOK_EVERY_S)
            query = "select extract(epoch from started_at - created_at) from jobs where id = $1"
            waits_ms.append(float(await conn.fetchval(query, job_id)) * 1000)
    report.note(
        START,
        "Autos at rest",
        p50_ms=statistics.median(waits_ms),
        p90_ms=sorted(waits_ms)[_SINGLES * 9 // 10],
    )
