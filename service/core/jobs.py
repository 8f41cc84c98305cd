"""Jobs: one run each that brings a process's documents in.

Every move is one guarded statement whose answer says whether it happened; a worker's writes carry
the fence of its claim, so that a worker which was taken for dead can change nothing any more.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from service.core.db import Connection
from service.core.documents import Counts
from service.core.errors import LeaseLostError, NotFoundError
from service.core.states import JobStatus

_COLUMNS = """
    id, process_number, status, sequence, total_documents, completed_documents, failed_documents,
    processing_documents, downloaded_bytes, expected_bytes, progress_percentage, error_code, error_message,
    waiting_reason, next_attempt_at, retries, crashes, fence, created_at, updated_at, started_at, finished_at,
    extract(epoch from deadline_at - now())::float8 as left_s
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One row; the counts are of the process's documents as this job last wrote them.

    Attributes:
        left_s: seconds to its deadline when the row was read, by the database's clock.
    """

    id: UUID
    process_number: str
    status: JobStatus
    sequence: int
    total_documents: int
    completed_documents: int
    failed_documents: int
    processing_documents: int
    downloaded_bytes: int
    expected_bytes: int
    progress_percentage: float
    error_code: str | None
    error_message: str | None
    waiting_reason: str | None
    next_attempt_at: datetime
    retries: int
    crashes: int
    fence: int
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    left_s: float

    @property
    def pending_documents(self) -> int:
        """Documents that nobody has begun to fetch."""
        done = self.completed_documents + self.failed_documents + self.processing_documents
        return self.total_documents - done


# For callers --------------------------------------------------------------------------------------


async def create(conn: Connection, number: str, *, deadline_s: int) -> Job:
    """Write a new pending job; the caller holds the process's lock and rings after the commit."""
    # Not `now()`, the transaction's start: who waited for the process's lock began before the last job ended.
    row = await conn.fetchrow(
        f"""insert into jobs (process_number, created_at, deadline_at, ring_at)
            values ($1, clock_timestamp(), now() + $2::interval, now() + interval '2 s')
            returning {_COLUMNS}""",
        number,
        timedelta(seconds=deadline_s),
    )
    return _job(row)


async def lock_active(conn: Connection, number: str) -> Job | None:
    """Return the process's active job, which cannot become final before this transaction ends.

    Without the lock a subscription could slip in behind the last look at them, and its webhook be lost.
    """
    row = await conn.fetchrow(
        f"""select {_COLUMNS} from jobs
            where process_number = $1 and status in ('pending', 'processing') for share""",
        number,
    )
    return None if row is None else _job(row)


async def latest(conn: Connection, number: str) -> Job | None:
    """Return the newest job of the process."""
    row = await conn.fetchrow(
        f"select {_COLUMNS} from jobs where process_number = $1 order by created_at desc limit 1", number
    )
    return None if row is None else _job(row)


async def get_for_client(conn: Connection, job_id: UUID, client_id: UUID) -> Job:
    """Return a job that this client subscribed to.

    Raises:
        NotFoundError: no such job, or somebody else's.
    """
    row = await conn.fetchrow(
        f"""select {_COLUMNS} from jobs where id = $1
            and exists (select from subscriptions where job_id = $1 and client_id = $2)""",
        job_id,
        client_id,
    )
    return _job(row)


async def latest_for_client(conn: Connection, number: str, client_id: UUID) -> Job:
    """Return the newest job of the process that this client subscribed to.

    Raises:
        NotFoundError: this client never asked for the process.
    """
    row = await conn.fetchrow(
        f"""select {_COLUMNS} from jobs where process_number = $1
            and exists (select from subscriptions s where s.job_id = jobs.id and s.client_id = $2)
            order by created_at desc limit 1""",
        number,
        client_id,
    )
    return _job(row)


# For the worker that owns the job -----------------------------------------------------------------


async def claim(conn: Connection, job_id: UUID, *, worker_id: UUID, lease_s: float) -> Job | None:
    """Take the job for one run; None when somebody else has it, it is final, or its time has not come."""
    row = await conn.fetchrow(
        f"""update jobs
            set status = 'processing', fence = fence + 1, worker_id = $2, lease_until = now() + $3::interval,
                started_at = coalesce(started_at, now()), waiting_reason = null
            where id = $1 and status = 'pending' and next_attempt_at <= now()
            returning {_COLUMNS}""",
        job_id,
        worker_id,
        timedelta(seconds=lease_s),
    )
    return None if row is None else _job(row)


async def renew_lease(conn: Connection, job: Job, *, lease_s: float, downloaded_bytes: int) -> None:
    """Heartbeat without news of documents.

    Raises:
        LeaseLostError: the job is no longer this worker's.
    """
    row = await conn.fetchrow(
        """update jobs set lease_until = now() + $3::interval,
                           downloaded_bytes = greatest(downloaded_bytes, $4)
           where id = $1 and fence = $2 and status = 'processing' returning id""",
        job.id,
        job.fence,
        timedelta(seconds=lease_s),
        downloaded_bytes,
    )
    if row is None:
        raise LeaseLostError


async def hold(conn: Connection, job: Job) -> None:
    """Lock the job for this transaction, as its owner.

    Raises:
        LeaseLostError: the job is no longer this worker's.
    """
    row = await conn.fetchrow(
        "select from jobs where id = $1 and fence = $2 and status = 'processing' for no key update",
        job.id,
        job.fence,
    )
    if row is None:
        raise LeaseLostError


