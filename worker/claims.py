"""How the tasks of one process come by jobs: those who want one at the same moment claim together."""

from collections.abc import Sequence
from uuid import UUID

from service.core import jobs, telling
from service.core.db import Connection, Database
from service.core.gather import Gatherer
from service.core.jobs import Job
from service.core.queue import Queue
from service.core.settings import Settings

# So many jobs in one transaction, which is over in a moment.
_MOST_AT_ONCE = 20
# How often it is looked again when others were taking all that was in sight.
_LOOKS = 4

Claims = Gatherer[object, Job | None]
"""Asked by each task in a name of its own; None when no more jobs are due.

The job of a task that is cancelled while it asks is nobody's until its lease runs out.
"""


def open_claims(db: Database, queue: Queue, settings: Settings, worker_id: UUID) -> Claims:
    """Claim for the tasks of this worker."""

    async def claim(tasks: Sequence[object]) -> dict[object, Job | None]:
        claimed: list[Job] = []
        for _ in range(_LOOKS):
            more, is_all = await look(len(tasks) - len(claimed))
            claimed += more
            if is_all or len(claimed) == len(tasks):
                break
        return {**dict.fromkeys(tasks), **dict(zip(tasks, claimed, strict=False))}

    async def look(count: int) -> tuple[list[Job], bool]:
        """Claim so many, if there are; return whether these were all that are due."""

        async def take(conn: Connection) -> tuple[list[Job], list[UUID], bool]:
            claimed = await jobs.claim(conn, count, worker_id=worker_id, lease_s=settings.lease_s)
            told = [place for job in claimed for place in await telling.tell_started(conn, job)]
            return claimed, told, len(claimed) < count and not await jobs.is_any_due(conn)

        claimed, told, is_all = await db.in_transaction(take)
        await queue.ring_destinations(told)
        return claimed, is_all

    return Gatherer(claim, most=_MOST_AT_ONCE)
