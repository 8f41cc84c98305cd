"""Polling made cheap: entity tags, waiting for news, and when to come again (RFC 9110, RFC 7240)."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from aiohttp import web

from service.core.batches import Batch
from service.core.jobs import Job
from service.core.polled_jobs import PolledJob
from service.keys import DRAINING, LOAD, NEWS
from service.measuring import waiting

LONGEST_WAIT_S = 60
_LONGEST_RETRY_AFTER_S = 30
_PREFERRED_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,6})"?\s*(?:$|[,;])', re.IGNORECASE)

T = TypeVar("T", PolledJob, Batch)

Find = Callable[[], Awaitable[T]]
"""Reads the job or the batch that the caller asks for."""

Tag = Callable[[T], str]
"""Names the state of a job or a batch, as `ETag` does."""


def asked_wait_s(request: web.Request, wait: int | None) -> int:
    """Return how many seconds the caller wishes to wait: `?wait=`, or `Prefer: wait=`; at most a minute."""
    if wait is not None:
        return wait
    preferred = _PREFERRED_WAIT.search(",".join(request.headers.getall("Prefer", ())))
    return min(int(preferred[1]), LONGEST_WAIT_S) if preferred else 0


async def find_awaited(request: web.Request, find: Find[T], tag: Tag[T], *, wait_s: int) -> T:
    """Return a job or batch; when the caller waits, as soon as it is another than he knows.

    What he knows is what `If-None-Match` names, and without that the present state. What is final keeps
    nobody waiting.
    """
    found = await find()
    known_by_tag = request.headers.get("If-None-Match")
    if not wait_s or found.finished_at or (known_by_tag and not is_known(request, tag(found))):
        return found
    with request.app[NEWS].of(*found.watched) as news:
        until = asyncio.get_running_loop().time() + wait_s
        return await _read_when_changed(request, find, known=found, news=news, until=until)


async def _read_when_changed(
    request: web.Request, find: Find[T], *, known: T, news: asyncio.Event, until: float
) -> T:
    draining = request.app[DRAINING]
    while True:
        # Read before waiting: it may have changed before we began to listen.
        news.clear()
        # Thousands who are woken by one change are no load as long as all they do is look.
        with request.app[LOAD].parked():
            found = await find()
        if (found.id, found.sequence) != (known.id, known.sequence) or draining.is_set():
            return found
        try:
            with request.app[LOAD].parked(), waiting(request):
                async with asyncio.timeout_at(until):
                    await news.wait()
        except TimeoutError:
            # News can be missed while nobody listens: what is told is what is so now.
            with request.app[LOAD].parked():
                return await find()


def is_known(request: web.Request, tag: str) -> bool:
    """Whether `If-None-Match` names the tag, by the weak comparison (RFC 9110 §13.1.2)."""
    known = request.headers.get("If-None-Match", "")
    return known.strip() == "*" or tag.removeprefix("W/") in re.findall(r'"[^"]*"', known)


def polling_headers(found: Job | Batch, tag: str, *, wait_s: int) -> dict[str, str]:
    """Return what goes with every answer that shows a job or batch, 304 included."""
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if wait_s:
        headers["Preference-Applied"] = f"wait={wait_s}"
    if not found.finished_at:
        headers["Retry-After"] = str(retry_after_s(found, datetime.now(UTC)))
    return headers


def retry_after_s(found: Job | Batch, now: datetime) -> int:
    """Return when another look is worth it, by the pace that there has been: 1 to 30 seconds."""
    left_s = 1.0
    started_at = found.started_at if isinstance(found, Job) else found.created_at
    if isinstance(found, Job) and found.waiting_reason:
        left_s = (found.next_attempt_at - now).total_seconds()
    elif started_at and found.progress_percentage > 0:
        elapsed_s = (now - started_at).total_seconds()
        # A quarter of what is left, so that there is progress to be seen on the way.
        left_s = elapsed_s * (100 / found.progress_percentage - 1) / 4
    return round(min(max(left_s, 1.0), _LONGEST_RETRY_AFTER_S))
