"""Asking for processes: one, many in a batch, or one again. What is written is rung for after its commit."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict
from uuid import UUID

from aiohttp import web

from service import answers, problems
from service.contract import Operation
from service.core import batches, cnj, endpoints, idempotency, submission, subscriptions, telling
from service.core.batches import NewItem
from service.core.db import Connection
from service.core.errors import AutosError, DestinationRefusedError
from service.core.idempotency import KeptAnswer, KeyedRequest
from service.core.outbound import OutboundPolicy, parse_destination
from service.core.settings import Settings
from service.core.submission import Outcome, Submission
from service.core.subscriptions import WebhookState
from service.core.wishes import Wish
from service.handlers.jobs import api_prefix, path_uuid
from service.keys import CLIENT, DATABASE, SETTINGS, SUBMISSIONS
from service.measuring import origin
from service.middleware import translate
from service.problems import ProblemError, problem_body
from service.request_schemas import (
    MOST_IN_A_BATCH,
    BatchQuery,
    BatchRequest,
    JobOptions,
    JobRequest,
    NoQuery,
    RetryRequest,
)
from service.requests import (
    asked_language,
    idempotency_key,
    is_lines,
    read_batch_json,
    read_json,
    read_lines,
    read_query,
)
from service.schemas import BatchAnswer, SummaryAnswer

_POLL_AGAIN_S = "1"


@dataclass(frozen=True, slots=True)
class Created:
    """What a request has written: the answer to it, and for what is to be rung after the commit."""

    answer: KeptAnswer
    submissions: Sequence[Submission] = ()
    destinations: list[UUID] = field(default_factory=list)


class _Limits(TypedDict):
    settings: Settings
    most_active: int | None


_KEYED = (problems.KEY_IN_USE, problems.KEY_REUSED, problems.ERASED)
_TOLD = ("Location", "Retry-After", "Idempotent-Replayed")

Create = Callable[[Connection], Awaitable[Created]]


@Operation(
    "jobs",
    {200: SummaryAnswer, 202: SummaryAnswer},
    body=JobRequest,
    problems=(*_KEYED, problems.TOO_MANY_ACTIVE_JOBS, problems.INVALID_PROCESS_NUMBER),
    reads=("Idempotency-Key", "traceparent"),
    tells=_TOLD,
)
async def create_job(request: web.Request) -> web.Response:
    """Submit a process: 202 with the job, or 200 when everything is there already."""
    read_query(request, NoQuery)
    body = await read_json(request, JobRequest)
    wish = _wish(request, body.process_number, body)
    if idempotency_key(request) is None:
        submitted = await request.app[SUBMISSIONS].submit(wish, request[CLIENT])
        answer = _job_answer(request, submitted.submission, submitted.webhook)
        return _response(answer, {})

    async def create(conn: Connection) -> Created:
        submitted = await submission.submit(conn, wish, request[CLIENT].id, **_limits(request))
        return await _created_job(conn, request, submitted)

    return await _create_once(request, answers.encode(body), create)


@Operation(
    "jobs",
    {200: SummaryAnswer, 202: SummaryAnswer},
    body=RetryRequest,
    is_body_needed=False,
    problems=(*_KEYED, problems.TOO_MANY_ACTIVE_JOBS, problems.NOTHING_TO_RETRY),
    reads=("Idempotency-Key", "traceparent"),
    tells=_TOLD,
)
async def retry_job(request: web.Request) -> web.Response:
    """Start a new job for what an ended one left out: 202 with it, or 200 when all has come since."""
    read_query(request, NoQuery)
    job_id = path_uuid(request, "job_id")
    body = await read_json(request, RetryRequest) if request.can_read_body else RetryRequest()
    url = checked_webhook_url(request, body.webhook_url)

    async def create(conn: Connection) -> Created:
        submitted = await submission.retry(
            conn,
            job_id,
            request[CLIENT].id,
            webhook_url=url,
            endpoint_id=body.webhook_endpoint_id,
            traceparent=origin(request),
            **_limits(request),
        )
        return await _created_job(conn, request, submitted)

    return await _create_once(request, answers.encode(body), create)


@Operation(
    "jobs",
    {200: BatchAnswer, 202: BatchAnswer},
    query=BatchQuery,
    body=BatchRequest,
    lines=JobRequest,
    problems=_KEYED,
    reads=("Idempotency-Key", "traceparent"),
    tells=_TOLD,
)
async def create_batch(request: web.Request) -> web.Response:
    """Submit up to 1,000 processes; each is met or refused on its own."""
    if is_lines(request):
        options = read_query(request, BatchQuery)
        asked = await read_lines(request, JobRequest, most=MOST_IN_A_BATCH)
    else:
        read_query(request, NoQuery)
        body = await read_batch_json(request, BatchRequest)
        options = body
        checked_webhook_url(request, body.webhook_url)
        # Checked with the body already: what stands in it now is no longer what it was read from.
        shared = {name: getattr(body, name) for name in JobOptions.model_fields}
        asked = [
            JobRequest.model_construct(process_number=number, **shared) for number in body.process_numbers
        ]
    batch_url = checked_webhook_url(request, options.batch_webhook_url, pointer="#/batch_webhook_url")
    wishes = [_wish_or_problem(request, one) for one in asked]
    names = [one.process_number if isinstance(one, JobRequest) else "" for one in asked]

    async def create(conn: Connection) -> Created:
        # Not before: who repeats the request gets his answer though the endpoint was deleted since.
        await _need_endpoint(conn, options.batch_webhook_endpoint_id, request[CLIENT].id)
        met = await _meet(conn, request, wishes)
        items = [_item(request, name, wish, one) for name, wish, one in zip(names, wishes, met, strict=True)]
        batch_id = await batches.create(
            conn,
            items,
            request[CLIENT].id,
            reference=options.batch_reference,
            webhook_url=batch_url,
            endpoint_id=options.batch_webhook_endpoint_id,
        )
        return await _created_batch(conn, request, batch_id, met)

    encoded = answers.encode(options) + b"\n".join(
        answers.encode(one) if isinstance(one, JobRequest) else str(one.detail).encode() for one in asked
    )
    return await _create_once(request, encoded, create)


async def submit(request: web.Request, number: str, options: JobOptions) -> Submission:
    """Write the submission of one process, then ring."""
    submitted = await request.app[SUBMISSIONS].submit(_wish(request, number, options), request[CLIENT])
    return submitted.submission


def _limits(request: web.Request) -> _Limits:
    return {"settings": request.app[SETTINGS], "most_active": request[CLIENT].max_active_jobs}


def checked_webhook_url(
    request: web.Request, url: str | None, *, pointer: str = "#/webhook_url"
) -> str | None:
    """Return the canonical form of a webhook URL.

    Raises:
        ProblemError: 422, it may not be called; nothing has been written.
    """
    if url is None:
        return None
    try:
        return str(parse_destination(url, OutboundPolicy.from_settings(request.app[SETTINGS])).url)
    except DestinationRefusedError as error:
        raise problems.invalid(pointer, str(error)) from error


async def _need_endpoint(conn: Connection, endpoint_id: UUID | None, client_id: UUID) -> None:
    """Refuse a batch that names an endpoint which is none of the client's.

    Raises:
        ProblemError: 422; the transaction has written nothing.
    """
    if endpoint_id is not None and not await endpoints.list_known(conn, [endpoint_id], client_id):
        raise problems.invalid("#/batch_webhook_endpoint_id", "there is no such endpoint")


def _wish(request: web.Request, number: str, options: JobOptions) -> Wish:
    return Wish(
        number=cnj.parse_process_number(number),
        webhook_url=checked_webhook_url(request, options.webhook_url),
        endpoint_id=options.webhook_endpoint_id,
        events=tuple(sorted(set(options.webhook_events))),
        reference=options.reference,
        priority=options.priority,
        filters=options.filter.filters() if options.filter else None,
        deadline_s=options.deadline_s,
        max_age_s=0 if options.force_refresh else options.max_age_s,
        traceparent=origin(request),
    )


def _wish_or_problem(request: web.Request, asked: JobRequest | ProblemError) -> Wish | ProblemError:
    if isinstance(asked, ProblemError):
        return asked
    try:
        return _wish(request, asked.process_number, asked)
    except (AutosError, ProblemError) as error:
        return translate(error)


async def _meet(
    conn: Connection, request: web.Request, wishes: Sequence[Wish | ProblemError]
) -> list[Submission | ProblemError]:
    """Submit the wishes among them; what cannot be met becomes a problem too."""
    met = iter(
        await submission.submit_many(
            conn, [wish for wish in wishes if isinstance(wish, Wish)], request[CLIENT].id, **_limits(request)
        )
    )
    answered = [next(met) if isinstance(wish, Wish) else wish for wish in wishes]
    return [translate(one) if isinstance(one, AutosError) else one for one in answered]


def _item(
    request: web.Request, name: str, wish: Wish | ProblemError, met: Submission | ProblemError
) -> NewItem:
    reference = wish.reference if isinstance(wish, Wish) else None
    if isinstance(met, Submission):
        return NewItem(cnj.mask(met.job.process_number), reference, met.outcome, met.job.id)
    problem = problem_body(
        met,
        base_url=request.app[SETTINGS].public_url,
        instance=request.path,
        language=asked_language(request),
    )
    return NewItem(name, reference, "refused", None, problem)


async def _create_once(request: web.Request, asked: bytes, create: Create) -> web.Response:
    """Create, answer and ring; a request repeated with its `Idempotency-Key` gets the first one's answer."""
    keyed = None
    if key := idempotency_key(request):
        # One route, whichever of its two addresses was called.
        route = request.path.removeprefix("/api/v1")
        keyed = KeyedRequest(request[CLIENT].id, route, key, hashlib.sha256(asked).digest())

    async def write(conn: Connection) -> tuple[KeptAnswer, Created | None]:
        if keyed and (kept := await idempotency.begin(conn, keyed)):
            return kept, None
        created = await create(conn)
        if keyed:
            await idempotency.keep(conn, keyed, created.answer)
        return created.answer, created

    answer, created = await request.app[DATABASE].in_transaction(write)
    if created is None:
        return _response(answer, {"Idempotent-Replayed": "true"})
    await request.app[SUBMISSIONS].ring(created.submissions, created.destinations)
    return _response(answer, {})


