"""What happens when a caller asks for processes: join the running job, use what is there, or begin."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from service.core import (
    deliveries,
    documents,
    endpoints,
    jobs,
    known_lists,
    processes,
    subscriptions,
    telling,
)
from service.core.db import Connection
from service.core.errors import (
    AutosError,
    NothingToRetryError,
    TooManyActiveJobsError,
    UnknownEndpointError,
)
from service.core.events import FINAL_EVENTS
from service.core.jobs import Job, NewJob
from service.core.processes import Process
from service.core.settings import Settings
from service.core.states import JobStatus, Priority
from service.core.subscriptions import NewSubscription
from service.core.wishes import Wish, covers, widened


class Outcome(StrEnum):
    """How a request was met."""

    CREATED = "created"
    JOINED = "joined"
    CACHED = "cached"


@dataclass(frozen=True, slots=True)
class Submission:
    """The job a caller is now subscribed to; `destinations` are to be rung for after the commit."""

    job: Job
    outcome: Outcome
    destinations: list[UUID]


async def submit(
    conn: Connection, wish: Wish, client_id: UUID, *, settings: Settings, most_active: int | None = None
) -> Submission:
    """Submit one wish; see `submit_many`.

    Raises:
        TooManyActiveJobsError: it would have needed one job too many.
        UnknownEndpointError: it names an endpoint that is none of the client's.
    """
    (met,) = await submit_many(conn, [wish], client_id, settings=settings, most_active=most_active)
    if isinstance(met, AutosError):
        raise met
    return met


async def submit_many(
    conn: Connection,
    wishes: Sequence[Wish],
    client_id: UUID,
    *,
    settings: Settings,
    most_active: int | None = None,
) -> list[Submission | TooManyActiveJobsError | UnknownEndpointError]:
    """Subscribe the client to the jobs that bring the processes in, inside the caller's transaction.

    All requests for one process pass one after the other (the lock on its row), so that fifty at once
    make one job. After the commit the caller rings for the jobs (when created) and the destinations.

    Args:
        most_active: jobs that the client may have at once; None for the setting.

    Returns:
        For each wish, in their order, its submission or the error for which there is none.
    """
    named = {wish.endpoint_id for wish in wishes if wish.endpoint_id}
    unknown = named - await endpoints.list_known(conn, list(named), client_id) if named else named
    good = [wish for wish in wishes if wish.endpoint_id not in unknown]
    met = iter(await _submit(conn, good, client_id, settings=settings, most_active=most_active))
    error = UnknownEndpointError("there is no such endpoint")
    return [error if wish.endpoint_id in unknown else next(met) for wish in wishes]


async def _submit(
    conn: Connection, wishes: Sequence[Wish], client_id: UUID, *, settings: Settings, most_active: int | None
) -> list[Submission | TooManyActiveJobsError]:
    found = await _lock(conn, {wish.number for wish in wishes})
    if insisting := {wish.number for wish in wishes if wish.max_age_s == 0}:
        await known_lists.forget(conn, insisting)
    most = most_active or settings.max_active_jobs
    created = await _create(conn, found.new_jobs(wishes, settings), client_id, most=most)
    if refused := found.new - created.keys():
        # Nobody asks for them any more, and nobody would ever forget them.
        await processes.forget(conn, refused)
    met = [await _meet(conn, wish, found, created, settings) for wish in wishes]
    told = iter(await _subscribe(conn, [one for one in met if one is not None], client_id))
    too_many = TooManyActiveJobsError(f"you may have {most} active jobs at most")
    return [too_many if one is None else next(told) for one in met]


async def retry(
    conn: Connection,
    job_id: UUID,
    client_id: UUID,
    *,
    webhook_url: str | None,
    endpoint_id: UUID | None,
    traceparent: str | None = None,
    settings: Settings,
    most_active: int | None = None,
) -> Submission:
    """Ask again for a process whose job left documents out: what is available stays, the rest is tried anew.

    Args:
        webhook_url: where the new job is told; with `endpoint_id` None too, where the old one was.
        traceparent: of the request.

    Raises:
        NotFoundError: no such job, or somebody else's.
        NothingToRetryError: it has not ended, or ended with every document.
    """
    job = await jobs.get_for_client(conn, job_id, client_id)
    # Looked up again under the lock: what was erased meanwhile must not be fetched again.
    await processes.lock_known(conn, [job.process_number])
    job = await jobs.get_for_client(conn, job_id, client_id)
    if not job.status.is_final:
        raise NothingToRetryError("the job has not ended yet")
    if job.status is JobStatus.COMPLETED:
        raise NothingToRetryError("the job ended with every document")
    # As he asked for it himself: what others asked for is theirs.
    own = await subscriptions.webhook_state(conn, job_id, client_id)
    asked = await subscriptions.list_of_client(conn, job_id, client_id)
    asked = [one for one in asked if one.is_told] or asked[:1]
    is_elsewhere = webhook_url is not None or endpoint_id is not None
    wishes = [
        Wish(
            job.process_number,
            webhook_url if is_elsewhere else one.webhook_url,
            endpoint_id if is_elsewhere else one.endpoint_id,
            tuple(event for event in one.events or () if event not in FINAL_EVENTS),
            one.reference,
            own.priority,
            own.filters,
            traceparent=traceparent,
        )
        for one in asked
    ]
    submissions = [
        await submit(conn, wish, client_id, settings=settings, most_active=most_active) for wish in wishes
    ]
    destinations = [destination for one in submissions for destination in one.destinations]
    return Submission(submissions[0].job, submissions[0].outcome, destinations)


@dataclass(frozen=True, slots=True)
class _Met:
    """The job by which a wish is met."""

    wish: Wish
    job: Job
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is of the processes asked for, each by its number, locked."""

    processes: dict[str, Process]
    active: dict[str, Job]
    latest: dict[str, Job]
    lacking: set[UUID]
    new: set[str]

    def new_jobs(self, wishes: Sequence[Wish], settings: Settings) -> dict[str, NewJob]:
        """Return the jobs to be made, one for all wishes for the same process."""
        new: dict[str, NewJob] = {}
        for wish in wishes:
            if wish.number in self.active or self.is_there(wish, settings):
                continue
            deadline_s = wish.deadline_s or settings.job_deadline_s
            job = new.get(wish.number) or NewJob(
                wish.number, wish.priority, wish.filters, deadline_s, wish.traceparent
            )
            new[wish.number] = replace(
                job,
                priority=Priority.first(job.priority, wish.priority),
                filters=widened(job.filters, wish.filters),
            )
        return new

    def is_there(self, wish: Wish, settings: Settings) -> bool:
        """Whether the newest job brought in all that is wished for, not too long ago."""
        latest, listed_ago = self.latest.get(wish.number), self.processes[wish.number].listed_ago
        if latest is None or latest.status is not JobStatus.COMPLETED or listed_ago is None:
            return False
        max_age_s = settings.fresh_s if wish.max_age_s is None else wish.max_age_s
        # Nothing is younger than nothing, though a clock may have been put back since.
        is_fresh = max_age_s > 0 and listed_ago < timedelta(seconds=max_age_s)
        return is_fresh and latest.id not in self.lacking and covers(latest.filters, wish.filters)


