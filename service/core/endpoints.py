"""Endpoints: places of a client's that are told of events, each with a secret and a filter of its own."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import asyncpg

from service.core.db import Connection
from service.core.errors import NotFoundError, TooManyEndpointsError

MOST_ENDPOINTS = 100
"""Of one client."""

# The longest pause of the schedule is a day: who failed before that and now again has failed all along only
# when it was asked in between.
_MEMORY = timedelta(hours=48)


class DisabledReason(StrEnum):
    """Why nothing is sent to an endpoint."""

    BY_HAND = "by_hand"
    GONE = "gone"
    """It answered 410."""
    FAILING = "failing"
    """Nothing but failures for days."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row; `url` with its query, `events` the types that it wants."""

    id: UUID
    client_id: UUID
    url: str
    description: str | None
    events: list[str]
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_reason: DisabledReason | None
    created_at: datetime
    updated_at: datetime


_COLUMNS = """id, client_id, url, description, events, failing_since, disabled_at, disabled_reason,
    created_at, updated_at"""


async def create(
    conn: Connection,
    client_id: UUID,
    *,
    url: str,
    description: str | None,
    events: Sequence[str],
    is_enabled: bool,
) -> Endpoint:
    """Write an endpoint; its secret is a row of its own.

    Raises:
        TooManyEndpointsError: the client has as many as it may have.
    """
    await conn.execute("select from clients where id = $1 for no key update", client_id)
    have: int = await conn.fetchval(
        "select count(*) from endpoints where client_id = $1 and deleted_at is null", client_id
    )
    if have >= MOST_ENDPOINTS:
        raise TooManyEndpointsError(f"you may have {MOST_ENDPOINTS} endpoints at most")
    row = await conn.fetchrow(
        f"""insert into endpoints (client_id, url, description, events, disabled_at, disabled_reason)
            values ($1, $2, $3, $4, case when not $5 then now() end, case when not $5 then 'by_hand' end)
            returning {_COLUMNS}""",
        client_id,
        url,
        description,
        events,
        is_enabled,
    )
    return _endpoint(row)


async def get(conn: Connection, endpoint_id: UUID, client_id: UUID) -> Endpoint:
    """Return an endpoint of this client.

    Raises:
        NotFoundError: no such endpoint, or somebody else's.
    """
    row = await conn.fetchrow(
        f"select {_COLUMNS} from endpoints where id = $1 and client_id = $2 and deleted_at is null",
        endpoint_id,
        client_id,
    )
    return _endpoint(row)


async def lock(conn: Connection, endpoint_id: UUID, client_id: UUID) -> Endpoint:
    """As `get`, and nobody else changes it before the transaction ends."""
    row = await conn.fetchrow(
        f"""select {_COLUMNS} from endpoints
            where id = $1 and client_id = $2 and deleted_at is null for no key update""",
        endpoint_id,
        client_id,
    )
    return _endpoint(row)


async def lock_url(conn: Connection, endpoint_id: UUID) -> str | None:
    """Return where it is, None when it was deleted; nobody else changes it before the transaction ends."""
    url: str | None = await conn.fetchval(
        "select url from endpoints where id = $1 and deleted_at is null for no key update", endpoint_id
    )
    return url


async def list_of_client(
    conn: Connection, client_id: UUID, *, before: tuple[datetime, UUID] | None, limit: int
) -> list[Endpoint]:
    """Return a client's endpoints, the newest first, from behind (created_at, id)."""
    rows = await conn.fetch(
        f"""select {_COLUMNS} from endpoints
            where client_id = $1 and deleted_at is null
              and ($2::timestamptz is null or (created_at, id) < ($2, $3))
            order by created_at desc, id desc limit $4""",
        client_id,
        *(before or (None, None)),
        limit,
    )
    return [_endpoint(row) for row in rows]


async def list_known(conn: Connection, endpoint_ids: Sequence[UUID], client_id: UUID) -> set[UUID]:
    """Return those of the ids that are endpoints of this client."""
    rows = await conn.fetch(
        "select id from endpoints where id = any($1::uuid[]) and client_id = $2 and deleted_at is null",
        endpoint_ids,
        client_id,
    )
    return {row["id"] for row in rows}


async def change(
    conn: Connection,
    endpoint: Endpoint,
    *,
    url: str,
    description: str | None,
    events: Sequence[str],
    is_enabled: bool,
) -> Endpoint:
    """Write an endpoint that the caller has locked; enabled again, or elsewhere, it begins without a past."""
    row = await conn.fetchrow(
        f"""update endpoints
            set url = $2, description = $3, events = $4, updated_at = now(),
                disabled_at = case when not $5 then coalesce(disabled_at, now()) end,
                disabled_reason = case when not $5 then coalesce(disabled_reason, 'by_hand') end,
                failing_since = case when url <> $2 or ($5 and disabled_at is not null) then null
                                     else failing_since end
            where id = $1 returning {_COLUMNS}""",
        endpoint.id,
        url,
        description,
        events,
        is_enabled,
    )
    return _endpoint(row)


async def disable(conn: Connection, endpoint_id: UUID, reason: DisabledReason) -> Endpoint | None:
    """Send it nothing from now on; None when that is so already."""
    row = await conn.fetchrow(
        f"""update endpoints set disabled_at = now(), disabled_reason = $2, updated_at = now()
            where id = $1 and disabled_at is null and deleted_at is null returning {_COLUMNS}""",
        endpoint_id,
        reason,
    )
    return None if row is None else _endpoint(row)


async def delete(conn: Connection, endpoint_id: UUID) -> None:
    """Delete an endpoint that the caller has locked; its deliveries stay in the log."""
    await conn.execute("update endpoints set deleted_at = now() where id = $1", endpoint_id)


async def note_successes(conn: Connection, endpoint_ids: Collection[UUID]) -> None:
    """Note that they took events; mostly there is nothing to write.

    They are locked in one order, so that two who note many cannot wait for each other.
    """
    await conn.execute(
        """with recovered as (
               select id from endpoints where id = any($1::uuid[]) and failing_since is not null
               order by id for no key update)
           update endpoints set failing_since = null where id in (select id from recovered)""",
        list(endpoint_ids),
    )


async def note_failure(conn: Connection, endpoint_id: UUID) -> timedelta:
    """Note that it took none; return for how long it has done nothing else."""
    failing: timedelta | None = await conn.fetchval(
        """update endpoints
           set failing_since = case when last_failed_at > now() - $2::interval
                                    then coalesce(failing_since, now()) else now() end,
               last_failed_at = now()
           where id = $1 returning now() - failing_since""",
        endpoint_id,
        _MEMORY,
    )
    return failing or timedelta()


def _endpoint(row: asyncpg.Record | None) -> Endpoint:
    if row is None:
        raise NotFoundError("no such endpoint")
    reason = row["disabled_reason"]
    return Endpoint(**{**row, "disabled_reason": DisabledReason(reason) if reason else None})
