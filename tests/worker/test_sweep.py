"""The sweep mends what Redis or a dead worker lost, and declares nobody dead too soon."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from service.core import clients, job_upkeep, jobs, submission
from service.core.cnj import parse_process_number
from service.core.db import Database
from service.core.jobs import Job
from service.core.queue import JOBS_QUEUE, open_queue
from service.core.settings import Settings
from service.core.wishes import Wish
from service.sandbox.cases import Special, special_number
from tests.cases import case_numbers
from tests.claims import claim_one
from tests.conftest import MakeSettings
from tests.rings import RING
from tests.world import World
from worker.context import Context, open_context
from worker.sweep import Sweep
from worker.tasks.fetch_process import fetch_process

NUMBER = "10035792220258260564"
pytestmark = pytest.mark.integration


@pytest.fixture
async def context(empty: None, make_settings: MakeSettings) -> AsyncIterator[Context]:
    """A worker's resources, with a lease so short that the sweep trusts the database at once."""
    async with open_context(make_settings(lease_s=0.001, max_crashes=2)) as opened:
        yield opened


async def _submitted(db: Database, settings: Settings) -> Job:
    async with db.transaction() as conn:
        client, _ = await clients.ensure(conn, RING, "acme")
        submitted = await submission.submit(
            conn, Wish(NUMBER, webhook_url="https://hooks.example.com/"), client.id, settings=settings
        )
    return submitted.job


async def _claimed(context: Context, job: Job, lease_s: float) -> Job:
    async with context.db.connection() as conn:
        claimed = await claim_one(conn, lease_s=lease_s)
    assert claimed
    return claimed


async def _row(context: Context) -> dict[str, Any]:
    async with context.db.connection() as conn:
        row = await conn.fetchrow("select * from jobs")
    assert row
    return dict(row)


async def test_a_job_nobody_was_rung_for_is_done_all_the_same(world: World) -> None:
    """What is left when the API dies between its commit and the ring, or Redis is wiped after it."""
    caller = await world.caller()
    await _submitted(world.db, world.settings)
    async with world.db.connection() as conn:
        await conn.execute(
            """insert into subscriptions (job_id, client_id, job_created_at)
               select id, $1, created_at from jobs""",
            caller.client.id,
        )
    assert (await caller.wait_until_final("1003579-22.2025.8.26.0564"))["status"] == "completed"


async def test_redis_wiped_in_the_middle_loses_nothing(world: World, redis_url: str) -> None:
    caller = await world.caller()
    await caller.get("/processes/1003579-22.2025.8.26.0564")
    async with Redis.from_url(redis_url) as redis:
        await redis.flushdb()
    assert (await caller.wait_until_final("1003579-22.2025.8.26.0564"))["status"] == "completed"


async def test_a_job_that_is_rung_for_many_times_is_done_once(world: World) -> None:
    caller = await world.caller()
    submitted = await caller.post("/jobs", json={"process_number": "1003579-22.2025.8.26.0564"})
    async with open_queue(world.settings) as queue:
        for fence in range(5):  # under as many names, so that Redis takes each for a ring of its own
            assert await queue.ring_jobs([(UUID(submitted.json["job_id"]), fence)])
    await caller.wait_until_final("1003579-22.2025.8.26.0564")
    assert set(world.portal.binaries.values()) == {1}
    assert world.portal.processes.total() == 1


async def test_an_expired_lease_is_freed_once_however_many_sweep(context: Context) -> None:
    job = await _submitted(context.db, context.settings)
    await _claimed(context, job, lease_s=-1)
    await asyncio.gather(*(Sweep(context).free_expired_leases() for _ in range(8)))
    row = await _row(context)
    assert (row["status"], row["crashes"], row["lease_until"]) == ("pending", 1, None)


async def test_what_had_come_in_is_told_when_a_dead_workers_job_is_freed(api: World) -> None:
    caller = await api.caller()
    hook = {"webhook_url": "https://hooks.example.com/", "webhook_events": ["document.available"]}
    answer = await caller.post("/jobs", json={"process_number": special_number(Special.THOUSAND), **hook})
    async with open_context(api.settings.model_copy(update={"lease_s": 600.0})) as context:
        run = asyncio.create_task(fetch_process(context, UUID(answer.json["job_id"])))
        await api.until("select count(*) > 20 from documents where status = 'available'")
        async with api.db.connection() as conn:
            await conn.execute("update jobs set lease_until = now() - interval '1 s'")
        await Sweep(context).free_expired_leases()
        await run
    async with api.db.connection() as conn:
        told = await conn.fetch("select payload from deliveries where event = 'document.available'")
        available = await conn.fetch("select id from documents where status = 'available'")
    ids = [one["id"] for row in told for one in row["payload"]["documents"]]
    assert sorted(ids) == sorted(str(row["id"]) for row in available)


