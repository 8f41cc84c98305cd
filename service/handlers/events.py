"""Streams of news: one job with its documents as they come in, or all jobs of a client.

An event is the state that is new to the reader, read from PostgreSQL: there is no log that could grow, who
reads slowly gets fewer and larger events, and who comes again is told all that he has missed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID

from aiohttp import web

from service import answers
from service.contract import Operation
from service.core import documents, job_lists, jobs, subscriptions
from service.core.db import Connection
from service.core.documents import Document
from service.core.errors import DatabaseUnavailableError, NotFoundError
from service.core.jobs import Job
from service.handlers.jobs import path_uuid
from service.keys import (
    CLIENT,
    DATABASE,
    DRAINING,
    LOAD,
    LOOK_AGAIN,
    NEWS,
    SETTINGS,
    SILENCE,
    STORAGE,
)
from service.load import Kind
from service.middleware import stream, taken_as
from service.noting import note_access
from service.request_schemas import StreamQuery
from service.requests import read_query
from service.schemas import DocumentsEvent
from service.streams import EVENT_STREAM, Stream, last_event_id, open_stream

_DOCUMENTS_PER_EVENT = 100
_JOBS_PER_PAGE = 200
# Of many changes within this time a reader of all jobs is told once.
_GATHER_S = 0.25
# Then the reader comes again.
_LONGEST_S = 300.0

Tell = Callable[[Stream], Awaitable[bool]]
"""Sends what is new; False when nothing more will ever come."""


@Operation("streams", {200: EVENT_STREAM, 204: None}, query=StreamQuery, reads=("Last-Event-ID",))
@stream
@taken_as(Kind.STATUS)
async def follow_job(request: web.Request) -> web.StreamResponse:
    """Stream a job: `documents` events with those that changed, each time followed by a `job` event."""
    read_query(request, StreamQuery)
    reader = JobReader(request, path_uuid(request, "job_id"), last_event_id(request))
    async with request.app[DATABASE].connection() as conn:
        job = await jobs.get_for_client(conn, reader.job_id, request[CLIENT].id)
    if job.status.is_final and reader.known == job.sequence:
        return web.Response(status=204)
    with request.app[NEWS].of(job.id) as news:
        return await _follow(request, news, reader.tell)


@Operation("streams", {200: EVENT_STREAM}, query=StreamQuery, reads=("Last-Event-ID",))
@stream
@taken_as(Kind.STATUS)
async def follow_all(request: web.Request) -> web.StreamResponse:
    """Stream all jobs of the client: a `job` event for each change from now on, or since `Last-Event-ID`."""
    read_query(request, StreamQuery)
    async with request.app[DATABASE].connection() as conn:
        present = await job_lists.present(conn)
    asked = last_event_id(request)
    # A position that is yet to come is one of a database that was there before this one.
    reader = ClientReader(request, present if asked is None else min(asked, present))
    with request.app[NEWS].of_all() as news:
        return await _follow(request, news, reader.tell, gather_s=_GATHER_S)


async def _follow(
    request: web.Request, news: asyncio.Event, tell: Tell, *, gather_s: float = 0.0
) -> web.StreamResponse:
    """Tell whenever there may be something to tell, until there is no more or the process is about to end."""
    opened = await open_stream(request)
    await _tell_on(request, opened, news, tell, gather_s=gather_s)
    return opened.response


async def _tell_on(
    request: web.Request, opened: Stream, news: asyncio.Event, tell: Tell, *, gather_s: float
) -> None:
    draining, clock = request.app[DRAINING], asyncio.get_running_loop().time
    ends_at, look_at = clock() + _LONGEST_S, clock() + request.app[SILENCE]
    while not draining.is_set() and clock() < ends_at:
        # Before reading: what comes while we read is news for the next time.
        news.clear()
        try:
            if clock() >= look_at:
                look_at = clock() + request.app[SILENCE]
                if not await _may_read_on(request):
                    return
            if not await tell(opened):
                return
        except NotFoundError:
            return  # it was erased: who comes again hears that there is no such job
        except DatabaseUnavailableError:
            await opened.show_life()
        with suppress(TimeoutError), request.app[LOAD].parked():
            async with asyncio.timeout_at(look_at):
                await news.wait()
        if news.is_set():
            await asyncio.sleep(gather_s)
        else:
            await opened.show_life()


async def _may_read_on(request: web.Request) -> bool:
    """Whether the key or the session is still good, and for what it was when the stream began."""
    return await request[LOOK_AGAIN]() == request[CLIENT]


class JobReader:
    """Who follows one job; `known` is the sequence that he was told of last."""

    def __init__(self, request: web.Request, job_id: UUID, known: int | None) -> None:
        self._request = request
        self.job_id = job_id
        self.known = known

    async def tell(self, opened: Stream) -> bool:
        """Send what he does not know."""
        request = self._request
        async with request.app[DATABASE].connection() as conn:
            # The job first: a document that changes in between is told of now and with the next look again.
            job = await jobs.get_for_client(conn, self.job_id, request[CLIENT].id)
            if job.sequence == self.known:
                return True
            changed = await self._changed(conn, job)
            webhook = await subscriptions.webhook_state(conn, job.id, request[CLIENT].id)
        may_have = request[CLIENT].may_have
        there = [
            one for one in changed if one.object_key and may_have(one.secrecy_level, request.app[SETTINGS])
        ]
        await note_access(request, "job.events", job.id, len(there), sequence=job.sequence)
        for start in range(0, len(changed), _DOCUMENTS_PER_EVENT):
            page = changed[start : start + _DOCUMENTS_PER_EVENT]
            shown = answers.document_answers(
                page,
                client=request[CLIENT],
                settings=request.app[SETTINGS],
                storage=request.app[STORAGE],
                presigned=False,
            )
            await opened.send("documents", answers.encode(DocumentsEvent(documents=shown)))
        # The one id of them all: who loses the connection before it is told of all of them again.
        summary = answers.encode(answers.status_answer(job, None, webhook))
        await opened.send("job", summary, event_id=str(job.sequence))
        self.known = job.sequence
        return not job.status.is_final

    async def _changed(self, conn: Connection, job: Job) -> list[Document]:
        if self.known is None or self.known > job.sequence:
            return await documents.list_of_job(conn, job.id)
        return await documents.list_news(conn, job.id, after=self.known)


class ClientReader:
    """Who follows all jobs of a client, from a position in the news of all."""

    def __init__(self, request: web.Request, position: int) -> None:
        self._request = request
        self._position = position
        self._is_marked = False
        self._told: dict[UUID, int] = {}

    async def tell(self, opened: Stream) -> bool:
        """Send each job that changed, in its newest state."""
        client_id, found = self._request[CLIENT].id, dict[UUID, int]()
        after: tuple[int, UUID] | None = None
        # Before the jobs are read: what becomes visible in between is at or after it.
        async with self._request.app[DATABASE].connection() as conn:
            present = await job_lists.present(conn)
        while True:
            async with self._request.app[DATABASE].connection() as conn:
                page = await job_lists.list_news(
                    conn, client_id, since=self._position, after=after, limit=_JOBS_PER_PAGE
                )
                news = [job for job in page if self._told.get(job.id) != job.sequence]
                webhooks = await subscriptions.webhook_states(conn, [job.id for job in news], client_id)
            for job in news:
                summary = answers.encode(answers.status_answer(job, None, webhooks[job.id]))
                await opened.send("job", summary)
            found |= {job.id: job.sequence for job in page if job.changed_in >= present}
            if len(page) < _JOBS_PER_PAGE:
                break
            after = page[-1].changed_in, page[-1].id
        # What is at or after the new position is read again with the next look, but not told again.
        # The first time without news too: who loses the connection now could not say where he stands.
        if present != self._position or not self._is_marked:
            await opened.mark(str(present))
            self._is_marked = True
        self._position, self._told = present, found
        return True
