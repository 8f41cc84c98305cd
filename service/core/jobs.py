"""Jobs: one run each that brings a process's documents in.

Every move is one guarded statement whose answer says whether it happened; a worker's writes carry
the fence of its claim, so that a worker which was taken for dead can change nothing any more.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from service.core import job_events, traceparent
from service.core.db import Connection
from service.core.documents import COUNT, Counts
from service.core.errors import LeaseLostError, NotFoundError
from service.core.job_events import Move
from service.core.states import JobStatus, Priority
from service.core.wishes import Filters

# In the order of `Job`.
_LEFT = "extract(epoch from deadline_at - now())::float8 as left_s"
_NAMES = (
    *("id", "process_number", "client_id", "priority", "filters", "status", "sequence"),
    *("changed_in", "total_documents"),
    *("completed_documents", "failed_documents", "processing_documents", "downloaded_bytes"),
    *("expected_bytes", "progress_percentage", "error_code", "error_message", "waiting_reason"),
    *(
        "next_attempt_at",
        "retries",
        "crashes",
        "fence",
        "created_at",
        "updated_at",
        "started_at",
        "finished_at",
        "traceparent",
    ),
)
COLUMNS = f"{', '.join(_NAMES)}, {_LEFT}"
"""What `from_row` reads."""
# So many jobs of one client may others be taking at the same moment, and a worker finds those behind them.
_LOOK_AHEAD = 150


@dataclass(frozen=True, slots=True)
class Job:
    """One row; the counts are of the process's documents as this job last wrote them.

    Attributes:
        changed_in: where its last change stands in the news of all jobs (`job_lists.present`).
        traceparent: of the request that began it; None if it was not written by this version.
        left_s: seconds to its deadline when the row was read, by the database's clock.
    """

    id: UUID
    process_number: str
    client_id: UUID
    priority: Priority
    filters: Filters
    status: JobStatus
    sequence: int
    changed_in: int
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
    traceparent: str | None
    left_s: float

    @property
    def watched(self) -> list[UUID]:
        """The jobs of whose news somebody who waits for this has to hear."""
        return [self.id]

    @property
    def pending_documents(self) -> int:
        """Documents that nobody has begun to fetch."""
        done = self.completed_documents + self.failed_documents + self.processing_documents
        return self.total_documents - done


@dataclass(frozen=True, slots=True)
class Stock:
    """How many jobs there are to be done.

    Attributes:
        waiting: those that a worker could take now.
        oldest_s: for how long the first of them could have been taken; None without any.
        later: those that wait for a later time.
        expired: those of the running ones whose lease ran out.
    """

    waiting: int
    later: int
    oldest_s: float | None
    running: int
    expired: int


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be written."""

    number: str
    priority: Priority
    filters: Filters
    deadline_s: int
    traceparent: str | None = None


# For callers --------------------------------------------------------------------------------------


async def create(conn: Connection, new: Sequence[NewJob], client_id: UUID) -> list[Job]:
    """Write new pending jobs; the caller holds the processes' locks and rings after the commit."""
    if not new:
        return []
    # Not `now()`, the transaction's start: who waited for the process's lock began before the last job ended.
    rows = await conn.fetch(
        f"""insert into jobs (process_number, client_id, priority, filters, created_at, deadline_at,
                              ring_at, traceparent)
            select number, $1, priority, filters::jsonb, clock_timestamp(), now() + left_for_it,
                   now() + interval '2 s', traceparent
            from unnest($2::text[], $3::job_priority[], $4::text[], $5::interval[], $6::text[])
                 as r(number, priority, filters, left_for_it, traceparent)
            returning {COLUMNS}""",
        client_id,
        [one.number for one in new],
        [one.priority for one in new],
        # Not as jsonb: asyncpg takes a list in a list for a second dimension.
        [orjson.dumps(one.filters).decode() if one.filters else None for one in new],
        [timedelta(seconds=one.deadline_s) for one in new],
        [one.traceparent or traceparent.new() for one in new],
    )
    return [from_row(row) for row in rows]


async def lock_active(conn: Connection, numbers: Collection[str]) -> list[Job]:
    """Return the active jobs of processes, which cannot become final before this transaction ends.

    Without the lock a subscription could slip in behind the last look at them, and its webhook be lost.
    """
    rows = await conn.fetch(
        f"""select {COLUMNS} from jobs
            where process_number = any($1::text[]) and status in ('pending', 'processing')
            order by process_number for share""",
        list(numbers),
    )
    return [from_row(row) for row in rows]


async def list_latest(conn: Connection, numbers: Collection[str]) -> list[Job]:
    """Return the newest job of each process that has any."""
    rows = await conn.fetch(
        f"""select {COLUMNS} from unnest($1::text[]) as asked(number) cross join lateral (
                select * from jobs where process_number = number order by created_at desc limit 1) newest""",
        list(numbers),
    )
    return [from_row(row) for row in rows]