async def test_leases_that_cannot_be_freed_do_not_keep_the_others_waiting(context: Context) -> None:
    """Each look brings some of them to light, the older no sooner than the younger."""
    async with context.db.transaction() as conn:
        client, _ = await clients.ensure(conn, RING, "acme")
        for number in case_numbers(2):
            digits = parse_process_number(number)
            await submission.submit(conn, Wish(digits), client.id, settings=context.settings)
        expired = {job.id for job in await jobs.claim(conn, 2, worker_id=context.worker_id, lease_s=-1)}
    async with context.db.connection() as conn:
        seen = {one for _ in range(100) for one in await job_upkeep.list_expired(conn, limit=1)}
    assert seen == expired


async def test_a_living_worker_keeps_its_job(context: Context) -> None:
    job = await _submitted(context.db, context.settings)
    await _claimed(context, job, lease_s=60)
    await Sweep(context).free_expired_leases()
    assert (await _row(context))["status"] == "processing"


async def test_a_job_that_kills_every_worker_is_given_up_and_told(context: Context) -> None:
    job = await _submitted(context.db, context.settings)
    for _ in range(2):
        await _claimed(context, job, lease_s=-1)
        await Sweep(context).free_expired_leases()
    row = await _row(context)
    assert (row["status"], row["error_code"]) == ("failed", "worker_crashed")
    async with context.db.connection() as conn:
        assert await conn.fetchval("select event from deliveries") == "job.failed"


async def test_nobody_is_declared_dead_right_after_the_start(
    context: Context, make_settings: MakeSettings
) -> None:
    """The database may just have come back: the owners get the time of a heartbeat to say that they live."""
    async with open_context(make_settings(lease_s=60)) as patient:
        job = await _submitted(patient.db, patient.settings)
        await _claimed(patient, job, lease_s=-1)
        await Sweep(patient).sweep()
        assert (await _row(patient))["status"] == "processing"


async def test_a_job_that_gets_on_between_crashes_is_not_given_up(context: Context) -> None:
    """What kills every worker gets nowhere: deploys by kill -9 are not the job's fault."""
    job = await _submitted(context.db, context.settings)
    for _ in range(4):
        claimed = await _claimed(context, job, lease_s=-1)
        async with context.db.transaction() as conn:
            await jobs.forget_crashes(conn, claimed)
        await Sweep(context).free_expired_leases()
    row = await _row(context)
    assert (row["status"], row["crashes"]) == ("pending", 1)


async def test_a_sweep_lets_it_be_known_now_and_then_and_not_each_time(context: Context) -> None:
    sweep, noted = Sweep(context), []
    async with context.db.connection() as conn:
        for _ in range(3):
            await sweep.sweep()
            noted.append(await conn.fetchval("select done_at from chores where name = 'sweep'"))
    assert noted[0] is not None
    assert set(noted) == {noted[0]}


async def test_what_waits_in_a_full_queue_is_not_rung_for_again(context: Context) -> None:
    """Each ring a minute later is a new entry: a long queue would grow without end."""
    job = await _submitted(context.db, context.settings)
    async with context.db.connection() as conn:
        await conn.execute("update jobs set ring_at = now()")
    redis = context.queue.redis
    await redis.zadd(JOBS_QUEUE, {f"waiting:{number}": 0 for number in range(1000)})
    await Sweep(context).ring()
    assert await redis.zcard(JOBS_QUEUE) == 1000
    await redis.zremrangebyrank(JOBS_QUEUE, 0, 0)
    await Sweep(context).ring()
    rung = [name.decode() for name in await redis.zrange(JOBS_QUEUE, 0, -1)]
    assert [name for name in rung if str(job.id) in name]


async def test_a_ring_is_due_for_a_worker_whose_clock_is_behind_that_of_who_rang(context: Context) -> None:
    assert await context.queue.ring_jobs([(uuid4(), 1)])
    an_hour_ago_ms = (time.time() - 3600) * 1000
    assert await context.queue.redis.zcount(JOBS_QUEUE, "-inf", an_hour_ago_ms) == 1


async def test_a_pending_job_is_rung_for_again_only_after_a_while(context: Context) -> None:
    await _submitted(context.db, context.settings)
    async with context.db.connection() as conn:
        await conn.execute("update jobs set ring_at = now()")
        first = await job_upkeep.list_to_ring(conn, again_s=30, limit=10)
        second = await job_upkeep.list_to_ring(conn, again_s=30, limit=10)
    assert (len(first), len(second)) == (1, 0)
