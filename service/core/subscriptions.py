"""Subscriptions: one caller's interest in a job, with the webhook it wants to be told by."""

from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from uuid import UUID, uuid4

import asyncpg
import orjson

from service.core.db import Connection
from service.core.states import Priority
from service.core.wishes import Filters, widened


@dataclass(frozen=True, slots=True)
class NewSubscription:
    """What a client wants of a job, where it is told, and by which name of its own."""

    job_id: UUID
    job_created_at: datetime
    webhook_url: str | None
    endpoint_id: UUID | None
    events: tuple[str, ...] | None
    reference: str | None
    priority: Priority = Priority.NORMAL
    filters: Filters = None

    @property
    def is_told(self) -> bool:
        """Whether it names a place for webhooks."""
        return self.webhook_url is not None or self.endpoint_id is not None

    @property
    def sameness(self) -> tuple[object, ...]:
        """What a repeated call has in common with the first."""
        return self.job_id, self.webhook_url, self.endpoint_id, self.events, self.reference

    def after(self, before: "NewSubscription | _Same | None") -> "NewSubscription":
        """Return it with what the same call asked for before."""
        if before is None:
            return self
        return replace(
            self,
            priority=Priority.first(before.priority, self.priority),
            filters=widened(before.filters, self.filters),
        )


@dataclass(frozen=True, slots=True)
class _Same:
    """What is written of a subscription that serves for a repeated call too."""

    id: UUID
    priority: Priority
    filters: Filters


@dataclass(frozen=True, slots=True)
class Subscription:
    """One row; with neither `webhook_url` nor `endpoint_id` the caller polls."""

    id: UUID
    job_id: UUID
    client_id: UUID
    webhook_url: str | None
    endpoint_id: UUID | None
    events: tuple[str, ...] | None
    reference: str | None
    created_at: datetime

    @property
    def is_told(self) -> bool:
        """Whether it names a place for webhooks."""
        return self.webhook_url is not None or self.endpoint_id is not None


@dataclass(frozen=True, slots=True)
class Wanting:
    """Subscriptions that want one type of event and were told as much of it: up to this part."""

    event: str
    told_part: int
    subscription_ids: list[UUID]


@dataclass(frozen=True, slots=True)
class WebhookState:
    """What has become of the webhook that a client asked for; `url` still has its query.

    An endpoint's URL is the one that it has now. With it what else the client asked for himself: the job may
    have a higher priority and wider filters, for others.
    """

    url: str | None
    endpoint_id: UUID | None
    sent_at: datetime | None
    attempts: int
    last_error: str | None
    reference: str | None
    priority: Priority
    filters: Filters


NO_WEBHOOK = WebhookState(None, None, None, 0, None, None, Priority.NORMAL, None)

OF_THE_END = "d.subscription_id = s.id and d.event like 'job.%' and d.event <> 'job.started'"
"""Joins a subscription `s` with the delivery `d` that tells of its job's end; there is one at most."""

_COLUMNS = "id, job_id, client_id, webhook_url, endpoint_id, events, reference, created_at"


