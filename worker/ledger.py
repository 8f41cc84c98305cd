"""The ledger of one run: what happened to its documents, written in batches under the job's fence.

The heartbeat and the progress are the same write. While PostgreSQL is away the entries wait here, as
long as the lease lasts.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar
from uuid import UUID

from service.core import documents, jobs, metrics, telling
from service.core.crash_points import crash_point
from service.core.db import Connection, Database
from service.core.documents import Document, Missed, Stored
from service.core.errors import DatabaseUnavailableError, LeaseLostError
from service.core.job_events import Move
from service.core.jobs import Job
from service.core.settings import Settings
from service.core.settlement import Settled
from service.core.wishes import Filters
from worker.context import Run, wait_for

# So long news waits for more of it. A small job ends before, and its end tells everything.
_FLUSH_INTERVAL_S = 0.5
_RETRY_WAIT_S = 0.5
# Documents are told of in batches.
_TELL_INTERVAL_S = 2.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class HandedBack(NamedTuple):
    """A job that goes on later: it is "retried", "waits" for the portal, or was merely "handed_back"."""

    outcome: Move = Move.HANDED_BACK


End = Callable[[Connection, Filters], Awaitable[Settled | HandedBack]]
"""The last write of a run, told what the job is to bring in by now: settles it or hands it back."""

_AVAILABLE = metrics.DOCUMENTS.labels("available")
_FAILED = metrics.DOCUMENTS.labels("failed")
_AGAIN = metrics.DOCUMENTS.labels("again")


class Cut(NamedTuple):
    """What is being written now: documents that were begun, and how many that were stored and missed."""

    started: Collection[UUID] = ()
    stored: int = 0
    missed: int = 0


class Ledger:
    """Collects the news of one run; only `keep` and `conclude` write it."""

    def __init__(self, db: Database, job: Job, settings: Settings, run: Run) -> None:
        self._db = db
        self._job = job
        self._run = run
        self._lease_s = settings.lease_s
        self._started: dict[UUID, datetime] = {}
        self._stored: list[Stored] = []
        self._missed: list[Missed] = []
        self._news = asyncio.Event()
        self._closed = asyncio.Event()
        self._lock = asyncio.Lock()
        self._lease_ends = time.monotonic() + settings.lease_s
        self._tell_at = time.monotonic() + _TELL_INTERVAL_S
        self._cut = Cut()
        self._in_flight: dict[UUID, tuple[int, int]] = {}
        self.downloaded_bytes = job.downloaded_bytes

    def started(self, document: Document) -> None:
        """Note that a document is being fetched."""
        self._started[document.id] = datetime.now(UTC)
        self._in_flight[document.id] = (0, document.declared_bytes or 0)
        self._news.set()

    def received(self, document: Document, size: int) -> None:
        """Note bytes of a document in flight; they are written with the next heartbeat."""
        crash_point("document.received")
        self.downloaded_bytes += size
        done, expected = self._in_flight.get(document.id, (0, 0))
        self._in_flight[document.id] = (done + size, expected)

    def stored(self, entry: Stored) -> None:
        """Note a document whose object is in S3."""
        _AVAILABLE.inc()
        self._stored.append(entry)
        self._ended(entry.document_id)

    def missed(self, entry: Missed) -> None:
        """Note a document that was tried and not got."""
        (_FAILED if entry.is_final else _AGAIN).inc()
        metrics.DOCUMENT_FAILURES.labels(entry.error_code).inc()
        self._missed.append(entry)
        self._ended(entry.document_id)

    async def keep(self) -> None:
        """Write news as it comes and renew the lease in between, until closed.

        Raises:
            LeaseLostError: the job is no longer ours, or the database was away for longer than the lease.
        """
        while not self._closed.is_set():
            await wait_for(self._news, self._beat_s)
            await wait_for(self._closed, min(_FLUSH_INTERVAL_S, self._lease_s / 8))
            await self.while_leased(self._flush)

    def close(self) -> None:
        """End `keep` after its present write; what is not written yet is left to `conclude`."""
        self._closed.set()
        self._news.set()

    async def conclude(self, end: End) -> Settled | HandedBack:
        """Write the last news and, in the same transaction, what `end` does to the job; return its answer."""
        self.close()

        async def last_write() -> Settled | HandedBack:
            async with self._lock, self._db.transaction() as conn:
                filters = await jobs.hold(conn, self._job)
                await self._write_news(conn)
                return await end(conn, filters)

        return await self.while_leased(last_write)

    @property
    def _beat_s(self) -> float:
        # Bytes in flight are news too, so a large document shows its progress about once a second.
        return min(1.0, self._lease_s / 4) if self._in_flight else self._lease_s / 4

    async def while_leased(self, write: Callable[[], Awaitable[T]]) -> T:
        """Call `write`, again while the database is away and the lease lasts.

        A commit whose answer was lost may have happened: `write` must bear being done twice.

        Raises:
            LeaseLostError: the job is no longer ours, or the database was away for longer than the lease.
        """
        while True:
            # Whether the database takes it or not: who tries lives.
            self._run.beat_at = time.monotonic()
            try:
                return await write()
            except DatabaseUnavailableError as error:
                if time.monotonic() > self._lease_ends:
                    raise LeaseLostError from error
                log.warning("job %s: %s; its news waits", self._job.id, error)
                await asyncio.sleep(_RETRY_WAIT_S)

    async def _flush(self) -> None:
        async with self._lock:
            if self._closed.is_set():
                return
            self._news.clear()
            begun = time.monotonic()
            async with self._db.transaction() as conn:
                if self._has_news or self._in_flight:
                    await self._write_with_counts(conn)
                else:
                    await jobs.renew_lease(
                        conn, self._job, lease_s=self._lease_s, downloaded_bytes=self.downloaded_bytes
                    )
            self._lease_ends = begun + self._lease_s
            crash_point("progress.written")
            self._forget()

    async def _write_with_counts(self, conn: Connection) -> None:
        await jobs.hold(conn, self._job)
        await self._write_news(conn)
        await jobs.record_progress(
            conn,
            self._job,
            lease_s=self._lease_s,
            downloaded_bytes=self.downloaded_bytes,
            in_flight=sum(min(1.0, done / size) for done, size in self._in_flight.values() if size),
        )
        if time.monotonic() >= self._tell_at:
            # The sweep rings for it. What comes after the last time is told with the job's end.
            await telling.tell_documents(conn, self._job.id)
            self._tell_at = time.monotonic() + _TELL_INTERVAL_S

    async def _write_news(self, conn: Connection) -> None:
        # What is written is cut off here and forgotten after the commit: news that comes meanwhile stays.
        self._cut = Cut(list(self._started), len(self._stored), len(self._missed))
        _, stored, missed = self._cut
        # Of what ended already nobody has to see that it was begun.
        if still := {one: at for one, at in self._started.items() if one in self._in_flight}:
            await documents.mark_started(conn, still)
        if stored:
            await documents.mark_available(conn, self._stored[:stored], self._started)
            if self._job.crashes:
                await jobs.forget_crashes(conn, self._job)
        if missed:
            await documents.mark_missed(conn, self._missed[:missed], self._started)

    def _forget(self) -> None:
        started, stored, missed = self._cut
        for document_id in started:
            del self._started[document_id]
        del self._stored[:stored], self._missed[:missed]
        self._cut = Cut()

    @property
    def _has_news(self) -> bool:
        return bool(self._started or self._stored or self._missed)

    def _ended(self, document_id: UUID) -> None:
        self._in_flight.pop(document_id, None)
        self._news.set()
