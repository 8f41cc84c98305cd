"""What a job brought in, as a whole."""

import asyncio
import hashlib
from collections.abc import Sequence
from functools import partial

from aiohttp import web

from service import answers, problems
from service.archive import Entry, archive
from service.contract import Operation
from service.core import cnj, documents, jobs
from service.core.clients import Client
from service.core.documents import Document
from service.core.jobs import Job
from service.core.settings import Settings
from service.core.states import DocumentStatus
from service.file_names import saved_name
from service.handlers.jobs import path_uuid
from service.keys import ARCHIVES, CLIENT, DATABASE, SETTINGS, STORAGE
from service.polling import is_known
from service.problems import ProblemError
from service.request_schemas import NoQuery
from service.requests import read_query
from service.schemas import ManifestAnswer, ManifestEntry

_RETRY_AFTER_S = "10"
# Who takes nothing for so long is let go.
_WRITE_TIMEOUT_S = 60.0


@Operation("jobs", {200: ManifestAnswer, 304: None}, reads=("If-None-Match",), tells=("ETag",))
async def get_manifest(request: web.Request) -> web.Response:
    """List the job's documents, the oldest first, with sizes and hashes to check them by."""
    read_query(request, NoQuery)
    async with request.app[DATABASE].connection() as conn:
        job = await jobs.get_for_client(conn, path_uuid(request, "job_id"), request[CLIENT].id)
        rows = await documents.list_of_job(conn, job.id)
    body = answers.encode(_manifest(job, rows[::-1], request[CLIENT], request.app[SETTINGS]))
    # Of the bytes, since a document can be found missing after its job has ended.
    headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "Cache-Control": "private, no-cache"}
    if is_known(request, headers["ETag"]):
        return web.Response(status=304, headers=headers)
    return answers.body_response(body, headers=headers)


@Operation(
    "processes",
    {200: "application/zip"},
    problems=(problems.NOT_AVAILABLE,),
    tells=("Content-Disposition",),
)
async def get_archive(request: web.Request) -> web.StreamResponse:
    """Send all documents of the process that are there, as one ZIP archive in the court's order."""
    read_query(request, NoQuery)
    number = cnj.parse_process_number(request.match_info["number"])
    async with request.app[DATABASE].connection() as conn:
        job = await jobs.latest_for_client(conn, number, request[CLIENT].id)
        rows = await documents.list_of_job(conn, job.id)
    may_have, settings = request[CLIENT].may_have, request.app[SETTINGS]
    there = [
        row for row in rows[::-1] if row.object_key is not None and may_have(row.secrecy_level, settings)
    ]
    if not there:
        raise ProblemError(
            problems.NOT_AVAILABLE, "there is no document of the process that you may have yet"
        )
    if request.app[ARCHIVES].locked():
        raise ProblemError(problems.OVERLOADED, headers={"Retry-After": _RETRY_AFTER_S})
    async with request.app[ARCHIVES]:
        return await _send(request, cnj.mask(number), [_file(request, *one) for one in _numbered(there)])


async def _send(request: web.Request, name: str, entries: Sequence[Entry]) -> web.StreamResponse:
    chunks = archive(entries)
    first = await anext(chunks)  # an S3 that is away is a proper error as long as nothing was sent
    response = web.StreamResponse(headers={"Cache-Control": "private, no-store"})
    response.content_type = "application/zip"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.zip"'
    await response.prepare(request)
    await _write(response, first)
    async for chunk in chunks:
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
        open=partial(request.app[STORAGE].read, key),
    )


def _manifest(job: Job, rows: Sequence[Document], client: Client, settings: Settings) -> ManifestAnswer:
    return ManifestAnswer(
        process_number=cnj.mask(job.process_number),
        job_id=job.id,
        status=job.status,
        sequence=job.sequence,
        total_documents=len(rows),
        total_bytes=sum(row.size_bytes or 0 for row in rows),
        documents=[
            _entry(ordinal, row, len(rows), client, settings) for ordinal, row in enumerate(rows, start=1)
        ],
    )


def _entry(ordinal: int, row: Document, count: int, client: Client, settings: Settings) -> ManifestEntry:
    is_there = row.status is DocumentStatus.AVAILABLE
    may_have = is_there and client.may_have(row.secrecy_level, settings)
    suffix = row.object_key.rpartition(".")[2] if row.object_key else ""
    return ManifestEntry(
        id=row.id,
        uuid=row.portal_uuid,
        position=row.position,
        name=row.name,
        file_name=saved_name(ordinal, row.name, suffix=suffix, count=count) if is_there else None,
        type=row.type,
        status=row.status,
        size=row.size_bytes if is_there else None,
        mime_type=row.media_type if is_there else None,
        sha256=row.sha256.hex() if is_there and row.sha256 else None,
        filed_at=row.filed_at,
        content_url=f"{settings.public_url}/documents/{row.id}/content" if may_have else None,
        error_code=row.error_code,
    )
