"""Sessions of the dashboard: a key that was given once, remembered by a cookie for some hours.

A session is no better than its key: whoever revokes the key ends it.
"""

import hashlib
import secrets
from dataclasses import dataclass, replace
from datetime import timedelta

from service.core.clients import OPERATOR, Client, from_row
from service.core.db import Connection
from service.core.errors import NotFoundError

LIFETIME = timedelta(hours=12)
_TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Session:
    """One browser that is signed in.

    Attributes:
        client: whose view it is, with the id and the scopes of the key that was given.
        owner: the name of the client that the key belongs to.
    """

    client: Client
    owner: str

    @property
    def is_operator(self) -> bool:
        """Whether it may take the view of every client."""
        return OPERATOR in self.client.scopes

    @property
    def sees_all(self) -> bool:
        """Whether it is an operator's who has not taken the view of one client."""
        return self.is_operator and self.client.name == self.owner


async def begin(conn: Connection, key_id: str) -> str:
    """Begin a session of a key that was just proven to be live; return the cookie's secret."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    await conn.execute("delete from sessions where expires_at < now()")
    await conn.execute(
        "insert into sessions (token_sha256, key_id, expires_at) values ($1, $2, now() + $3::interval)",
        _hash(token),
        key_id,
        LIFETIME,
    )
    return token


async def find(conn: Connection, token: str) -> Session | None:
    """Return the session of a cookie; None when it, or its key, has ended."""
    row = await conn.fetchrow(
        """select c.*, k.id as key_id, k.scopes, o.name as owner
           from sessions s join api_keys k on k.id = s.key_id join clients o on o.id = k.client_id
                join clients c on c.id = coalesce(
                    case when $2 = any(k.scopes) then s.client_id end, k.client_id)
           where s.token_sha256 = $1 and s.expires_at > now() and k.revoked_at is null
             and (k.expires_at is null or k.expires_at > now())""",
        _hash(token),
        OPERATOR,
    )
    if row is None:
        return None
    client = replace(from_row(row), key_id=row["key_id"], scopes=frozenset(row["scopes"]))
    return Session(client, row["owner"])


async def look_as(conn: Connection, token: str, client_name: str) -> None:
    """Take the view of another client; only an operator's session heeds it.

    Raises:
        NotFoundError: there is no such client.
    """
    done = await conn.fetchval(
        """update sessions set client_id = c.id from clients c
           where token_sha256 = $1 and c.name = $2 returning c.id""",
        _hash(token),
        client_name.replace("\0", "\ufffd"),  # PostgreSQL takes no NUL, not even to say that nobody has it
    )
    if done is None:
        raise NotFoundError(f"there is no client {client_name}")


async def end(conn: Connection, token: str) -> None:
    """End a session; nothing when there is none."""
    await conn.execute("delete from sessions where token_sha256 = $1", _hash(token))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
