"""Documents: one file of a process each, and the counts over them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from service.core.db import Connection
from service.core.errors import NotFoundError
from service.core.portal_records import DocumentRecord
from service.core.states import DocumentStatus
from service.core.wishes import Filters

# A document is at least as secret as its process, which may have become so since the document was listed.
_SECRECY = "greatest(d.secrecy_level, p.secrecy_level)"
_WITH_PROCESS = "documents d join processes p on p.number = d.process_number"
# In the order of `Document`.
_COLUMNS = f"""
    d.id, d.process_number, d.portal_uuid, d.position, d.name, d.type, d.has_file, d.declared_type,
    d.declared_bytes, {_SECRECY}, d.filed_at, d.attempts, d.error_code, d.error_message, d.media_type,
    d.size_bytes, d.sha256, d.object_key, d.download_started_at, d.download_completed_at, d.status
"""
# Spares the call for each document of the many jobs that want all of them.
_IS_WANTED = "(j.filters is null or document_is_wanted(d, j.filters))"


@dataclass(frozen=True, slots=True)
class Document:
    """One row; `portal_uuid` is the portal's name for it, `id` ours, `sha256` 32 bytes.

    Attributes:
        secrecy_level: its own or that of its process, whichever is higher.
    """

    id: UUID
    process_number: str
    portal_uuid: UUID
    position: int
    name: str
    type: str | None
    has_file: bool
    declared_type: str | None
    declared_bytes: int | None
    secrecy_level: int
    filed_at: datetime | None
    attempts: int
    error_code: str | None
    error_message: str | None
    media_type: str | None
    size_bytes: int | None
    sha256: bytes | None
    object_key: str | None
    download_started_at: datetime | None
    download_completed_at: datetime | None
    status: DocumentStatus


COUNT = f"""
    select count(*) filter (where is_wanted) as total,
           count(*) filter (where is_wanted and d.status = 'available') as completed,
           count(*) filter (where is_wanted and d.status = 'failed') as failed,
           count(*) filter (where is_wanted and d.status = 'processing') as processing,
           count(*) filter (where d.status in ('pending', 'processing')) as unfinished,
           -- Sizes are what the portal says: together they may be more than an integer holds.
           least(coalesce(sum(coalesce(d.size_bytes, d.declared_bytes)) filter (where is_wanted), 0),
                 1::bigint << 62)::bigint as expected_bytes
    from jobs j join documents d on d.process_number = j.process_number
         cross join lateral (select {_IS_WANTED} as is_wanted) wanted
    where j.id = $1
"""
"""The counts of the documents that a job ($1) is to bring in, as in `Counts`."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many documents that a job is to bring in are in which state, and the bytes they will have in all.

    Attributes:
        unfinished: those of the whole process on which work is left.
    """

    total: int
    completed: int
    failed: int
    processing: int
    unfinished: int
    expected_bytes: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A document whose object is in S3."""

    document_id: UUID
    media_type: str
    size_bytes: int
    sha256: bytes
    object_key: str
    completed_at: datetime


@dataclass(frozen=True, slots=True)
class Kept:
    """What of a document decides about links to it: its object if it is available, and its secrecy now."""

    object_key: str | None
    secrecy_level: int


@dataclass(frozen=True, slots=True)
class Missed:
    """A document that was tried and not got.

    Attributes:
        is_final: False when the same job will try again.
        is_spent: whether the try counts as an attempt; waiting for the portal does not.
    """

    document_id: UUID
    error_code: str
    error_message: str
    is_final: bool
    is_spent: bool = True


def file_name(name: str, object_key: str) -> str:
    """Return the name under which a document is saved: its own, with the suffix of what it really is."""
    suffix = "." + object_key.rpartition(".")[2]
    return name if name.lower().endswith(suffix) else name + suffix


