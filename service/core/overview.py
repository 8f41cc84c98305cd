"""How the work goes: jobs of the last hour and those that are open, of one client or of all."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from service.core.db import Connection
from service.core.jobs import COLUMNS, Job, from_row

MINUTES = 60
"""So far back the figures go."""

MOST_JOINED = 20_000
"""Among so many of a client's newest subscriptions the figures look for jobs that others began."""

# Whose: $1 is the client, or null for all of them. No `exists`, which could be planned as a walk over all
# subscriptions.
_ONE_OF_MINE = """($1::uuid is null or (
    select true from subscriptions s where s.job_id = j.id and s.client_id = $1 limit 1))"""
# The same for figures over many jobs, without a look at the subscriptions of each: the newest are read once.
_COUNTED_AS_MINE = f"""($1::uuid is null or j.client_id = $1 or j.id in (
    select s.job_id from subscriptions s where s.client_id = $1
    order by s.job_created_at desc, s.job_id desc limit {MOST_JOINED}))"""


@dataclass(frozen=True, slots=True)
class Minute:
    """What ended within one minute; `bytes` are those that were fetched from the portal."""

    at: datetime
    completed: int = 0
    partial: int = 0
    failed: int = 0
    cancelled: int = 0
    documents: int = 0
    bytes: int = 0

    @property
    def jobs(self) -> int:
        """All jobs that ended."""
        return self.completed + self.partial + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class Open:
    """Jobs that have not ended; `oldest_s` is the age of the oldest that waits, in seconds."""

    pending: int
    processing: int
    oldest_s: float | None


async def list_minutes(conn: Connection, client_id: UUID | None) -> list[Minute]:
    """Return the last hour minute by minute, the oldest first, those included in which nothing ended."""
    rows = await conn.fetch(
        f"""select date_trunc('minute', finished_at) as at,
                   count(*) filter (where status = 'completed') as completed,
                   count(*) filter (where status = 'partial') as partial,
                   count(*) filter (where status = 'failed') as failed,
                   count(*) filter (where status = 'cancelled') as cancelled,
                   sum(completed_documents)::bigint as documents, sum(downloaded_bytes)::bigint as bytes
            from jobs j
            where finished_at >= date_trunc('minute', now()) - $2::interval and {_COUNTED_AS_MINE}
            group by 1""",
        client_id,
        timedelta(minutes=MINUTES - 1),
    )
    found = {row["at"]: Minute(**row) for row in rows}
    last: datetime = await conn.fetchval("select date_trunc('minute', now())")
    minutes = (last - timedelta(minutes=back) for back in reversed(range(MINUTES)))
    return [found.get(at) or Minute(at) for at in minutes]


async def count_open(conn: Connection, client_id: UUID | None) -> Open:
    """Count the jobs that have not ended."""
    (row,) = await conn.fetch(
        f"""select count(*) filter (where status = 'pending') as pending,
                   count(*) filter (where status = 'processing') as processing,
                   extract(epoch from now() - min(created_at) filter (where status = 'pending'))::float8
                       as oldest_s
            from jobs j where status in ('pending', 'processing') and {_COUNTED_AS_MINE}""",
        client_id,
    )
    return Open(**row)


async def list_running(conn: Connection, client_id: UUID | None, *, limit: int) -> list[Job]:
    """Return jobs that a worker has now, those that began last first."""
    rows = await conn.fetch(
        f"""select {COLUMNS} from jobs j where status = 'processing' and {_ONE_OF_MINE}
            order by started_at desc, id limit $2""",
        client_id,
        limit,
    )
    return [from_row(row) for row in rows]


_IS_LATEST = """(select newer.created_at from jobs newer
    where newer.process_number = j.process_number order by newer.created_at desc limit 1) = j.created_at"""


async def list_unmended(
    conn: Connection, client_id: UUID | None, *, since: timedelta, limit: int
) -> list[Job]:
    """Return jobs that left documents out, if nobody asked for the process again since, the newest first.

    Args:
        client_id: whose; None for those of all clients.
        since: how old they may be.
    """
    rows = await conn.fetch(
        _UNMENDED_OF_ALL if client_id is None else _UNMENDED,
        *((limit, since) if client_id is None else (limit, since, client_id)),
    )
    return [from_row(row) for row in rows]


_UNMENDED = f"""
    select {COLUMNS} from unnest('{{failed,partial}}'::job_status[]) as asked(of_status)
    cross join lateral (
        select j.* from (
            select distinct on (job_created_at, job_id) job_created_at, job_id from subscriptions
            where client_id = $3 and ended_as = of_status and job_created_at > now() - $2::interval
            order by job_created_at desc, job_id desc
        ) mine cross join lateral (select * from jobs where id = mine.job_id offset 0) j
        where {_IS_LATEST}
        order by mine.job_created_at desc, mine.job_id desc limit $1
    ) jobs
    order by created_at desc, id desc limit $1
"""
_UNMENDED_OF_ALL = f"""
    select {COLUMNS} from unnest('{{failed,partial}}'::job_status[]) as asked(of_status)
    cross join lateral (
        -- In order first (`offset 0` keeps it so): those behind the limit are not looked up.
        select * from (
            select * from jobs where status = of_status and created_at > now() - $2::interval
            order by created_at desc, id desc offset 0
        ) j where {_IS_LATEST} limit $1
    ) jobs
    order by created_at desc, id desc limit $1
"""


async def list_holders(conn: Connection, number: str) -> Sequence[str]:
    """Return the names of the clients who asked for a process, for an operator who looks for it."""
    rows = await conn.fetch(
        """select distinct c.name from jobs j join subscriptions s on s.job_id = j.id
                  join clients c on c.id = s.client_id
           where j.process_number = $1 order by c.name limit 50""",
        number,
    )
    return [row["name"] for row in rows]


async def find_clients(conn: Connection, job_ids: Collection[UUID]) -> dict[UUID, Sequence[str]]:
    """Return the names of the clients who asked for each of the jobs, ten at most, for an operator."""
    rows = await conn.fetch(
        """select asked.id, array(
                      select distinct c.name from subscriptions s join clients c on c.id = s.client_id
                      where s.job_id = asked.id order by c.name limit 10) as names
           from unnest($1::uuid[]) as asked(id)""",
        list(job_ids),
    )
    return {row["id"]: row["names"] for row in rows}