async def _lock(conn: Connection, numbers: set[str]) -> _Found:
    locked, new = await processes.lock(conn, numbers)
    found = _Found({process.number: process for process in locked}, {}, {}, set(), new)
    if known := numbers - new:
        found.active.update({job.process_number: job for job in await jobs.lock_active(conn, known)})
        idle = known - found.active.keys()
        found.latest.update({job.process_number: job for job in await jobs.list_latest(conn, idle)})
    if found.latest:
        found.lacking.update(await documents.list_lacking(conn, [job.id for job in found.latest.values()]))
    return found


async def _create(conn: Connection, new: dict[str, NewJob], client_id: UUID, *, most: int) -> dict[str, Job]:
    """Make as many jobs as the client may have."""
    if not new:
        return {}
    # Calls at the same time do not count each other's jobs: the limit is a soft one.
    room = max(0, most - await jobs.count_active(conn, client_id))
    created = await jobs.create(conn, list(new.values())[:room], client_id)
    return {job.process_number: job for job in created}


async def _meet(
    conn: Connection, wish: Wish, found: _Found, created: dict[str, Job], settings: Settings
) -> _Met | None:
    """Find the job for a wish; None when the client may not have one more."""
    if job := found.active.get(wish.number):
        found.active[wish.number] = job = await _join(conn, job, wish)
        return _Met(wish, job, Outcome.JOINED)
    if found.is_there(wish, settings):
        return _Met(wish, found.latest[wish.number], Outcome.CACHED)
    if job := created.get(wish.number):
        found.active[wish.number] = job  # for the next wish for the same process
        return _Met(wish, job, Outcome.CREATED)
    return None


async def _join(conn: Connection, job: Job, wish: Wish) -> Job:
    """Let a job that others began serve this wish too: nobody gets less, or later, than he asked for."""
    priority = Priority.first(job.priority, wish.priority)
    if priority is job.priority and covers(job.filters, wish.filters):
        return job
    return await jobs.widen(conn, job.id, priority=priority, filters=widened(job.filters, wish.filters))


async def _subscribe(conn: Connection, met: Sequence[_Met], client_id: UUID) -> list[Submission]:
    wanted = [
        NewSubscription(
            one.job.id,
            one.job.created_at,
            one.wish.webhook_url,
            one.wish.endpoint_id,
            (*FINAL_EVENTS, *one.wish.events) if one.wish.webhook_url else None,
            one.wish.reference,
            one.wish.priority,
            one.wish.filters,
        )
        for one in met
    ]
    submissions = []
    new_jobs = {one.job.id for one in met if one.outcome is Outcome.CREATED}
    ids = await subscriptions.add(conn, wanted, client_id, new_jobs=new_jobs)
    for one, new, subscription_id in zip(met, wanted, ids, strict=True):
        is_told_now = one.outcome is Outcome.CACHED and new.is_told
        destinations = await _tell_now(conn, one.job, subscription_id) if is_told_now else []
        submissions.append(Submission(one.job, one.outcome, destinations))
    return submissions


async def _tell_now(conn: Connection, job: Job, subscription_id: UUID) -> list[UUID]:
    told = await telling.tell_end(conn, job, [subscription_id])
    # Who asks again for what still waits to be sent is there to take it, whatever happened before.
    return told + await deliveries.hurry(conn, subscription_id)