async def record_list(
    conn: Connection,
    number: str,
    job_id: UUID,
    records: Sequence[DocumentRecord],
    *,
    filters: Filters,
    is_first: bool,
) -> list[Document]:
    """Write the documents the portal lists, take up those that are wanted, and return what is to be fetched.

    What failed under an earlier job is taken up again. What is available stays so. What failed under this
    very job stays failed. What the portal no longer lists and we never got is forgotten: nobody can tell it
    from a document that never was.

    Args:
        filters: those of the job, which the caller holds.
        is_first: whether the process was never listed before.
    """
    rows = await conn.fetch(
        f"""with d as (
               insert into documents
                   (process_number, job_id, status, portal_uuid, position, name, type, has_file,
                    declared_type, declared_bytes, secrecy_level, filed_at)
               select $1, $2, $12, r.* from unnest(
                   $3::uuid[], $4::int[], $5::text[], $6::text[], $7::bool[], $8::text[], $9::bigint[],
                   $10::smallint[], $11::timestamptz[]) r
               on conflict (process_number, portal_uuid) do update
               set position = excluded.position, name = excluded.name, type = excluded.type,
                   has_file = excluded.has_file, declared_type = excluded.declared_type,
                   declared_bytes = excluded.declared_bytes, secrecy_level = excluded.secrecy_level,
                   filed_at = excluded.filed_at,
                   updated_at = now()
               returning *)
           select {_COLUMNS} from d join processes p on p.number = d.process_number""",
        number,
        job_id,
        [r.uuid for r in records],
        [r.position for r in records],
        [r.name for r in records],
        [r.type_name for r in records],
        [r.has_file for r in records],
        [r.declared_type for r in records],
        [r.declared_bytes for r in records],
        [r.secrecy_level for r in records],
        [r.filed_at for r in records],
        DocumentStatus.SKIPPED if filters else DocumentStatus.PENDING,
    )
    if is_first and not filters:
        return sorted((_document(row) for row in rows), key=lambda one: (-one.position, one.id))
    await _forget_unlisted(conn, number, [r.uuid for r in records])
    return await take_up(conn, number, job_id)


async def take_up(conn: Connection, number: str, job_id: UUID) -> list[Document]:
    """Take up what a job wants of the documents that are listed already; return what is to be fetched.

    What that is `record_list` says.
    """
    await conn.execute(
        """update documents d
           set status = 'pending', job_id = $2, attempts = 0, error_code = null, error_message = null
           where process_number = $1 and (status = 'skipped' or (status = 'failed' and job_id <> $2))
             and document_is_wanted(d, (select filters from jobs where id = $2))""",
        number,
        job_id,
    )
    return await _list_pending(conn, number)


async def _forget_unlisted(conn: Connection, number: str, listed: Sequence[UUID]) -> None:
    await conn.execute(
        """delete from documents
           where process_number = $1 and status in ('skipped', 'pending', 'failed')
             and portal_uuid <> all($2::uuid[])""",
        number,
        listed,
    )


async def _list_pending(conn: Connection, number: str) -> list[Document]:
    rows = await conn.fetch(
        f"""select {_COLUMNS} from {_WITH_PROCESS} where d.process_number = $1 and d.status = 'pending'
            order by d.position desc, d.id""",
        number,
    )
    return [_document(row) for row in rows]


async def list_of_process(conn: Connection, number: str) -> list[Document]:
    """Return the documents of a process, newest first as the court orders them."""
    rows = await conn.fetch(
        f"""select {_COLUMNS} from {_WITH_PROCESS} where d.process_number = $1
            order by d.position desc, d.id""",
        number,
    )
    return [_document(row) for row in rows]


async def list_of_job(conn: Connection, job_id: UUID) -> list[Document]:
    """Return the documents that a job is to bring in, as they are now, in the same order."""
    return (await find_of_jobs(conn, [job_id]))[job_id]


async def find_of_jobs(conn: Connection, job_ids: Sequence[UUID]) -> dict[UUID, list[Document]]:
    """Return for each job what `list_of_job` returns."""
    rows = await conn.fetch(
        f"""select {_COLUMNS}, j.id
            from jobs j join processes p on p.number = j.process_number
                 join documents d on d.process_number = j.process_number
            where j.id = any($1::uuid[]) and {_IS_WANTED} order by d.position desc, d.id""",
        job_ids,
    )
    found: dict[UUID, list[Document]] = {job_id: [] for job_id in job_ids}
    for row in rows:
        found[row[-1]].append(_document(row[:-1]))
    return found


async def list_news(conn: Connection, job_id: UUID, *, after: int) -> list[Document]:
    """Return the documents of a job that changed after it had this sequence, in the same order."""
    rows = await conn.fetch(
        f"""select {_COLUMNS}
            from jobs j join processes p on p.number = j.process_number
                 join documents d on d.process_number = j.process_number
            where j.id = $1 and d.news_job_id = $1 and d.news_sequence > $2 and {_IS_WANTED}
            order by d.position desc, d.id""",
        job_id,
        after,
    )
    return [_document(row) for row in rows]


