"""Idempotency keys: the answer to a request that created something, kept for whoever repeats the request.

The row is written in the transaction of what it guards, so either both exist or neither does.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from service.core.db import Connection
from service.core.errors import ErasedError, KeyInUseError, KeyReusedError

KEPT_HOURS = 48
"""At least so long an answer is kept."""

_ERASED = 410
_ERASED_NAME = "'erased ' || encode(sha256(convert_to({key}, 'UTF8')), 'hex')"


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """Who asks what under which key; the same key may serve other clients and other routes."""

    client_id: UUID
    route: str
    key: str
    sha256: bytes


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was answered; `body` holds nothing presigned."""

    status: int
    location: str
    body: bytes


async def begin(conn: Connection, request: KeyedRequest) -> KeptAnswer | None:
    """Take a key for this transaction; the answer that it has already, if any.

    Raises:
        ErasedError: what the first request was answered was erased since.
        KeyInUseError: the first request with this key is still under way.
        KeyReusedError: the key belongs to another request.
    """
    # Held until the transaction ends, when the row can be seen.
    name = f"{request.client_id}/{request.route}/{request.key}"
    if not await conn.fetchval("select pg_try_advisory_xact_lock(hashtextextended($1, 0))", name):
        raise KeyInUseError("the first request with this key has not been answered yet")
    row = await conn.fetchrow(
        f"""select request_sha256, status, location, body from idempotency_keys
            where client_id = $1 and route = $2 and key in ($3, {_ERASED_NAME.format(key="$3::text")})""",
        request.client_id,
        request.route,
        request.key,
    )
    if row is None:
        return None
    if row["status"] == _ERASED:
        raise ErasedError("what was answered with this key was erased since: it does nothing any more")
    if row["request_sha256"] != request.sha256:
        raise KeyReusedError("this key was sent with another request")
    return KeptAnswer(row["status"], row["location"], row["body"])


async def keep(conn: Connection, request: KeyedRequest, answer: KeptAnswer) -> None:
    """Keep the answer; the caller has taken the key in this transaction."""
    await conn.execute(
        """insert into idempotency_keys (client_id, route, key, request_sha256, status, location, body)
           values ($1, $2, $3, $4, $5, $6, $7)""",
        request.client_id,
        request.route,
        request.key,
        request.sha256,
        answer.status,
        answer.location,
        answer.body,
    )


async def erase(conn: Connection, ids: Iterable[UUID], client_id: UUID | None) -> int:
    """Blot out the answers that name a job or a batch of these; return how many there were.

    The keys stay spent, so that a request which is repeated does not bring back what was erased. Of the keys
    themselves, and of the requests, only what recognises them is kept: callers may have put a number there.

    Args:
        client_id: whose answers; None for those of all clients.
    """
    rows = await conn.fetch(
        f"""update idempotency_keys
            set status = $3, location = '', body = '', request_sha256 = decode(repeat('00', 32), 'hex'),
                key = {_ERASED_NAME.format(key="key")}
            where right(location, 36) = any($1::text[]) and ($2::uuid is null or client_id = $2)
            returning 1""",
        [str(one) for one in ids],
        client_id,
        _ERASED,
    )
    return len(rows)


async def forget_old(conn: Connection) -> int:
    """Remove answers that need not be kept any more; return how many there were."""
    done: int = await conn.fetchval(
        """with gone as (delete from idempotency_keys
                         where created_at < now() - make_interval(hours => $1) returning 1)
           select count(*) from gone""",
        KEPT_HOURS,
    )
    return done
