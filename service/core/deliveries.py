"""Deliveries: one event each on its way to one place, on a schedule that survives everything."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from service.core import traceparent
from service.core.db import Connection
from service.core.states import DeliveryStatus

ENDPOINT_DISABLED = "the endpoint is disabled"


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery taken for one round of sending; `next_attempt_at` is the time this round was due.

    Attributes:
        url: the present one of its endpoint, or the one that came with the request.
        is_wanted: False when its endpoint was disabled or deleted meanwhile.
        job_traceparent: of the request that began the job it tells of, if it tells of one.
    """

    id: UUID
    client_id: UUID
    endpoint_id: UUID | None
    destination: UUID
    fence: int
    event: str
    payload: dict[str, Any]
    rounds: int
    redeliveries: int
    next_attempt_at: datetime
    url: str
    reference: str | None
    max_secrecy: int | None
    is_wanted: bool
    job_traceparent: str | None

    @property
    def message_id(self) -> str:
        """Its `webhook-id`: the same however often it is sent."""
        return message_id(self.id)

    @property
    def traceparent(self) -> str:
        """Of which trace it is a part: the job's, or one of its own."""
        return self.job_traceparent or traceparent.of_id(self.id)

    @property
    def is_repeat(self) -> bool:
        """Whether it was sent before, perhaps hours ago."""
        return self.rounds > 0 or self.redeliveries > 0