async def add(
    conn: Connection, wanted: Sequence[NewSubscription], client_id: UUID, *, new_jobs: Set[UUID]
) -> list[UUID]:
    """Return the ids of the client's subscriptions, in order, written where there is none yet.

    A call repeated while the job runs, or while its webhook still waits to be sent, is told once. A call
    after that wants to be told again; so does one that meets a sending under way, which may have arrived
    before the call. The caller holds the processes' locks, so two cannot pass here at once.

    Args:
        new_jobs: those that were made in this transaction: nobody can have subscribed to them.
    """
    known = await _find_same(conn, {one.job_id for one in wanted} - new_jobs, client_id)
    asked: dict[tuple[object, ...], NewSubscription] = {}
    for one in wanted:
        asked[one.sameness] = one.after(asked.get(one.sameness) or known.get(one.sameness))
    ids = {sameness: known[sameness].id if sameness in known else uuid4() for sameness in asked}
    new = {
        sameness: one
        for sameness, one in asked.items()
        if sameness not in known or known[sameness] != _Same(ids[sameness], one.priority, one.filters)
    }
    await conn.execute(
        """insert into subscriptions (id, job_id, client_id, webhook_url, endpoint_id, events, reference,
                                      job_created_at, priority, filters)
           select id, job_id, $1, webhook_url, endpoint_id, string_to_array(events, ','), reference,
                  job_created_at, priority, filters::jsonb
           from unnest($2::uuid[], $3::uuid[], $4::text[], $5::uuid[], $6::text[], $7::text[],
                       $8::timestamptz[], $9::job_priority[], $10::text[])
                as r(id, job_id, webhook_url, endpoint_id, events, reference, job_created_at, priority,
                     filters)
           on conflict (id) do update set priority = excluded.priority, filters = excluded.filters""",
        client_id,
        [ids[sameness] for sameness in new],
        [one.job_id for one in new.values()],
        [one.webhook_url for one in new.values()],
        [one.endpoint_id for one in new.values()],
        [None if one.events is None else ",".join(one.events) for one in new.values()],
        [one.reference for one in new.values()],
        [one.job_created_at for one in new.values()],
        [one.priority for one in new.values()],
        # Not as jsonb: asyncpg takes a list in a list for a second dimension.
        [orjson.dumps(one.filters).decode() if one.filters else None for one in new.values()],
    )
    return [ids[one.sameness] for one in wanted]


async def _find_same(
    conn: Connection, job_ids: Set[UUID], client_id: UUID
) -> dict[tuple[object, ...], _Same]:
    """Return the client's subscriptions that serve for a repeated call too, each by its sameness."""
    if not job_ids:
        return {}
    rows = await conn.fetch(
        f"""select s.id, s.job_id, s.webhook_url, s.endpoint_id, s.events, s.reference, s.priority, s.filters
            from subscriptions s left join deliveries d on {OF_THE_END}
            where s.client_id = $1 and s.job_id = any($2::uuid[])
              and (coalesce(s.webhook_url, s.endpoint_id::text) is null or d.id is null
                   or (d.status = 'pending' and coalesce(d.claimed_until < now(), true)))""",
        client_id,
        list(job_ids),
    )
    return {_sameness(row): _Same(row["id"], Priority(row["priority"]), row["filters"]) for row in rows}


async def forget(conn: Connection, job_ids: Sequence[UUID], client_id: UUID | None = None) -> None:
    """Delete the subscriptions to jobs, whose deliveries are gone: all of them, or those of one client."""
    await conn.execute(
        """delete from subscriptions
           where job_id = any($1::uuid[]) and ($2::uuid is null or client_id = $2)""",
        job_ids,
        client_id,
    )


async def is_anyone_told(conn: Connection, job_id: UUID) -> bool:
    """Whether any subscription to the job names a place for webhooks."""
    told: bool = await conn.fetchval(
        """select exists (select from subscriptions
                          where job_id = $1 and coalesce(webhook_url, endpoint_id::text) is not null)""",
        job_id,
    )
    return told


async def is_anyone_else(conn: Connection, number: str, client_id: UUID) -> bool:
    """Whether another client has a subscription to any job of the process."""
    is_so: bool = await conn.fetchval(
        """select exists (select from jobs j join subscriptions s on s.job_id = j.id
                          where j.process_number = $1 and s.client_id <> $2)""",
        number,
        client_id,
    )
    return is_so


async def list_wanting(conn: Connection, job_id: UUID, events: Sequence[str]) -> list[Wanting]:
    """Return who of the job's subscribers wants events of these types, by how much of them it was told."""
    rows = await conn.fetch(
        """select event, told_part, array_agg(id) as subscription_ids from (
               select s.id, w.event, coalesce((select max(part) from deliveries d
                      where d.subscription_id = s.id and d.event = w.event), 0) as told_part
               from subscriptions s left join endpoints e on e.id = s.endpoint_id
                    join unnest($2::text[]) w(event) on w.event = any(coalesce(e.events, s.events))
               where s.job_id = $1 and e.deleted_at is null) wanting
           group by event, told_part""",
        job_id,
        events,
    )
    return [Wanting(**row) for row in rows]


