"""Jobs: submit one, see how it goes, cancel it, try it again."""

import hashlib
from collections.abc import Awaitable, Callable
from uuid import UUID

from aiohttp import web

from service import answers
from service.core import cnj, documents, idempotency, jobs, settlement, submission, subscriptions
from service.core.crash_points import crash_point
from service.core.db import Connection
from service.core.errors import NotFoundError
from service.core.idempotency import KeptAnswer, KeyedRequest
from service.core.jobs import Job
from service.core.outbound import OutboundPolicy, parse_destination
from service.core.submission import Outcome, Submission
from service.keys import CLIENT, DATABASE, QUEUE, SETTINGS, STORAGE
from service.polling import Find, Tag, asked_wait_s, find_job, is_known, polling_headers
from service.requests import idempotency_key, read_json, read_query
from service.schemas import JobRequest, NoQuery, Request, RetryRequest, StatusQuery

_POLL_AGAIN_S = "1"


async def create_job(request: web.Request) -> web.Response:
    """Submit a process: 202 with the job, or 200 when everything is there already."""
    read_query(request, NoQuery)
    body = await read_json(request, JobRequest)
    number = cnj.parse_process_number(body.process_number)
    url = checked_webhook_url(request, body.webhook_url)
    client_id, settings = request[CLIENT].id, request.app[SETTINGS]

    async def create(conn: Connection) -> Submission:
        submitted = await submission.submit(
            conn, number, client_id, webhook_url=url, force_refresh=body.force_refresh, settings=settings
        )
        crash_point("submission.written")
        return submitted

    return await _create_once(request, body, create)


async def _create_once(
    request: web.Request, body: Request, create: Callable[[Connection], Awaitable[Submission]]
) -> web.Response:
    """Create, answer and ring; a request repeated with its `Idempotency-Key` gets the first one's answer."""
    keyed = None
    if key := idempotency_key(request):
        sha256 = hashlib.sha256(answers.encode(body)).digest()
        # One route, whichever of its two addresses was called.
        route = request.path.removeprefix("/api/v1")
        keyed = KeyedRequest(request[CLIENT].id, route, key, sha256)

    async def write(conn: Connection) -> tuple[KeptAnswer, Submission | None]:
        if keyed and (kept := await idempotency.begin(conn, keyed)):
            return kept, None
        submitted = await create(conn)
        answer = await _answer_of(conn, request, submitted)
        if keyed:
            await idempotency.keep(conn, keyed, answer)
        return answer, submitted

    answer, submitted = await request.app[DATABASE].in_transaction(write)
    headers = {"Location": answer.location}
    if submitted is None:
        headers["Idempotent-Replayed"] = "true"
    else:
        await _ring(request, submitted)
    if answer.status == 202:
        headers["Retry-After"] = _POLL_AGAIN_S
    return answers.body_response(answer.body, status=answer.status, headers=headers)


async def _answer_of(conn: Connection, request: web.Request, submitted: Submission) -> KeptAnswer:
    """Show the job without its documents, whose links would not last as long as the answer is kept."""
    job = submitted.job
    webhook = await subscriptions.webhook_state(conn, job.id, request[CLIENT].id)
    status = 200 if submitted.outcome is Outcome.CACHED else 202
    body = answers.encode(answers.status_answer(job, None, webhook))
    return KeptAnswer(status, f"{api_prefix(request)}/jobs/{job.id}", body)


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
    job_id = path_uuid(request, "job_id")
    body = await read_json(request, RetryRequest) if request.can_read_body else RetryRequest()
    url = checked_webhook_url(request, body.webhook_url)
    client_id, settings = request[CLIENT].id, request.app[SETTINGS]

    async def create(conn: Connection) -> Submission:
        return await submission.retry(conn, job_id, client_id, webhook_url=url, settings=settings)

    return await _create_once(request, body, create)


async def submit(
    request: web.Request, number: str, webhook_url: str | None, *, force_refresh: bool
) -> Submission:
    """Write the submission, then ring; a ring that Redis does not take is the sweep's to repeat."""
    app, url = request.app, checked_webhook_url(request, webhook_url)
    client_id = request[CLIENT].id

    submitted = await app[DATABASE].in_transaction(
        lambda conn: submission.submit(
            conn, number, client_id, webhook_url=url, force_refresh=force_refresh, settings=app[SETTINGS]
        )
    )
    await _ring(request, submitted)
    return submitted


async def _ring(request: web.Request, submitted: Submission) -> None:
    crash_point("submission.committed")
    queue = request.app[QUEUE]
    if submitted.outcome is Outcome.CREATED:
        await queue.ring_job(submitted.job.id, submitted.job.fence)
    await queue.ring_deliveries(submitted.delivery_ids)
    crash_point("submission.rung")


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
