"""Batches: many processes asked for in one call, and how far their jobs are together."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from service.core.db import Connection
from service.core.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class NewItem:
    """One line of a batch: the job that met it, or the problem for which it was refused."""

    process_number: str | None
    reference: str | None
    outcome: str
    job_id: UUID | None
    problem: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Item(NewItem):
    """An item with the present state of its job; None for what was refused.

    Of one that was erased since, nothing is left but its position.
    """

    position: int = 0
    status: str | None = None
    progress_percentage: float | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch and the sums over its jobs, each of which counts once however often it was asked for.

    Attributes:
        jobs: how many are in which status.
        sequence: the sum of their sequences; it rises with every change of any of them.
        watched: the jobs that have not ended.
    """

    id: UUID
    client_id: UUID
    reference: str | None
    webhook_url: str | None
    endpoint_id: UUID | None
    created_at: datetime
    finished_at: datetime | None
    total_processes: int
    refused_processes: int
    jobs: dict[str, int]
    sequence: int
    total_documents: int
    completed_documents: int
    failed_documents: int
    progress_percentage: float
    watched: list[UUID]


async def create(
    conn: Connection,
    items: Sequence[NewItem],
    client_id: UUID,
    *,
    reference: str | None,
    webhook_url: str | None,
    endpoint_id: UUID | None,
) -> UUID:
    """Write a batch, in the transaction that subscribed to its jobs and keeps those from ending."""
    job_ids = list({item.job_id for item in items if item.job_id})
    batch_id: UUID = await conn.fetchval(
        """insert into batches (client_id, reference, webhook_url, endpoint_id, open_jobs, finished_at)
           select $1, $2, $3, $5, open, case when open = 0 then now() end
           from (select count(*)::int as open from jobs
                 where id = any($4::uuid[]) and not job_status_is_final(status)) counted
           returning id""",
        client_id,
        reference,
        webhook_url,
        job_ids,
        endpoint_id,
    )
    await conn.execute(
        """insert into batch_items (batch_id, position, process_number, reference, outcome, job_id, problem)
           select $1, r.position - 1, r.process_number, r.reference, r.outcome, r.job_id, r.problem
           from unnest($2::text[], $3::text[], $4::text[], $5::uuid[], $6::jsonb[]) with ordinality
                as r(process_number, reference, outcome, job_id, problem, position)""",
        batch_id,
        [item.process_number for item in items],
        [item.reference for item in items],
        [item.outcome for item in items],
        [item.job_id for item in items],
        [item.problem for item in items],
    )
    return batch_id


async def lock_ended(conn: Connection, *, before: datetime, limit: int) -> list[UUID]:
    """Lock some of the batches that ended before a time, and whose webhook is not still to be sent."""
    rows = await conn.fetch(
        """select id from batches where finished_at < $1
             and not exists (select from deliveries where batch_id = batches.id and status = 'pending')
           order by finished_at limit $2 for update skip locked""",
        before,
        limit,
    )
    return [row["id"] for row in rows]


async def forget(conn: Connection, ids: Sequence[UUID]) -> None:
    """Delete batches, which the caller has locked, with their items."""
    await conn.execute("delete from batch_items where batch_id = any($1::uuid[])", ids)
    await conn.execute("delete from batches where id = any($1::uuid[])", ids)


async def count_down(conn: Connection, job_id: UUID, client_id: UUID | None = None) -> list[UUID]:
    """Note in every batch that one of its jobs has ended; return those that have ended with it.

    The rows are locked in one order: of two jobs that end at once, the second sees the first one gone.

    Args:
        client_id: whose batches; None for those of all clients.
    """
    rows = await conn.fetch(
        """with locked as (
               select id from batches where id in (select batch_id from batch_items where job_id = $1)
                 and ($2::uuid is null or client_id = $2)
               order by id for no key update)
           update batches b
           set open_jobs = open_jobs - 1, finished_at = case when open_jobs = 1 then clock_timestamp() end
           from locked where b.id = locked.id returning b.id, b.open_jobs""",
        job_id,
        client_id,
    )
    return [row["id"] for row in rows if row["open_jobs"] == 0]


