"""Forgetting what ended long ago, in small transactions beside all other work.

A job goes with its subscriptions and deliveries, a batch with its items, a process with its documents once it
has no job. The objects of those documents are then known to no row, and the janitor removes them.
"""

from datetime import datetime
from uuid import UUID

from service.core import batches, deliveries, documents, job_upkeep, processes, subscriptions
from service.core.db import Connection

_CHUNK = 200


async def forget_batches(conn: Connection, *, ended_before: datetime) -> int:
    """Forget some of the batches that ended before; return how many, 0 when none is left.

    A batch stays as long as its webhook is still to be sent.
    """
    gone = await batches.lock_ended(conn, before=ended_before, limit=_CHUNK)
    await deliveries.forget(conn, batch_ids=gone)
    await batches.forget(conn, gone)
    return len(gone)


async def forget_jobs(
    conn: Connection, *, ended_before: datetime, after: tuple[datetime, UUID] | None
) -> tuple[datetime, UUID] | None:
    """Forget some of the jobs that ended before; return how far this came, None at the end.

    A job stays as long as a batch shows it, or one of its webhooks is still to be sent.
    """
    ended = await job_upkeep.list_ended(conn, before=ended_before, after=after, limit=_CHUNK)
    if not ended:
        return None
    numbers = {job.process_number for job in ended}
    # Who asks for one of these processes meanwhile waits, and then finds it new.
    await processes.lock_known(conn, numbers)
    gone = await job_upkeep.list_forgettable(conn, numbers, ended_before=ended_before)
    await deliveries.forget(conn, job_ids=gone)
    await subscriptions.forget(conn, gone)
    await job_upkeep.forget(conn, gone)
    without_jobs = await processes.list_without_jobs(conn, numbers)
    await documents.forget(conn, without_jobs)
    await processes.forget(conn, without_jobs)
    last = ended[-1]
    return last.finished_at or ended_before, last.id


async def forget_other_deliveries(conn: Connection, *, ended_before: datetime) -> int:
    """Forget some deliveries that tell of no job and no batch, as tests do; return how many, 0 at the end."""
    return await deliveries.forget_of_nothing(conn, ended_before=ended_before, limit=_CHUNK)