async def list_of_client(conn: Connection, job_id: UUID, client_id: UUID) -> list[Subscription]:
    """Return what a client asked for of this job, each place and reference once, the oldest first."""
    rows = await conn.fetch(
        f"""select distinct on (webhook_url, endpoint_id, reference) {_COLUMNS} from subscriptions
            where job_id = $1 and client_id = $2
            order by webhook_url, endpoint_id, reference, created_at""",
        job_id,
        client_id,
    )
    asked = [Subscription(**{**row, "events": _events(row)}) for row in rows]
    return sorted(asked, key=lambda one: one.created_at)


async def list_clients(conn: Connection, job_id: UUID) -> set[UUID]:
    """Return the clients that wait for the job."""
    rows = await conn.fetch("select distinct client_id from subscriptions where job_id = $1", job_id)
    return {row["client_id"] for row in rows}


async def find_clients(conn: Connection, job_ids: Sequence[UUID]) -> dict[UUID, set[UUID]]:
    """Return for each job the clients that subscribed to it."""
    rows = await conn.fetch(
        "select distinct job_id, client_id from subscriptions where job_id = any($1::uuid[])", job_ids
    )
    found = defaultdict[UUID, set[UUID]](set)
    for row in rows:
        found[row["job_id"]].add(row["client_id"])
    return found


async def webhook_state(conn: Connection, job_id: UUID, client_id: UUID) -> WebhookState:
    """Return the state of the webhook that the client asked for last; see `find_webhook_states`."""
    return (await find_webhook_states(conn, [(job_id, client_id)]))[job_id, client_id]


async def webhook_states(
    conn: Connection, job_ids: Sequence[UUID], client_id: UUID
) -> dict[UUID, WebhookState]:
    """Return the states of the webhooks of one client's jobs; see `find_webhook_states`."""
    states = await find_webhook_states(conn, [(job_id, client_id) for job_id in job_ids])
    return {job_id: state for (job_id, _), state in states.items()}


async def find_webhook_states(
    conn: Connection, asked: Sequence[tuple[UUID, UUID]]
) -> dict[tuple[UUID, UUID], WebhookState]:
    """Return for each job and client the webhook that he asked for last, and the reference he gave last.

    Priority and filters are those of all that he asked for.
    """
    rows = await conn.fetch(
        f"""select distinct on (s.job_id, s.client_id) s.job_id, s.client_id,
                  coalesce(e.url, s.webhook_url) as url, s.endpoint_id,
                  d.attempts, d.last_error, d.delivered_at as sent_at,
                  first_value(s.reference) over (
                      partition by s.job_id, s.client_id order by s.reference is null, s.created_at desc
                  ) as reference,
                  min(s.priority) over his as priority, jsonb_agg(s.filters) over his as filters
           from unnest($1::uuid[], $2::uuid[]) as asked(job_id, client_id)
                join subscriptions s using (job_id, client_id)
                left join deliveries d on {OF_THE_END}
                left join endpoints e on e.id = s.endpoint_id
           window his as (partition by s.job_id, s.client_id order by s.created_at
                          rows between unbounded preceding and unbounded following)
           order by s.job_id, s.client_id, coalesce(s.webhook_url, s.endpoint_id::text) is null,
                    s.created_at desc""",
        [job_id for job_id, _ in asked],
        [client_id for _, client_id in asked],
    )
    states = dict.fromkeys(asked, NO_WEBHOOK)
    for row in rows:
        states[row["job_id"], row["client_id"]] = WebhookState(
            row["url"],
            row["endpoint_id"],
            row["sent_at"],
            row["attempts"] or 0,
            row["last_error"],
            row["reference"],
            Priority(row["priority"]),
            reduce(widened, row["filters"]),
        )
    return states


def _sameness(row: asyncpg.Record) -> tuple[object, ...]:
    return row["job_id"], row["webhook_url"], row["endpoint_id"], _events(row), row["reference"]


def _events(row: asyncpg.Record) -> tuple[str, ...] | None:
    return None if row["events"] is None else tuple(row["events"])
