"""arq's wiring: two queues in one process, so that a slow receiver never holds a download back.

What we change of arq 0.28 stands here: it outlives Redis, it stops picking when told to, and it is
handed our own connections.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import arq
import orjson
from arq.worker import Function

from service.core.garbage import leave_alone_what_lives
from service.core.key_ring import NO_KEYS
from service.core.log import bound
from service.core.queue import (
    DELIVER,
    DELIVERIES_QUEUE,
    FETCH_PROCESS,
    JOBS_QUEUE,
    REDIS_ERRORS,
    serialize,
)
from service.core.settings import Settings
from worker.beats import Loop
from worker.canary import Canary
from worker.context import Context, open_context, wait_for
from worker.eraser import Eraser
from worker.http import open_http
from worker.janitor import Janitor
from worker.sweep import Sweep
from worker.tasks.deliver import deliver
from worker.tasks.fetch_process import fetch_process

_REDIS_WAIT_S = 1.0
# Only who missed a call has to wait so long.
_POLL_DELAY_S = 0.5
_LAST_POLL_S = 10.0
_LOOPS: Mapping[str, Loop] = {JOBS_QUEUE: "polls for jobs", DELIVERIES_QUEUE: "polls for deliveries"}

Task = Callable[[Context, UUID], Awaitable[None]]

log = logging.getLogger(__name__)


class _TasksByRing(dict[str, asyncio.Task[Any]]):
    """arq's own list of tasks: each is taken off at its end, if another of the same id was not before."""

    def __delitem__(self, ring_id: str) -> None:
        self.pop(ring_id, None)


class Worker(arq.Worker):
    """arq's worker, which ends its process when Redis goes away; this one waits for it to come back.

    Attributes:
        running: the tasks that have begun and not ended. arq's own list is by the rings' ids, and forgets a
            task when its ring, which was taken off the queue as it was heard, is heard a second time.
        called: set when somebody rang, or a place became free: it is worth to look at once.

    Args:
        on_turn: called before each poll.
    """

    def __init__(self, *args: Any, on_turn: Callable[[], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._on_turn = on_turn
        # Of two tasks of one ring, the second to end would be called a failure (arq 0.28).
        self.job_tasks = _TasksByRing()
        self.running: set[asyncio.Task[Any]] = set()
        self.called = asyncio.Event()

    async def run_job(self, job_id: str, score: int) -> None:
        """Run the task that a ring asks for; what Redis does meanwhile is no error of the task's."""
        if task := asyncio.current_task():
            self.running.add(task)
            # After arq's own callback, which gives its place back: see `_give_back_places`.
            task.add_done_callback(self._note_end)
        try:
            await super().run_job(job_id, score)
        except REDIS_ERRORS as error:
            log.warning("redis kept a ring: %s", type(error).__name__)

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        self.running.discard(task)
        self.called.set()

    async def poll_until(self, stopping: asyncio.Event) -> None:
        """Start tasks as they come; who sets the event sets `called` too.

        Ended by an event and not by a cancel, which would tear a connection to Redis in the middle of a
        command, and which redis-py swallows when it meets one of its own time-outs.
        """
        while not stopping.is_set():
            self.called.clear()
            self._on_turn()
            await self._poll_iteration()
            await wait_for(self.called, self.poll_delay_s)

    async def _poll_iteration(self) -> None:
        try:
            await super()._poll_iteration()
        except REDIS_ERRORS as error:
            log.warning("redis: %s; polling again soon", type(error).__name__)
            await asyncio.sleep(_REDIS_WAIT_S)
            self._give_back_places()

    def _give_back_places(self) -> None:
        # arq takes a place before it asks Redis and keeps it when Redis fails (0.28): without this, as
        # many failures as there are places would stop the worker for good.
        for _ in range(self.job_counter - len(self.running)):
            self._release_sem_dec_counter_on_complete()

    async def drain(self, timeout_s: float) -> None:
        """Wait for what runs."""
        if self.running:
            await asyncio.wait(self.running, timeout=timeout_s)


async def run_worker(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; then finish or hand back what runs."""
    if not settings.key_ring:
        log.warning(NO_KEYS)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with open_worker(settings) as loops:
        leave_alone_what_lives()
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([stopped, *loops], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Start the worker's loops, which go on until the block ends; then what runs may finish."""
    async with open_context(settings) as context, open_http(context):
        workers = [
            create_worker(context, FETCH_PROCESS, fetch_process, JOBS_QUEUE, settings.jobs_per_worker),
            create_worker(context, DELIVER, deliver, DELIVERIES_QUEUE, settings.deliveries_per_worker),
        ]
        called = {worker.queue_name: worker.called for worker in workers}
        # Whatever these do, and the tasks that they start, says in the log which worker it is.
        with bound(worker_id=context.worker_id):
            listening = asyncio.create_task(context.queue.listen(called))
            loops = [asyncio.create_task(worker.poll_until(context.stopping)) for worker in workers]
            loops += [asyncio.create_task(run()) for run in _others(context)]
        log.info("worker %s ready", context.worker_id)
        try:
            yield loops
        finally:
            log.info("worker %s stops: what runs may finish or is handed back", context.worker_id)
            await _stop(context, workers, loops)
            await _cancel([listening])


def _others(context: Context) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """Return the loops that wait in no queue."""
    loops = [Sweep(context).run, Janitor(context).run, Eraser(context).run]
    if number := context.settings.canary_number:
        loops.append(Canary(context, number).run)
    return loops


async def _stop(context: Context, workers: list[Worker], loops: list[asyncio.Task[None]]) -> None:
    ended = [loop for loop in loops if loop.done()]
    context.stopping.set()
    for worker in workers:
        worker.called.set()
    # The polls first: one that is under way may still start a task, which then has to be waited for.
    await asyncio.wait(loops, timeout=_LAST_POLL_S)
    drain_s = context.settings.drain_s
    await asyncio.gather(context.destinations.drain(drain_s), *(worker.drain(drain_s) for worker in workers))
    for worker in workers:
        await _cancel([*worker.running])
    await _cancel(list(context.destinations.tasks))
    await _cancel([loop for loop in loops if not loop.done()])
    for loop in ended:
        loop.result()  # a loop that ended by itself had a reason, which ends the process


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    # A cancel can get lost in a library: ask again.
    while waiting := [task for task in tasks if not task.done()]:
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting, timeout=1)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()):
            log.warning("ended while stopping: %s", type(error).__name__)


def create_worker(context: Context, name: str, task: Task, queue: str, max_jobs: int) -> Worker:
    """Make the worker that runs `task` for each ring of a queue, so many at a time."""

    async def run(ctx: dict[Any, Any], *args: Any, **_: Any) -> None:
        await context.queue.heard(queue, ctx["job_id"])
        await task(context, UUID(args[0]))

    # The row's lease, not arq, says when a run is dead; arq's own limit is only a last resort.
    timeout_s = context.settings.job_deadline_s + 300
    function = Function(name, run, timeout_s, 0, False, 1)
    return Worker(
        [function],
        queue_name=queue,
        on_turn=partial(context.beats.note, _LOOPS[queue]),
        redis_pool=context.queue.redis,
        handle_signals=False,
        max_jobs=max_jobs,
        max_tries=1_000,  # tries are counted in PostgreSQL
        keep_result=0,
        poll_delay=_POLL_DELAY_S,
        # arq reads this many ids at a time, running ones included: it bounds the whole cluster.
        queue_read_limit=2_000,
        job_serializer=serialize,
        job_deserializer=orjson.loads,
        log_results=False,
    )
