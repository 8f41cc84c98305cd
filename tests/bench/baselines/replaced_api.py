"""The API of the design that Autos replaced: FastAPI with pydantic answers over the ORM's rows.

    python -m uvicorn tests.bench.baselines.replaced_api:app --host 127.0.0.1 --port N --no-access-log
    python -m tests.bench.baselines.replaced_api empty KEY
    python -m tests.bench.baselines.replaced_api fill NUMBER,… COUNT KEY

The last two make the tables, empty them and let KEY in; `fill` adds finished jobs with COUNT documents each.
"""

import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import FastAPI, HTTPException, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, selectinload, sessionmaker

from tests.bench.baselines.replaced import (
    S3,
    Document,
    Job,
    Key,
    create_tables,
    database_url,
    fetch_process,
    link,
    open_engine,
    open_s3,
)

_CONNECTIONS = 10


class JobRequest(BaseModel):
    """Which process to fetch."""

    process_number: Annotated[str, Field(pattern=r"^[0-9]{20}$")]


class JobAnswer(BaseModel):
    """A job that was taken on."""

    job_id: UUID


class DocumentAnswer(BaseModel):
    """One document; times in UTC, `size` in bytes."""

    id: UUID
    uuid: UUID
    name: str
    status: str
    size: int | None
    mime_type: str | None
    download_url: str | None
    error_message: str | None
    download_started_at: datetime | None
    download_completed_at: datetime | None


class StatusAnswer(BaseModel):
    """A job with the documents of its process."""

    process_number: str
    job_id: UUID
    status: str
    total_documents: int
    completed_documents: int
    failed_documents: int
    pending_documents: int
    processing_documents: int
    progress_percentage: float
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    webhook_url: str | None
    webhook_sent: bool
    documents: list[DocumentAnswer]


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    # Before the first requests come, whose threads would open them several times over.
    _blocking_sessions(), _s3()
    yield


app = FastAPI(lifespan=_lifespan)
ApiKey = Annotated[str, Security(APIKeyHeader(name="X-API-Key"))]


@app.post("/jobs", status_code=202)
async def create_job(request: JobRequest, key: ApiKey) -> JobAnswer:
    """Take a job on and hand it to Celery."""
    # All of it in one thread: Celery blocks.
    return await run_in_threadpool(_create_job, request.process_number, key)


def _create_job(number: str, key: str) -> JobAnswer:
    with _blocking_sessions()() as session:
        if session.get(Key, _sha256(key)) is None:
            raise HTTPException(401, "unknown API key")
        job = Job(process_number=number)
        session.add(job)
        session.commit()
    fetch_process.delay(str(job.id))
    return JobAnswer(job_id=job.id)


# Over asyncpg, because that is faster: with 32 callers and 30 documents an answer cost 21 ms of processor
# time, and 26 with psycopg2 in FastAPI's threads, where threads that sign links stand in each other's way.
@app.get("/processes/{number}/status")
async def get_status(number: str, key: ApiKey) -> StatusAnswer:
    """Show the newest job of a process."""
    async with _sessions()() as session:
        if await session.get(Key, _sha256(key)) is None:
            raise HTTPException(401, "unknown API key")
        newest = select(Job).where(Job.process_number == number).order_by(Job.created_at.desc()).limit(1)
        job = (await session.scalars(newest.options(selectinload(Job.documents)))).first()
    if job is None:
        raise HTTPException(404, "no job of this process")
    return _status_answer(job)


def _status_answer(job: Job) -> StatusAnswer:
    statuses = [document.status for document in job.documents]
    finished = job.completed_documents + job.failed_documents
    share = finished / job.total_documents if job.total_documents else float(job.completed_at is not None)
    return StatusAnswer(
        process_number=job.process_number,
        job_id=job.id,
        status=job.status,
        total_documents=job.total_documents,
        completed_documents=job.completed_documents,
        failed_documents=job.failed_documents,
        pending_documents=statuses.count("pending"),
        processing_documents=statuses.count("processing"),
        progress_percentage=round(share * 100, 1),
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.completed_at,
        webhook_url=job.webhook_url,
        webhook_sent=job.webhook_sent,
        documents=[_document_answer(document) for document in job.documents],
    )


def _document_answer(document: Document) -> DocumentAnswer:
    return DocumentAnswer(
        id=document.id,
        uuid=document.uuid,
        name=document.name,
        status=document.status,
        size=document.size,
        mime_type=document.mime_type,
        # Made anew at each poll, as that system did, so that it always lasts an hour.
        download_url=link(_s3(), document.object_key) if document.object_key else None,
        error_message=document.error_message,
        download_started_at=document.download_started_at,
        download_completed_at=document.download_completed_at,
    )


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@cache
def _sessions() -> async_sessionmaker[AsyncSession]:
    engine = create_async_engine(database_url("asyncpg"), pool_size=_CONNECTIONS, max_overflow=0)
    return async_sessionmaker(engine, expire_on_commit=False)


@cache
def _blocking_sessions() -> sessionmaker[Session]:
    return sessionmaker(open_engine(_CONNECTIONS), expire_on_commit=False)


@cache
def _s3() -> S3:
    return open_s3()


# Before a benchmark -------------------------------------------------------------------------------


def empty(key: str) -> None:
    """Make the tables, empty them and let one key in."""
    create_tables()
    with _blocking_sessions().begin() as session:
        session.add(Key(sha256=_sha256(key), name="bench"))


def fill(number: str, documents: int) -> None:
    """Write a completed job with so many available documents; their objects are not in S3."""
    now = datetime.now(UTC)
    job = Job(
        process_number=number,
        status="completed",
        total_documents=documents,
        completed_documents=documents,
        started_at=now,
        completed_at=now,
    )
    job.documents = [_available(number, position, now) for position in range(documents)]
    with _blocking_sessions().begin() as session:
        session.add(job)


def _available(number: str, position: int, now: datetime) -> Document:
    uuid = uuid4()
    key = f"replaced/{number}/{uuid}"
    return Document(
        position=position,
        uuid=uuid,
        name=f"Petição {position}",
        href=f"/processos/{number}/documentos/{uuid}/binario",
        status="available",
        size=50_000 + position,
        mime_type="application/pdf",
        object_key=key,
        download_url=link(_s3(), key),
        download_started_at=now,
        download_completed_at=now,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["empty", key]:
            empty(key)
        case ["fill", numbers, count, key]:
            empty(key)
            for number in numbers.split(","):
                fill(number, int(count))
        case _:
            sys.exit(__doc__)
