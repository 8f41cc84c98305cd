"""A process ends at each numbered step, another goes on, and nothing is lost or done twice."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import aiohttp
import pytest
from redis.asyncio import Redis

from service.core import canary, object_keys
from service.core.canary import Outcome
from service.core.cnj import parse_process_number
from service.core.crash_points import EXIT_STATUS, POINTS, Point
from service.core.db import Database
from service.core.settings import Settings
from service.core.storage import open_storage
from service.sandbox.cases import Special, special_number
from service.sandbox.children import free_port
from service.sandbox.portal import PortalState
from tests.conftest import MakeSettings
from tests.faults.children import ROOT
from tests.faults.evidence import Evidence
from tests.faults.members import Member, open_member
from tests.faults.observers import Observer, new_observer, open_receivers
from tests.faults.quiet import settle_and_check
from tests.s3 import open_client
from tests.world import open_portal_stand_in
from worker.context import open_context
from worker.tasks.fetch_process import fetch_process

CASE = "1003579-22.2025.8.26.0564"
CASES: dict[Point, str] = {
    "upload.part_sent": special_number(Special.LARGE),
    # An ordinary case is over before its progress is due to be written.
    "progress.written": special_number(Special.SLOW),
}
API_POINTS = tuple(point for point in POINTS if point.startswith("submission."))
RUN_POINTS = tuple(
    point
    for point in POINTS
    if point.split(".")[0] in ("job", "document", "upload", "progress")
    and point not in ("job.cancelled", "job.sealing")
)
DELIVERY_POINTS = tuple(point for point in POINTS if point.startswith("delivery."))
# Of the steps that a process can die at, those that are tried in each run; the others in a long one.
_ALWAYS = ("submission.committed", "job.settling", "document.stored", "delivery.sent")


def _tried(points: Sequence[Point]) -> list[Any]:
    return [pytest.param(one, marks=() if one in _ALWAYS else pytest.mark.long) for one in points]


@dataclass
class Stage:
    """Backends, portal, receivers and a caller; the processes are started by the test."""

    settings: Settings
    db: Database
    evidence: Evidence
    caller: Observer
    hook: str
    log: Path
    portal: PortalState

    @asynccontextmanager
    async def api(self, crash_point: Point | None = None) -> AsyncIterator[Member]:
        """Run an API process."""
        async with open_member("service", self.settings, self.log, crash_point=crash_point) as member:
            yield member

    @asynccontextmanager
    async def worker(self, crash_point: Point | None = None) -> AsyncIterator[Member]:
        """Run a worker process."""
        async with open_member("worker", self.settings, self.log, crash_point=crash_point) as member:
            yield member

    async def crashed_worker(self, crash_point: Point) -> None:
        """Run a worker to its crash."""
        async with self.worker(crash_point) as worker:
            assert await worker.wait() == EXIT_STATUS

    async def assert_all_is_well(self, status: str = "completed") -> None:
        """Everything ends, every invariant holds, and the job ended as it should."""
        assert await settle_and_check(self.settings, self.evidence, timeout_s=60) == []
        assert self.evidence.calls
        for call in self.evidence.calls:
            assert (await self.caller.poll(call.job_id))["status"] == status
        assert [hook.answered for hook in self.evidence.hooks if hook.answered]


@pytest.fixture
async def stage(db: Database, make_settings: MakeSettings, tmp_path: Path) -> AsyncIterator[Stage]:
    evidence, log = Evidence(), tmp_path / "processes.log"
    evidence.logs.append(log)
    async with AsyncExitStack() as stack:
        portal_url, portal = await stack.enter_async_context(open_portal_stand_in())
        receivers = await stack.enter_async_context(open_receivers(evidence))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        settings = make_settings(
            portal_url=portal_url,
            port=free_port(),
            lease_s=1.0,
            max_crashes=100,
            upload_part_bytes=5 << 20,
        )
        settings = settings.model_copy(update={"public_url": f"http://127.0.0.1:{settings.port}"})
        async with db.connection() as conn:
            await conn.execute("update chores set due_at = now() + interval '1 h'")
            caller = await new_observer(
                conn, "acme", base_urls=[settings.public_url], http=http, evidence=evidence
            )
        yield Stage(settings, db, evidence, caller, f"http://127.0.0.1:{receivers}/ok/hook", log, portal)


def test_every_point_stands_in_the_code_once() -> None:
    sources = [*(ROOT / "service").rglob("*.py"), *(ROOT / "worker").rglob("*.py")]
    found = [
        name for source in sources for name in re.findall(r'crash_point\("([\w.]+)"\)', source.read_text())
    ]
    assert sorted(found) == sorted(get_args(Point))


def test_every_point_is_tried_below() -> None:
    others = {"job.cancelled", "job.sealing", "sweep.freed", "sweep.listed", "janitor.removed"}
    others |= {"canary.begun", "erasure.committed", "erasure.removed"}
    assert {*API_POINTS, *RUN_POINTS, *DELIVERY_POINTS, *others} == set(POINTS)


@pytest.mark.parametrize("point", _tried(API_POINTS))
async def test_an_api_that_dies_while_it_takes_a_job_loses_none(stage: Stage, point: Point) -> None:
    """The caller had no answer and asks again; both calls together make one job."""
    async with stage.api(point) as api:
        assert await stage.caller.submit(CASE, stage.hook) is None
        assert await api.wait() == EXIT_STATUS
    async with stage.api(), stage.worker():
        assert await stage.caller.submit(CASE, stage.hook)
        await stage.assert_all_is_well()
    async with stage.db.connection() as conn:
        assert await conn.fetchval("select count(*) from jobs") == 1


@pytest.mark.parametrize("point", _tried(RUN_POINTS))
async def test_a_worker_that_dies_at_any_step_of_a_job_is_replaced_by_another(
    stage: Stage, point: Point
) -> None:
    async with stage.api():
        await stage.caller.submit(CASES.get(point, CASE), stage.hook)
        await stage.crashed_worker(point)
        async with stage.db.connection() as conn:
            await conn.execute("update jobs set ring_at = now() where status = 'pending'")
        async with stage.worker():
            await stage.assert_all_is_well()


@pytest.mark.parametrize("point", _tried(DELIVERY_POINTS))
async def test_a_worker_that_dies_at_any_step_of_a_delivery_has_it_sent_by_another(
    stage: Stage, point: Point
) -> None:
    async with stage.api():
        await stage.caller.submit(CASE, stage.hook)
        await stage.crashed_worker(point)
        # The clock moves on to where the dead one's claim has run out.
        async with stage.db.connection() as conn:
            await conn.execute("update deliveries set claimed_until = now() - interval '1 s'")
        async with stage.worker():
            await stage.assert_all_is_well()
    assert len(stage.evidence.hooks) == (2 if point == "delivery.sent" else 1)
    assert len({(hook.headers["webhook-id"], hook.body) for hook in stage.evidence.hooks}) == 1


async def test_a_worker_that_dies_as_it_lets_secret_documents_go_leaves_the_rest_to_another(
    stage: Stage,
) -> None:
    async with stage.api():
        await stage.caller.submit(CASE)
        async with open_context(stage.settings) as context:
            await fetch_process(context, uuid4())
        stage.portal.levels[parse_process_number(CASE)] = 5
        async with stage.db.connection() as conn:
            await conn.execute("update processes set listed_at = now() - interval '1 h'")
        sealed = await stage.caller.submit(CASE, stage.hook)
        assert sealed
        await stage.crashed_worker("job.sealing")
        async with stage.worker():
            assert await settle_and_check(stage.settings, stage.evidence, timeout_s=60) == []
        assert (await stage.caller.poll(sealed))["error_code"] == "secrecy_above_limit"
    async with stage.db.connection() as conn:
        assert await conn.fetchval("select array_agg(distinct error_code) from documents") == [
            "secrecy_above_limit"
        ]


async def test_an_api_that_dies_after_it_cancelled_a_job_has_cancelled_it(stage: Stage) -> None:
    async with stage.api("job.cancelled") as api:
        job_id = await stage.caller.submit(CASE, stage.hook)
        assert job_id
        await stage.caller.cancel(job_id)
        assert await api.wait() == EXIT_STATUS
    async with stage.api(), stage.worker():
        await stage.assert_all_is_well("cancelled")


async def test_a_worker_that_dies_after_it_freed_a_dead_ones_job_has_freed_it(stage: Stage) -> None:
    async with stage.api():
        await stage.caller.submit(CASE, stage.hook)
        await stage.crashed_worker("job.claimed")
        await stage.crashed_worker("sweep.freed")
        async with stage.worker():
            await stage.assert_all_is_well()


async def test_a_worker_that_dies_before_it_rings_leaves_the_ring_to_another(stage: Stage) -> None:
    async with stage.api():
        job_id = await stage.caller.submit(CASE, stage.hook)
        await _forget_the_ring(stage)
        await stage.crashed_worker("sweep.listed")
        # It is marked as rung for; the clock moves on.
        async with stage.db.connection() as conn:
            await conn.execute("update jobs set ring_at = now() where id = $1", job_id)
        async with stage.worker():
            await stage.assert_all_is_well()


async def _forget_the_ring(stage: Stage) -> None:
    async with Redis.from_url(stage.settings.redis_url.get_secret_value()) as redis:
        await redis.flushdb()
    async with stage.db.connection() as conn:
        await conn.execute("update jobs set ring_at = now()")


async def test_a_janitor_that_dies_half_way_leaves_the_rest_to_the_next(stage: Stage) -> None:
    async with stage.api():
        await stage.caller.submit(CASE, stage.hook)
        async with stage.worker():
            await stage.assert_all_is_well()
        await _put_old_objects(stage.settings, "processes/0/a.pdf", "processes/0/b.pdf")
        async with stage.db.connection() as conn:
            await conn.execute("update chores set due_at = now()")
        await stage.crashed_worker("janitor.removed")
        await stage.assert_all_is_well()


async def test_an_api_and_a_worker_that_die_in_mid_erasure_leave_the_rest_to_others(stage: Stage) -> None:
    prefix, bucket = object_keys.prefix(parse_process_number(CASE)), stage.settings.bucket
    async with stage.db.connection() as conn:
        await conn.execute("update api_keys set scopes = '{read,write,erase}'")
    async with stage.api("erasure.committed") as api:
        await stage.caller.submit(CASE, stage.hook)
        assert await stage.caller.erase(CASE) is None
        assert await api.wait() == EXIT_STATUS
    async with open_client(stage.settings) as s3:
        await s3.create_multipart_upload(Bucket=bucket, Key=f"{prefix}a/large.pdf")
        await _put_old_objects(stage.settings, f"{prefix}a/b.pdf", f"{prefix}a/c.pdf")
        async with stage.db.connection() as conn:
            assert await conn.fetchval("select count(*) from jobs") == 0
            await conn.execute("update erasures set quiet_at = now(), next_look_at = now()")
        await stage.crashed_worker("erasure.removed")
        assert "Uploads" in await s3.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
        # The clock moves on to where the dead one's claim has run out.
        async with stage.db.connection() as conn:
            await conn.execute("update erasures set next_look_at = now()")
        async with stage.worker():
            async with asyncio.timeout(60):
                while not await _is_erased(stage):
                    await asyncio.sleep(0.05)
        assert "Contents" not in await s3.list_objects_v2(Bucket=bucket, Prefix=prefix)
    async with open_storage(stage.settings) as storage:
        assert [one async for page in storage.list_uploads(prefix) for one in page] == []


async def _is_erased(stage: Stage) -> bool:
    async with stage.db.connection() as conn:
        return bool(await conn.fetchval("select bool_and(finished_at is not null) from erasures"))


async def test_a_canary_whose_worker_dies_as_it_begins_is_fetched_by_another(stage: Stage) -> None:
    settings = stage.settings.model_copy(update={"canary_number": parse_process_number(CASE)})
    async with stage.db.connection() as conn:
        await conn.execute("update chores set due_at = now() where name = 'canary'")
    async with open_member("worker", settings, stage.log, crash_point="canary.begun") as worker:
        assert await worker.wait() == EXIT_STATUS
    async with stage.db.connection() as conn:
        await conn.execute("update jobs set ring_at = now()")
    async with open_member("worker", settings, stage.log):
        async with asyncio.timeout(60):
            while not (sung := await _canary(stage)).took_s:
                await asyncio.sleep(0.05)
    assert (sung.succeeded_at is not None, sung.failure) == (True, None)
    async with stage.db.connection() as conn:
        assert await conn.fetchval("select count(*) from jobs") == 1


async def _canary(stage: Stage) -> Outcome:
    async with stage.db.connection() as conn:
        return await canary.outcome(conn, parse_process_number(CASE))


async def _put_old_objects(settings: Settings, *keys: str) -> None:
    async with open_client(settings) as s3:
        for key in keys:
            # rclone takes the time of the object from here.
            await s3.put_object(Bucket=settings.bucket, Key=key, Body=b"x", Metadata={"mtime": "1700000000"})
