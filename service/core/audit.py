"""The audit log: what was done to what callers rely on, by whom. It is only ever added to."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from service.core.db import Connection


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was done; without `key_id` by Autos itself or its operator."""

    at: datetime
    client: str
    key_id: str | None
    action: str
    subject: UUID | None
    details: dict[str, Any]


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
