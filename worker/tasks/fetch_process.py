"""The main task: bring the documents of one process in, as the one owner of its job."""

import asyncio
import logging
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

from service.core import documents, jobs, known_lists, metrics, processes, telling, tracing
from service.core.crash_points import crash_point
from service.core.db import Connection
from service.core.documents import Document
from service.core.errors import (
    CodexFailureError,
    DocumentNotReadyError,
    LeaseLostError,
    PortalBreakerOpenError,
    PortalError,
    PortalPausedError,
    SecrecyError,
)
from service.core.job_events import Move
from service.core.jobs import Job
from service.core.log import bound
from service.core.portal_records import ProcessRecord
from service.core.settlement import NOT_FETCHED, Reason, Settled, settle
from service.core.storage import MOST_AT_ONCE
from service.core.structured import finish
from service.core.wishes import Filters
from worker.context import Context, Run
from worker.downloads import PASSING_ERRORS, Downloads, quick_tries
from worker.ledger import End, HandedBack, Ledger

DEADLINE = Reason("deadline_exceeded", "the job's deadline passed before this document was fetched")
UNREAD = Reason("deadline_exceeded", "the portal did not let the process be read before the job's deadline")

# How long a process that is told to end waits for the database to take a run's last write.
_LAST_WRITE_S = 10.0

log = logging.getLogger(__name__)


async def fetch_process(context: Context, _rung_for: UUID) -> None:
    """Claim a job, run it, and settle it or hand it back; nothing when none is to be had.

    The job is not the one that was rung for but the one whose turn it is: there are as many rings as jobs.
    """
    crash_point("job.heard")
    job = await context.claims.ask(object())
    if job is None:
        return
    crash_point("job.claimed")
    is_first = job.fence == 1
    if is_first and job.started_at is not None:
        metrics.JOB_WAIT_SECONDS.observe(max(0.0, (job.started_at - job.created_at).total_seconds()))
    with (
        bound(job_id=job.id, attempt=job.fence),
        # A later run may be hours after the request: it has a trace of its own, with a link to the first.
        tracing.within("run", job.traceparent, kind="consumer", is_repeat=not is_first) as part,
    ):
        part.note({"autos.job.id": str(job.id)})
        try:
            destinations = await _run_and_count(context, job)
        except Exception:
            # A defect of ours, told here, where it is known which job it was; its lease runs out.
            log.exception("job %s", job.id)
            part.failed("internal_error")
            return
    crash_point("job.settled")
    await context.queue.ring_destinations(destinations)


async def _run_and_count(context: Context, job: Job) -> list[UUID]:
    """Run the job, count how that ended, and return the destinations to ring for."""
    run = Run(job.client_id)
    ledger = Ledger(context.db, job, context.settings, run)
    context.runs.add(run)
    outcome, destinations = "lost", list[UUID]()
    try:
        match await _run_as_owner(context, job, ledger, run):
            case Settled() as settled:
                settled.count()
                outcome, destinations = "ended", settled.destinations
            case HandedBack() as handed_back:
                outcome = handed_back.outcome
    except* LeaseLostError:
        log.warning("job %s is no longer ours", job.id)
    finally:
        context.runs.discard(run)
    metrics.RUNS.labels(outcome).inc()
    return destinations


async def _run_as_owner(context: Context, job: Job, ledger: Ledger, run: Run) -> Settled | HandedBack:
    """Run under the heartbeat: losing the lease ends the run."""
    async with asyncio.TaskGroup() as group:
        group.create_task(ledger.keep())
        try:
            end = await _run_until_deadline(context, job, ledger, run)
        except asyncio.CancelledError:
            # The process is going down: what is done stays done, the rest goes on elsewhere. If it was
            # `keep` that failed, the job is no longer ours, and this says so once more.
            await finish(ledger.conclude(_hand_back(job)), grace_s=_LAST_WRITE_S)
            raise
        finally:
            ledger.close()
    return await finish(ledger.conclude(end), grace_s=_LAST_WRITE_S)


async def _run_until_deadline(context: Context, job: Job, ledger: Ledger, run: Run) -> End:
    deadline = asyncio.timeout(job.left_s)
    try:
        async with deadline:
            return await _run(context, job, ledger, run)
    except TimeoutError:
        if not deadline.expired():
            raise
        return _settle_at_deadline(job, ledger)


