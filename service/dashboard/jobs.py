"""Jobs on the dashboard: all of a client's, and one with all that is known of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from aiohttp import web

from service import answers
from service.core import (
    delivery_log,
    documents,
    job_events,
    jobs,
    overview,
    processes,
    secrecy,
    subscriptions,
)
from service.core.cnj import parse_process_number
from service.core.delivery_log import Logged, LoggedAttempt
from service.core.documents import Document
from service.core.errors import InvalidProcessNumberError
from service.core.job_events import JobEvent, Move
from service.core.jobs import Job
from service.core.states import DeliveryStatus, DocumentStatus, JobStatus
from service.dashboard.elsewhere import or_whose
from service.dashboard.entrance import see_other, signed_in
from service.dashboard.pages import SESSION, render
from service.handlers.events import follow_all, follow_job
from service.handlers.jobs import cancel_job, page_of_jobs, path_uuid
from service.handlers.submissions import retry_job
from service.keys import CLIENT, DATABASE, SETTINGS
from service.middleware import stream
from service.noting import note_access
from service.request_schemas import JobListQuery
from service.requests import validate

_DOCUMENTS_PER_PAGE = 200
_MOST_DELIVERIES = 50
_LIKE_A_NUMBER = re.compile(r"[0-9./ -]*[0-9][0-9./ -]*")


@signed_in()
async def list_jobs(request: web.Request) -> web.Response:
    """List the client's jobs; what is looked for is a process number, a job's id or the client's own name."""
    given = {name: value.strip() for name, value in request.query.items() if value.strip()}
    sought = given.pop("q", "")
    if job_id := _uuid(sought):
        see_other(f"/dashboard/jobs/{job_id}")
    number, why_not = _number(sought)
    if sought:
        given["process_number" if number else "reference"] = sought
    query = validate(JobListQuery, given)
    answer = await page_of_jobs(request, query)
    holders: Sequence[str] = ()
    if number and request[SESSION].is_operator:
        async with request.app[DATABASE].connection() as conn:
            holders = await overview.list_holders(conn, number)
        holders = [name for name in holders if name != request[CLIENT].name]
    following = answer.next_cursor and request.rel_url.update_query(cursor=answer.next_cursor)
    return render(
        request,
        "jobs.html",
        jobs=answer.items,
        sought=sought,
        why_not=why_not,
        chosen=query.status or "",
        statuses=list(JobStatus),
        holders=holders,
        following=following,
        stream="/dashboard/events",
    )


