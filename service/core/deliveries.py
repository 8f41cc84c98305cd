"""Deliveries: one event each on its way to one URL, on a schedule that survives everything."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from service.core.db import Connection
from service.core.states import DeliveryStatus


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery taken for one round of sending; `next_attempt_at` is the time this round was due."""

    id: UUID
    fence: int
    event: str
    payload: dict[str, Any]
    rounds: int
    next_attempt_at: datetime
    webhook_url: str
    webhook_secret: bytes
    reference: str | None
    max_secrecy: int | None


@dataclass(frozen=True, slots=True)
class Round:
    """How one round ended.

    Attributes:
        status: pending when it is to be tried again `delay_s` from now.
        requests: how many requests were sent in it.
    """

    status: DeliveryStatus
    requests: int
    status_code: int | None
    error: str | None
    delay_s: float = 0.0


async def create(
    conn: Connection, subscription_ids: Sequence[UUID], *, event: str, payload: dict[str, Any]
) -> list[UUID]:
    """Write one delivery per subscription and return the ids of the new ones.

    A subscription that has its delivery of this event keeps it: the event is told once.
    """
    rows = await conn.fetch(
        """insert into deliveries (subscription_id, event, payload, ring_at)
           select s, $2, $3::json, now() + interval '2 s' from unnest($1::uuid[]) s
           on conflict (subscription_id, event) do nothing returning id""",
        subscription_ids,
        event,
        payload,
    )
    return [row["id"] for row in rows]


async def create_for_batch(
    conn: Connection, batch_id: UUID, *, event: str, payload: dict[str, Any]
) -> list[UUID]:
    """Write the delivery that tells of a batch's end; return its id."""
    rows = await conn.fetch(
        """insert into deliveries (batch_id, event, payload, ring_at)
           values ($1, $2, $3::json, now() + interval '2 s') returning id""",
        batch_id,
        event,
        payload,
    )
    return [row["id"] for row in rows]


async def hurry(conn: Connection, subscription_id: UUID) -> list[UUID]:
    """Make what waits for its next round due now; return the ids, to ring for."""
    rows = await conn.fetch(
        """update deliveries set next_attempt_at = now(), ring_at = now() + interval '2 s'
           where subscription_id = $1 and status = 'pending' and next_attempt_at > now()
             and coalesce(claimed_until < now(), true) returning id""",
        subscription_id,
    )
    return [row["id"] for row in rows]


async def claim(
    conn: Connection, delivery_id: UUID, *, hold_s: float, late_s: float = 1800.0
) -> Claimed | None:
    """Take a due delivery for one round; None when another sender has it, it is done, or not due.

    Args:
        late_s: a round that is later than this counts from now on, so that its links are fresh.
    """
    row = await conn.fetchrow(
        """update deliveries d
           set fence = d.fence + 1, claimed_until = now() + $2::interval, ring_at = now() + $2::interval,
               next_attempt_at = case when d.next_attempt_at < now() - $3::interval then now()
                                      else d.next_attempt_at end
           from (select id, client_id, webhook_url, reference from subscriptions
                 union all select id, client_id, webhook_url, reference from batches) s
                join clients c on c.id = s.client_id
           where d.id = $1 and s.id = coalesce(d.subscription_id, d.batch_id) and d.status = 'pending'
             and d.next_attempt_at <= now() and (d.claimed_until is null or d.claimed_until < now())
           returning d.id, d.fence, d.event, d.payload, d.rounds, d.next_attempt_at,
                     s.webhook_url, c.webhook_secret, s.reference, c.max_secrecy""",
        delivery_id,
        timedelta(seconds=hold_s),
        timedelta(seconds=late_s),
    )
    return None if row is None else Claimed(**row)


async def put_back(conn: Connection, claimed: Claimed, *, delay_s: float) -> None:
    """Give a claim up before anything was sent; it is rung for again `delay_s` from now."""
    await conn.execute(
        """update deliveries set claimed_until = null, ring_at = now() + $3::interval
           where id = $1 and fence = $2 and status = 'pending'""",
        claimed.id,
        claimed.fence,
        timedelta(seconds=delay_s),
    )


async def record_round(conn: Connection, claimed: Claimed, ended: Round) -> bool:
    """Write how a round ended; False when the claim had run out and another sender took over."""
    done = await conn.fetchval(
        """update deliveries
           set status = $3::delivery_status, attempts = attempts + $4, rounds = rounds + 1,
               last_status_code = $5, last_error = $6, claimed_until = null,
               next_attempt_at = case when $3::delivery_status = 'pending' then now() + $7::interval
                                      else next_attempt_at end,
               ring_at = now() + $7::interval,
               finished_at = case when $3::delivery_status = 'pending' then null else now() end
           where id = $1 and fence = $2 and status = 'pending' returning id""",
        claimed.id,
        claimed.fence,
        ended.status,
        ended.requests,
        ended.status_code,
        ended.error,
        timedelta(seconds=ended.delay_s),
    )
    return done is not None


async def list_to_ring(conn: Connection, *, again_s: float, limit: int) -> list[tuple[UUID, int]]:
    """Return (id, fence) of deliveries due that nobody was rung for lately; each again `again_s` later."""
    rows = await conn.fetch(
        """update deliveries set ring_at = now() + $1::interval
           where id in (select id from deliveries where status = 'pending' and ring_at <= now()
                        order by ring_at limit $2 for no key update skip locked)
           returning id, fence""",
        timedelta(seconds=again_s),
        limit,
    )
    return [(row["id"], row["fence"]) for row in rows]