async def get_for_client(conn: Connection, document_id: UUID, client_id: UUID) -> Document:
    """Return a document of a process that this client subscribed to.

    Raises:
        NotFoundError: no such document, or of somebody else's process.
    """
    row = await conn.fetchrow(
        f"""select {_COLUMNS} from {_WITH_PROCESS} where d.id = $1 and exists (
                select from jobs j join subscriptions s on s.job_id = j.id
                where j.process_number = d.process_number and s.client_id = $2)""",
        document_id,
        client_id,
    )
    if row is None:
        raise NotFoundError("no such document")
    return _document(row)


async def find_kept(conn: Connection, document_ids: Sequence[UUID]) -> dict[UUID, Kept]:
    """Return what is kept of each of these documents that there is."""
    rows = await conn.fetch(
        f"""select d.id, d.object_key, {_SECRECY} as secrecy_level from {_WITH_PROCESS}
            where d.id = any($1::uuid[])""",
        document_ids,
    )
    return {row["id"]: Kept(row["object_key"], row["secrecy_level"]) for row in rows}


async def count(conn: Connection, job_id: UUID) -> Counts:
    """Count the documents that a job is to bring in; the caller holds it."""
    (row,) = await conn.fetch(COUNT, job_id)
    return Counts(*row)


async def count_of_process(conn: Connection, number: str) -> int:
    """Return how many documents of a process are known."""
    count: int = await conn.fetchval("select count(*) from documents where process_number = $1", number)
    return count


async def forget(conn: Connection, numbers: Collection[str]) -> list[str]:
    """Delete the documents of processes; return the keys of their objects, which no row knows then."""
    rows = await conn.fetch(
        "delete from documents where process_number = any($1::text[]) returning object_key", list(numbers)
    )
    return [row["object_key"] for row in rows if row["object_key"] is not None]


async def list_lacking(conn: Connection, job_ids: Sequence[UUID]) -> set[UUID]:
    """Return those of the jobs of whose documents one is known to be missing by now."""
    rows = await conn.fetch(
        """select id from jobs j where id = any($1::uuid[]) and exists (
               select from documents d where d.process_number = j.process_number and d.status = 'failed'
               and document_is_wanted(d, j.filters))""",
        job_ids,
    )
    return {row["id"] for row in rows}


async def list_object_keys(conn: Connection, *, after: str, until: str | None) -> list[str]:
    """Return the keys of all available documents between two keys, in the order in which S3 lists keys.

    Args:
        after: not included.
        until: included; without an end when None.
    """
    rows = await conn.fetch(
        """select object_key from documents
           where object_key > $1 and ($2::text is null or object_key <= $2) order by object_key""",
        after,
        until,
    )
    return [row["object_key"] for row in rows]


async def list_known_keys(conn: Connection, object_keys: Sequence[str]) -> set[str]:
    """Return those of the keys that a document names as its object's."""
    rows = await conn.fetch(
        "select object_key from documents where object_key = any($1::text[])", object_keys
    )
    return {row["object_key"] for row in rows}


async def list_processes(conn: Connection, object_keys: Sequence[str]) -> set[str]:
    """Return the numbers of the processes of whose documents these are the objects."""
    rows = await conn.fetch(
        "select distinct process_number from documents where object_key = any($1::text[])", object_keys
    )
    return {row["process_number"] for row in rows}


async def mark_missing(conn: Connection, object_key: str) -> bool:
    """available → failed, since the object is gone; False when the document has another one by now."""
    done = await conn.fetchval(
        """update documents
           set status = 'failed', object_key = null, size_bytes = null, sha256 = null, media_type = null,
               error_code = 'object_missing', error_message = 'the stored file was found missing',
               updated_at = now()
           where object_key = $1 and status = 'available' returning id""",
        object_key,
    )
    return done is not None


async def list_too_secret_of(conn: Connection, number: str, *, most: int) -> list[str]:
    """Return the keys of the objects of one process that are more secret than this."""
    rows = await conn.fetch(
        f"""select d.object_key from {_WITH_PROCESS}
            where d.process_number = $1 and d.object_key is not null and {_SECRECY} > $2""",
        number,
        most,
    )
    return [row["object_key"] for row in rows]


async def list_too_secret(conn: Connection, *, most: int, limit: int) -> list[str]:
    """Return the keys of some objects of all processes that are more secret than this; none at the end."""
    # "> 0" is what the indexes of the few that are secret at all are made for.
    rows = await conn.fetch(
        """(select object_key from documents
            where object_key is not null and secrecy_level > 0 and secrecy_level > $1 limit $2)
           union
           (select d.object_key from processes p join documents d on d.process_number = p.number
            where p.secrecy_level > 0 and p.secrecy_level > $1 and d.object_key is not null limit $2)
           limit $2""",
        most,
        limit,
    )
    return [row["object_key"] for row in rows]


