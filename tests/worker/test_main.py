"""arq's worker as we changed it: it loses sight of no task, and outlives Redis."""

import asyncio
from uuid import UUID, uuid4

import pytest

from service.core.queue import FETCH_PROCESS, JOBS_QUEUE
from service.core.settings import Settings
from tests.conftest import MakeSettings
from tests.faults.proxy import Mood, open_proxy
from tests.faults.test_backends_away import port_of, with_port
from worker.context import Context, open_context
from worker.main import create_worker


class _Tasks:
    """Tasks that run until they are told to end."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.may_end = asyncio.Event()
        self.ended = 0

    async def run(self, _context: Context, _job_id: UUID) -> None:
        self.begun.release()
        await self.may_end.wait()
        self.ended += 1


async def test_a_ring_that_is_heard_twice_is_two_tasks_and_both_are_waited_for(
    empty: None, settings: Settings
) -> None:
    """The first claimed another job, so that the sweep rang again under the same id."""
    tasks, job_id = _Tasks(), uuid4()
    async with open_context(settings) as context:
        worker = create_worker(context, FETCH_PROCESS, tasks.run, JOBS_QUEUE, 5)
        polling = asyncio.create_task(worker.poll_until(context.stopping))
        for count in (1, 2):
            assert await context.queue.ring_jobs([(job_id, 0)])
            async with asyncio.timeout(30):
                await tasks.begun.acquire()
            assert len(worker.running) == count
        context.stopping.set()
        await polling
        draining = asyncio.create_task(worker.drain(30))
        tasks.may_end.set()
        await draining
        assert (tasks.ended, worker.running) == (2, set())
        assert (worker.jobs_complete, worker.jobs_failed) == (2, 0)


async def test_a_task_whose_redis_goes_away_ends_well_and_gives_its_place_back(
    empty: None, make_settings: MakeSettings, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = _Tasks()
    async with open_proxy(port_of(redis_url)) as redis:
        settings = make_settings(redis_url=with_port(redis_url, redis.port))
        async with open_context(settings) as context:
            worker = create_worker(context, FETCH_PROCESS, tasks.run, JOBS_QUEUE, 1)
            polling = asyncio.create_task(worker.poll_until(context.stopping))
            await context.queue.ring_jobs([(uuid4(), 0)])
            async with asyncio.timeout(30):
                await tasks.begun.acquire()
            await redis.set_mood(Mood.REFUSED)
            (task,) = worker.running
            tasks.may_end.set()
            await task
            assert "redis kept a ring" in caplog.text
            await redis.set_mood(Mood.THROUGH)
            async with asyncio.timeout(30):
                while not await context.queue.ring_jobs([(uuid4(), 0)]):
                    await asyncio.sleep(0.1)
                await tasks.begun.acquire()
            context.stopping.set()
            await polling
