"""Clients and their API keys: `autos_live_<id>_<secret><checksum>`, stored as SHA-256 only."""

import hashlib
import secrets
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from service.core import signing, signing_secrets
from service.core.db import Connection
from service.core.errors import KeyRefusedError, NotFoundError, SecretUnreadableError
from service.core.key_ring import KeyRing
from service.core.settings import Settings

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PREFIX = "autos_live_"
SCOPES = ("read", "write")
"""What keys can be for: looking, and asking for processes too."""

OPERATOR = "operator"
"""What a key can be for beside those: seeing on the dashboard what every client sees."""

ERASE = "erase"
"""And this: erasing a process; with `operator` too, what every client has of it."""

_USE_NOTED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Client:
    """Somebody who calls the API; limits of its own take the place of those in the settings.

    `key_id` and `scopes` (`read`, `write`, `operator`, `erase`) are those of the key that it came with.
    """

    id: UUID
    name: str
    requests_per_minute: int | None
    max_active_jobs: int | None
    max_secrecy: int | None
    key_id: str = ""
    scopes: frozenset[str] = frozenset()

    def may_have(self, secrecy_level: int, settings: Settings) -> bool:
        """Whether it may have what is so secret; its own ceiling never lifts that of the settings."""
        return secrecy_level <= settings.secrecy_ceiling(self.max_secrecy)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What may be shown of a key."""

    id: str
    client: str
    last_four: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


def new_key() -> str:
    """Return a new key: 256 random bits and a checksum by which a typing error is seen at once."""
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(10))
    body = f"{_PREFIX}{key_id}_{''.join(secrets.choice(_ALPHABET) for _ in range(43))}"
    return body + _checksum(body)


def is_plausible(key: str) -> bool:
    """Whether a key is worth a look-up; a key of another form was given by an operator."""
    return key.isascii() and (not key.startswith(_PREFIX) or _checksum(key[:-6]) == key[-6:])


async def ensure(
    conn: Connection, ring: KeyRing, name: str, *, webhook_secret: bytes | None = None
) -> tuple[Client, bytes | None]:
    """Return the client of this name, and its signing secret when that is new.

    Args:
        webhook_secret: takes the place of the present one, which goes on signing for a day.
    """
    row = await conn.fetchrow(
        "insert into clients (name) values ($1) on conflict (name) do nothing returning *", name
    )
    if row is not None:
        secret = webhook_secret or signing.new_secret()
        await signing_secrets.put(conn, ring, secret, row["id"])
        return from_row(row), secret
    client, grace = await get(conn, name), signing_secrets.GRACE
    if webhook_secret is None:
        return client, None
    try:
        if webhook_secret in (await signing_secrets.list_live(conn, ring, client.id))[:1]:
            return client, None
    except SecretUnreadableError:
        grace = timedelta()  # what nobody can read cannot sign either
    await signing_secrets.put(conn, ring, webhook_secret, client.id, grace=grace)
    return client, webhook_secret


async def get(conn: Connection, name: str) -> Client:
    """Return the client of this name, for the operator.

    Raises:
        NotFoundError: there is no such client.
    """
    row = await conn.fetchrow("select * from clients where name = $1", name)
    if row is None:
        raise NotFoundError(f"there is no client {name}")
    return from_row(row)


async def add_key(
    conn: Connection,
    client_id: UUID,
    key: str,
    *,
    scopes: Collection[str] = SCOPES,
    expires_at: datetime | None = None,
) -> datetime | None:
    """Store a key; the same live key of the same client again changes nothing. Return when it ends, if ever.

    Raises:
        KeyRefusedError: it is another client's, was revoked, or is no key that would ever be accepted.
    """
    if not is_plausible(key):
        raise KeyRefusedError("this is no key of ours: it is not ASCII, or its checksum is wrong")
    key_id = key.split("_")[2] if key.startswith(_PREFIX) else f"given-{hash_key(key).hex()[:10]}"
    await conn.execute(
        """insert into api_keys (id, client_id, key_sha256, last_four, expires_at, scopes)
           values ($1, $2, $3, $4, $5, $6) on conflict (key_sha256) do nothing""",
        key_id,
        client_id,
        hash_key(key),
        key[-4:],
        expires_at,
        sorted(scopes),
    )
    stored = await conn.fetchrow(
        "select client_id, revoked_at, expires_at from api_keys where key_sha256 = $1", hash_key(key)
    )
    if stored is None or stored["client_id"] != client_id or stored["revoked_at"] is not None:
        raise KeyRefusedError("this key belongs to another client or was revoked: take another one")
    ends_at: datetime | None = stored["expires_at"]
    return ends_at


async def list_keys(conn: Connection) -> list[ApiKey]:
    """Return every key, oldest first."""
    rows = await conn.fetch(
        """select k.id, c.name as client, k.last_four, k.scopes, k.created_at, k.expires_at, k.revoked_at,
                  k.last_used_at
           from api_keys k join clients c on c.id = k.client_id order by k.created_at"""
    )
    return [ApiKey(**row) for row in rows]


async def rotate_key(
    conn: Connection, key_id: str, key: str, *, grace: timedelta, expires_at: datetime | None = None
) -> tuple[str, datetime | None]:
    """Store a new key beside a live one, with its client and scopes.

    Args:
        grace: how long the old one goes on, unless it ends sooner.
        expires_at: when the new one ends; None for when the old one would have.

    Returns:
        The client's name, and when the new key ends, if ever.

    Raises:
        NotFoundError: no live key has this id.
    """
    old = await conn.fetchrow(
        """update api_keys k set expires_at = least(k.expires_at, now() + $2::interval)
           from clients c, (select expires_at as ends_at from api_keys where id = $1 for update) before
           where k.id = $1 and c.id = k.client_id and k.revoked_at is null
             and (k.expires_at is null or k.expires_at > now())
           returning k.client_id, k.scopes, c.name, before.ends_at""",
        key_id,
        grace,
    )
    if old is None:
        raise NotFoundError(f"no live key has the id {key_id}")
    expires_at = expires_at or old["ends_at"]
    return old["name"], await add_key(
        conn, old["client_id"], key, scopes=old["scopes"], expires_at=expires_at
    )


async def revoke_key(conn: Connection, key_id: str) -> None:
    """Make a key worthless from now on.

    Raises:
        NotFoundError: no live key has this id.
    """
    done = await conn.fetchval(
        "update api_keys set revoked_at = now() where id = $1 and revoked_at is null returning id", key_id
    )
    if done is None:
        raise NotFoundError(f"no live key has the id {key_id}")


async def authenticate_many(conn: Connection, keys_sha256: Sequence[bytes]) -> dict[bytes, Client | None]:
    """Return the client of each live key, and None for what is none; a miss costs the same as a hit.

    The look-up is by the hash of 256 random bits, so its timing tells nothing about any key.
    """
    rows = await conn.fetch(
        """select c.*, k.key_sha256, k.id as key_id, k.scopes,
                  k.last_used_at is null or k.last_used_at < now() - $2::interval as is_stale
           from api_keys k join clients c on c.id = k.client_id
           where k.key_sha256 = any($1::bytea[]) and k.revoked_at is null
             and (k.expires_at is null or k.expires_at > now())""",
        keys_sha256,
        _USE_NOTED_EVERY,
    )
    if stale := sorted(row["key_id"] for row in rows if row["is_stale"]):
        # Asked again here: of many calls at once only the first writes.
        await conn.execute(
            """update api_keys set last_used_at = now()
               where id = any($1::text[])
                 and (last_used_at is null or last_used_at < now() - $2::interval)""",
            stale,
            _USE_NOTED_EVERY,
        )
    found: dict[bytes, Client | None] = dict.fromkeys(keys_sha256)
    for row in rows:
        found[row["key_sha256"]] = replace(
            from_row(row), key_id=row["key_id"], scopes=frozenset(row["scopes"])
        )
    return found


async def list_all(conn: Connection) -> list[Client]:
    """Return every client, by name."""
    return [from_row(row) for row in await conn.fetch("select * from clients order by name")]


async def set_limits(
    conn: Connection, name: str, *, requests_per_minute: int | None, max_active_jobs: int | None
) -> Client:
    """Give a client limits of its own; None for those of the settings.

    Raises:
        NotFoundError: there is no such client.
    """
    row = await conn.fetchrow(
        "update clients set requests_per_minute = $2, max_active_jobs = $3 where name = $1 returning *",
        name,
        requests_per_minute,
        max_active_jobs,
    )
    if row is None:
        raise NotFoundError(f"there is no client {name}")
    return from_row(row)


async def set_max_secrecy(conn: Connection, name: str, level: int | None) -> Client:
    """Say up to which secrecy a client may have documents; None: as the settings have it.

    Raises:
        NotFoundError: there is no such client.
    """
    row = await conn.fetchrow("update clients set max_secrecy = $2 where name = $1 returning *", name, level)
    if row is None:
        raise NotFoundError(f"there is no client {name}")
    return from_row(row)


def from_row(row: asyncpg.Record) -> Client:
    """Return the client of a row of `clients`."""
    return Client(
        row["id"],
        row["name"],
        row["requests_per_minute"],
        row["max_active_jobs"],
        row["max_secrecy"],
    )


def hash_key(key: str) -> bytes:
    """Return the SHA-256 under which a key is stored."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    while number:
        number, rest = divmod(number, 62)
        digits = _ALPHABET[rest] + digits
    return digits.rjust(6, "0")
