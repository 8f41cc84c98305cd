"""The sweep: reads PostgreSQL and mends what Redis or a dead worker lost. Safe in every worker at once."""

import logging
import time
from collections import Counter
from uuid import UUID

from service.core import chores, deliveries, documents, job_upkeep, jobs, metrics, telling
from service.core.crash_points import crash_point
from service.core.errors import DatabaseUnavailableError
from service.core.log import bound
from service.core.queue import DELIVERIES_QUEUE, JOBS_QUEUE
from service.core.settlement import Reason, Settled, settle
from worker.context import Context, wait_for

_RING_AGAIN_S = 15.0
_NOTE_EVERY_S = 5.0
_CRASHED = Reason("worker_crashed", "the worker died on this job too often")

log = logging.getLogger(__name__)


class Sweep:
    """One pass every `sweep_interval_s`, as a task of the worker's loop: a cron would wait in the queue."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # Leases that ran out while the database was away are no sign of death: their owners get the
        # time of one heartbeat to come back before anybody is declared dead.
        self._reachable_since = time.monotonic()
        self._note_at = 0.0

    async def run(self) -> None:
        """Sweep until the worker stops; a pass that fails is logged and the next one tried."""
        while not self._context.stopping.is_set():
            self._context.beats.note("sweep")
            try:
                await self.sweep()
            except DatabaseUnavailableError as error:
                self._reachable_since = time.monotonic()
                log.warning("sweep: %s", error)
            except Exception:
                # The sweep is what everything else relies on to be mended: it must not end.
                log.exception("sweep")
            await wait_for(self._context.stopping, self._context.settings.sweep_interval_s)

    async def sweep(self) -> None:
        """Free what dead workers held, then ring for everything that is due, and let it be known."""
        if time.monotonic() - self._reachable_since > self._context.settings.lease_s / 2:
            await self.free_expired_leases()
        await self.make_room()
        await self.ring()
        await self._note()

    async def _note(self) -> None:
        """Write, now and then, that a worker lives and sweeps."""
        if time.monotonic() < self._note_at:
            return
        async with self._context.db.connection() as conn:
            await chores.mark_done(conn, "sweep")
        self._note_at = time.monotonic() + _NOTE_EVERY_S

    async def make_room(self) -> None:
        """When this worker is full, let its oldest run give its place to a client of whose jobs none runs.

        It is one of the client that has the most runs here, and it has had its turn. What it has fetched
        stays; the rest goes on when its client's turn has come again.
        """
        settings, runs = self._context.settings, self._context.runs
        if len(runs) < settings.jobs_per_worker or any(run.is_over.is_set() for run in runs):
            return
        ended = time.monotonic() - settings.turn_s
        # A turn in which nothing came in is none: two large jobs could otherwise chase each other for ever.
        served = [run for run in runs if run.since <= ended and run.fetched]
        if not served:
            return
        async with self._context.db.connection() as conn:
            if not await jobs.is_anyone_left_out(conn):
                return
        share = Counter(run.client_id for run in runs)
        max(served, key=lambda run: (share[run.client_id], -run.since)).is_over.set()

    async def ring(self) -> None:
        """Ring again for jobs that nobody came for, and where deliveries are due, while the queues have room.

        Everything waiting longer than a minute would otherwise be rung for again and again.
        """
        for_jobs = await self._context.queue.room(JOBS_QUEUE)
        for_destinations = await self._context.queue.room(DELIVERIES_QUEUE)
        async with self._context.db.connection() as conn:
            due_jobs = await job_upkeep.list_to_ring(conn, again_s=_RING_AGAIN_S, limit=for_jobs)
            due_destinations = await deliveries.list_due_destinations(
                conn, but=self._context.destinations.list_closed(), limit=for_destinations
            )
        if due_jobs:
            crash_point("sweep.listed")
        if await self._context.queue.ring_jobs(due_jobs):
            await self._context.queue.ring_destinations(due_destinations)

    async def free_expired_leases(self) -> None:
        """Hand back the jobs of dead workers, or give up those that kill every worker."""
        async with self._context.db.connection() as conn:
            expired = await job_upkeep.list_expired(conn)
        for job_id in expired:
            with bound(job_id=job_id):
                try:
                    await self._free(job_id)
                except DatabaseUnavailableError:
                    raise
                except Exception:
                    # One job that cannot be freed must not keep the others, and every ring, waiting.
                    log.exception("job %s could not be freed", job_id)

    async def _free(self, job_id: UUID) -> None:
        settled: Settled | None = None
        told: list[UUID] = []
        async with self._context.db.transaction() as conn:
            job = await job_upkeep.lock_expired(conn, job_id)
            if job is None:
                return
            log.warning("job %s: its worker is gone (crash %d)", job.id, job.crashes)
            if job.crashes >= self._context.settings.max_crashes:
                settled = await settle(conn, job, error=_CRASHED)
            else:
                await documents.hand_back(conn, job.process_number)
                counts = await documents.count(conn, job.id)
                await jobs.hand_back(conn, job, counts, move=None)
                told = await telling.tell_documents(conn, job.id)
        crash_point("sweep.freed")
        metrics.LEASES_EXPIRED.inc()
        if settled is not None:
            settled.count()
            told = settled.destinations
        await self._context.queue.ring_destinations(told)
