"""Polling made cheap: entity tags, waiting for news, and when to come again (RFC 9110, RFC 7240)."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from aiohttp import web

from service.core.db import Connection
from service.core.jobs import Job
from service.keys import DATABASE, DRAINING, NEWS

LONGEST_WAIT_S = 60
_LONGEST_RETRY_AFTER_S = 30
_PREFERRED_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,6})"?\s*(?:$|[,;])', re.IGNORECASE)

Find = Callable[[Connection], Awaitable[Job]]
"""Reads the job that the caller asks for."""

Tag = Callable[[Job], str]
"""Names the state of a job, as `ETag` does."""


def asked_wait_s(request: web.Request, wait: int | None) -> int:
    """Return how many seconds the caller wishes to wait: `?wait=`, or `Prefer: wait=`; at most a minute."""
    if wait is not None:
        return wait
    preferred = _PREFERRED_WAIT.search(request.headers.get("Prefer", ""))
    return min(int(preferred[1]), LONGEST_WAIT_S) if preferred else 0


async def find_job(request: web.Request, find: Find, tag: Tag, *, wait_s: int) -> Job:
    """Return the job; when the caller waits, as soon as it is another than he knows, or his time is over.

    What he knows is what `If-None-Match` names, and without that the present state. A final job keeps nobody
    waiting.
    """
    job = await _read(request, find)
    known_by_tag = request.headers.get("If-None-Match")
    if not wait_s or job.status.is_final or (known_by_tag and not is_known(request, tag(job))):
        return job
    with request.app[NEWS].of(job.id) as news:
        until = asyncio.get_running_loop().time() + wait_s
        return await _read_when_changed(request, find, known=job, news=news, until=until)


async def _read_when_changed(
    request: web.Request, find: Find, *, known: Job, news: asyncio.Event, until: float
) -> Job:
    draining = request.app[DRAINING]
    while True:
        # Read before waiting: it may have changed before we began to listen.
        news.clear()
        job = await _read(request, find)
        if (job.id, job.sequence) != (known.id, known.sequence) or draining.is_set():
            return job
        try:
            async with asyncio.timeout_at(until):
                await news.wait()
        except TimeoutError:
            return job


async def _read(request: web.Request, find: Find) -> Job:
    async with request.app[DATABASE].connection() as conn:
        return await find(conn)


def is_known(request: web.Request, tag: str) -> bool:
    """Whether `If-None-Match` names the tag, by the weak comparison (RFC 9110 §13.1.2)."""
    known = request.headers.get("If-None-Match", "")
    return known.strip() == "*" or tag.removeprefix("W/") in re.findall(r'"[^"]*"', known)


def polling_headers(job: Job, tag: str, *, wait_s: int) -> dict[str, str]:
    """Return what goes with every answer that shows a job, 304 included."""
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if wait_s:
        headers["Preference-Applied"] = f"wait={wait_s}"
    if not job.status.is_final:
        headers["Retry-After"] = str(retry_after_s(job, datetime.now(UTC)))
    return headers


def retry_after_s(job: Job, now: datetime) -> int:
    """Return when a look at the job is worth it again, by the pace that it has had: 1 to 30 seconds."""
    left_s = 1.0
    if job.waiting_reason:
        left_s = (job.next_attempt_at - now).total_seconds()
    elif job.started_at and job.progress_percentage > 0:
        elapsed_s = (now - job.started_at).total_seconds()
        # A quarter of what is left, so that there is progress to be seen on the way.
        left_s = elapsed_s * (100 / job.progress_percentage - 1) / 4
    return round(min(max(left_s, 1.0), _LONGEST_RETRY_AFTER_S))