async def count_active(conn: Connection, client_id: UUID) -> int:
    """Return how many jobs of a client's making have not ended."""
    count: int = await conn.fetchval(
        """select (select count(*) from jobs where client_id = $1 and status = 'pending')
                + (select count(*) from jobs where client_id = $1 and status = 'processing')""",
        client_id,
    )
    return count


async def widen(conn: Connection, job_id: UUID, *, priority: Priority, filters: Filters) -> Job:
    """Let an active job, which the caller has locked, serve more wishes than it was made for.

    A worker that runs it looks again before it ends it (`hold`).
    """
    row = await conn.fetchrow(
        f"update jobs set priority = $2, filters = $3 where id = $1 returning {COLUMNS}",
        job_id,
        priority,
        filters,
    )
    return from_row(row)


async def get(conn: Connection, job_id: UUID) -> Job:
    """Return a job, whoever asked for it.

    Raises:
        NotFoundError: no such job.
    """
    return from_row(await conn.fetchrow(f"select {COLUMNS} from jobs where id = $1", job_id))


async def get_for_client(conn: Connection, job_id: UUID, client_id: UUID) -> Job:
    """Return a job that this client subscribed to.

    Raises:
        NotFoundError: no such job, or somebody else's.
    """
    row = await conn.fetchrow(
        f"""select {COLUMNS} from jobs where id = $1
            and exists (select from subscriptions where job_id = $1 and client_id = $2)""",
        job_id,
        client_id,
    )
    return from_row(row)


async def list_for_client(conn: Connection, job_ids: Sequence[UUID], client_id: UUID) -> list[Job]:
    """Return those of the jobs that this client subscribed to."""
    rows = await conn.fetch(
        f"""select {COLUMNS} from jobs where id = any($1::uuid[])
            and exists (select from subscriptions where job_id = jobs.id and client_id = $2)""",
        job_ids,
        client_id,
    )
    return [from_row(row) for row in rows]


# For the worker that owns the job -----------------------------------------------------------------


async def claim(conn: Connection, count: int, *, worker_id: UUID, lease_s: float) -> list[Job]:
    """Take the jobs whose turn it is, up to `count`, each for one run; fewer when no more are due.

    The highest priority comes first. Within it the client with the fewest running jobs, of those the one that
    was served the longest ago, and of its jobs the one that has been due the longest. Those that another
    worker is taking at this moment are passed over.
    """
    # Written so that every step is a short walk in an index, whatever is known of the tables' size: see
    # tests/test_plans.py.
    rows = await conn.fetch(
        f"""with due as materialized (
                select c.id as client_id, first.*
                from clients c cross join unnest(enum_range(null::job_priority)) as asked(priority)
                cross join lateral (
                    select id, priority, next_attempt_at, created_at from jobs
                    where client_id = c.id and status = 'pending' and priority = asked.priority
                      and next_attempt_at <= now()
                    order by next_attempt_at, created_at limit {_LOOK_AHEAD} + $3
                ) first
            ), running as (
                select client_id, count(*) from jobs
                where client_id = any(array(select client_id from due)) and status = 'processing'
                group by client_id
            ), in_line as (
                select id, priority, next_attempt_at, created_at, served_at,
                       coalesce(running.count, 0) + row_number() over (
                           partition by client_id order by priority, next_attempt_at, created_at) as fellows
                from due left join running using (client_id) left join turns using (client_id)
            ), first as (
                select array(select id from in_line
                             order by priority, fellows, served_at nulls first, next_attempt_at, created_at
                             limit {_LOOK_AHEAD} + $3) as ids
            ), next as (
                select id, client_id from jobs where id = any((select ids from first)::uuid[])
                and status = 'pending' order by array_position((select ids from first), id)
                limit $3 for no key update skip locked
            ), served as (
                -- In one order, whoever claims beside us.
                insert into turns select client_id, clock_timestamp() from next
                group by client_id order by client_id
                on conflict (client_id) do update set served_at = excluded.served_at
            ), claimed as (
                update jobs
                set status = 'processing', fence = fence + 1, worker_id = $1,
                    lease_until = now() + $2::interval, started_at = coalesce(started_at, now()),
                    waiting_reason = null
                where id = any(array(select id from next))
                returning {COLUMNS}
            ), noted as ({job_events.CLAIMED})
            select * from claimed""",
        worker_id,
        timedelta(seconds=lease_s),
        count,
    )
    return [from_row(row) for row in rows]


