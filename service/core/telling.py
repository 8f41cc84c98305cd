"""Who is told of what: events become deliveries, in the transaction of what they tell of.

Every function returns the destinations to ring for after the commit.
"""

from collections.abc import Sequence
from uuid import UUID

from service.core import batches, deliveries, documents, events, jobs, subscriptions
from service.core.db import Connection
from service.core.documents import Document
from service.core.jobs import Job
from service.core.states import DocumentStatus

DOCUMENT_EVENTS = {
    "document.available": DocumentStatus.AVAILABLE,
    "document.failed": DocumentStatus.FAILED,
}

# An event's part: the job's sequence, and room for the events that one sequence needs.
_PARTS = 1_000_000


async def tell_started(conn: Connection, job: Job) -> list[UUID]:
    """Tell that a worker has taken a job up, the first time that one does."""
    event = events.started_event(job)
    return await deliveries.create_for_job(conn, job.id, event="job.started", payload=event)


async def tell_documents(conn: Connection, job_id: UUID) -> list[UUID]:
    """Tell of the documents that came in or failed since each subscription was last told; many in one event.

    The caller holds the job and has written it after the documents. What was told last stands in the
    deliveries themselves, so that nothing is left out or told twice whoever dies in between.
    """
    destinations: list[UUID] = []
    for wanting in await subscriptions.list_wanting(conn, job_id, list(DOCUMENT_EVENTS)):
        job = await jobs.get(conn, job_id)
        news = await documents.list_news(conn, job_id, after=wanting.told_part // _PARTS)
        told = [one for one in news if one.status is DOCUMENT_EVENTS[wanting.event]]
        destinations += await _tell_documents(conn, job, told, wanting.event, wanting.subscription_ids)
    return destinations


async def tell_all(conn: Connection, job: Job) -> list[UUID]:
    """Tell all who subscribed to a job that it is final, and of the last of its documents."""
    if not await subscriptions.is_anyone_told(conn, job.id):
        return []
    return [*await tell_documents(conn, job.id), *await tell_end(conn, job)]


async def tell_end(conn: Connection, job: Job, subscription_ids: Sequence[UUID] | None = None) -> list[UUID]:
    """Tell that a job is final: those who subscribed to it, or only these of them."""
    event = events.job_event(job, await documents.list_of_job(conn, job.id))
    return await deliveries.create_for_job(
        conn, job.id, event=event["type"], payload=event, subscription_ids=subscription_ids
    )


async def tell_batches(conn: Connection, ended: Sequence[UUID]) -> list[UUID]:
    """Tell of batches of which the last job has ended."""
    destinations: list[UUID] = []
    for batch_id in ended:
        batch = await batches.get(conn, batch_id)
        if batch.webhook_url is not None or batch.endpoint_id is not None:
            event = events.batch_event(batch)
            destinations += await deliveries.create_for_batch(
                conn, batch.id, event=event["type"], payload=event
            )
    return destinations


async def _tell_documents(
    conn: Connection, job: Job, told: Sequence[Document], kind: str, subscription_ids: Sequence[UUID]
) -> list[UUID]:
    destinations: list[UUID] = []
    for number, start in enumerate(range(0, len(told), events.MOST_DOCUMENTS)):
        some = told[start : start + events.MOST_DOCUMENTS]
        destinations += await deliveries.create_for_job(
            conn,
            job.id,
            event=kind,
            payload=events.documents_event(job, some, kind=kind, at=job.updated_at),
            part=job.sequence * _PARTS + number,
            subscription_ids=subscription_ids,
        )
    return destinations
