"""What happens when a caller asks for a process: join the running job, use what is there, or begin."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from service.core import deliveries, documents, events, jobs, processes, subscriptions
from service.core.db import Connection
from service.core.errors import NothingToRetryError
from service.core.jobs import Job
from service.core.processes import Process
from service.core.settings import Settings
from service.core.states import JobStatus


class Outcome(StrEnum):
    """How a request was met."""

    CREATED = "created"
    JOINED = "joined"
    CACHED = "cached"


@dataclass(frozen=True, slots=True)
class Submission:
    """The job a caller is now subscribed to; `delivery_ids` are to be rung for after the commit."""

    job: Job
    outcome: Outcome
    delivery_ids: list[UUID]


async def submit(
    conn: Connection,
    number: str,
    client_id: UUID,
    *,
    webhook_url: str | None,
    force_refresh: bool,
    settings: Settings,
) -> Submission:
    """Subscribe the client to the job that brings the process in, inside the caller's transaction.

    All requests for one process pass one after the other (the lock on its row), so that fifty at once
    make one job. After the commit the caller rings for the job (when created) and the deliveries.
    """
    process = await processes.lock(conn, number)
    if active := await jobs.lock_active(conn, number):
        await subscriptions.add(conn, active.id, client_id, webhook_url)
        return Submission(active, Outcome.JOINED, [])
    latest = await jobs.latest(conn, number)
    is_fresh = latest and _is_fresh(process, latest, settings) and await documents.is_whole(conn, number)
    if latest and is_fresh and not force_refresh:
        return await _use_what_is_there(conn, latest, client_id, webhook_url)
    job = await jobs.create(conn, number, deadline_s=settings.job_deadline_s)
    await subscriptions.add(conn, job.id, client_id, webhook_url)
    return Submission(job, Outcome.CREATED, [])


async def retry(
    conn: Connection, job_id: UUID, client_id: UUID, *, webhook_url: str | None, settings: Settings
) -> Submission:
    """Ask again for a process whose job left documents out: what is available stays, the rest is tried anew.

    Args:
        webhook_url: where the new job is told; the URLs of the old one when None.

    Raises:
        NotFoundError: no such job, or somebody else's.
        NothingToRetryError: it has not ended, or ended with every document.
    """
    job = await jobs.get_for_client(conn, job_id, client_id)
    if not job.status.is_final:
        raise NothingToRetryError("the job has not ended yet")
    if job.status is JobStatus.COMPLETED:
        raise NothingToRetryError("the job ended with every document")
    urls: list[str | None] = [webhook_url]
    if webhook_url is None:
        urls = [*await subscriptions.list_urls(conn, job_id, client_id)] or [None]
    submissions = [
        await submit(
            conn, job.process_number, client_id, webhook_url=url, force_refresh=False, settings=settings
        )
        for url in urls
    ]
    ids = [delivery_id for one in submissions for delivery_id in one.delivery_ids]
    return Submission(submissions[0].job, submissions[0].outcome, ids)


def _is_fresh(process: Process, latest: Job, settings: Settings) -> bool:
    if latest.status is not JobStatus.COMPLETED or process.listed_at is None:
        return False
    return datetime.now(UTC) - process.listed_at < timedelta(seconds=settings.fresh_s)


async def _use_what_is_there(
    conn: Connection, job: Job, client_id: UUID, webhook_url: str | None
) -> Submission:
    subscription = await subscriptions.add(conn, job.id, client_id, webhook_url)
    if webhook_url is None:
        return Submission(job, Outcome.CACHED, [])
    event = events.job_event(job, await documents.list_of_process(conn, job.process_number))
    ids = await deliveries.create(conn, [subscription.id], event=event["type"], payload=event)
    # Who asks again for what still waits to be sent is there to take it, whatever happened before.
    ids += await deliveries.hurry(conn, subscription.id)
    return Submission(job, Outcome.CACHED, ids)