async def is_any_due(conn: Connection) -> bool:
    """Whether a job waits for a worker, though one may be taking it at this moment."""
    is_due: bool = await conn.fetchval(
        """select exists (
               select from clients c cross join unnest(enum_range(null::job_priority)) as asked(priority)
               where exists (select from jobs where client_id = c.id and status = 'pending'
                             and priority = asked.priority and next_attempt_at <= now()))"""
    )
    return is_due


async def is_anyone_left_out(conn: Connection) -> bool:
    """Whether a client has jobs that are due, and none that runs."""
    left_out: bool = await conn.fetchval(
        """select exists (
               select from clients c
               where exists (select from jobs where client_id = c.id and status = 'pending'
                             and next_attempt_at <= now())
                 and not exists (select from jobs where client_id = c.id and status = 'processing'))"""
    )
    return left_out


async def take_stock(conn: Connection) -> Stock:
    """Count the jobs that have not ended; of those that have, none is read."""
    (row,) = await conn.fetch(
        """select waiting.*, running.* from (
               select count(*) filter (where next_attempt_at <= now()),
                      count(*) filter (where next_attempt_at > now()),
                      extract(epoch from now() - min(next_attempt_at) filter (where next_attempt_at <= now())
                             )::float8
               from jobs where status = 'pending'
           ) waiting cross join (
               select count(*), count(*) filter (where lease_until < now())
               from jobs where status = 'processing'
           ) running"""
    )
    return Stock(*row)


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


async def hold(conn: Connection, job: Job) -> Filters:
    """Lock the job for this transaction, as its owner; return what it is to bring in by now.

    Somebody may have joined who wants more documents than the run was begun for.

    Raises:
        LeaseLostError: the job is no longer this worker's.
    """
    row = await conn.fetchrow(
        "select filters from jobs where id = $1 and fence = $2 and status = 'processing' for no key update",
        job.id,
        job.fence,
    )
    if row is None:
        raise LeaseLostError
    filters: Filters = row[0]
    return filters


async def record_progress(
    conn: Connection,
    job: Job,
    *,
    lease_s: float,
    downloaded_bytes: int,
    in_flight: float = 0.0,
) -> None:
    """Count the documents and renew the lease; the caller holds the job.

    Args:
        in_flight: the sum of the fractions (0 to 1) of the documents now being fetched.
    """
    await conn.execute(
        f"""update jobs
           set lease_until = now() + $2::interval, total_documents = c.total,
               completed_documents = c.completed, failed_documents = c.failed,
               processing_documents = c.processing, expected_bytes = c.expected_bytes,
               downloaded_bytes = greatest(downloaded_bytes, $3), updated_at = now(),
               progress_percentage = greatest(
                   progress_percentage,
                   least(99, 100 * (c.completed + c.failed + $4::float8) / greatest(c.total, 1)))
           from ({COUNT}) c where id = $1""",
        job.id,
        timedelta(seconds=lease_s),
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
    move: Move | None = Move.HANDED_BACK,
) -> None:
    """Give the job up until `delay_s` from now, or its deadline: processing → pending; the caller holds it.

    Args:
        waiting_reason: why it waits, for callers; None when it can go on at once elsewhere.
        move: what is noted of it; a retry is counted against their schedule. None when it is noted already.
    """
    await conn.execute(
        f"""with given_up as (
                update jobs
                set status = 'pending', lease_until = null, worker_id = null, waiting_reason = $3,
                    next_attempt_at = least(now() + $2::interval, greatest(now(), deadline_at)),
                    ring_at = least(now() + $2::interval, greatest(now(), deadline_at)),
                    retries = retries + $4, completed_documents = $5, failed_documents = $6,
                    processing_documents = 0, total_documents = $7
                where id = $1 returning *
            ), {job_events.ended("$8::text")}
            select""",
        job.id,
        timedelta(seconds=delay_s),
        waiting_reason,
        int(move is Move.RETRIED),
        counts.completed,
        counts.failed,
        counts.total,
        move,
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
            where id = $1 returning {COLUMNS}""",
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
    return from_row(row)


async def lock_to_cancel(conn: Connection, job_id: UUID) -> Job | None:
    """Lock a job that can still be cancelled; None when it is final."""
    row = await conn.fetchrow(
        f"""select {COLUMNS} from jobs
            where id = $1 and status in ('pending', 'processing') for no key update""",
        job_id,
    )
    return None if row is None else from_row(row)


def from_row(row: asyncpg.Record | tuple[Any, ...] | None) -> Job:
    """Return the job of a row with `COLUMNS`.

    Raises:
        NotFoundError: there is no row.
    """
    if row is None:
        raise NotFoundError("no such job")
    return Job(*read_values(row))


def read_values(row: Iterable[Any]) -> list[Any]:
    """Return the values of a row with `COLUMNS`, in the order of `Job`, with whatever follows them."""
    values = [*row]
    values[3], values[5] = Priority(values[3]), JobStatus(values[5])
    return values