async def _run(context: Context, job: Job, ledger: Ledger, run: Run) -> End:
    """Read the process, fetch what is pending, and say how the run ends."""
    known_at = await _known_at(context, job, ledger)
    try:
        record = await _read_process(context, job, known_at)
        pending = await _write_down(context, job, ledger, record)
    except PortalPausedError as error:
        return _wait_for_portal(context, job, error)
    except (CodexFailureError, DocumentNotReadyError, *PASSING_ERRORS) as error:
        return _retry_later(context, job, error) or _settle(job, ledger, error=_reason(error))
    except PortalError as error:
        return _settle(job, ledger, error=_reason(error))
    downloads = Downloads(context, job, ledger, run)
    await downloads.run(pending)
    if isinstance(downloads.pause, PortalBreakerOpenError):
        # The portal served this very process a moment ago: it may be these documents that it always fails on,
        # which must not keep the breaker open until the deadline.
        return _retry_later(context, job, downloads.pause) or _settle(job, ledger)
    if downloads.pause:
        return _wait_for_portal(context, job, downloads.pause)
    if downloads.is_cut_short:
        return _hand_back(job)
    if downloads.left_over and (retry := _retry_later(context, job, downloads.left_over)):
        return retry
    return _settle(job, ledger)


async def _known_at(context: Context, job: Job, ledger: Ledger) -> datetime | None:
    """Return what the source called the process's last change when it was listed, if that can save a list."""
    if not context.sources.of(job.process_number).adapter.tells_changes:
        return None

    async def look() -> datetime | None:
        async with context.db.connection() as conn:
            return await known_lists.get(conn, job.process_number, max_secrecy=context.settings.max_secrecy)

    return await ledger.while_leased(look)


async def _read_process(context: Context, job: Job, known_at: datetime | None) -> ProcessRecord | None:
    """Return what the portal says of the process; None when it has not changed."""
    source = context.sources.of(job.process_number)
    async for attempt in quick_tries(context):
        with attempt:
            async with source.limit.slot():
                return await source.adapter.read_process(job.process_number, known_at=known_at)
    raise AssertionError("unreachable: the last try returns or raises")


async def _write_down(
    context: Context, job: Job, ledger: Ledger, record: ProcessRecord | None
) -> list[Document]:
    """Write what the portal says, let go what has become too secret by it, and return what is to be fetched.

    Args:
        record: None when nothing has changed.

    Raises:
        SecrecyError: that is all of it; its level is written.
        StorageUnavailableError: an object could not be removed; its level is written.
    """
    is_sealed = record is not None and record.secrecy_level > context.settings.max_secrecy
    listed = await ledger.while_leased(lambda: _record(context, job, record))
    crash_point("job.listed")
    # The level first: from here on no links are given. Then the objects, with which those given before end.
    # The rows last: they are what says to the next run, or to the janitor, which objects are still to go.
    for start in range(0, len(listed.too_secret), MOST_AT_ONCE):
        keys = listed.too_secret[start : start + MOST_AT_ONCE]
        await context.storage.delete_many(keys)
        crash_point("job.sealing")
        await ledger.while_leased(partial(_mark_too_secret, context, job, keys))
    if listed.too_secret:
        log.warning("job %s: %d documents have become too secret", job.id, len(listed.too_secret))
    if is_sealed:
        raise SecrecyError("the process is more secret than this system may fetch")
    return listed.pending


class _Listed(NamedTuple):
    """Documents to be fetched, and the keys of objects that are more secret than this system may have."""

    pending: list[Document]
    too_secret: list[str]


async def _record(context: Context, job: Job, record: ProcessRecord | None) -> _Listed:
    if record is None:
        return await _record_unchanged(context, job)
    if record.secrecy_level > context.settings.max_secrecy:
        return await _record_sealed(context, job, record)
    return await _record_list(context, job, record)


async def _record_unchanged(context: Context, job: Job) -> _Listed:
    number = job.process_number
    async with context.db.transaction() as conn:
        await processes.confirm_list(conn, number)
        await known_lists.confirm(conn, number)
        await jobs.hold(conn, job)
        pending = await documents.take_up(conn, number, job.id)
        await jobs.record_progress(conn, job, lease_s=context.settings.lease_s, downloaded_bytes=0)
        return _Listed(pending, await _list_too_secret(context, conn, job))


