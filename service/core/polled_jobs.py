"""Jobs as those see them who poll: many at a time, each with a tag that changes with what is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from uuid import UUID

import asyncpg

from service.core.db import Connection
from service.core.errors import NotFoundError
from service.core.jobs import COLUMNS, Job, read_values
from service.core.subscriptions import OF_THE_END

# What a client sees beside the job, by the versions of its rows, which PostgreSQL knows without reading what
# stands in them; null for who is not subscribed to it.
_SHOWN = f"""select string_agg(concat(s.xmin, ' ', d.xmin, ' ', e.xmin), ',' order by s.id) as shown
             from subscriptions s left join deliveries d on {OF_THE_END}
                  left join endpoints e on e.id = s.endpoint_id
             where s.job_id = jobs.id and s.client_id = asked.asker"""
# Whoever changes documents of a process changes its newest job too.
_COLUMNS = f"""{COLUMNS}, asked.asker,
    concat(his.shown, '/', (
        select concat(newest.id, newest.sequence) from jobs newest
        where newest.process_number = jobs.process_number order by newest.created_at desc limit 1))"""


@dataclass(frozen=True, slots=True)
class PolledJob(Job):
    """A job as one client sees it.

    Attributes:
        shown: another text whenever something changed that is shown with the job: the client's webhook and
            what he asked for, or a document under a later job.
    """

    shown: str

    @property
    def tag(self) -> str:
        """What names this state among all of the job's, as one client sees them."""
        return f"{self.sequence}-{blake2b(self.shown.encode(), digest_size=6).hexdigest()}"


async def find(
    conn: Connection, asked: Sequence[tuple[UUID, UUID]]
) -> dict[tuple[UUID, UUID], PolledJob | None]:
    """Return for each job and client the job, if this client subscribed to it."""
    rows = await conn.fetch(
        f"""select {_COLUMNS}
            from unnest($1::uuid[], $2::uuid[]) as asked(job, asker) join jobs on jobs.id = asked.job
                 cross join lateral ({_SHOWN}) his
            where his.shown is not null""",
        *zip(*asked, strict=True),
    )
    found: dict[tuple[UUID, UUID], PolledJob | None] = dict.fromkeys(asked)
    return found | {(row["id"], row["asker"]): _polled(row) for row in rows}


async def find_latest(
    conn: Connection, asked: Sequence[tuple[str, UUID]]
) -> dict[tuple[str, UUID], PolledJob | None]:
    """Return for each process and client the newest of its jobs that this client subscribed to, if any."""
    rows = await conn.fetch(
        f"""select {_COLUMNS}
            from unnest($1::text[], $2::uuid[]) as asked(number, asker) cross join lateral (
                select * from jobs where process_number = asked.number
                and exists (select from subscriptions s
                            where s.job_id = jobs.id and s.client_id = asked.asker)
                order by created_at desc limit 1) jobs cross join lateral ({_SHOWN}) his""",
        *zip(*asked, strict=True),
    )
    found: dict[tuple[str, UUID], PolledJob | None] = dict.fromkeys(asked)
    return found | {(row["process_number"], row["asker"]): _polled(row) for row in rows}


async def latest_for_client(conn: Connection, number: str, client_id: UUID) -> Job:
    """Return the newest job of the process that this client subscribed to.

    Raises:
        NotFoundError: this client never asked for the process.
    """
    job = (await find_latest(conn, [(number, client_id)]))[number, client_id]
    if job is None:
        raise NotFoundError("no such job")
    return job


def _polled(row: asyncpg.Record) -> PolledJob:
    *values, _, shown = row
    return PolledJob(*read_values([*values, shown]))
