"""Jobs under the hands of those who do not run them: the sweep, an erasure, the janitor, retention."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from service.core import job_events
from service.core.db import Connection
from service.core.job_events import Move
from service.core.jobs import COLUMNS, Job, from_row
from service.core.news import CHANNEL

# For the sweep ------------------------------------------------------------------------------------


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
    """Return some of the jobs whose worker let its lease run out.

    Which, chance says: those that cannot be freed would otherwise stand before all others for ever.
    """
    rows = await conn.fetch(
        """select id from jobs where status = 'processing' and lease_until < now()
           order by random() limit $1""",
        limit,
    )
    return [row["id"] for row in rows]


async def lock_expired(conn: Connection, job_id: UUID) -> Job | None:
    """Lock a job whose lease ran out, and count and note the crash; None when another came first."""
    row = await conn.fetchrow(
        f"""with given_up as (
                update jobs set crashes = crashes + 1
                where id = (select id from jobs
                            where id = $1 and status = 'processing' and lease_until < now()
                            for no key update skip locked)
                returning *
            ), {job_events.ended(f"'{Move.LEASE_LOST}'")}
            select {COLUMNS} from given_up""",
        job_id,
    )
    return None if row is None else from_row(row)


# For an erasure ----------------------------------------------------------------------------------


async def lock_of_process(conn: Connection, number: str) -> list[Job]:
    """Lock all jobs of a process against everybody; nothing of a worker's is written before this ends."""
    rows = await conn.fetch(
        f"select {COLUMNS} from jobs where process_number = $1 order by id for update", number
    )
    return [from_row(row) for row in rows]


async def leased_until(conn: Connection, number: str, *, lease_s: float) -> datetime:
    """Return when the last lease that there can be of a process's jobs ends: `lease_s` from now, or later."""
    at: datetime = await conn.fetchval(
        """select greatest(now() + $2::interval, max(lease_until)) from jobs where process_number = $1""",
        number,
        timedelta(seconds=lease_s),
    )
    return at


async def list_known(conn: Connection, ids: Collection[UUID]) -> set[UUID]:
    """Return those of the ids that are jobs."""
    rows = await conn.fetch("select id from jobs where id = any($1::uuid[])", list(ids))
    return {row["id"] for row in rows}


async def give_away(conn: Connection, ids: Sequence[UUID], client_id: UUID) -> None:
    """Let those of the jobs that a client asked for first be those of the next who subscribed to them."""
    await conn.execute(
        """update jobs set client_id = (select s.client_id from subscriptions s where s.job_id = jobs.id
                                        order by s.created_at, s.id limit 1)
           where id = any($1::uuid[]) and client_id = $2""",
        ids,
        client_id,
    )


async def wake_waiting(conn: Connection, ids: Sequence[UUID]) -> None:
    """Wake who waits for one of the jobs, with the commit: a deletion is told by no trigger."""
    await conn.execute("select pg_notify($1, id::text) from unnest($2::uuid[]) as gone(id)", CHANNEL, ids)


# For what is found missing ----------------------------------------------------------------------


async def lock_newest(conn: Connection, numbers: Collection[str]) -> list[UUID]:
    """Lock the newest job of each process that has any; the caller holds the processes."""
    rows = await conn.fetch(
        """select id from jobs where id = any(array(
               select newest.id from unnest($1::text[]) as asked(number) cross join lateral (
                   select id from jobs where process_number = number
                   order by created_at desc limit 1) newest))
           order by process_number for no key update""",
        list(numbers),
    )
    return [row["id"] for row in rows]


async def tell_change(conn: Connection, ids: Sequence[UUID]) -> None:
    """Give jobs another sequence, for what has changed in their documents alone; the caller holds them."""
    await conn.execute("update jobs set updated_at = clock_timestamp() where id = any($1::uuid[])", ids)


# For retention ------------------------------------------------------------------------------------


async def list_ended(
    conn: Connection, *, before: datetime, after: tuple[datetime, UUID] | None, limit: int
) -> list[Job]:
    """Return jobs that ended before a time, the oldest end first.

    Args:
        after: end and id of the last one of the page before.
    """
    rows = await conn.fetch(
        f"""select {COLUMNS} from jobs
            where finished_at < $1 and ($2::timestamptz is null or (finished_at, id) > ($2, $3::uuid))
            order by finished_at, id limit $4""",
        before,
        after[0] if after else None,
        after[1] if after else None,
        limit,
    )
    return [from_row(row) for row in rows]


async def list_forgettable(
    conn: Connection, numbers: Collection[str], *, ended_before: datetime
) -> list[UUID]:
    """Return the jobs of processes that ended before and that nothing needs any more.

    A batch needs the jobs that it shows, and a webhook that is still to be sent the one that it tells of.
    """
    rows = await conn.fetch(
        """with theirs as materialized (  -- of few processes, whatever is known of the times
               select id, finished_at from jobs where process_number = any($1::text[]))
           select id from theirs
           where finished_at < $2 and not exists (select from batch_items where job_id = theirs.id)
             and not exists (select from deliveries where job_id = theirs.id and status = 'pending')""",
        list(numbers),
        ended_before,
    )
    return [row["id"] for row in rows]


async def forget(conn: Connection, ids: Sequence[UUID]) -> None:
    """Delete jobs without subscriptions."""
    await conn.execute("delete from jobs where id = any($1::uuid[])", ids)
