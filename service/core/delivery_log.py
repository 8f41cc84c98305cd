"""The delivery log, as a client sees it: what was sent to it, what came of it, and sending it again."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from service.core.db import Connection
from service.core.errors import EndpointDisabledError, NotFoundError
from service.core.states import DeliveryStatus

MOST_AT_ONCE = 10_000
"""Deliveries that one call sends again."""


@dataclass(frozen=True, slots=True)
class Logged:
    """One delivery; `url` still has its query."""

    id: UUID
    event: str
    status: DeliveryStatus
    url: str
    endpoint_id: UUID | None
    job_id: UUID | None
    batch_id: UUID | None
    attempts: int
    redeliveries: int
    next_attempt_at: datetime
    last_status_code: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """One request of a delivery; `error` is the class of the failure when no answer came."""

    number: int
    started_at: datetime
    duration_ms: float
    status_code: int | None
    error: str | None
    answer: str


@dataclass(frozen=True, slots=True)
class Search:
    """Which deliveries; None does not matter.

    Attributes:
        after: the time and id of the last one of the page before.
    """

    statuses: Sequence[DeliveryStatus] | None = None
    event: str | None = None
    endpoint_id: UUID | None = None
    job_id: UUID | None = None
    batch_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: tuple[datetime, UUID] | None = None


@dataclass(frozen=True, slots=True)
class Redelivered:
    """What is sent again; `next_since` is where the next call goes on when this one did not reach the end."""

    count: int
    destinations: list[UUID]
    next_since: datetime | None


_COLUMNS = """d.id, d.event, d.status, coalesce(e.url, d.webhook_url) as url, d.endpoint_id, d.job_id,
    d.batch_id, d.attempts, d.redeliveries, d.next_attempt_at, d.last_status_code, d.last_error,
    d.created_at, d.delivered_at, d.finished_at"""
_TABLES = "deliveries d left join endpoints e on e.id = d.endpoint_id"
_FIT = """d.client_id = $1 and ($2::delivery_status[] is null or d.status = any($2))
    and ($3::text is null or d.event = $3) and ($4::uuid is null or d.endpoint_id = $4)
    and ($5::uuid is null or d.job_id = $5) and ($6::uuid is null or d.batch_id = $6)
    and ($7::timestamptz is null or d.created_at >= $7) and ($8::timestamptz is null or d.created_at < $8)"""


async def list_found(conn: Connection, search: Search, client_id: UUID, *, limit: int) -> list[Logged]:
    """Return the client's deliveries that fit, the newest first."""
    rows = await conn.fetch(
        f"""select {_COLUMNS} from {_TABLES}
            where {_FIT} and ($9::timestamptz is null or (d.created_at, d.id) < ($9, $10::uuid))
            order by d.created_at desc, d.id desc limit $11""",
        *_arguments(search, client_id),
        *(search.after or (None, None)),
        limit,
    )
    return [_logged(row) for row in rows]


async def list_given_up(conn: Connection, *, since: datetime, limit: int) -> list[Logged]:
    """Return what was made since and given up, whoever's it is, what was given up last first."""
    rows = await conn.fetch(
        f"""select {_COLUMNS} from {_TABLES}
            where d.status = 'dead' and d.finished_at >= $1 and d.created_at >= $1
            order by d.finished_at desc limit $2""",
        since,
        limit,
    )
    return [_logged(row) for row in rows]


async def find_clients(conn: Connection, delivery_ids: Collection[UUID]) -> dict[UUID, Sequence[str]]:
    """Return the name of the client that each of the deliveries is of, for an operator."""
    rows = await conn.fetch(
        """select d.id, c.name from deliveries d join clients c on c.id = d.client_id
           where d.id = any($1::uuid[])""",
        list(delivery_ids),
    )
    return {row["id"]: [row["name"]] for row in rows}