def _response(answer: KeptAnswer, headers: dict[str, str]) -> web.Response:
    headers["Location"] = answer.location
    if answer.status == 202:
        headers["Retry-After"] = _POLL_AGAIN_S
    return answers.body_response(answer.body, status=answer.status, headers=headers)


async def _created_job(conn: Connection, request: web.Request, submitted: Submission) -> Created:
    webhook = await subscriptions.webhook_state(conn, submitted.job.id, request[CLIENT].id)
    return Created(_job_answer(request, submitted, webhook), [submitted])


def _job_answer(request: web.Request, submitted: Submission, webhook: WebhookState) -> KeptAnswer:
    """Show the job without its documents, whose links would not last as long as the answer is kept."""
    job = submitted.job
    status = 200 if submitted.outcome is Outcome.CACHED else 202
    body = answers.encode(answers.status_answer(job, None, webhook))
    return KeptAnswer(status, f"{api_prefix(request)}/jobs/{job.id}", body)


async def _created_batch(
    conn: Connection, request: web.Request, batch_id: UUID, met: Sequence[Submission | ProblemError]
) -> Created:
    batch = await batches.get(conn, batch_id)
    # Everything was there already: the batch has ended with its beginning.
    destinations = await telling.tell_batches(conn, [batch_id] if batch.finished_at else [])
    answer = answers.batch_answer(batch, await batches.list_items(conn, batch_id))
    location = f"{api_prefix(request)}/batches/{batch_id}"
    kept = KeptAnswer(200 if batch.finished_at else 202, location, answers.encode(answer))
    return Created(kept, [one for one in met if isinstance(one, Submission)], destinations)
