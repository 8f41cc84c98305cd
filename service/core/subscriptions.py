"""Subscriptions: one caller's interest in a job, with the webhook it wants to be told by."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from service.core.db import Connection


@dataclass(frozen=True, slots=True)
class NewSubscription:
    """What a client wants to be told of, where, and by which name of its own."""

    job_id: UUID
    job_created_at: datetime
    webhook_url: str | None
    reference: str | None

    @property
    def sameness(self) -> tuple[UUID, str | None, str | None]:
        """What a repeated call has in common with the first."""
        return self.job_id, self.webhook_url, self.reference


@dataclass(frozen=True, slots=True)
class Subscription:
    """One row; without `webhook_url` the caller polls."""

    id: UUID
    job_id: UUID
    client_id: UUID
    webhook_url: str | None
    reference: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WebhookState:
    """What has become of the webhook that a client asked for; `url` still has its query."""

    url: str | None
    sent_at: datetime | None
    attempts: int
    last_error: str | None
    reference: str | None


NO_WEBHOOK = WebhookState(None, None, 0, None, None)

_COLUMNS = "id, job_id, client_id, webhook_url, reference, created_at"


async def add(conn: Connection, wanted: Sequence[NewSubscription], client_id: UUID) -> list[UUID]:
    """Return the ids of the client's subscriptions, in order, written where there is none yet.

    A call repeated while the job runs, or while its webhook still waits to be sent, is told once. A call
    after that wants to be told again; so does one that meets a sending under way, which may have arrived
    before the call. The caller holds the processes' locks, so two cannot pass here at once.
    """
    rows = await conn.fetch(
        """select s.id, s.job_id, s.webhook_url, s.reference
           from subscriptions s left join deliveries d on d.subscription_id = s.id
           where s.client_id = $1 and s.job_id = any($2::uuid[])
             and (s.webhook_url is null or d.id is null
                  or (d.status = 'pending' and coalesce(d.claimed_until < now(), true)))""",
        client_id,
        [one.job_id for one in wanted],
    )
    ids = {(row["job_id"], row["webhook_url"], row["reference"]): row["id"] for row in rows}
    new = {one.sameness: one for one in wanted if one.sameness not in ids}
    ids |= {sameness: uuid4() for sameness in new}
    await conn.execute(
        """insert into subscriptions (id, job_id, client_id, webhook_url, reference, job_created_at)
           select id, job_id, $1, webhook_url, reference, job_created_at
           from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::timestamptz[])
                as r(id, job_id, webhook_url, reference, job_created_at)""",
        client_id,
        [ids[sameness] for sameness in new],
        [one.job_id for one in new.values()],
        [one.webhook_url for one in new.values()],
        [one.reference for one in new.values()],
        [one.job_created_at for one in new.values()],
    )
    return [ids[one.sameness] for one in wanted]


async def list_with_webhook(conn: Connection, job_id: UUID) -> list[Subscription]:
    """Return the job's subscriptions that want a webhook."""
    rows = await conn.fetch(
        f"select {_COLUMNS} from subscriptions where job_id = $1 and webhook_url is not null", job_id
    )
    return [Subscription(**row) for row in rows]


async def list_of_client(conn: Connection, job_id: UUID, client_id: UUID) -> list[Subscription]:
    """Return what a client asked for of this job, each URL and reference once, the oldest first."""
    rows = await conn.fetch(
        f"""select distinct on (webhook_url, reference) {_COLUMNS} from subscriptions
            where job_id = $1 and client_id = $2 order by webhook_url, reference, created_at""",
        job_id,
        client_id,
    )
    return sorted((Subscription(**row) for row in rows), key=lambda one: one.created_at)


async def list_clients(conn: Connection, job_id: UUID) -> set[UUID]:
    """Return the clients that wait for the job."""
    rows = await conn.fetch("select distinct client_id from subscriptions where job_id = $1", job_id)
    return {row["client_id"] for row in rows}


async def webhook_state(conn: Connection, job_id: UUID, client_id: UUID) -> WebhookState:
    """Return the state of the webhook that the client asked for last; see `webhook_states`."""
    return (await webhook_states(conn, [job_id], client_id))[job_id]


async def webhook_states(
    conn: Connection, job_ids: Sequence[UUID], client_id: UUID
) -> dict[UUID, WebhookState]:
    """Return for each job the webhook that the client asked for last, and the reference it gave last."""
    rows = await conn.fetch(
        """select distinct on (s.job_id) s.job_id, s.webhook_url as url, d.attempts, d.last_error,
                  case when d.status = 'delivered' then d.finished_at end as sent_at,
                  first_value(s.reference) over (
                      partition by s.job_id order by s.reference is null, s.created_at desc) as reference
           from subscriptions s left join deliveries d on d.subscription_id = s.id
           where s.job_id = any($1::uuid[]) and s.client_id = $2
           order by s.job_id, s.webhook_url is null, s.created_at desc""",
        job_ids,
        client_id,
    )
    states = dict.fromkeys(job_ids, NO_WEBHOOK)
    for row in rows:
        states[row["job_id"]] = WebhookState(
            row["url"], row["sent_at"], row["attempts"] or 0, row["last_error"], row["reference"]
        )
    return states