async def count_undelivered(conn: Connection, client_id: UUID | None) -> tuple[int, int]:
    """Return how many deliveries are pending, and how many were given up within the last day.

    Args:
        client_id: whose; None for those of all clients.
    """
    # Each is a walk over what is pending, or was given up of late, whoever's it is (`offset 0` keeps it so):
    # by the client it would be one over all that he ever had.
    (row,) = await conn.fetch(
        """select (select count(*) from (
                       select client_id from deliveries where status = 'pending' offset 0
                   ) found where $1::uuid is null or client_id = $1) as pending,
                  (select count(*) from (
                       select client_id from deliveries
                       where status = 'dead' and finished_at > now() - interval '1 day' offset 0
                   ) found where $1::uuid is null or client_id = $1) as dead""",
        client_id,
    )
    return row["pending"], row["dead"]


async def get(conn: Connection, delivery_id: UUID, client_id: UUID) -> tuple[Logged, dict[str, Any]]:
    """Return a delivery of this client, and the event as it is stored.

    Raises:
        NotFoundError: no such delivery, or somebody else's.
    """
    row = await conn.fetchrow(
        f"select {_COLUMNS}, d.payload from {_TABLES} where d.id = $1 and d.client_id = $2",
        delivery_id,
        client_id,
    )
    if row is None:
        raise NotFoundError("no such delivery")
    return _logged(row), row["payload"]


async def list_attempts(conn: Connection, delivery_id: UUID) -> list[LoggedAttempt]:
    """Return the requests of a delivery, the newest first."""
    rows = await conn.fetch(
        """select number, started_at, duration_ms, status_code, error, answer from delivery_attempts
           where delivery_id = $1 order by number desc limit 200""",
        delivery_id,
    )
    return [LoggedAttempt(**row) for row in rows]


async def redeliver(conn: Connection, delivery_id: UUID, client_id: UUID) -> list[UUID]:
    """Send one again from the start of the schedule, or now what waits; return the destination to ring for.

    Raises:
        NotFoundError: no such delivery, or somebody else's.
        EndpointDisabledError: its endpoint takes nothing now.
    """
    row = await conn.fetchrow(
        f"""select e.disabled_at is null and e.deleted_at is null as is_open from {_TABLES}
            where d.id = $1 and d.client_id = $2""",
        delivery_id,
        client_id,
    )
    if row is None:
        raise NotFoundError("no such delivery")
    if not row["is_open"]:
        raise EndpointDisabledError("nothing is sent to the endpoint: it is disabled or deleted")
    rows = await conn.fetch(
        """update deliveries
           set redeliveries = redeliveries + (status <> 'pending')::int,
               rounds = case when status = 'pending' then rounds else 0 end,
               status = 'pending', next_attempt_at = now(), finished_at = null
           where id = $1 and (claimed_until is null or claimed_until < now()) returning destination""",
        delivery_id,
    )
    return [row["destination"] for row in rows]


async def redeliver_many(conn: Connection, search: Search, client_id: UUID) -> Redelivered:
    """Send all that fit again, the oldest first, but none to an endpoint that is disabled."""
    rows = await conn.fetch(
        f"""with found as (
                select d.id, d.created_at from {_TABLES}
                where {_FIT} and d.status <> 'pending' and e.disabled_at is null and e.deleted_at is null
                order by d.created_at, d.id limit $9),
            kept as (select id from found order by created_at, id limit $9 - 1)
            update deliveries d
            set redeliveries = redeliveries + 1, rounds = 0, status = 'pending', next_attempt_at = now(),
                finished_at = null
            from kept where d.id = kept.id and d.status <> 'pending'
            returning d.destination,
                case when (select count(*) from found) = $9 then (select max(created_at) from found) end
                    as next_since""",
        *_arguments(search, client_id),
        MOST_AT_ONCE + 1,
    )
    destinations = list(dict.fromkeys(row["destination"] for row in rows))
    return Redelivered(len(rows), destinations, rows[0]["next_since"] if rows else None)


def _arguments(search: Search, client_id: UUID) -> tuple[object, ...]:
    return (
        client_id,
        search.statuses,
        search.event,
        search.endpoint_id,
        search.job_id,
        search.batch_id,
        search.since,
        search.until,
    )


def _logged(row: asyncpg.Record) -> Logged:
    columns = {name: value for name, value in row.items() if name != "payload"}
    return Logged(**{**columns, "status": DeliveryStatus(row["status"])})
