"""The end of a job: documents, final status and one delivery per subscription in one transaction."""

from dataclasses import dataclass
from uuid import UUID

from service.core import batches, documents, jobs, metrics, subscriptions, telling
from service.core.db import Connection
from service.core.documents import Counts
from service.core.errors import JobFinalError, JobSharedError, NotFoundError
from service.core.jobs import Job
from service.core.states import JobStatus


@dataclass(frozen=True, slots=True)
class Settled:
    """A job that has ended, and where to ring for after the commit."""

    job: Job
    destinations: list[UUID]

    def count(self) -> None:
        """Count it as ended, after the commit."""
        job = self.job
        metrics.JOBS_ENDED.labels(job.status).inc()
        if job.finished_at is not None:
            took_s = (job.finished_at - job.created_at).total_seconds()
            metrics.JOB_SECONDS.labels(job.status).observe(max(0.0, took_s))


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something ended as it did: a stable code and words for the caller."""

    code: str
    message: str


NOT_FETCHED = Reason("not_fetched", "the job ended before this document was fetched")
CANCELLED = Reason("cancelled", "the job was cancelled")
_ALL_FAILED = Reason("all_documents_failed", "none of the documents could be fetched")


async def settle(
    conn: Connection,
    job: Job,
    *,
    error: Reason | None = None,
    left_over: Reason = NOT_FETCHED,
    is_cancelled: bool = False,
    downloaded_bytes: int = 0,
) -> Settled:
    """Write the final status of a job that the caller holds.

    Args:
        error: why the run as a whole failed (the process could not be read, the worker crashed), whatever
            its documents are; None when the documents decide.
        left_over: the reason of documents still unfinished that have none of their own.
    """
    left_over = error or left_over
    counts = await documents.count(conn, job.id)
    # What it wants and neither has nor missed is unfinished too: listed by others, whose filters left it out.
    if counts.unfinished or counts.completed + counts.failed < counts.total:
        await documents.give_up(
            conn, job.process_number, job.id, error_code=left_over.code, error_message=left_over.message
        )
        counts = await documents.count(conn, job.id)
    status = JobStatus.CANCELLED if is_cancelled else _status(counts, error)
    if status is JobStatus.FAILED and error is None:
        error = _ALL_FAILED
    final = await jobs.finish(
        conn,
        job.id,
        status,
        counts,
        error_code=error.code if error else None,
        error_message=error.message if error else None,
        downloaded_bytes=downloaded_bytes,
    )
    destinations = [
        *await telling.tell_all(conn, final),
        *await telling.tell_batches(conn, await batches.count_down(conn, final.id)),
    ]
    return Settled(final, destinations)


async def cancel(conn: Connection, job_id: UUID, client_id: UUID) -> Settled | None:
    """Cancel a job at its only client's wish; None when it is cancelled already.

    Its worker finds the fence raised against it at its next heartbeat, within a second while it downloads.

    Raises:
        NotFoundError: no such job, or somebody else's.
        JobFinalError: it has ended otherwise.
        JobSharedError: another client waits for it too.
    """
    job = await jobs.lock_to_cancel(conn, job_id)
    if job is None:
        ended = await jobs.get_for_client(conn, job_id, client_id)
        if ended.status is JobStatus.CANCELLED:
            return None
        raise JobFinalError(f"the job has ended as {ended.status}")
    # Looked up under the job's lock: nobody joins it any more before this transaction ends.
    subscribed = await subscriptions.list_clients(conn, job_id)
    if client_id not in subscribed:
        raise NotFoundError("no such job")
    if len(subscribed) > 1:
        raise JobSharedError("another client waits for this job too: it goes on")
    return await settle(conn, job, error=CANCELLED, is_cancelled=True)


def _status(counts: Counts, error: Reason | None) -> JobStatus:
    if error is not None or (counts.failed > 0 and counts.completed == 0):
        return JobStatus.FAILED
    return JobStatus.PARTIAL if counts.failed > 0 else JobStatus.COMPLETED