@signed_in()
@or_whose(overview.find_clients, "job_id")
async def show_job(request: web.Request) -> web.Response:
    """Show a job with its documents, what happened when, who is told, and each try to tell him."""
    job_id, client_id = path_uuid(request, "job_id"), request[CLIENT].id
    page = (
        max(1, int(text))
        if (text := request.query.get("documents", "1")).isdecimal() and len(text) < 7
        else 1
    )
    async with request.app[DATABASE].connection() as conn:
        job = await jobs.get_for_client(conn, job_id, client_id)
        moves = await job_events.list_of_job(conn, job_id)
        process = await processes.get(conn, job.process_number)
        listed = await documents.list_of_job(conn, job_id)
        told = await subscriptions.list_of_client(conn, job_id, client_id)
        own = await subscriptions.webhook_state(conn, job_id, client_id)
        found = await delivery_log.list_found(
            conn, delivery_log.Search(job_id=job_id), client_id, limit=_MOST_DELIVERIES
        )
        attempts = {one.id: await delivery_log.list_attempts(conn, one.id) for one in found}
    most = request.app[SETTINGS].secrecy_ceiling(request[CLIENT].max_secrecy)
    process, listed = secrecy.shown_process(process, most=most), secrecy.shown(listed, most=most)
    start = (page - 1) * _DOCUMENTS_PER_PAGE
    on_page = listed[start : start + _DOCUMENTS_PER_PAGE]
    linked = sum(one.object_key is not None for one in on_page)
    await note_access(request, "job.page", job.id, linked, sequence=job.sequence)
    return render(
        request,
        "job.html",
        job=job,
        process=process,
        documents=on_page,
        may_have={one.id: one.secrecy_level <= most for one in on_page},
        page=page,
        pages=-(-len(listed) // _DOCUMENTS_PER_PAGE),
        priority=own.priority,
        subscriptions=told,
        deliveries=[(answers.delivery_answer(one), attempts[one.id]) for one in found],
        events=_time_line(job, moves, listed, found, attempts),
        without_query=answers.without_query,
        stream=None if job.status.is_final else f"/dashboard/jobs/{job_id}/events",
    )


@signed_in("write")
async def retry(request: web.Request) -> web.StreamResponse:
    """Start a new job for what this one left out, and show it."""
    answer = await retry_job(request)
    see_other(f"/dashboard{answer.headers['Location']}")


@signed_in("write")
async def cancel(request: web.Request) -> web.StreamResponse:
    """Stop the job."""
    await cancel_job(request)
    see_other(f"/dashboard/jobs/{path_uuid(request, 'job_id')}")


follow = stream(signed_in()(follow_job))
"""The stream of one job, for who is signed in."""

follow_everything = stream(signed_in()(follow_all))
"""The stream of all jobs of a client, for who is signed in."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened.

    Attributes:
        text: a text of ours with `{}` for its `values`, or for its `reason`, a code, and `wait_s`.
        tone: `good`, `bad` or nothing.
        wait_s: how long it was to wait then.
    """

    at: datetime
    text: str
    values: tuple[object, ...] = ()
    tone: str = ""
    reason: str | None = None
    wait_s: float | None = None


_MOVES = {
    Move.CLAIMED: ("A worker took the job again: run {}", ""),
    Move.WAITS: ("The job waits: {} (next try after {})", ""),
    Move.RETRIED: ("The run did not get everything: {} (next try after {})", "bad"),
    Move.HANDED_BACK: ("The worker gave the job back: it goes on when its turn comes", ""),
    Move.LEASE_LOST: ("No sign of the worker came any more: the job was taken from it", "bad"),
}
_ENDS = {
    JobStatus.COMPLETED: ("The job ended with every document", "good"),
    JobStatus.PARTIAL: ("The job ended with some of its documents", "bad"),
    JobStatus.FAILED: ("The job failed", "bad"),
    JobStatus.CANCELLED: ("The job was cancelled", ""),
}


def _time_line(
    job: Job,
    moves: Sequence[JobEvent],
    listed: Sequence[Document],
    deliveries: Sequence[Logged],
    attempts: dict[UUID, list[LoggedAttempt]],
) -> list[Moment]:
    """Return what the rows tell of the job's life, in order."""
    moments = [Moment(job.created_at, "The job was submitted")]
    if job.started_at:
        moments.append(Moment(job.started_at, "A worker took the job"))
    if moves and moves[0].run > 1:
        moments.append(Moment(moves[0].at, "What happened before is not kept"))
    moments += [_moved(move) for move in moves]
    moments += _stored(job, listed)
    if job.finished_at:
        text, tone = _ENDS[job.status]
        moments.append(Moment(job.finished_at, text, tone=tone))
    for one in deliveries:
        moments += [_attempt(one, attempt) for attempt in attempts[one.id]]
        if one.status is DeliveryStatus.DEAD and one.finished_at:
            moments.append(Moment(one.finished_at, "{} was given up", (one.event,), "bad"))
    return sorted(moments, key=lambda moment: moment.at)


def _moved(event: JobEvent) -> Moment:
    text, tone = _MOVES[event.what]
    wait_s = (event.next_at - event.at).total_seconds() if event.next_at else None
    return Moment(event.at, text, (event.run,), tone, event.reason, wait_s)


def _stored(job: Job, listed: Sequence[Document]) -> list[Moment]:
    """Return when the first and the last of the documents came that came in this job."""
    ours = [
        one.download_completed_at
        for one in listed
        if one.status is DocumentStatus.AVAILABLE
        and one.download_completed_at is not None
        and one.download_completed_at >= job.created_at
    ]
    if not ours:
        return []
    return [
        Moment(min(ours), "The first document was stored"),
        Moment(max(ours), "{} documents are stored", (len(ours),)),
    ]


def _attempt(delivery: Logged, attempt: LoggedAttempt) -> Moment:
    if attempt.status_code is None:
        return Moment(attempt.started_at, "{}: the receiver could not be reached", (delivery.event,), "bad")
    tone = "good" if 200 <= attempt.status_code < 300 else "bad"
    return Moment(
        attempt.started_at, "{}: the receiver answered {}", (delivery.event, attempt.status_code), tone
    )


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def _number(text: str) -> tuple[str | None, str | None]:
    """Return the 20 digits of a process number; or why there are none, if it looks like one."""
    try:
        return parse_process_number(text), None
    except InvalidProcessNumberError as error:
        return None, str(error) if _LIKE_A_NUMBER.fullmatch(text) else None
