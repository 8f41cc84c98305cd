"""Accesses: who was handed which documents, or links to them, and when. They are only ever added to.

An access names a document, a job or a delivery by its id, and no process by its number; nor a caller by its
address, which is the proxy's.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from service.core.db import Connection, Database, stream
from service.core.gather import Gatherer

# Of those who poll: what they were shown last.
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """One answer, or one webhook, that hands out documents or links to them.

    Attributes:
        client_id: whose documents.
        action: what was handed out, after the noun that `subject` is the id of: `document.content`.
        documents: how many.
        key_id: the API key that asked, which may be an operator's; None for a webhook.
    """

    client_id: UUID
    action: str
    subject: UUID
    documents: int
    key_id: str | None = None
    request_id: str | None = None


class AccessLog:
    """Notes accesses: those of one moment with one statement.

    Args:
        link_ttl_s: seconds that links last, and that who is shown the same again is not noted anew.
    """

    def __init__(self, db: Database, *, link_ttl_s: float) -> None:
        self._db = db
        self._link_ttl_s = link_ttl_s
        self._gatherer = Gatherer(self._write)
        # In the order in which they were noted.
        self._noted_at: dict[tuple[object, ...], float] = {}

    async def note(self, access: Access, *, sequence: int | None = None) -> None:
        """Return when the access is written.

        Args:
            sequence: of the job that is shown; None for what is noted each time.

        Raises:
            DatabaseUnavailableError: it is not, or nobody knows: the answer must not leave.
        """
        if sequence is None:
            await self._gatherer.ask(access)
            return
        shown = (access.key_id, access.client_id, access.action, access.subject, sequence, access.documents)
        if self._is_noted(shown):
            return
        await self._gatherer.ask(access)
        self._remember(shown)

    def _is_noted(self, shown: tuple[object, ...]) -> bool:
        noted_at = self._noted_at.get(shown)
        return noted_at is not None and time.monotonic() - noted_at < self._link_ttl_s

    def _remember(self, shown: tuple[object, ...]) -> None:
        self._noted_at.pop(shown, None)
        self._noted_at[shown] = time.monotonic()
        if len(self._noted_at) > _MOST_REMEMBERED:
            del self._noted_at[next(iter(self._noted_at))]

    async def _write(self, accesses: Sequence[Access]) -> dict[Access, None]:
        async with self._db.connection() as conn:
            await add(conn, accesses)
        return dict.fromkeys(accesses)


async def add(conn: Connection, accesses: Sequence[Access]) -> None:
    """Write accesses that happen now."""
    await conn.execute(
        """insert into accesses (client_id, key_id, action, subject, documents, request_id)
           select * from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::int[], $6::text[])""",
        [one.client_id for one in accesses],
        [one.key_id for one in accesses],
        [one.action for one in accesses],
        [one.subject for one in accesses],
        [one.documents for one in accesses],
        [one.request_id for one in accesses],
    )


@dataclass(frozen=True, slots=True)
class Noted:
    """An access as it was noted; `key_client` is the client that the key belongs to."""

    id: int
    at: datetime
    client: str
    key_id: str | None
    key_client: str | None
    action: str
    subject: UUID
    documents: int
    request_id: str | None


EXPORTED = tuple(field.name for field in fields(Noted))
"""What `export` yields of each."""

_NOTED = """select a.id, a.at, c.name as client, a.key_id, o.name as key_client, a.action, a.subject,
                   a.documents, a.request_id
            from accesses a join clients c on c.id = a.client_id left join api_keys k on k.id = a.key_id
                 left join clients o on o.id = k.client_id
            where ($1::text is null or c.name = $1)"""


async def list_latest(conn: Connection, *, client: str | None, limit: int) -> list[Noted]:
    """Return the newest accesses to the documents of one client or of all."""
    rows = await conn.fetch(f"{_NOTED} order by a.at desc, a.id desc limit $2", client, limit)
    return [Noted(**row) for row in rows]


async def export(
    conn: Connection, *, client: str | None, since: datetime | None, until: datetime | None
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield all accesses, the oldest first; memory holds a thousand of them.

    Args:
        since: the first moment.
        until: the moment after the last.
    """
    rows = stream(
        conn,
        f"""{_NOTED} and ($2::timestamptz is null or a.at >= $2)
                     and ($3::timestamptz is null or a.at < $3) order by a.at, a.id""",
        client,
        since,
        until,
    )
    async with aclosing(rows):
        async for row in rows:
            yield dict(row)


async def forget_old(conn: Connection, *, days: int, limit: int) -> int:
    """Delete some of the accesses that are older, inside the caller's transaction; return how many.

    A trigger lets nobody delete one who has not said so, for this transaction, and none that is younger.
    """
    await conn.execute("select set_config('autos.audit_days', $1, true)", str(days))
    rows = await conn.fetch(
        """delete from accesses where id in (
               select id from accesses where at < now() - make_interval(days => $1)
               order by at, id limit $2)
           returning id""",
        days,
        limit,
    )
    return len(rows)
