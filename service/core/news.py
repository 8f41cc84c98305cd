"""News of jobs: PostgreSQL tells of every change (NOTIFY), over one connection for a whole process.

News say that there is something to read and nothing more: who waits reads the row again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

import asyncpg

from service.core.settings import Settings

CHANNEL = "autos_jobs"
"""Named in `schema.sql`, where a trigger sends the id of each job that callers see change."""

_CONNECT_TIMEOUT_S = 2.0
_COMMAND_TIMEOUT_S = 2.0
# How soon a server that fell silent is noticed, and how often it is called then.
_LOOK_EVERY_S = 3.0
_CALL_AGAIN_S = 1.0
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that ends as a look begins
)

log = logging.getLogger(__name__)


class News:
    """Wakes those who wait for a job."""

    def __init__(self) -> None:
        self._watching: dict[UUID, set[asyncio.Event]] = {}
        self._watching_all: set[asyncio.Event] = set()

    @contextmanager
    def of(self, *job_ids: UUID) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever one of the jobs may have changed; its user clears it."""
        event = asyncio.Event()
        for job_id in job_ids:
            self._watching.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            for job_id in job_ids:
                watching = self._watching[job_id]
                watching.discard(event)
                if not watching:
                    del self._watching[job_id]

    @contextmanager
    def of_all(self) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever any job may have changed; its user clears it."""
        event = asyncio.Event()
        self._watching_all.add(event)
        try:
            yield event
        finally:
            self._watching_all.discard(event)

    def watching(self, job_id: UUID) -> int:
        """Return how many wait for the job."""
        return len(self._watching.get(job_id, ()))

    def came(self, job_id: UUID) -> None:
        """Wake who waits for this job."""
        for event in (*self._watching.get(job_id, ()), *self._watching_all):
            event.set()

    def begun(self) -> None:
        """Wake who waits for all jobs: there are new ones, of which PostgreSQL tells nobody."""
        for event in self._watching_all:
            event.set()

    def may_have_come(self) -> None:
        """Wake everybody: nobody listened for a while, or the process is about to end."""
        for watching in (*self._watching.values(), self._watching_all):
            for event in watching:
                event.set()


@asynccontextmanager
async def open_news(settings: Settings) -> AsyncIterator[News]:
    """Listen until the block ends; a database that goes away is called again, and all look often."""
    news = News()
    listening = asyncio.create_task(_listen_for_ever(news, settings.session_url))
    try:
        yield news
    finally:
        listening.cancel()
        await asyncio.wait([listening])


async def _listen_for_ever(news: News, database_url: str) -> None:
    while True:
        try:
            await _listen(news, database_url)
        except _AWAY as error:
            log.warning("no news of jobs: %s", type(error).__name__)
        except Exception:
            # Whatever it was: with no listener nobody who waits would hear of anything any more.
            log.exception("no news of jobs")
        news.may_have_come()
        await asyncio.sleep(_CALL_AGAIN_S)


async def _listen(news: News, database_url: str) -> None:
    conn = await asyncpg.connect(
        database_url,
        timeout=_CONNECT_TIMEOUT_S,
        command_timeout=_COMMAND_TIMEOUT_S,
        server_settings={"application_name": "autos"},
    )
    try:
        await conn.add_listener(CHANNEL, lambda *told: news.came(UUID(told[3])))
        news.may_have_come()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await conn.fetchval("select 1")
    finally:
        conn.terminate()
