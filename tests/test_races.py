"""Many at once: what must happen once happens once."""

import asyncio

import pytest

from service.core import clients, documents, job_upkeep, jobs, settlement, submission
from service.core.clients import Client
from service.core.db import Database
from service.core.errors import LeaseLostError
from service.core.jobs import Job
from service.core.settings import Settings
from service.core.submission import Outcome, Submission
from service.core.wishes import Wish
from tests.claims import claim_one
from tests.conftest import MakeSettings
from tests.rings import RING

NUMBER = "10035792220258260564"
pytestmark = pytest.mark.integration


async def _client(db: Database, name: str = "acme") -> Client:
    async with db.connection() as conn:
        return (await clients.ensure(conn, RING, name))[0]


async def _submit(
    db: Database, client: Client, settings: Settings, webhook_url: str | None = None
) -> Submission:
    async with db.transaction() as conn:
        return await submission.submit(conn, Wish(NUMBER, webhook_url), client.id, settings=settings)


async def _claim(db: Database, job: Job, *, lease_s: float = 30) -> Job | None:
    async with db.connection() as conn:
        return await claim_one(conn, lease_s=lease_s)


async def test_fifty_submissions_at_once_make_one_job(db: Database, settings: Settings) -> None:
    client = await _client(db)
    submitted = await asyncio.gather(*(_submit(db, client, settings) for _ in range(50)))
    assert len({one.job.id for one in submitted}) == 1
    assert [one.outcome for one in submitted].count(Outcome.CREATED) == 1


async def test_a_submission_that_waited_for_another_makes_the_newest_job(
    db: Database, settings: Settings
) -> None:
    """Its transaction began first, and its job is created last."""
    client = await _client(db)
    async with db.transaction() as early:
        await early.execute("select now()")
        first = await _submit(db, client, settings)
        async with db.transaction() as conn:
            await settlement.cancel(conn, first.job.id, client.id)
        second = await submission.submit(early, Wish(NUMBER), client.id, settings=settings)
    async with db.connection() as conn:
        (latest,) = await jobs.list_latest(conn, [NUMBER])
    assert latest.id == second.job.id != first.job.id


async def test_one_of_many_workers_gets_the_job(db: Database, settings: Settings) -> None:
    job = (await _submit(db, await _client(db), settings)).job
    claims = await asyncio.gather(*(_claim(db, job) for _ in range(20)))
    assert sum(claim is not None for claim in claims) == 1


async def test_who_subscribes_while_the_job_ends_is_told_exactly_once(
    db: Database, settings: Settings
) -> None:
    """Each subscription lands either before the last look at them or on the finished job: none between."""
    callers = [await _client(db, f"caller {n}") for n in range(20)]
    url = "https://hooks.example.com/"
    first = (await _submit(db, callers[0], settings, url)).job
    job = await _claim(db, first)
    assert job is not None

    async def settle() -> None:
        async with db.transaction() as conn:
            await conn.execute("update processes set listed_at = now()")
            await jobs.hold(conn, job)
            await settlement.settle(conn, job)

    await asyncio.gather(*(_submit(db, one, settings, url) for one in callers[1:10]), settle())
    await asyncio.gather(*(_submit(db, one, settings, url) for one in callers[10:]))
    async with db.connection() as conn:
        told = await conn.fetch(
            """select s.client_id, count(d.id) as times
               from subscriptions s left join deliveries d on d.subscription_id = s.id
               where s.job_id = $1 group by s.client_id""",
            job.id,
        )
        jobs_made = await conn.fetchval("select count(*) from jobs")
    assert jobs_made == 1
    assert {row["client_id"] for row in told} == {one.id for one in callers}
    assert {row["times"] for row in told} == {1}


async def test_a_worker_that_was_taken_for_dead_can_write_nothing_any_more(
    db: Database, make_settings: MakeSettings
) -> None:
    first = (await _submit(db, await _client(db), make_settings())).job
    old = await _claim(db, first)
    assert old is not None
    async with db.transaction() as conn:
        await conn.execute("update jobs set lease_until = now() - interval '1 s'")
        expired = await job_upkeep.lock_expired(conn, old.id)
        assert expired is not None
        await jobs.hand_back(conn, expired, await documents.count(conn, expired.id), move=None)
    new = await _claim(db, first)
    assert new is not None
    assert new.fence == old.fence + 1
    async with db.connection() as conn:
        with pytest.raises(LeaseLostError):
            await jobs.renew_lease(conn, old, lease_s=30, downloaded_bytes=0)
        with pytest.raises(LeaseLostError):
            await jobs.hold(conn, old)
        await jobs.hold(conn, new)
