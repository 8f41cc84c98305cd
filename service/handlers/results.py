"""What a job brought in, as a whole."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial

from aiohttp import web

from service import answers, problems
from service.archive import Entry, archive
from service.contract import Operation
from service.core import cnj, documents, jobs, losses, polled_jobs, secrecy
from service.core.documents import Document
from service.core.errors import ObjectMissingError
from service.core.jobs import Job
from service.file_names import saved_name
from service.handlers.jobs import path_uuid
from service.keys import ARCHIVES, CLIENT, DATABASE, SETTINGS, STORAGE
from service.noting import note_access
from service.polling import is_known
from service.problems import ProblemError
from service.request_schemas import NoQuery
from service.requests import read_query
from service.schemas import ManifestAnswer, ManifestEntry

# Who takes nothing for so long is let go.
_WRITE_TIMEOUT_S = 60.0


@Operation("jobs", {200: ManifestAnswer, 304: None}, reads=("If-None-Match",), tells=("ETag",))
async def get_manifest(request: web.Request) -> web.Response:
    """List the job's documents, the oldest first, with sizes and hashes to check them by."""
    read_query(request, NoQuery)
    async with request.app[DATABASE].connection() as conn:
        job = await jobs.get_for_client(conn, path_uuid(request, "job_id"), request[CLIENT].id)
        rows = _shown(request, await documents.list_of_job(conn, job.id))[::-1]
    body = answers.encode(_manifest(job, rows, request.app[SETTINGS].public_url))
    # Of the bytes, since a document can be found missing after its job has ended.
    headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "Cache-Control": "private, no-cache"}
    if is_known(request, headers["ETag"]):
        return web.Response(status=304, headers=headers)
    there = sum(row.object_key is not None for row in rows)
    await note_access(request, "job.manifest", job.id, there, sequence=job.sequence)
    return answers.body_response(body, headers=headers)


@Operation(
    "processes",
    {200: "application/zip"},
    problems=(problems.NOT_AVAILABLE, problems.GONE),
    tells=("Content-Disposition",),
)
async def get_archive(request: web.Request) -> web.StreamResponse:
    """Send all documents of the process that are there, as one ZIP archive in the court's order.

    In the place of one whose file has vanished stands a note, named like it with `.missing.txt` at the end;
    410 when all have.
    """
    read_query(request, NoQuery)
    number = cnj.parse_process_number(request.match_info["number"])
    async with request.app[DATABASE].connection() as conn:
        job = await polled_jobs.latest_for_client(conn, number, request[CLIENT].id)
        rows = await documents.list_of_job(conn, job.id)
    there = [row for row in _shown(request, rows)[::-1] if row.object_key is not None]
    if not there:
        raise ProblemError(
            problems.NOT_AVAILABLE, "there is no document of the process that you may have yet"
        )
    with request.app[ARCHIVES].taken(request[CLIENT].id):
        return await _send(request, job, [_file(request, *one) for one in _numbered(there)])


async def _send(request: web.Request, job: Job, entries: Sequence[Entry]) -> web.StreamResponse:
    async with aclosing(archive(entries)) as chunks:
        try:
            first = await anext(chunks)  # an S3 that is away is a proper error as long as nothing was sent
        except ObjectMissingError as error:
            raise ProblemError(problems.GONE) from error
        await note_access(request, "job.archive", job.id, len(entries))
        return await _send_chunks(request, cnj.mask(job.process_number), first, chunks)


async def _send_chunks(
    request: web.Request, name: str, first: bytes, others: AsyncIterator[bytes]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Cache-Control": "private, no-store"})
    response.content_type = "application/zip"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.zip"'
    await response.prepare(request)
    await _write(response, first)
    async for chunk in others:
        await _write(response, chunk)
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, chunk: bytes) -> None:
    async with asyncio.timeout(_WRITE_TIMEOUT_S):  # a TimeoutError is an OSError
        await response.write(chunk)


def _numbered(rows: Sequence[Document]) -> list[tuple[int, int, Document]]:
    return [(ordinal, len(rows), row) for ordinal, row in enumerate(rows, start=1)]


def _file(request: web.Request, ordinal: int, count: int, row: Document) -> Entry:
    key = row.object_key or ""
    return Entry(
        name=saved_name(ordinal, row.name, suffix=key.rpartition(".")[2], count=count),
        size_bytes=row.size_bytes or 0,
        sha256=row.sha256 or b"",
        modified_at=row.filed_at,
        open=partial(_read, request, key),
    )


async def _read(request: web.Request, object_key: str) -> AsyncGenerator[bytes, None]:
    """Read a document's object; that it has vanished is noted, so that the next job fetches it again."""
    try:
        async with aclosing(request.app[STORAGE].read(object_key)) as chunks:
            async for chunk in chunks:
                yield chunk
    except ObjectMissingError:
        await request.app[DATABASE].in_transaction(partial(losses.mark_missing, object_key=object_key))
        raise


def _shown(request: web.Request, rows: Sequence[Document]) -> list[Document]:
    """Return documents as the client may see them."""
    return secrecy.shown(rows, most=request.app[SETTINGS].secrecy_ceiling(request[CLIENT].max_secrecy))


def _manifest(job: Job, rows: Sequence[Document], base_url: str) -> ManifestAnswer:
    return ManifestAnswer(
        process_number=cnj.mask(job.process_number),
        job_id=job.id,
        status=job.status,
        sequence=job.sequence,
        total_documents=len(rows),
        total_bytes=sum(row.size_bytes or 0 for row in rows),
        documents=[_entry(ordinal, row, len(rows), base_url) for ordinal, row in enumerate(rows, start=1)],
    )


def _entry(ordinal: int, row: Document, count: int, base_url: str) -> ManifestEntry:
    key = row.object_key
    name = saved_name(ordinal, row.name, suffix=key.rpartition(".")[2], count=count) if key else None
    return ManifestEntry(
        id=row.id,
        uuid=row.portal_uuid,
        position=row.position,
        name=row.name,
        file_name=name,
        type=row.type,
        status=row.status,
        size=row.size_bytes,
        mime_type=row.media_type,
        sha256=row.sha256.hex() if row.sha256 else None,
        filed_at=row.filed_at,
        content_url=f"{base_url}/documents/{row.id}/content" if key else None,
        error_code=row.error_code,
    )