async def _record_list(context: Context, job: Job, record: ProcessRecord) -> _Listed:
    async with context.db.transaction() as conn:
        # The process before the job: the order in which submissions lock them.
        is_first = await processes.describe(conn, record)
        if record.changed_at:
            await known_lists.keep(conn, job.process_number, record.changed_at)
        filters = await jobs.hold(conn, job)
        pending = await documents.record_list(
            conn, job.process_number, job.id, record.documents, filters=filters, is_first=is_first
        )
        await jobs.record_progress(conn, job, lease_s=context.settings.lease_s, downloaded_bytes=0)
        return _Listed(pending, [] if is_first else await _list_too_secret(context, conn, job))


async def _record_sealed(context: Context, job: Job, record: ProcessRecord) -> _Listed:
    async with context.db.transaction() as conn:
        await processes.seal(conn, record.number, secrecy_level=record.secrecy_level)
        await jobs.hold(conn, job)
        return _Listed([], await _list_too_secret(context, conn, job))


async def _list_too_secret(context: Context, conn: Connection, job: Job) -> list[str]:
    most = context.settings.max_secrecy
    return await documents.list_too_secret_of(conn, job.process_number, most=most)


async def _mark_too_secret(context: Context, job: Job, object_keys: list[str]) -> None:
    async with context.db.transaction() as conn:
        await jobs.hold(conn, job)
        await documents.mark_too_secret(conn, object_keys)
        await jobs.record_progress(conn, job, lease_s=context.settings.lease_s, downloaded_bytes=0)


# How a run can end --------------------------------------------------------------------------------


def _settle(job: Job, ledger: Ledger, *, error: Reason | None = None, left_over: Reason = NOT_FETCHED) -> End:
    async def end(conn: Connection, filters: Filters) -> Settled | HandedBack:
        if error is None and left_over is NOT_FETCHED and filters != job.filters:
            # Somebody joined who wants more documents than this run was for.
            return await _hand_back(job)(conn, filters)
        settled = await settle(
            conn, job, error=error, left_over=left_over, downloaded_bytes=ledger.downloaded_bytes
        )
        crash_point("job.settling")
        return settled

    return end


def _settle_at_deadline(job: Job, ledger: Ledger) -> End:
    async def end(conn: Connection, filters: Filters) -> Settled | HandedBack:
        process = await processes.get(conn, job.process_number)
        # Without a list of this job's own nothing is known of the documents: that is no completed job.
        was_listed = process.listed_at is not None and process.listed_at >= job.created_at
        settled = _settle(job, ledger, error=None if was_listed else UNREAD, left_over=DEADLINE)
        return await settled(conn, filters)

    return end


def _hand_back(
    job: Job,
    *,
    delay_s: float = 0.0,
    waiting_reason: str | None = None,
    move: Move = Move.HANDED_BACK,
) -> End:
    async def end(conn: Connection, _: Filters) -> HandedBack:
        await documents.hand_back(conn, job.process_number)
        counts = await documents.count(conn, job.id)
        await jobs.hand_back(conn, job, counts, delay_s=delay_s, waiting_reason=waiting_reason, move=move)
        # It may be hours until the next run. The sweep rings for it.
        await telling.tell_documents(conn, job.id)
        return HandedBack(move)

    return end


def _wait_for_portal(context: Context, job: Job, error: PortalPausedError) -> End:
    """Waiting for the portal costs neither a retry nor an attempt; only the deadline ends it."""
    delay_s = error.retry_after_s or context.settings.portal_pause_s
    return _hand_back(job, delay_s=delay_s, waiting_reason=error.code, move=Move.WAITS)


def _retry_later(context: Context, job: Job, error: Exception) -> End | None:
    """Hand the job back for its next run; None when the schedule is spent."""
    delays = context.settings.job_retry_delays_s
    if job.retries >= len(delays):
        return None
    code = _reason(error).code
    delay_s = max(delays[job.retries], getattr(error, "retry_after_s", None) or 0.0)
    return _hand_back(job, delay_s=delay_s, waiting_reason=code, move=Move.RETRIED)


def _reason(error: Exception) -> Reason:
    return Reason(getattr(error, "code", "internal_error"), str(error))