async def record_progress(
    conn: Connection,
    job: Job,
    counts: Counts,
    *,
    lease_s: float,
    downloaded_bytes: int,
    in_flight: float = 0.0,
) -> None:
    """Write the counts and renew the lease; the caller holds the job.

    Args:
        in_flight: the sum of the fractions (0 to 1) of the documents now being fetched.
    """
    await conn.execute(
        """update jobs
           set lease_until = now() + $2::interval, total_documents = $3, completed_documents = $4,
               failed_documents = $5, processing_documents = $6, expected_bytes = $7,
               downloaded_bytes = greatest(downloaded_bytes, $8), updated_at = now(),
               progress_percentage = greatest(
                   progress_percentage,
                   least(99, 100 * ($4::int + $5::int + $9::float8) / greatest($3::int, 1)))
           where id = $1""",
        job.id,
        timedelta(seconds=lease_s),
        counts.total,
        counts.completed,
        counts.failed,
        counts.processing,
        counts.expected_bytes,
        downloaded_bytes,
        in_flight,
    )


async def forget_crashes(conn: Connection, job: Job) -> None:
    """Note that documents came in, as in no job that kills its workers; the caller holds the job."""
    await conn.execute("update jobs set crashes = 0 where id = $1 and crashes > 0", job.id)


async def hand_back(
    conn: Connection,
    job: Job,
    counts: Counts,
    *,
    delay_s: float = 0.0,
    waiting_reason: str | None = None,
    is_retry: bool = False,
) -> None:
    """Give the job up until `delay_s` from now, or its deadline: processing → pending; the caller holds it.

    Args:
        waiting_reason: why it waits, for callers; None when it can go on at once elsewhere.
        is_retry: whether the run is counted against the schedule of retries.
    """
    await conn.execute(
        """update jobs
           set status = 'pending', lease_until = null, worker_id = null, waiting_reason = $3,
               next_attempt_at = least(now() + $2::interval, greatest(now(), deadline_at)),
               ring_at = least(now() + $2::interval, greatest(now(), deadline_at)),
               retries = retries + $4, completed_documents = $5, failed_documents = $6,
               processing_documents = 0, total_documents = $7
           where id = $1""",
        job.id,
        timedelta(seconds=delay_s),
        waiting_reason,
        int(is_retry),
        counts.completed,
        counts.failed,
        counts.total,
    )


async def finish(
    conn: Connection,
    job_id: UUID,
    status: JobStatus,
    counts: Counts,
    *,
    error_code: str | None = None,
    error_message: str | None = None,
    downloaded_bytes: int = 0,
) -> Job:
    """Write the final status; the caller holds the job and has settled its documents."""
    row = await conn.fetchrow(
        f"""update jobs
            set status = $2, finished_at = now(), lease_until = null, worker_id = null, waiting_reason = null,
                progress_percentage = 100, total_documents = $3, completed_documents = $4,
                failed_documents = $5, processing_documents = 0, error_code = $6, error_message = $7,
                expected_bytes = $8, downloaded_bytes = greatest(downloaded_bytes, $9)
            where id = $1 returning {_COLUMNS}""",
        job_id,
        status,
        counts.total,
        counts.completed,
        counts.failed,
        error_code,
        error_message,
        counts.expected_bytes,
        downloaded_bytes,
    )
    return _job(row)


# For the sweep, and for giving up -----------------------------------------------------------------


async def list_to_ring(conn: Connection, *, again_s: float, limit: int) -> list[tuple[UUID, int]]:
    """Return (id, fence) of pending jobs that nobody was rung for lately; each again `again_s` later."""
    rows = await conn.fetch(
        """update jobs set ring_at = now() + $1::interval
           where id in (select id from jobs where status = 'pending' and ring_at <= now()
                        order by ring_at limit $2 for no key update skip locked)
           returning id, fence""",
        timedelta(seconds=again_s),
        limit,
    )
    return [(row["id"], row["fence"]) for row in rows]


async def list_expired(conn: Connection, *, limit: int = 100) -> list[UUID]:
    """Return jobs whose worker let its lease run out."""
    rows = await conn.fetch(
        """select id from jobs where status = 'processing' and lease_until < now()
           order by lease_until limit $1""",
        limit,
    )
    return [row["id"] for row in rows]


async def lock_expired(conn: Connection, job_id: UUID) -> Job | None:
    """Lock a job whose lease ran out and count the crash; None when another came first."""
    row = await conn.fetchrow(
        f"""update jobs set crashes = crashes + 1
            where id = (select id from jobs where id = $1 and status = 'processing' and lease_until < now()
                        for no key update skip locked)
            returning {_COLUMNS}""",
        job_id,
    )
    return None if row is None else _job(row)


async def lock_to_cancel(conn: Connection, job_id: UUID) -> Job | None:
    """Lock a job that can still be cancelled; None when it is final."""
    row = await conn.fetchrow(
        f"""select {_COLUMNS} from jobs
            where id = $1 and status in ('pending', 'processing') for no key update""",
        job_id,
    )
    return None if row is None else _job(row)


def _job(row: asyncpg.Record | None) -> Job:
    if row is None:
        raise NotFoundError("no such job")
    return Job(**{**row, "status": JobStatus(row["status"])})