@dataclass(frozen=True, slots=True)
class Stock:
    """How many deliveries there are to be made.

    Attributes:
        oldest_s: for how long the first of those whose time has come has been due, if it is being sent too;
            None without any.
    """

    pending: int
    oldest_s: float | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request; `error` is the class of the failure when no answer came."""

    started_at: datetime
    duration_s: float
    status_code: int | None
    error: str | None
    answer: str


@dataclass(frozen=True, slots=True)
class Round:
    """How one round ended.

    Attributes:
        status: pending when it is to be tried again `delay_s` from now.
        attempts: the requests that were sent in it.
    """

    status: DeliveryStatus
    attempts: Sequence[Attempt]
    error: str | None
    delay_s: float = 0.0


def message_id(delivery_id: UUID) -> str:
    """Return the `webhook-id` of a delivery."""
    return f"msg_{delivery_id.hex}"


async def create_for_job(
    conn: Connection,
    job_id: UUID,
    *,
    event: str,
    payload: dict[str, Any],
    part: int = 0,
    subscription_ids: Sequence[UUID] | None = None,
) -> list[UUID]:
    """Write one delivery for each subscription that wants such events; return the destinations to ring for.

    A subscription that has its delivery of this event (and part) keeps it: the event is told once. What an
    endpoint misses while it is disabled is kept for it as dead.

    Args:
        subscription_ids: these and no others.
    """
    return await _destinations(
        conn,
        """insert into deliveries (client_id, endpoint_id, webhook_url, subscription_id, job_id, event, part,
                                   payload, status, last_error, finished_at)
           select s.client_id, s.endpoint_id, s.webhook_url, s.id, s.job_id, $2, $3, $4::json,
                  case when e.disabled_at is null then 'pending' else 'dead' end::delivery_status,
                  case when e.disabled_at is not null then $6 end,
                  case when e.disabled_at is not null then now() end
           from subscriptions s left join endpoints e on e.id = s.endpoint_id
           where s.job_id = $1 and $2 = any(coalesce(e.events, s.events)) and e.deleted_at is null
             and ($5::uuid[] is null or s.id = any($5))
           on conflict (subscription_id, event, part) do nothing returning destination, status""",
        job_id,
        event,
        part,
        payload,
        subscription_ids,
        ENDPOINT_DISABLED,
    )


async def create_for_batch(
    conn: Connection, batch_id: UUID, *, event: str, payload: dict[str, Any]
) -> list[UUID]:
    """Write the delivery that tells of a batch's end, if it is to be told; return where to ring for.

    Who names an endpoint for a batch wants to be told, whatever the endpoint's filter says.
    """
    return await _destinations(
        conn,
        """insert into deliveries (client_id, endpoint_id, webhook_url, batch_id, event, payload, status,
                                   last_error, finished_at)
           select b.client_id, b.endpoint_id, b.webhook_url, b.id, $2, $3::json,
                  case when e.disabled_at is null then 'pending' else 'dead' end::delivery_status,
                  case when e.disabled_at is not null then $4 end,
                  case when e.disabled_at is not null then now() end
           from batches b left join endpoints e on e.id = b.endpoint_id
           where b.id = $1 and coalesce(b.webhook_url, b.endpoint_id::text) is not null
             and e.deleted_at is null
           on conflict (batch_id, event) do nothing returning destination, status""",
        batch_id,
        event,
        payload,
        ENDPOINT_DISABLED,
    )


async def create_for_endpoints(
    conn: Connection, client_id: UUID, *, event: str, payload: dict[str, Any]
) -> list[UUID]:
    """Write one delivery for each endpoint of a client that wants such events and is enabled."""
    return await _destinations(
        conn,
        """insert into deliveries (client_id, endpoint_id, event, payload)
           select client_id, id, $2, $3::json from endpoints
           where client_id = $1 and $2 = any(events) and disabled_at is null and deleted_at is null
           returning destination, status""",
        client_id,
        event,
        payload,
    )


async def create_for_erased(
    conn: Connection, job_id: UUID, *, event: str, payload: dict[str, Any], but: UUID
) -> list[UUID]:
    """Write one delivery for each place that waits for the end of a job which is about to be erased.

    It belongs to no job: it outlives the one that it tells of.

    Args:
        but: the client who asked for the erasure.
    """
    return await _destinations(
        conn,
        """insert into deliveries (client_id, endpoint_id, webhook_url, event, payload)
           select place.*, $2, $3::json from (
               select distinct s.client_id, s.endpoint_id, s.webhook_url
               from subscriptions s left join endpoints e on e.id = s.endpoint_id
               where s.job_id = $1 and s.client_id <> $4 and e.disabled_at is null and e.deleted_at is null
                 and coalesce(s.webhook_url, s.endpoint_id::text) is not null) place
           returning destination, status""",
        job_id,
        event,
        payload,
        but,
    )


async def hurry(conn: Connection, subscription_id: UUID) -> list[UUID]:
    """Make what waits for its next round due now; return the destinations to ring for."""
    return await _destinations(
        conn,
        """update deliveries set next_attempt_at = now()
           where subscription_id = $1 and status = 'pending' and next_attempt_at > now()
             and coalesce(claimed_until < now(), true) returning destination, status""",
        subscription_id,
    )


async def claim(
    conn: Connection, counts: Mapping[UUID, int], *, hold_s: float, late_s: float = 1800.0
) -> list[Claimed]:
    """Take what is due at destinations for one round, of each so many at most and the longest due first.

    Args:
        late_s: a round that is later than this counts from now on, so that its links are fresh.
    """
    rows = await conn.fetch(
        """with due as (
               select one.id from unnest($1::uuid[], $2::int[]) as asked(destination, count)
               cross join lateral (
                   select id from deliveries
                   where destination = asked.destination and status = 'pending' and next_attempt_at <= now()
                     and (claimed_until is null or claimed_until < now())
                   order by next_attempt_at limit asked.count for no key update skip locked) one),
           claimed as (
               update deliveries d
               set fence = d.fence + 1, claimed_until = now() + $3::interval,
                   next_attempt_at = case when d.next_attempt_at < now() - $4::interval then now()
                                          else d.next_attempt_at end
               where d.id = any(array(select id from due)) returning d.*)
           select d.id, d.client_id, d.endpoint_id, d.destination, d.fence, d.event, d.payload, d.rounds,
                  d.redeliveries, d.next_attempt_at, coalesce(e.url, d.webhook_url) as url,
                  coalesce(s.reference, b.reference) as reference, c.max_secrecy,
                  e.disabled_at is null and e.deleted_at is null as is_wanted, j.traceparent
           from claimed d join clients c on c.id = d.client_id left join jobs j on j.id = d.job_id
                left join endpoints e on e.id = d.endpoint_id
                left join subscriptions s on s.id = d.subscription_id
                left join batches b on b.id = d.batch_id""",
        list(counts),
        list(counts.values()),
        timedelta(seconds=hold_s),
        timedelta(seconds=late_s),
    )
    return [Claimed(*row) for row in rows]


async def record_rounds(conn: Connection, rounds: Sequence[tuple[Claimed, Round]]) -> set[UUID]:
    """Write how rounds ended, with their attempts; return those that no other sender has taken over since."""
    made = [
        (claimed.id, number, attempt)
        for claimed, ended in rounds
        for number, attempt in enumerate(ended.attempts, 1)
    ]
    rows = await conn.fetch(
        """with ended as (
               update deliveries d
               set status = r.status, attempts = d.attempts + r.made, rounds = d.rounds + 1,
                   last_status_code = r.status_code, last_error = r.error, claimed_until = null,
                   next_attempt_at = case when r.status = 'pending' then now() + r.delay
                                          else d.next_attempt_at end,
                   delivered_at = case when r.status = 'delivered' then coalesce(d.delivered_at, now())
                                       else d.delivered_at end,
                   finished_at = case when r.status = 'pending' then null else now() end
               from unnest($1::uuid[], $2::bigint[], $3::delivery_status[], $4::int[], $5::smallint[],
                           $6::text[], $7::interval[])
                    as r(id, fence, status, made, status_code, error, delay)
               where d.id = r.id and d.fence = r.fence and d.status = 'pending'
               returning d.id, d.attempts - r.made as before),
           kept as (
               insert into delivery_attempts (delivery_id, number, started_at, duration_ms, status_code,
                                              error, answer)
               select e.id, e.before + a.number, a.started_at, a.duration_ms, a.status_code, a.error, a.answer
               from ended e join unnest($8::uuid[], $9::int[], $10::timestamptz[], $11::real[],
                                        $12::smallint[], $13::text[], $14::text[])
                    as a(id, number, started_at, duration_ms, status_code, error, answer) on a.id = e.id)
           select id from ended""",
        [claimed.id for claimed, _ in rounds],
        [claimed.fence for claimed, _ in rounds],
        [ended.status for _, ended in rounds],
        [len(ended.attempts) for _, ended in rounds],
        [ended.attempts[-1].status_code if ended.attempts else None for _, ended in rounds],
        [ended.error for _, ended in rounds],
        [timedelta(seconds=ended.delay_s) for _, ended in rounds],
        [delivery_id for delivery_id, _, _ in made],
        [number for _, number, _ in made],
        [one.started_at for _, _, one in made],
        [one.duration_s * 1000 for _, _, one in made],
        [one.status_code for _, _, one in made],
        [one.error for _, _, one in made],
        [one.answer for _, _, one in made],
    )
    return {row["id"] for row in rows}


async def give_up_for_endpoint(conn: Connection, endpoint_id: UUID, reason: str) -> None:
    """pending → dead for all that waits for an endpoint; the caller has locked it.

    What is being sent at the moment ends as its receiver says.
    """
    await conn.execute(
        """update deliveries set status = 'dead', last_error = $2, claimed_until = null, finished_at = now()
           where endpoint_id = $1 and status = 'pending' and coalesce(claimed_until < now(), true)""",
        endpoint_id,
        reason,
    )


async def count_of_jobs(conn: Connection, job_ids: Sequence[UUID], client_id: UUID | None) -> int:
    """Return how many deliveries tell of jobs: a client's, or those of all clients when None."""
    count: int = await conn.fetchval(
        """select count(*) from deliveries
           where job_id = any($1::uuid[]) and ($2::uuid is null or client_id = $2)""",
        job_ids,
        client_id,
    )
    return count


