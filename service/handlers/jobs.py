"""Jobs: submit one, see how it goes, cancel it, try it again."""

from uuid import UUID

from aiohttp import web

from service import answers
from service.core import cnj, documents, jobs, settlement, submission, subscriptions
from service.core.crash_points import crash_point
from service.core.db import Connection
from service.core.errors import NotFoundError
from service.core.jobs import Job
from service.core.outbound import OutboundPolicy, parse_destination
from service.core.submission import Outcome, Submission
from service.keys import CLIENT, DATABASE, QUEUE, SETTINGS, STORAGE
from service.polling import Find, Tag, asked_wait_s, find_job, is_known, polling_headers
from service.requests import read_json, read_query
from service.schemas import JobRequest, NoQuery, RetryRequest, StatusQuery

_POLL_AGAIN_S = "1"


async def create_job(request: web.Request) -> web.Response:
    """Submit a process: 202 with the job, or 200 when everything is there already."""
    read_query(request, NoQuery)
    body = await read_json(request, JobRequest)
    number = cnj.parse_process_number(body.process_number)
    return await _show_submission(
        request, await submit(request, number, body.webhook_url, force_refresh=body.force_refresh)
    )


async def get_job(request: web.Request) -> web.Response:
    """Show a job that this client subscribed to; with `wait`, as soon as it changes."""
    job_id = path_uuid(request, "job_id")
    client_id = request[CLIENT].id
    return await show_polled(
        request,
        lambda conn: jobs.get_for_client(conn, job_id, client_id),
        lambda job: f'W/"{job.sequence}"',
    )


async def show_polled(request: web.Request, find: Find, tag_of: Tag) -> web.Response:
    """Answer with the job that `find` reads: at once or when it changes, or 304 when the caller has it."""
    query = read_query(request, StatusQuery)
    wait_s = asked_wait_s(request, query.wait)
    job = await find_job(request, find, tag_of, wait_s=wait_s)
    tag = tag_of(job)
    headers = polling_headers(job, tag, wait_s=wait_s)
    if is_known(request, tag):
        return web.Response(status=304, headers=headers)
    return await show_status(request, job, headers=headers, has_documents=query.fields == "all")


async def cancel_job(request: web.Request) -> web.Response:
    """Stop a job that nobody else waits for; what is available stays available."""
    read_query(request, NoQuery)
    job_id, app = path_uuid(request, "job_id"), request.app
    client_id = request[CLIENT].id
    delivery_ids = await app[DATABASE].in_transaction(lambda conn: settlement.cancel(conn, job_id, client_id))
    crash_point("job.cancelled")
    await app[QUEUE].ring_deliveries(delivery_ids)
    async with app[DATABASE].connection() as conn:
        job = await jobs.get_for_client(conn, job_id, client_id)
    return await show_status(request, job)


async def retry_job(request: web.Request) -> web.Response:
    """Start a new job for what an ended one left out: 202 with the new job."""
    read_query(request, NoQuery)
    job_id, app = path_uuid(request, "job_id"), request.app
    body = await read_json(request, RetryRequest) if request.can_read_body else RetryRequest()
    url = checked_webhook_url(request, body.webhook_url)
    client_id = request[CLIENT].id
    submitted = await app[DATABASE].in_transaction(
        lambda conn: submission.retry(conn, job_id, client_id, webhook_url=url, settings=app[SETTINGS])
    )
    await _ring(request, submitted)
    return await _show_submission(request, submitted)


async def submit(
    request: web.Request, number: str, webhook_url: str | None, *, force_refresh: bool
) -> Submission:
    """Write the submission, then ring; a ring that Redis does not take is the sweep's to repeat."""
    app, url = request.app, checked_webhook_url(request, webhook_url)
    client_id = request[CLIENT].id

    async def write(conn: Connection) -> Submission:
        written = await submission.submit(
            conn, number, client_id, webhook_url=url, force_refresh=force_refresh, settings=app[SETTINGS]
        )
        crash_point("submission.written")
        return written

    submitted = await app[DATABASE].in_transaction(write)
    await _ring(request, submitted)
    return submitted


async def _ring(request: web.Request, submitted: Submission) -> None:
    crash_point("submission.committed")
    queue = request.app[QUEUE]
    if submitted.outcome is Outcome.CREATED:
        await queue.ring_job(submitted.job.id, submitted.job.fence)
    await queue.ring_deliveries(submitted.delivery_ids)
    crash_point("submission.rung")


async def _show_submission(request: web.Request, submitted: Submission) -> web.Response:
    job = submitted.job
    headers = {"Location": f"{api_prefix(request)}/jobs/{job.id}"}
    if submitted.outcome is Outcome.CACHED:
        return await show_status(request, job, headers=headers)
    return await show_status(request, job, status=202, headers={**headers, "Retry-After": _POLL_AGAIN_S})


def checked_webhook_url(request: web.Request, url: str | None) -> str | None:
    """Return the canonical form of a webhook URL.

    Raises:
        DestinationRefusedError: it may not be called; nothing has been written.
    """
    if url is None:
        return None
    return str(parse_destination(url, OutboundPolicy.from_settings(request.app[SETTINGS])).url)


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
    async with app[DATABASE].connection() as conn:
        rows = await documents.list_of_process(conn, job.process_number) if has_documents else []
        webhook = await subscriptions.webhook_state(conn, job.id, request[CLIENT].id)
    shown = answers.document_answers(rows, settings=app[SETTINGS], storage=app[STORAGE])
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
