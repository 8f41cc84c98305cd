"""The pulse: how the whole system is at one moment, by PostgreSQL and Redis, and how it was for an hour."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from service.core import canary, chores, deliveries, erasures, jobs, metrics
from service.core.canary import Outcome
from service.core.db import Connection, Database
from service.core.errors import DatabaseUnavailableError
from service.core.portal_shared import Shared
from service.core.settings import Settings
from service.core.token_source import token_state

EVERY_S = 10.0
KEPT_S = 3600.0

LONGEST_WAIT_S = 300.0
"""When the oldest job that could run has waited for longer, the workers do not keep up, or there are none."""

LONGEST_UNSWEPT_S = 60.0
"""Every worker sweeps once a second or so: after so long none lives that can."""

_CLOSING_S = 1.0
# What never came to its end has a time for Prometheus all the same: no rule sees a gauge that is not there.
_NEVER = datetime.fromtimestamp(0, UTC)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """The state of the system; instants are by the database's clock.

    Attributes:
        jobs_waiting: jobs that a worker could take now; `oldest_job_s`: for how long the first of them could.
        jobs_later: jobs that wait for a later time.
        leases_expired: running jobs whose worker let its lease run out.
        oldest_delivery_s: for how long the first of those whose time has come has been due, also while it is
            sent.
        oldest_erasure_s: how long ago the first of those that are not finished was asked for.
        portal_limit: the most requests in flight to the portal; this and the next three are None while Redis
            is away.
        portal_shut_s: how long the breaker lets nobody ask it; 0 when it is closed, or waits for a probe.
        portal_paused_s: how long everybody pauses at the portal's wish.
        token_expires_at: None without a token, or when it does not say.
        token_is_refused: whether portal or sign-on server will have none of it; None when nobody noted that.
        swept_at: when a worker last swept; `cleaned_at`: when the janitor last came to its end.
        canary: None when there is none.
    """

    taken_at: datetime
    jobs_waiting: int
    jobs_later: int
    jobs_running: int
    oldest_job_s: float | None
    leases_expired: int
    deliveries_pending: int
    oldest_delivery_s: float | None
    oldest_erasure_s: float | None
    portal_limit: int | None
    portal_in_flight: int | None
    portal_shut_s: float | None
    portal_paused_s: float | None
    token_expires_at: datetime | None
    token_is_refused: bool | None
    swept_at: datetime | None
    cleaned_at: datetime | None
    canary: Outcome | None


class Looked(Protocol):
    """What shows the state of the portal: one limit, or all of them together."""

    async def look(self) -> Shared | None:
        """Return what all workers share now; None when Redis does not say."""


async def take(conn: Connection, portal: Shared | None, settings: Settings) -> Pulse:
    """Return the pulse of this moment; of what has ended nothing is read, however much of it there is.

    Args:
        portal: what `look` says.
    """
    taken_at: datetime = await conn.fetchval("select now()")
    of_jobs, of_deliveries = await jobs.take_stock(conn), await deliveries.take_stock(conn)
    token, done = await token_state(conn, settings), await chores.list_done(conn)
    number = settings.canary_number
    return Pulse(
        taken_at=taken_at,
        jobs_waiting=of_jobs.waiting,
        jobs_later=of_jobs.later,
        jobs_running=of_jobs.running,
        oldest_job_s=of_jobs.oldest_s,
        leases_expired=of_jobs.expired,
        deliveries_pending=of_deliveries.pending,
        oldest_delivery_s=of_deliveries.oldest_s,
        oldest_erasure_s=await erasures.oldest_pending_s(conn),
        portal_limit=portal.limit if portal else None,
        portal_in_flight=portal.in_flight if portal else None,
        portal_shut_s=portal.shut_ms / 1000 if portal else None,
        portal_paused_s=portal.paused_ms / 1000 if portal else None,
        token_expires_at=token.expires_at,
        token_is_refused=token.is_refused,
        swept_at=done["sweep"],
        cleaned_at=done["janitor"],
        canary=await canary.outcome(conn, number) if number else None,
    )


class Pulses:
    """Takes the pulse again and again, and keeps that of the last hour.

    Attributes:
        history: the oldest first; empty before the first one.
    """

    def __init__(self, db: Database, portal_limit: Looked, settings: Settings) -> None:
        self._db = db
        self._portal_limit = portal_limit
        self._settings = settings
        self._is_failing = False
        self.history: deque[Pulse] = deque(maxlen=int(KEPT_S / EVERY_S))

    @property
    def latest(self) -> Pulse | None:
        """The last one that could be taken; None before the first."""
        return self.history[-1] if self.history else None

    def doubts(self) -> dict[str, str]:
        """Say what speaks against the workers, by its subject; nothing when all is well or nothing is known.

        A database that was never swept is given the time that its first worker needs to start.
        """
        said: dict[str, str] = {}
        if (pulse := self.latest) is None:
            return said
        unswept_s = (pulse.taken_at - (pulse.swept_at or self.history[0].taken_at)).total_seconds()
        if unswept_s > LONGEST_UNSWEPT_S:
            said["workers"] = f"none lives, or none can work: there was no sweep for {unswept_s:.0f} s"
        if pulse.oldest_job_s is not None and pulse.oldest_job_s > LONGEST_WAIT_S:
            said["jobs"] = f"the oldest that could run has waited for a worker for {pulse.oldest_job_s:.0f} s"
        return said

    async def run(self, every_s: float) -> None:
        """Take it until cancelled. What fails is logged when it begins to."""
        while True:
            try:
                await self._take()
            except Exception as error:
                self._note_failure(error)
            await asyncio.sleep(every_s)

    async def _take(self) -> None:
        portal = await self._portal_limit.look()
        async with self._db.connection() as conn:
            pulse = await take(conn, portal, self._settings)
        self.history.append(pulse)
        show(pulse)
        if self._is_failing:
            self._is_failing = False
            log.info("the pulse is taken again")

    def _note_failure(self, error: Exception) -> None:
        metrics.hide_pulse()
        if self._is_failing:
            return
        self._is_failing = True
        if isinstance(error, DatabaseUnavailableError):
            log.warning("the pulse is not taken: %s", error)
        else:
            log.error("the pulse is not taken", exc_info=error)


def show(pulse: Pulse) -> None:
    """Let Prometheus have it, too, until one cannot be taken."""
    metrics.show_pulse(
        queue_jobs={
            "waiting": pulse.jobs_waiting,
            "later": pulse.jobs_later,
            "running": pulse.jobs_running,
        },
        # Nothing that waits has waited for no time, here and below; an alert needs to see that it is over.
        queue_oldest_age_s=pulse.oldest_job_s or 0.0,
        leases=pulse.jobs_running,
        portal_concurrency_limit=pulse.portal_limit,
        portal_in_flight=pulse.portal_in_flight,
        is_portal_breaker_open=None if pulse.portal_shut_s is None else pulse.portal_shut_s > 0,
        # Of one that is renewed when it is wanted the end is no news: `..._token_renewal_failures_total` is.
        portal_token_expires_at=pulse.token_expires_at if pulse.token_is_refused is None else None,
        is_portal_token_refused=pulse.token_is_refused,
        swept_at=pulse.swept_at or _NEVER,
        cleaned_at=pulse.cleaned_at or _NEVER,
        deliveries_pending=pulse.deliveries_pending,
        deliveries_oldest_age_s=pulse.oldest_delivery_s or 0.0,
        erasures_oldest_age_s=pulse.oldest_erasure_s or 0.0,
        canary_succeeded_at=(pulse.canary.succeeded_at or _NEVER) if pulse.canary else None,
        canary_duration_s=pulse.canary.took_s if pulse.canary else None,
        taken_at=pulse.taken_at,
    )


@asynccontextmanager
async def open_pulses(
    db: Database, portal_limit: Looked, settings: Settings, *, every_s: float = EVERY_S
) -> AsyncIterator[Pulses]:
    """Take the pulse beside everything else until the block ends.

    Args:
        every_s: for tests only.
    """
    pulses = Pulses(db, portal_limit, settings)
    taking = asyncio.create_task(pulses.run(every_s))
    try:
        yield pulses
    finally:
        while not taking.done():  # redis-py can swallow a cancel that meets one of its own time-outs
            taking.cancel()
            await asyncio.wait([taking], timeout=_CLOSING_S)
