"""Jobs: see how one goes, list them, cancel one."""

import hashlib
from collections.abc import Sequence
from uuid import UUID

from aiohttp import web

from service import answers, problems
from service.contract import Operation
from service.core import cnj, job_lists, jobs, settlement, subscriptions
from service.core.crash_points import crash_point
from service.core.db import Connection
from service.core.errors import NotFoundError
from service.core.job_lists import Search
from service.core.jobs import Job
from service.core.polled_jobs import PolledJob
from service.core.states import JobStatus
from service.cursors import cut_page, read_cursor
from service.keys import CLIENT, DATABASE, LOOKUPS, QUEUE, SETTINGS, STORAGE
from service.load import Kind
from service.middleware import taken_as
from service.noting import note_access
from service.polling import Find, Tag, asked_wait_s, find_awaited, is_known, polling_headers
from service.request_schemas import JobListQuery, NoQuery, StatusQuery
from service.requests import read_query
from service.schemas import JobListAnswer, StatusAnswer, SummaryAnswer

MOST_IDS = 200


@Operation(
    "jobs",
    {200: StatusAnswer | SummaryAnswer, 304: None},
    query=StatusQuery,
    reads=("If-None-Match", "Prefer"),
    tells=("ETag", "Retry-After", "Preference-Applied"),
)
@taken_as(Kind.STATUS)
async def get_job(request: web.Request) -> web.Response:
    """Show a job that this client subscribed to; with `wait`, as soon as it changes."""
    job_id = path_uuid(request, "job_id")
    client_id = request[CLIENT].id
    return await show_polled(
        request,
        lambda: request.app[LOOKUPS].job(job_id, client_id),
        lambda job: f'W/"{job.tag}"',
    )


async def show_polled(request: web.Request, find: Find[PolledJob], tag_of: Tag[PolledJob]) -> web.Response:
    """Answer with the job that `find` reads: at once or when it changes, or 304 when the caller has it."""
    query = read_query(request, StatusQuery)
    wait_s = asked_wait_s(request, query.wait)
    job = await find_awaited(request, find, tag_of, wait_s=wait_s)
    tag = tag_of(job)
    headers = polling_headers(job, tag, wait_s=wait_s)
    if is_known(request, tag):
        return web.Response(status=304, headers=headers)
    return await show_status(request, job, headers=headers, has_documents=query.fields == "all")


@Operation(
    "jobs",
    {200: JobListAnswer, 304: None},
    query=JobListQuery,
    problems=(problems.BAD_REQUEST, problems.INVALID_PROCESS_NUMBER),
    reads=("If-None-Match",),
    tells=("ETag", "Link"),
)
@taken_as(Kind.STATUS)
async def list_jobs(request: web.Request) -> web.Response:
    """List the client's jobs, the newest first, or those whose ids are given."""
    query = read_query(request, JobListQuery)
    answer = await (_jobs_by_id if query.ids else page_of_jobs)(request, query)
    body = answers.encode(answer)
    tag = f'W/"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if answer.next_cursor:
        following = request.rel_url.update_query(cursor=answer.next_cursor)
        headers["Link"] = f'<{following}>; rel="next"'
    if is_known(request, tag):
        return web.Response(status=304, headers=headers)
    return answers.body_response(body, headers=headers)


async def _jobs_by_id(request: web.Request, query: JobListQuery) -> JobListAnswer:
    if query.model_fields_set != {"ids"}:
        raise problems.invalid("#/ids", "goes with no other parameter")
    asked = list(dict.fromkeys((query.ids or "").split(",")))
    if len(asked) > MOST_IDS:
        raise problems.invalid("#/ids", f"should be {MOST_IDS} at most")
    ids = {text: _uuid(text) for text in asked}
    async with request.app[DATABASE].connection() as conn:
        found = await jobs.list_for_client(conn, [one for one in ids.values() if one], request[CLIENT].id)
        shown = {one.job_id: one for one in await _summaries(conn, found, request[CLIENT].id)}
    items = [shown[job_id] for job_id in dict.fromkeys(ids.values()) if job_id in shown]
    missing = [text for text, job_id in ids.items() if job_id not in shown]
    return JobListAnswer(items=items, next_cursor=None, missing=missing)


async def page_of_jobs(request: web.Request, query: JobListQuery) -> JobListAnswer:
    """Return the client's jobs that the query asks for."""
    search = Search(
        statuses=_statuses(query.status),
        reference=query.reference,
        number=cnj.parse_process_number(query.process_number) if query.process_number else None,
        created_from=query.created_from,
        created_until=query.created_until,
        after=read_cursor(query.cursor, query),
    )
    async with request.app[DATABASE].connection() as conn:
        found = await job_lists.list_found(conn, search, request[CLIENT].id, limit=query.limit + 1)
        page, cursor = cut_page(found, query, limit=query.limit)
        items = await _summaries(conn, page, request[CLIENT].id)
    return JobListAnswer(items=items, next_cursor=cursor, missing=None)


async def _summaries(conn: Connection, found: Sequence[Job], client_id: UUID) -> list[SummaryAnswer]:
    states = await subscriptions.webhook_states(conn, [job.id for job in found], client_id)
    return [answers.status_answer(job, None, states[job.id]) for job in found]


def _statuses(text: str | None) -> list[JobStatus] | None:
    try:
        return None if text is None else [JobStatus(name) for name in text.split(",")]
    except ValueError as error:
        known = ", ".join(JobStatus)
        raise problems.invalid("#/status", f"should be one or more, with commas, of {known}") from error


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


@Operation("jobs", {200: StatusAnswer}, problems=(problems.JOB_FINAL, problems.JOB_SHARED))
async def cancel_job(request: web.Request) -> web.Response:
    """Stop a job that nobody else waits for; what is available stays available."""
    read_query(request, NoQuery)
    job_id, app = path_uuid(request, "job_id"), request.app
    client_id = request[CLIENT].id
    settled = await app[DATABASE].in_transaction(lambda conn: settlement.cancel(conn, job_id, client_id))
    crash_point("job.cancelled")
    if settled is not None:
        settled.count()
        await app[QUEUE].ring_destinations(settled.destinations)
    async with app[DATABASE].connection() as conn:
        job = await jobs.get_for_client(conn, job_id, client_id)
    return await show_status(request, job)


async def show_status(
    request: web.Request,
    job: Job,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    has_documents: bool = True,
) -> web.Response:
    """Answer with the job, its documents unless they are not wanted, and the client's webhook."""
    app = request.app
    rows = await app[LOOKUPS].documents(job.id) if has_documents else []
    webhook = await app[LOOKUPS].webhook(job.id, request[CLIENT].id)
    shown = answers.document_answers(
        rows, client=request[CLIENT], settings=app[SETTINGS], storage=app[STORAGE]
    )
    await note_access(request, "job.status", job.id, answers.count_links(shown), sequence=job.sequence)
    answer = answers.status_answer(job, shown if has_documents else None, webhook)
    return answers.json_response(answer, status=status, headers=headers)


def api_prefix(request: web.Request) -> str:
    """Return the prefix under which the caller called, for links in the same style."""
    return "/api/v1" if request.path.startswith("/api/v1/") else ""


def path_uuid(request: web.Request, name: str) -> UUID:
    """Return an id from the path; what is no UUID is no id of ours, hence not found."""
    try:
        return UUID(request.match_info[name])
    except ValueError as error:
        raise NotFoundError("no such id") from error
