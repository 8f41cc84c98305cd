"""How the tasks of one process come by jobs: those who want one at the same moment claim together."""

from collections.abc import Sequence
from uuid import UUID

from service.core import jobs, telling
from service.core.db import Database
from service.core.gather import Gatherer
from service.core.jobs import Job
from service.core.queue import Queue
from service.core.settings import Settings

Claims = Gatherer[object, Job | None]
"""Asked by each task in a name of its own; None when no more jobs are due.

The job of a task that is cancelled while it asks is nobody's until its lease runs out.
"""


def open_claims(db: Database, queue: Queue, settings: Settings, worker_id: UUID) -> Claims:
    """Claim for the tasks of this worker."""

    async def claim(tasks: Sequence[object]) -> dict[object, Job | None]:
        async with db.transaction() as conn:
            claimed = await jobs.claim(conn, len(tasks), worker_id=worker_id, lease_s=settings.lease_s)
            told = [place for job in claimed for place in await telling.tell_started(conn, job)]
        await queue.ring_destinations(told)
        return {**dict.fromkeys(tasks), **dict(zip(tasks, claimed, strict=False))}

    return Gatherer(claim, most=20)
