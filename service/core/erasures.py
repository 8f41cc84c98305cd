"""Erasures: the receipt of each, and until it is finished the order to remove the objects that are left.

The number of the process goes from the row when it is finished. What stays is a proof: who knows the number
can show that the receipt is about it, and nobody can read it from there.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from service.core.db import Connection
from service.core.errors import NotFoundError

# https://www.rfc-editor.org/rfc/rfc7914: about a tenth of a second and 32 MiB for each number that is tried.
_LOG_N, _R, _P = 15, 8, 1
_MEMORY_BYTES = 64 * 1024 * 1024
_SALT_BYTES, _HASH_BYTES = 16, 32
_PROOF = re.compile(r"\$scrypt\$ln=(\d+),r=(\d+),p=(\d+)\$([\w+/]+)\$([\w+/]+)", re.ASCII)

# What a worker was sending when its lease ended may be stored a little later.
_LATE = timedelta(seconds=60)
# After so long another worker takes up what one has begun.
_HOLD = timedelta(seconds=60)

_COLUMNS = "id, client_id, of_everyone, proof, counts, requested_at, finished_at"


@dataclass(frozen=True, slots=True)
class Counts:
    """What there was to erase, as the client who asked could see it.

    Attributes:
        documents: those of the process, whether or not another client keeps them.
        batch_items: lines of batches that named the process.
        kept_answers: answers kept for an idempotency key.
    """

    jobs: int
    documents: int
    webhooks: int
    batch_items: int
    kept_answers: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """A receipt; `proof` is of the number, `finished_at` None while objects may be left."""

    id: UUID
    client_id: UUID
    of_everyone: bool
    proof: str
    counts: Counts
    requested_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """An erasure of whose objects a worker removes what is left.

    Attributes:
        number: 20 digits.
        is_quiet: whether no worker of an erased job could store anything any more when this was claimed.
    """

    id: UUID
    number: str
    is_quiet: bool


def prove(number: str) -> str:
    """Return a salted scrypt hash of a number (its 20 digits), as `$scrypt$ln=…,r=…,p=…$salt$hash`.

    Takes about a tenth of a second: for a thread.
    """
    salt = secrets.token_bytes(_SALT_BYTES)
    hashed = _scrypt(number, salt, _LOG_N, _R, _P)
    return f"$scrypt$ln={_LOG_N},r={_R},p={_P}${_encode(salt)}${_encode(hashed)}"


def is_about(proof: str, number: str) -> bool:
    """Whether a proof was made of this number (its 20 digits); takes as long as `prove`."""
    parts = _PROOF.fullmatch(proof)
    if parts is None:
        return False
    log_n, r, p = (int(part) for part in parts.groups()[:3])
    salt, hashed = (base64.b64decode(part + "==") for part in parts.groups()[3:])
    return hmac.compare_digest(hashed, _scrypt(number, salt, log_n, r, p))


async def create(
    conn: Connection,
    erasure_id: UUID,
    number: str,
    client_id: UUID,
    *,
    of_everyone: bool,
    proof: str,
    counts: Counts,
    leased_until: datetime,
) -> Erasure:
    """Write an erasure, in the transaction that deletes the rows; workers then remove the objects.

    Args:
        leased_until: when the lease of the last worker that may store an object ends.
    """
    row = await conn.fetchrow(
        f"""insert into erasures (id, client_id, process_number, of_everyone, proof, counts, quiet_at)
            values ($1, $2, $3, $4, $5, $6, $7::timestamptz + $8::interval) returning {_COLUMNS}""",
        erasure_id,
        client_id,
        number,
        of_everyone,
        proof,
        asdict(counts),
        leased_until,
        _LATE,
    )
    return _erasure(row)


async def get(conn: Connection, erasure_id: UUID, client_id: UUID | None = None) -> Erasure:
    """Return a receipt; with `client_id` only if that client asked for the erasure.

    Raises:
        NotFoundError: no such erasure, or somebody else's.
    """
    row = await conn.fetchrow(
        f"select {_COLUMNS} from erasures where id = $1 and ($2::uuid is null or client_id = $2)",
        erasure_id,
        client_id,
    )
    return _erasure(row)


async def find_pending(
    conn: Connection, number: str, client_id: UUID, *, of_everyone: bool
) -> Erasure | None:
    """Return the newest erasure of a process, at the client's wish, that is not finished."""
    row = await conn.fetchrow(
        f"""select {_COLUMNS} from erasures
            where finished_at is null and process_number = $1 and client_id = $2 and of_everyone = $3
            order by requested_at desc limit 1""",
        number,
        client_id,
        of_everyone,
    )
    return None if row is None else _erasure(row)


async def list_latest(conn: Connection, *, limit: int) -> list[tuple[str, Erasure]]:
    """Return the newest erasures, each with the name of the client who asked for it."""
    rows = await conn.fetch(
        """select c.name, e.id, e.client_id, e.of_everyone, e.proof, e.counts, e.requested_at, e.finished_at
           from erasures e join clients c on c.id = e.client_id
           order by e.requested_at desc, e.id limit $1""",
        limit,
    )
    return [(row[0], _erasure(row[1:])) for row in rows]


async def claim(conn: Connection) -> Claimed | None:
    """Take one whose objects are to be looked for now; it is due again soon if nothing comes of that."""
    row = await conn.fetchrow(
        """update erasures set next_look_at = now() + $1::interval
           where id = (select id from erasures where finished_at is null and next_look_at <= now()
                       order by next_look_at limit 1 for no key update skip locked)
           returning id, process_number, quiet_at <= now() as is_quiet""",
        _HOLD,
    )
    return None if row is None else Claimed(*row)


async def note_look(conn: Connection, claimed: Claimed, *, is_clean: bool) -> bool:
    """Note what a look has come to; return whether the erasure is finished with it.

    It is when nothing was left at a time from which on nothing can come. What was removed is looked for
    again at once, and what is clean too early, when that time has come.
    """
    finished: bool | None = await conn.fetchval(
        """update erasures
           set finished_at = case when $2 and $3 then now() end,
               process_number = case when $2 and $3 then null else process_number end,
               next_look_at = case when $2 then greatest(now(), quiet_at) else now() end
           where id = $1 and finished_at is null returning finished_at is not null""",
        claimed.id,
        is_clean,
        claimed.is_quiet,
    )
    return bool(finished)


async def oldest_pending_s(conn: Connection) -> float | None:
    """Return how long ago (s) the oldest one that is not finished was asked for; None without any."""
    age_s: float | None = await conn.fetchval(
        """select extract(epoch from now() - min(requested_at))::float8 from erasures
           where finished_at is null"""
    )
    return age_s


def _erasure(row: "asyncpg.Record | tuple[object, ...] | None") -> Erasure:
    if row is None:
        raise NotFoundError("no such erasure")
    id_, client_id, of_everyone, proof, counts, *times = row
    return Erasure(id_, client_id, of_everyone, proof, Counts(**counts), *times)  # type: ignore[arg-type]


def _scrypt(number: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        number.encode(), salt=salt, n=1 << log_n, r=r, p=p, maxmem=_MEMORY_BYTES, dklen=_HASH_BYTES
    )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")
