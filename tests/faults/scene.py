"""What is left after a run: every row, every object with its hash, every open upload."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID

import aiohttp

from service.core import documents
from service.core.db import Connection
from service.core.settings import Settings
from service.core.storage import Storage, open_storage
from tests.faults.evidence import Evidence

_CONCURRENCY = 16

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Fetched:
    """What a document's presigned link gave."""

    status: int
    size_bytes: int
    sha256: bytes


@dataclass(frozen=True)
class Scene:
    """Everything the invariants are asked of.

    Attributes:
        links: what the link of each available document gave, by the document's id.
        object_keys, uploads: all below our prefix.
        signing_secrets: by client.
        schedule_rounds: how many delays the schedule of deliveries has.
        noted: what accesses were noted to: documents, jobs, deliveries.
        levels: how secret each process is; `max_secrecy` is how secret what is kept may be.
    """

    evidence: Evidence
    jobs: dict[UUID, Row]
    documents: list[Row]
    subscriptions: dict[UUID, Row]
    deliveries: dict[UUID, Row]
    links: dict[UUID, Fetched]
    object_keys: set[str]
    uploads: set[str]
    signing_secrets: dict[UUID, bytes]
    schedule_rounds: int
    noted: set[UUID]
    levels: dict[str, int]
    max_secrecy: int

    def documents_of(self, number: str) -> list[Row]:
        """The documents of one process."""
        return [row for row in self.documents if row["process_number"] == number]

    def latest_jobs(self) -> list[Row]:
        """The newest job of each process."""
        newest = {row["process_number"]: row for row in sorted(self.jobs.values(), key=_created)}
        return list(newest.values())


def _created(job: Row) -> datetime:
    at: datetime = job["created_at"]
    return at


async def look_at(
    evidence: Evidence,
    *,
    conn: Connection,
    settings: Settings,
    signing_secrets: dict[UUID, bytes],
    schedule_rounds: int,
) -> Scene:
    """Read everything once."""
    tables = ("jobs", "documents", "subscriptions", "deliveries", "accesses", "processes")
    rows = {table: await _rows(conn, table) for table in tables}
    async with open_storage(settings) as storage:
        return Scene(
            evidence=evidence,
            jobs={row["id"]: row for row in rows["jobs"]},
            documents=rows["documents"],
            subscriptions={row["id"]: row for row in rows["subscriptions"]},
            deliveries={row["id"]: row for row in rows["deliveries"]},
            links=await _follow_links(storage, rows["documents"]),
            object_keys={one.key async for one in _flat(storage.list_objects("processes/"))},
            uploads={one.key async for one in _flat(storage.list_uploads("processes/"))},
            signing_secrets=signing_secrets,
            schedule_rounds=schedule_rounds,
            noted={row["subject"] for row in rows["accesses"]},
            levels={row["number"]: row["secrecy_level"] or 0 for row in rows["processes"]},
            max_secrecy=settings.max_secrecy,
        )


async def _rows(conn: Connection, table: str) -> list[Row]:
    return [dict(row) for row in await conn.fetch(f"select * from {table}")]


async def _flat(pages: AsyncIterator[list[Any]]) -> AsyncIterator[Any]:
    async for page in pages:
        for one in page:
            yield one


async def _follow_links(storage: Storage, rows: list[Row]) -> dict[UUID, Fetched]:
    turns = asyncio.Semaphore(_CONCURRENCY)

    async def follow(row: Row) -> tuple[UUID, Fetched]:
        name = documents.file_name(row["name"], row["object_key"])
        link = storage.presign(row["object_key"], filename=name, now=datetime.now(UTC))
        async with turns:
            return row["id"], await _fetch(http, link)

    async with aiohttp.ClientSession() as http:
        return dict(await asyncio.gather(*(follow(row) for row in rows if row["object_key"])))


async def _fetch(http: aiohttp.ClientSession, link: str) -> Fetched:
    digest, size_bytes = hashlib.sha256(), 0
    async with http.get(link) as response:
        async for chunk in response.content.iter_chunked(1024 * 1024):
            digest.update(chunk)
            size_bytes += len(chunk)
        return Fetched(response.status, size_bytes, digest.digest())
