"""The run of one job: how it ends when its process does."""

import asyncio
from uuid import UUID

from service.core import jobs
from service.sandbox.cases import Special, special_number
from tests.claims import claim_one
from tests.world import World, until
from worker.context import Context, open_context
from worker.sweep import Sweep
from worker.tasks.fetch_process import fetch_process


async def _crash(context: Context, job_id: UUID) -> None:
    async with context.db.connection() as conn:
        await conn.execute("update jobs set next_attempt_at = now()")
        await claim_one(conn, worker_id=context.worker_id, lease_s=-1)
    await Sweep(context).free_expired_leases()


async def test_a_worker_that_is_told_to_end_again_and_again_still_hands_its_job_back(api: World) -> None:
    """The last write waits for a lock here, while everybody who stops the process loses patience."""
    caller = await api.caller()
    answer = await caller.post("/jobs", json={"process_number": special_number(Special.HANGING)})
    job_id = UUID(answer.json["job_id"])
    async with open_context(api.settings) as context:
        run = asyncio.create_task(fetch_process(context, job_id))
        await until(lambda: api.portal.in_flight == 1)
        async with api.db.transaction() as conn:
            await jobs.lock_to_cancel(conn, job_id)
            for _ in range(3):
                run.cancel()
                await asyncio.wait({run}, timeout=0.05)
            assert not run.done()
        await asyncio.wait({run})
        assert run.cancelled()
    shown = (await caller.get(f"/jobs/{job_id}")).json
    assert (shown["status"], shown["waiting_reason"]) == ("pending", None)


async def test_what_has_come_in_is_told_before_the_job_waits(api: World) -> None:
    caller = await api.caller()
    hook = {"webhook_url": "https://hooks.example.com/", "webhook_events": ["document.available"]}
    answer = await caller.post("/jobs", json={"process_number": special_number(Special.THOUSAND), **hook})
    job_id = UUID(answer.json["job_id"])
    async with open_context(api.settings.model_copy(update={"portal_pause_s": 600})) as context:
        run = asyncio.create_task(fetch_process(context, job_id))
        await until(lambda: len(api.portal.binaries) > 20)
        api.portal.outage = 401
        await run
    async with api.db.connection() as conn:
        told = await conn.fetch("select payload from deliveries where event = 'document.available'")
        available = await conn.fetch("select id from documents where status = 'available'")
    shown = (await caller.get(f"/jobs/{job_id}")).json
    assert (shown["status"], shown["waiting_reason"]) == ("pending", "upstream_auth")
    ids = [one["id"] for row in told for one in row["payload"]["documents"]]
    assert sorted(ids) == sorted(str(row["id"]) for row in available)


async def test_a_short_run_that_brings_documents_in_makes_up_for_the_crashes_before_it(api: World) -> None:
    """It ends before its first heartbeat, so that its last write is its only one."""
    caller = await api.caller()
    answer = await caller.post("/jobs", json={"process_number": special_number(Special.CODEX_SOME)})
    job_id = UUID(answer.json["job_id"])
    settings = api.settings.model_copy(update={"max_crashes": 2})
    async with open_context(settings) as context:
        await _crash(context, job_id)
        await fetch_process(context, job_id)
        await _crash(context, job_id)
    shown = (await caller.get(f"/jobs/{job_id}")).json
    assert (shown["status"], shown["completed_documents"]) == ("pending", 7)