async def forget(
    conn: Connection,
    *,
    job_ids: Sequence[UUID] = (),
    batch_ids: Sequence[UUID] = (),
    client_id: UUID | None = None,
) -> None:
    """Delete the deliveries of jobs and of batches, with their attempts.

    Args:
        client_id: whose; None for those of all clients.
    """
    rows = await conn.fetch(
        """select id from deliveries
           where id in (select id from deliveries where job_id = any($1::uuid[])
                        union select id from deliveries where batch_id = any($2::uuid[]))
             and ($3::uuid is null or client_id = $3)
           order by id for update""",
        job_ids,
        batch_ids,
        client_id,
    )
    await _delete(conn, rows)


async def forget_of_nothing(conn: Connection, *, ended_before: datetime, limit: int) -> int:
    """Delete some deliveries that belong to no job and no batch, with their attempts; return how many."""
    rows = await conn.fetch(
        """select id from deliveries
           where job_id is null and batch_id is null and finished_at < $1
           order by finished_at limit $2 for update skip locked""",
        ended_before,
        limit,
    )
    await _delete(conn, rows)
    return len(rows)


async def _delete(conn: Connection, locked: Sequence[asyncpg.Record]) -> None:
    """Delete deliveries, with the attempts that whoever held them before us has noted."""
    await conn.execute(
        """with attempts as (delete from delivery_attempts where delivery_id = any($1::uuid[]))
           delete from deliveries where id = any($1::uuid[])""",
        [row["id"] for row in locked],
    )


async def list_due_destinations(conn: Connection, *, but: Collection[UUID], limit: int) -> list[UUID]:
    """Return where something is due that nobody is sending; of each destination the index is read once."""
    rows = await conn.fetch(
        """with recursive waiting as (
               (select destination from deliveries where status = 'pending' order by destination limit 1)
               union all
               select (select d.destination from deliveries d
                       where d.status = 'pending' and d.destination > w.destination
                       order by d.destination limit 1)
               from waiting w where w.destination is not null)
           select destination from waiting w
           where destination <> all($1::uuid[]) and exists (
               select from deliveries d
               where d.destination = w.destination and d.status = 'pending' and d.next_attempt_at <= now()
                 and (d.claimed_until is null or d.claimed_until < now()))
           limit $2""",
        list(but),
        limit,
    )
    return [row["destination"] for row in rows]


async def take_stock(conn: Connection) -> Stock:
    """Count the deliveries that are still to be made; of the others, none is read."""
    (row,) = await conn.fetch(
        """select count(*), extract(epoch from now() - min(next_attempt_at)
                                                      filter (where next_attempt_at <= now()))::float8
           from deliveries where status = 'pending'"""
    )
    return Stock(*row)


async def _destinations(conn: Connection, statement: str, *arguments: object) -> list[UUID]:
    rows = await conn.fetch(statement, *arguments)
    return list(dict.fromkeys(row["destination"] for row in rows if row["status"] == "pending"))
