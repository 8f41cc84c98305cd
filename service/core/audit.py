"""The audit log: what was done to what callers rely on, by whom. It is only ever added to."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from service.core.db import Connection, stream


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was done; without `key_id` by Autos itself or its operator."""

    at: datetime
    client: str
    key_id: str | None
    action: str
    subject: UUID | None
    details: dict[str, Any]


EXPORTED = ("id", *(field.name for field in fields(Entry)))
"""What `export` yields of each."""


async def note(
    conn: Connection,
    client_id: UUID,
    action: str,
    subject: UUID | None = None,
    *,
    key_id: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write an entry, in the transaction of what it tells of.

    Args:
        action: noun and past participle, as in `endpoint.disabled`.
        details: no secrets and no query strings.
    """
    await conn.execute(
        "insert into audit_log (client_id, key_id, action, subject, details) values ($1, $2, $3, $4, $5)",
        client_id,
        key_id,
        action,
        subject,
        dict(details or {}),
    )


async def list_latest(conn: Connection, *, client: str | None, limit: int) -> list[Entry]:
    """Return the newest entries, of one client or of all."""
    rows = await conn.fetch(
        """select a.at, c.name as client, a.key_id, a.action, a.subject, a.details
           from audit_log a join clients c on c.id = a.client_id
           where $1::text is null or c.name = $1 order by a.id desc limit $2""",
        client,
        limit,
    )
    return [Entry(**row) for row in rows]


async def export(
    conn: Connection, *, client: str | None, since: datetime | None, until: datetime | None
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield all entries, the oldest first; memory holds a thousand of them.

    Args:
        since: the first moment.
        until: the moment after the last.
    """
    rows = stream(
        conn,
        # As text: a connection of the operator's reads no JSON.
        """select a.id, a.at, c.name as client, a.key_id, a.action, a.subject, a.details::text
           from audit_log a join clients c on c.id = a.client_id
           where ($1::text is null or c.name = $1) and ($2::timestamptz is null or a.at >= $2)
             and ($3::timestamptz is null or a.at < $3) order by a.id""",
        client,
        since,
        until,
    )
    async with aclosing(rows):
        async for row in rows:
            yield {**row, "details": orjson.loads(row["details"])}
