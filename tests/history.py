"""A database with a past: finished jobs in any number, as workers leave them."""

from contextlib import suppress
from uuid import UUID

import asyncpg

from service.core.db import Connection

_CHUNK = 100_000


async def write_history(
    conn: Connection, client_id: UUID, jobs: int, *, one_in: int = 1, unlucky_id: UUID | None = None
) -> None:
    """Write so many complete processes of one document each, which the client asked for with a webhook.

    Of their objects in S3 there are none. They ended over the past hundred days, the last one just now.

    Args:
        one_in: one job in so many has its document, its subscription and its delivery.
        unlucky_id: another client, who has every second one of those. Three in four of his ended short of a
            document, and their webhooks were given up.
    """
    with suppress(asyncpg.InsufficientPrivilegeError):
        # Nobody has to look whether what is written here refers to what is written here.
        await conn.execute("set session_replication_role = replica")
    await conn.execute("set statement_timeout = 0")
    for start in range(0, jobs, _CHUNK):
        await conn.execute(
            """create temporary table past as
               select '9' || lpad(n::text, 19, '0') as number, lpad(n::text, 32, '0')::uuid as id,
                      now() - ($4::int - n) * interval '100 days' / $4::int as at,
                      n % $5::int = 0 as is_whole, c.*
               from generate_series($2::int, $3::int - 1) n cross join lateral (
                   select coalesce($6::uuid, $1) as client_id, (case n / $5::int / 2 % 4
                              when 1 then 'partial' when 2 then 'failed' when 3 then 'cancelled'
                              else 'completed' end)::job_status as status
                   where $6 is not null and n % (2 * $5::int) = $5::int
                   union all
                   select $1, 'completed' where $6 is null or n % (2 * $5::int) <> $5::int
               ) c""",
            client_id,
            start,
            min(start + _CHUNK, jobs),
            jobs,
            one_in,
            unlucky_id,
        )
        for statement in _STATEMENTS:
            await conn.execute(statement)
        await conn.execute("drop table past")
    await conn.execute("reset session_replication_role")
    await conn.execute("vacuum analyze")


_STATEMENTS = (
    """insert into processes (number, court, secrecy_level, listed_at, created_at)
       select number, 'TJSP', 0, at, at from past""",
    """insert into jobs (id, process_number, client_id, status, sequence, changed_in, total_documents,
                         completed_documents, failed_documents, downloaded_bytes, expected_bytes,
                         progress_percentage, error_code, deadline_at, created_at, updated_at, started_at,
                         finished_at)
       select id, number, client_id, status, 4, 1, completed + failed, completed, failed, 50000 * completed,
              50000, 100, case when completed = 0 then 'codex_error' end, at + interval '6 h', at, at, at, at
       from (select *, (status in ('completed', 'partial'))::int as completed,
                    (status <> 'completed')::int as failed from past) past""",
    """insert into documents (id, process_number, portal_uuid, position, name, type, has_file, declared_type,
                              declared_bytes, secrecy_level, filed_at, status, error_code, job_id, attempts,
                              media_type, size_bytes, sha256, object_key, download_started_at,
                              download_completed_at)
       select id, number, id, 0, 'Petição.pdf', 'Petição', true, 'application/pdf', 50000, 0, at,
              case when is_there then 'available' else 'failed' end::document_status,
              case when not is_there then 'codex_error' end, id, 1,
              case when is_there then 'application/pdf' end, case when is_there then 50000 end,
              case when is_there then sha256(number::bytea) end,
              case when is_there then format('processes/%s/%s/%s-1-0-1.pdf', number, id, id) end, at, at
       from (select *, status in ('completed', 'partial') as is_there from past) past where is_whole""",
    """insert into subscriptions (id, job_id, client_id, webhook_url, events, job_created_at, created_at,
                                  ended_as)
       select id, id, client_id, 'https://hooks.example.com/', array['job.' || status], at, at,
              nullif(status, 'completed')
       from past where is_whole""",
    """insert into deliveries (id, client_id, webhook_url, subscription_id, job_id, event, payload, status,
                               attempts, rounds, last_status_code, created_at, delivered_at, finished_at)
       select id, client_id, 'https://hooks.example.com/', id, id, 'job.' || status, '{}',
              case when has_arrived then 'delivered' else 'dead' end::delivery_status, 1, 1,
              case when has_arrived then 204 else 410 end, at, case when has_arrived then at end, at
       from (select *, status = 'completed' as has_arrived from past) past where is_whole""",
)
