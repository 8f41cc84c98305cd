"""Subscriptions: one caller's interest in a job, with the webhook it wants to be told by."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from service.core.db import Connection


@dataclass(frozen=True, slots=True)
class Subscription:
    """One row; without `webhook_url` the caller polls."""

    id: UUID
    job_id: UUID
    client_id: UUID
    webhook_url: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WebhookState:
    """What has become of the webhook that a client asked for; `url` still has its query."""

    url: str | None
    sent_at: datetime | None
    attempts: int
    last_error: str | None


async def add(conn: Connection, job_id: UUID, client_id: UUID, webhook_url: str | None) -> Subscription:
    """Return the client's subscription with this URL that has not been told yet, written if there is none.

    A call repeated while the job runs, or while its webhook still waits to be sent, is told once. A call
    after that wants to be told again; so does one that meets a sending under way, which may have arrived
    before the call. The caller holds the process's lock, so two cannot pass here at once.
    """
    row = await conn.fetchrow(
        """select s.id, s.job_id, s.client_id, s.webhook_url, s.created_at
           from subscriptions s left join deliveries d on d.subscription_id = s.id
           where s.job_id = $1 and s.client_id = $2 and s.webhook_url is not distinct from $3
             and (s.webhook_url is null or d.id is null
                  or (d.status = 'pending' and coalesce(d.claimed_until < now(), true)))
           limit 1""",
        job_id,
        client_id,
        webhook_url,
    )
    row = row or await conn.fetchrow(
        """insert into subscriptions (job_id, client_id, webhook_url) values ($1, $2, $3)
           returning id, job_id, client_id, webhook_url, created_at""",
        job_id,
        client_id,
        webhook_url,
    )
    if row is None:
        raise RuntimeError("insert … returning gave no row")
    return Subscription(**row)


async def list_with_webhook(conn: Connection, job_id: UUID) -> list[Subscription]:
    """Return the job's subscriptions that want a webhook."""
    rows: list[asyncpg.Record] = await conn.fetch(
        """select id, job_id, client_id, webhook_url, created_at from subscriptions
           where job_id = $1 and webhook_url is not null""",
        job_id,
    )
    return [Subscription(**row) for row in rows]


async def list_clients(conn: Connection, job_id: UUID) -> set[UUID]:
    """Return the clients that wait for the job."""
    rows = await conn.fetch("select distinct client_id from subscriptions where job_id = $1", job_id)
    return {row["client_id"] for row in rows}


async def list_urls(conn: Connection, job_id: UUID, client_id: UUID) -> list[str]:
    """Return the webhook URLs that a client gave for the job."""
    rows = await conn.fetch(
        """select distinct webhook_url from subscriptions
           where job_id = $1 and client_id = $2 and webhook_url is not null""",
        job_id,
        client_id,
    )
    return [row["webhook_url"] for row in rows]


async def webhook_state(conn: Connection, job_id: UUID, client_id: UUID) -> WebhookState:
    """Return the state of the webhook that the client asked for last; all None when it asked for none."""
    row = await conn.fetchrow(
        """select s.webhook_url as url, d.attempts, d.last_error,
                  case when d.status = 'delivered' then d.finished_at end as sent_at
           from subscriptions s left join deliveries d on d.subscription_id = s.id
           where s.job_id = $1 and s.client_id = $2 and s.webhook_url is not null
           order by s.created_at desc limit 1""",
        job_id,
        client_id,
    )
    if row is None:
        return WebhookState(None, None, 0, None)
    return WebhookState(row["url"], row["sent_at"], row["attempts"] or 0, row["last_error"])