async def mark_too_secret(conn: Connection, object_keys: Sequence[str]) -> None:
    """available → failed, since the objects were removed as too secret; a later job may fetch them again."""
    await conn.execute(
        """update documents
           set status = 'failed', object_key = null, size_bytes = null, sha256 = null, media_type = null,
               error_code = 'secrecy_above_limit',
               error_message = 'it has become more secret than this system may have', updated_at = now()
           where object_key = any($1::text[]) and status = 'available'""",
        object_keys,
    )


async def mark_started(conn: Connection, started: Mapping[UUID, datetime]) -> None:
    """pending → processing, each at its time; the caller holds the job."""
    await conn.execute(
        """update documents d
           set status = 'processing', updated_at = now(), download_completed_at = null,
               download_started_at = coalesce(d.download_started_at, r.started_at)
           from unnest($1::uuid[], $2::timestamptz[]) as r(id, started_at)
           where d.id = r.id and d.status = 'pending'""",
        list(started),
        list(started.values()),
    )


async def mark_available(
    conn: Connection, stored: Sequence[Stored], started: Mapping[UUID, datetime]
) -> None:
    """pending or processing → available; the caller holds the job.

    Args:
        started: when they were begun, of those of which that is not written yet.
    """
    await conn.execute(
        """update documents d
           set status = 'available', media_type = r.media_type, size_bytes = r.size_bytes, sha256 = r.sha256,
               object_key = r.object_key, updated_at = now(), attempts = d.attempts + 1,
               download_started_at = coalesce(d.download_started_at, r.started_at),
               download_completed_at = r.completed_at, error_code = null, error_message = null
           from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bytea[], $5::text[], $6::timestamptz[],
                       $7::timestamptz[])
                as r(id, media_type, size_bytes, sha256, object_key, completed_at, started_at)
           where d.id = r.id and d.status in ('pending', 'processing')""",
        [s.document_id for s in stored],
        [s.media_type for s in stored],
        [s.size_bytes for s in stored],
        [s.sha256 for s in stored],
        [s.object_key for s in stored],
        [s.completed_at for s in stored],
        [started.get(s.document_id) for s in stored],
    )


async def mark_missed(conn: Connection, missed: Sequence[Missed], started: Mapping[UUID, datetime]) -> None:
    """pending or processing → failed, or → pending to be tried again; the caller holds the job.

    Args:
        started: when they were begun, of those of which that is not written yet.
    """
    await conn.execute(
        """update documents d
           set status = case when r.is_final then 'failed'::document_status else 'pending' end,
               error_code = r.code, error_message = r.message, updated_at = now(),
               attempts = d.attempts + r.is_spent::int,
               download_started_at = coalesce(d.download_started_at, r.started_at),
               download_completed_at = case when r.is_final then now() end
           from unnest($1::uuid[], $2::text[], $3::text[], $4::bool[], $5::bool[], $6::timestamptz[])
                as r(id, code, message, is_final, is_spent, started_at)
           where d.id = r.id and d.status in ('pending', 'processing')""",
        [m.document_id for m in missed],
        [m.error_code for m in missed],
        [m.error_message for m in missed],
        [m.is_final for m in missed],
        [m.is_spent for m in missed],
        [started.get(m.document_id) for m in missed],
    )


async def hand_back(conn: Connection, number: str) -> None:
    """processing → pending for all that a run leaves behind; the caller holds the job."""
    await conn.execute(
        """update documents set status = 'pending', updated_at = now()
           where process_number = $1 and status = 'processing'""",
        number,
    )


async def give_up(
    conn: Connection, number: str, job_id: UUID, *, error_code: str, error_message: str
) -> None:
    """Unfinished → failed, each with its own last error if it has one; the caller holds the job.

    So does what earlier jobs left out and this one wants, when it ends before it could take that up.
    """
    await conn.execute(
        """update documents d set status = 'pending', job_id = $2
           where process_number = $1 and status = 'skipped'
             and document_is_wanted(d, (select filters from jobs where id = $2))""",
        number,
        job_id,
    )
    await conn.execute(
        """update documents
           set status = 'failed', updated_at = now(), download_completed_at = now(),
               error_message = case when error_code is null then $3 else error_message end,
               error_code = coalesce(error_code, $2)
           where process_number = $1 and status in ('pending', 'processing')""",
        number,
        error_code,
        error_message,
    )


def _document(row: asyncpg.Record | tuple[Any, ...]) -> Document:
    values = [*row]
    values[-1] = DocumentStatus(values[-1])
    return Document(*values)
