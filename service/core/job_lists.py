"""A client's jobs: those that fit a search, page by page, and those that changed since a moment."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.core.db import Connection
from service.core.jobs import COLUMNS, Job, from_row
from service.core.states import JobStatus


@dataclass(frozen=True, slots=True)
class Search:
    """Which jobs of a client are to be listed; None does not matter.

    Attributes:
        after: the time and id of the last job of the page before.
    """

    statuses: list[JobStatus] | None = None
    reference: str | None = None
    number: str | None = None
    created_from: datetime | None = None
    created_until: datetime | None = None
    after: tuple[datetime, UUID] | None = None


async def list_found(conn: Connection, search: Search, client_id: UUID, *, limit: int) -> list[Job]:
    """Return the client's newest jobs that fit, the newest first."""
    is_rare = (
        search.number is None and search.statuses is not None and JobStatus.COMPLETED not in search.statuses
    )
    rows = await conn.fetch(
        _FOUND_BY_STATUS if is_rare else _FOUND,
        client_id,
        search.statuses,
        search.reference,
        search.number,
        search.created_from,
        search.created_until,
        search.after[0] if search.after else None,
        search.after[1] if search.after else None,
        limit,
    )
    return [from_row(row) for row in rows]


_FOUND = f"""
    select {COLUMNS} from jobs join (
        select distinct on (s.job_created_at, s.job_id) s.job_created_at, s.job_id
        from subscriptions s join jobs j on j.id = s.job_id
        where s.client_id = $1
          and ($2::job_status[] is null or j.status = any($2))
          and ($3::text is null or s.reference = $3)
          and ($4::text is null or j.process_number = $4)
          and ($5::timestamptz is null or s.job_created_at >= $5)
          and ($6::timestamptz is null or s.job_created_at < $6)
          and ($7::timestamptz is null or (s.job_created_at, s.job_id) < ($7, $8::uuid))
        order by s.job_created_at desc, s.job_id desc limit $9
    ) page on page.job_id = jobs.id
    order by page.job_created_at desc, page.job_id desc
"""
# Among a client's jobs these are needles in a haystack: those that ended short of something have an index of
# their own in his subscriptions, and those that have not ended are few among all jobs.
_FOUND_BY_STATUS = f"""
    select {COLUMNS} from jobs join (
        select found.* from unnest($2::job_status[]) as asked(of_status) cross join lateral (
            (select distinct on (s.job_created_at, s.job_id) s.job_created_at, s.job_id
             from subscriptions s
             where s.client_id = $1 and s.ended_as = of_status
               and ($3::text is null or s.reference = $3)
               and $4::text is null  -- a process has few jobs: its number leads to them
               and ($5::timestamptz is null or s.job_created_at >= $5)
               and ($6::timestamptz is null or s.job_created_at < $6)
               and ($7::timestamptz is null or (s.job_created_at, s.job_id) < ($7, $8::uuid))
             order by s.job_created_at desc, s.job_id desc limit $9)
            union all
            (select j.created_at, j.id from jobs j
             where of_status in ('pending', 'processing') and j.status = of_status
               and exists (select from subscriptions s where s.job_id = j.id and s.client_id = $1
                           and ($3::text is null or s.reference = $3))
               and ($5::timestamptz is null or j.created_at >= $5)
               and ($6::timestamptz is null or j.created_at < $6)
               and ($7::timestamptz is null or (j.created_at, j.id) < ($7, $8::uuid))
             order by j.created_at desc, j.id desc limit $9)
        ) found
        order by job_created_at desc, job_id desc limit $9
    ) page on page.job_id = jobs.id
    order by page.job_created_at desc, page.job_id desc
"""


async def present(conn: Connection) -> int:
    """Return a position in the news of all jobs: every change that is not visible yet will be at or after it.

    It is the oldest transaction under way: transactions do not become visible in the order of their numbers.
    """
    position: int = await conn.fetchval("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    return position


async def list_news(
    conn: Connection, client_id: UUID, *, since: int, after: tuple[int, UUID] | None, limit: int
) -> list[Job]:
    """Return the client's jobs that changed at or after a position, the oldest change first.

    Args:
        after: `changed_in` and id of the last one of the page before.
    """
    rows = await conn.fetch(
        f"""select {COLUMNS} from jobs
            where (changed_in, id) > ($2, $3::uuid)
              and exists (select from subscriptions where job_id = jobs.id and client_id = $1)
            order by changed_in, id limit $4""",
        client_id,
        *(after or (since, UUID(int=0))),
        limit,
    )
    return [from_row(row) for row in rows]
