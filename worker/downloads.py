"""The documents of one run: fetched concurrently, each streamed from the portal to S3."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from service.core import object_keys
from service.core.crash_points import crash_point
from service.core.documents import Document, Missed, Stored
from service.core.errors import (
    CodexFailureError,
    DocumentNotReadyError,
    PortalError,
    PortalPausedError,
    PortalThrottledError,
    PortalUnavailableError,
    RefusedError,
    SecrecyError,
    StorageUnavailableError,
)
from service.core.jobs import Job
from worker.context import Context, Run, wait_for
from worker.ledger import Ledger

PASSING_ERRORS = (PortalUnavailableError, StorageUnavailableError)
"""Errors worth another try within seconds."""

_LONGEST_WAIT_IN_A_RUN_S = 30.0
_MOST_WAITS_IN_A_RUN = 20
# A document that is being prepared has a place among the downloads while its run waits for it.
_LONGEST_PREPARATION_S = 10.0
_MOST_PREPARATIONS = 3
_PREPARATION_S = 1.0

log = logging.getLogger(__name__)


class Downloads:
    """Fetches the pending documents of one job.

    Attributes:
        pause: why the portal refuses work for now, once it did; nothing new is begun then.
        left_over: the error that some document may overcome in a later run of this job, if any.
        is_cut_short: whether documents were left alone because the process is stopping, or somebody waits.
    """

    def __init__(self, context: Context, job: Job, ledger: Ledger, run: Run) -> None:
        self._run = run
        self._context = context
        self._source = context.sources.of(job.process_number)
        self._job = job
        self._ledger = ledger
        self.pause: PortalPausedError | None = None
        self.left_over: PortalError | StorageUnavailableError | None = None
        self.is_cut_short = False

    async def run(self, documents: list[Document]) -> None:
        """Fetch them all, `downloads_per_job` at a time; the failure of one never fails another."""
        waiting = iter(documents)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(documents), self._context.settings.downloads_per_job)):
                group.create_task(self._fetch_while_there_are(waiting))

    async def _fetch_while_there_are(self, waiting: Iterator[Document]) -> None:
        # All consumers share one iterator: who is free takes the next.
        for document in waiting:
            if self._is_ending():
                return
            async with self._context.downloads.of(self._job.client_id):
                if self._is_ending():
                    return
                await self._fetch(document)
                self._run.fetched += 1

    def _is_ending(self) -> bool:
        """Whether nothing new may be begun; asked after each wait, which can be a long one."""
        if self._context.stopping.is_set() or self._run.is_over.is_set():
            self.is_cut_short = True
        return self.is_cut_short or self.pause is not None

    async def _fetch(self, document: Document) -> None:
        self._ledger.started(document)
        try:
            self._ledger.stored(await self._fetch_with_quick_tries(document))
        except _NotBegunError:
            log.info("document %s left alone: its run ends", document.id)  # it goes back with the job
        except PortalPausedError as error:
            self.pause = error
            self._miss(document, error, is_final=False, is_spent=False)
        except DocumentNotReadyError as error:
            self.left_over = error
            self._miss(document, error, is_final=False, is_spent=False)
        except (CodexFailureError, *PASSING_ERRORS) as error:
            self.left_over = error
            self._miss(document, error, is_final=False)
        except PortalError as error:
            self._miss(document, error, is_final=True)
        except Exception:
            # A defect of ours must not cost the other documents; the log has the traceback.
            log.exception("document %s", document.id)
            self._miss(document, RefusedError("internal error", code="internal_error"), is_final=True)

    def _miss(
        self,
        document: Document,
        error: PortalError | StorageUnavailableError,
        *,
        is_final: bool,
        is_spent: bool = True,
    ) -> None:
        log.info("document %s not fetched: %s", document.id, error.code)
        self._ledger.missed(
            Missed(document.id, error.code, str(error) or error.code, is_final=is_final, is_spent=is_spent)
        )

    async def _fetch_with_quick_tries(self, document: Document) -> Stored:
        if document.secrecy_level > self._context.settings.max_secrecy:
            raise SecrecyError("the document is more secret than this system may fetch")
        if not document.has_file:
            raise RefusedError("the portal lists this document without a file", code="no_file")
        async for attempt in quick_tries(self._context):
            with attempt:
                number = attempt.retry_state.attempt_number
                return await self._fetch_when_ready(document, number)
        raise AssertionError("unreachable: the last try returns or raises")

    async def _fetch_when_ready(self, document: Document, number: int) -> Stored:
        for _ in range(_MOST_PREPARATIONS):
            try:
                return await self._fetch_when_not_throttled(document, number)
            except DocumentNotReadyError as error:
                wait_s = _PREPARATION_S if error.retry_after_s is None else error.retry_after_s
                if wait_s > _LONGEST_PREPARATION_S:
                    raise
                await wait_for(self._context.stopping, wait_s)
        return await self._fetch_when_not_throttled(document, number)

    async def _fetch_when_not_throttled(self, document: Document, number: int) -> Stored:
        for _ in range(_MOST_WAITS_IN_A_RUN):
            try:
                return await self._fetch_once(document, number)
            except PortalThrottledError as error:
                if (error.retry_after_s or 0) > _LONGEST_WAIT_IN_A_RUN_S:
                    raise
        raise PortalThrottledError("the portal kept asking for fewer requests")

    async def _fetch_once(self, document: Document, number: int) -> Stored:
        async with AsyncExitStack() as place:
            await place.enter_async_context(self._source.limit.slot())
            if self._is_ending():
                raise _NotBegunError
            return await self._carry_over(document, number, place)

    async def _carry_over(self, document: Document, number: int, place: AsyncExitStack) -> Stored:
        """Store the document; its place at the portal is free as soon as its last byte is here."""
        context = self._context
        async with self._source.adapter.open_document(
            document.process_number, document.portal_uuid
        ) as stream:
            # Every try of every run has a key of its own: a late write of a run that was taken for dead
            # can overwrite nothing, and the row says which object is real.
            tries = self._job.fence, document.attempts, number
            key = object_keys.new(
                document.process_number, document.portal_uuid, self._job.id, tries, stream.extension
            )
            stored = await context.storage.store(
                key,
                _with_an_end(stream.chunks, place.aclose),
                media_type=stream.media_type,
                expected_bytes=_known_size(document.declared_bytes, stream.declared_bytes),
                max_bytes=context.settings.max_document_bytes,
                on_bytes=lambda size: self._ledger.received(document, size),
            )
        crash_point("document.stored")
        return Stored(
            document.id, stream.media_type, stored.size_bytes, stored.sha256, stored.key, datetime.now(UTC)
        )


async def _with_an_end(
    chunks: AsyncIterator[bytes], end: Callable[[], Awaitable[None]]
) -> AsyncIterator[bytes]:
    """Call `end` after the last of the chunks, unless they fail."""
    async for chunk in chunks:
        yield chunk
    await end()


class _NotBegunError(Exception):
    """While this document waited for its place, its run was paused or the process began to stop."""


def _known_size(listed: int | None, announced: int | None) -> int | None:
    """The list's size is the one to trust; where it has none, or 0, the header's serves."""
    return listed or announced


def quick_tries(context: Context) -> AsyncRetrying:
    """Three tries within seconds, for errors that pass; the slow ones are the job's schedule."""
    return AsyncRetrying(
        retry=retry_if_exception_type(PASSING_ERRORS),
        stop=stop_after_attempt(3),
        wait=wait_exponential_jitter(multiplier=context.settings.quick_retry_wait_s, max=10, jitter=0.5),
        reraise=True,
    )
