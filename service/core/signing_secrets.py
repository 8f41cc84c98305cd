"""The secrets that webhooks are signed with: a client's own, and one for each of its endpoints.

A rotation leaves the old secret signing beside the new one for a while, so that receivers have the time to
learn the new one. Sealed at rest; see `KeyRing`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

from service.core.db import Connection
from service.core.errors import SecretUnreadableError
from service.core.key_ring import KeyRing

GRACE = timedelta(hours=24)
"""How long a secret goes on signing after it was replaced (Standard Webhooks)."""

# Beside the newest: whoever replaces his secret again and again does not make his headers grow.
_MOST_OLD = 3


class Sealed(NamedTuple):
    """A secret as it lies in the database."""

    id: UUID
    sealed: bytes


_OF_OWNER = "coalesce(endpoint_id, client_id) = coalesce($2::uuid, $1::uuid)"


async def put(
    conn: Connection,
    ring: KeyRing,
    secret: bytes,
    client_id: UUID,
    endpoint_id: UUID | None = None,
    *,
    grace: timedelta = GRACE,
) -> datetime | None:
    """Let a secret sign from now on; return until when the one before it still signs, None without one.

    Args:
        endpoint_id: None for the client's own secret, for URLs that come with a request.
    """
    # Two rotations at once pass one after the other.
    await conn.execute("select from clients where id = $1 for no key update", client_id)
    expires_at: datetime | None = await conn.fetchval(
        f"""update signing_secrets set expires_at = now() + $3::interval
            where {_OF_OWNER} and expires_at is null returning expires_at""",
        client_id,
        endpoint_id,
        grace,
    )
    row_id = uuid4()
    await conn.execute(
        "insert into signing_secrets (id, client_id, endpoint_id, sealed) values ($1, $2, $3, $4)",
        row_id,
        client_id,
        endpoint_id,
        ring.seal(secret, row=str(row_id)),
    )
    await conn.execute(
        f"""delete from signing_secrets where {_OF_OWNER} and (expires_at <= now() or id in (
                select id from signing_secrets where {_OF_OWNER} and expires_at is not null
                order by created_at desc offset $3))""",
        client_id,
        endpoint_id,
        _MOST_OLD,
    )
    return expires_at


async def list_live(
    conn: Connection, ring: KeyRing, client_id: UUID, endpoint_id: UUID | None = None
) -> list[bytes]:
    """Return the secrets that sign now, the newest first.

    Raises:
        SecretUnreadableError: one cannot be opened.
    """
    owner = endpoint_id or client_id
    return open_sealed(ring, (await find_live(conn, [owner]))[owner])


async def find_live(conn: Connection, owners: Sequence[UUID]) -> dict[UUID, list[Sealed]]:
    """Return for each endpoint, or client, the secrets that sign now, the newest first."""
    rows = await conn.fetch(
        """select coalesce(endpoint_id, client_id) as owner, id, sealed from signing_secrets
           where coalesce(endpoint_id, client_id) = any($1::uuid[])
             and (expires_at is null or expires_at > now())
           order by created_at desc""",
        owners,
    )
    found: dict[UUID, list[Sealed]] = {owner: [] for owner in owners}
    for row in rows:
        found[row["owner"]].append(Sealed(row["id"], row["sealed"]))
    return found


def open_sealed(ring: KeyRing, secrets: Sequence[Sealed]) -> list[bytes]:
    """Return the secrets themselves, in their order.

    Raises:
        SecretUnreadableError: one cannot be opened.
    """
    return [ring.open(one.sealed, row=str(one.id)) for one in secrets]


async def forget(conn: Connection, client_id: UUID, endpoint_id: UUID) -> None:
    """Delete the secrets of an endpoint."""
    await conn.execute(f"delete from signing_secrets where {_OF_OWNER}", client_id, endpoint_id)


async def seal_anew(conn: Connection, ring: KeyRing) -> int:
    """Seal with the first key what is sealed otherwise; return how many there were.

    Raises:
        SecretUnreadableError: one cannot be opened.
    """
    rows = await conn.fetch("select id, sealed from signing_secrets for no key update")
    old = [row for row in rows if not ring.is_sealed_last(row["sealed"])]
    await conn.executemany(
        "update signing_secrets set sealed = $2 where id = $1",
        [
            (row["id"], ring.seal(ring.open(row["sealed"], row=str(row["id"])), row=str(row["id"])))
            for row in old
        ],
    )
    return len(old)


async def examine(conn: Connection, ring: KeyRing) -> tuple[int, int, int]:
    """Return how many secrets there are, how many cannot be opened, and how many `seal_anew` would seal."""
    rows = await conn.fetch("select id, sealed from signing_secrets")
    unreadable = 0
    for row in rows:
        try:
            ring.open(row["sealed"], row=str(row["id"]))
        except SecretUnreadableError:
            unreadable += 1
    return len(rows), unreadable, sum(not ring.is_sealed_last(row["sealed"]) for row in rows)