async def lock_naming(
    conn: Connection, job_ids: Sequence[UUID], spellings: Sequence[str], client_id: UUID | None
) -> list[UUID]:
    """Lock the batches with an item that met one of these jobs, or was refused under one of these numbers.

    All that an erasure will touch, in the order in which the end of a job locks them.

    Args:
        spellings: of one number, all that there are.
        client_id: whose batches; None for those of all clients.
    """
    rows = await conn.fetch(
        """select id from batches
           where id in (select batch_id from batch_items
                        where job_id = any($1::uuid[])
                           or (outcome = 'refused' and process_number = any($2::text[])))
             and ($3::uuid is null or client_id = $3)
           order by id for no key update""",
        job_ids,
        spellings,
        client_id,
    )
    return [row["id"] for row in rows]


async def erase_items(
    conn: Connection, ids: Sequence[UUID], job_ids: Sequence[UUID], spellings: Sequence[str]
) -> int:
    """Blot out the items for which `lock_naming` has locked these batches; return how many there were.

    What the jobs added to a batch's sequence stays, and one more: it never falls, and who waits sees another
    one.
    """
    rows = await conn.fetch(
        """with found as (
               select batch_id, position, job_id from batch_items
               where batch_id = any($1::uuid[])
                 and (job_id = any($2::uuid[])
                      or (outcome = 'refused' and process_number = any($3::text[])))),
           grown as (
               update batches b
               set past_sequence = past_sequence + 1 + coalesce((
                   select sum(sequence) from jobs
                   where id in (select job_id from found where batch_id = b.id)), 0)
               where id = any($1::uuid[]))
           update batch_items i
           set outcome = 'erased', process_number = null, reference = null, job_id = null, problem = null
           from found where i.batch_id = found.batch_id and i.position = found.position
           returning 1""",
        ids,
        job_ids,
        spellings,
    )
    return len(rows)


async def find_for_clients(
    conn: Connection, asked: Sequence[tuple[UUID, UUID]]
) -> dict[tuple[UUID, UUID], Batch | None]:
    """Return for each batch and client the batch, if it is his; one after the other."""
    return {(batch_id, client_id): await _find(conn, batch_id, client_id) for batch_id, client_id in asked}


async def get(conn: Connection, batch_id: UUID) -> Batch:
    """Return a batch with its sums, whosever it is.

    Raises:
        NotFoundError: no such batch.
    """
    batch = await _find(conn, batch_id, None)
    if batch is None:
        raise NotFoundError("no such batch")
    return batch


async def _find(conn: Connection, batch_id: UUID, client_id: UUID | None) -> Batch | None:
    row = await conn.fetchrow(
        """with items as (select outcome, job_id from batch_items where batch_id = $1),
                counted as (
                    select coalesce(sum(sequence), 0)::bigint as sequence,
                           coalesce(sum(total_documents), 0)::bigint as total_documents,
                           coalesce(sum(completed_documents), 0)::bigint as completed_documents,
                           coalesce(sum(failed_documents), 0)::bigint as failed_documents,
                           coalesce(avg(progress_percentage), 100)::float8 as progress_percentage,
                           coalesce(array_agg(id) filter (where not job_status_is_final(status)), '{}')
                               as watched
                    from jobs where id in (select job_id from items)),
                grouped as (
                    select coalesce(jsonb_object_agg(status, n), '{}') as jobs from (
                        select status, count(*) as n from jobs where id in (select job_id from items)
                        group by status) s)
           select b.id, b.client_id, b.reference, b.webhook_url, b.endpoint_id, b.created_at, b.finished_at,
                  (select count(*) from items) as total_processes,
                  (select count(*) from items where outcome = 'refused') as refused_processes,
                  grouped.jobs, counted.sequence + b.past_sequence as sequence, counted.total_documents,
                  counted.completed_documents, counted.failed_documents, counted.progress_percentage,
                  counted.watched
           from batches b, counted, grouped where b.id = $1 and ($2::uuid is null or b.client_id = $2)""",
        batch_id,
        client_id,
    )
    return None if row is None else Batch(**row)


async def list_items(conn: Connection, batch_id: UUID) -> list[Item]:
    """Return the items of a batch in the caller's order, each with the present state of its job."""
    rows = await conn.fetch(
        """select i.position, i.process_number, i.reference, i.outcome, i.job_id,
                  i.problem, j.status, j.progress_percentage
           from batch_items i left join jobs j on j.id = i.job_id
           where i.batch_id = $1 order by i.position""",
        batch_id,
    )
    return [Item(**row) for row in rows]
